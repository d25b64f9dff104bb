import io
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import Protocol, cast
from xml.parsers import expat

import mammoth

from app.errors import DocumentRefused
from app.ingest.formats import SUPPORTED
from app.ingest.readers import Reading, clean, one_line, too_long
from app.ingest.readers.html import to_markdown

_MAX_PARTS = 10_000
_MAX_XML_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 400
_CONTENT_TYPES = "[Content_Types].xml"
_MAIN_TYPE = re.compile(
    rb"wordprocessingml\.(document|template)\.main\+xml|ms-word\.(document|template)\.macroEnabled"
)
_OTHERS = (
    ("xl/", "an Excel workbook"),
    ("ppt/", "a PowerPoint presentation"),
    ("visio/", "a Visio drawing"),
    ("META-INF/", "an OpenDocument, EPUB or Java file"),
)
_TITLE = re.compile(r"<dc:title>([^<]{1,1000})</dc:title>")
_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
_BACK_LINK = re.compile(r'<a href="#(?:foot|end)note-ref-[^"]*">↑</a>')


class _Result(Protocol):
    value: str


class _Refused(Exception):
    """Raised inside of the XML parser's callbacks."""


def read(content: bytes, limit: int) -> Reading:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as package:
            title = _check(package)
        html = _to_html(content)
    except RecursionError as error:
        raise DocumentRefused("broken", "The document is nested too deeply to be read.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DocumentRefused(
            "broken", "The Word document is damaged: its parts cannot be unpacked."
        ) from error
    text, heading = to_markdown(_BACK_LINK.sub("", html))
    if len(text) > limit:
        raise too_long(limit)
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


def _check(package: zipfile.ZipFile) -> str | None:
    """Refuses what is no Word document, and what would unpack or expand to too much; gives the title.

    Declared sizes can be relied on: zipfile reads no more of a part than its entry declares.
    """
    parts = package.infolist()
    names = {part.filename for part in parts}
    if _CONTENT_TYPES not in names or not _MAIN_TYPE.search(_bounded(package, _CONTENT_TYPES)):
        raise DocumentRefused(
            "unsupported", f"The file should be a Word document (.docx), but is {_what(names)}. {SUPPORTED}"
        )
    xml = [part for part in parts if part.filename.lower().endswith((".xml", ".rels"))]
    if len(parts) > _MAX_PARTS or sum(part.file_size for part in xml) > _MAX_XML_BYTES:
        raise DocumentRefused(
            "too_large", f"The document unpacks to more than {_MAX_XML_BYTES >> 20} MiB of text and marks."
        )
    for part in xml:
        _check_xml(package.read(part))
    if "docProps/core.xml" not in names:
        return None
    found = _TITLE.search(clean(package.read("docProps/core.xml").decode("utf-8", "replace")))
    return one_line(_unescaped(found[1])) if found else None


def _bounded(package: zipfile.ZipFile, name: str) -> bytes:
    with package.open(name) as part:
        return part.read(1_000_000)


def _unescaped(text: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text


def _what(names: set[str]) -> str:
    found = (words for folder, words in _OTHERS if any(name.startswith(folder) for name in names))
    return next(found, "some other ZIP archive")


def _check_xml(xml: bytes) -> None:
    """No part of a Word document needs a document type, which is where entities are declared, in or out of the file."""
    depth = 0

    def start(_name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise _Refused("The document is nested too deeply to be read.")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        raise _Refused("The document declares XML entities, which no Word document needs; it is not read.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, doctype
    try:
        parser.Parse(xml, True)
    except _Refused as error:
        raise DocumentRefused("broken", str(error)) from None
    except expat.ExpatError as error:
        raise DocumentRefused(
            "broken", "The Word document is damaged: a part of it is no valid XML."
        ) from error
