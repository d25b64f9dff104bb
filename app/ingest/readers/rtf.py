import re
from collections.abc import Callable
from typing import cast

from striprtf import striprtf

from app.errors import DocumentRefused
from app.ingest.headings import literal
from app.ingest.readers import Allowance, Reading, clean, too_long

_BLANKS = re.compile(r"[ \t\xa0]+$", re.MULTILINE)
_PARAGRAPH_END = re.compile(r"\n+")
_CELLS = re.compile(r"\|\n\n(?=[^\n]*\|$)", re.MULTILINE)


def read(content: bytes, allowance: Allowance) -> Reading:
    # Marks and words are mostly longer than the text.
    if len(content) > 20 * allowance.characters:
        raise too_long(allowance.characters)
    to_text = cast("Callable[..., str]", striprtf.rtf_to_text)  # pyright: ignore[reportUnknownMemberType]  # typed in part
    text = _BLANKS.sub("", clean(to_text(content.decode("cp1252", "replace"), errors="replace")))
    text = _CELLS.sub("|\n", _PARAGRAPH_END.sub("\n\n", text)).strip()
    if len(text) > allowance.characters:
        raise too_long(allowance.characters)
    if not text:
        raise DocumentRefused("no_text", "The document holds no text. Text in pictures cannot be read.")
    return Reading(literal(text))
