import io
import re
from collections.abc import Callable
from typing import Protocol, cast

import mammoth

from app.errors import DocumentRefused
from app.ingest.formats import DOCX
from app.ingest.readers import Allowance, Reading, package, too_long
from app.ingest.readers.html import to_markdown

_MAIN_TYPE = re.compile(
    rb"wordprocessingml\.(document|template)\.main\+xml|ms-word\.(document|template)\.macroEnabled"
)
_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
_BACK_LINK = re.compile(r'<a href="#(?:foot|end)note-ref-[^"]*">↑</a>')


class _Result(Protocol):
    value: str


def read(content: bytes, allowance: Allowance) -> Reading:
    with package.opened(content, DOCX.name) as parts:
        title = parts.check_office(_MAIN_TYPE)
        html = _to_html(content)
    text, heading = to_markdown(_BACK_LINK.sub("", html))
    if len(text) > allowance.characters:
        raise too_long(allowance.characters)
    if not text:
        raise DocumentRefused("no_text", "The document holds no text. Text in pictures cannot be read.")
    return Reading(text, title=title or heading)


def _to_html(content: bytes) -> str:
    """Pictures are left where they are, so that no reference out of the document is followed."""

    def no_picture(_: object) -> list[object]:
        return []

    convert = cast("Callable[..., _Result]", mammoth.convert_to_html)  # pyright: ignore[reportUnknownMemberType]  # no types
    options = {"style_map": _STYLES, "include_embedded_style_map": False, "convert_image": no_picture}
    return convert(io.BytesIO(content), **options).value
