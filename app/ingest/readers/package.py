"""What the formats have in common that are ZIP archives of XML: Office Open XML, OpenDocument and EPUB.

Nothing is unpacked to disk, so that names in an archive lead nowhere.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.parsers import expat

from app.errors import DocumentRefused
from app.ingest.formats import SUPPORTED
from app.ingest.readers import clean, one_line

_MAX_PARTS = 10_000
_MAX_XML_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 400
_MAX_SMALL_BYTES = 1_000_000
_XML = (".xml", ".rels", ".opf", ".ncx")
_PAGES = (".xhtml", ".html", ".htm")
_CONTENT_TYPES = "[Content_Types].xml"
_WHAT = (
    ("xl/", "an Excel workbook"),
    ("ppt/", "a PowerPoint presentation"),
    ("visio/", "a Visio drawing"),
    ("word/", "a Word document"),
    ("META-INF/", "an OpenDocument, EPUB or Java file"),
)
_TITLE = re.compile(r"<dc:title\b[^>]{0,500}>([^<]{1,1000})</dc:title>")


class _Refused(Exception):
    """Raised inside of the XML parser's callbacks."""


@dataclass(frozen=True, slots=True)
class Package:
    """`expected` is what it should be, as it stands in a sentence."""

    archive: zipfile.ZipFile
    expected: str

    @property
    def names(self) -> set[str]:
        return set(self.archive.namelist())

    def check_office(self, main_type: re.Pattern[bytes]) -> str | None:
        """Refuses what is no Office Open XML with a main part of that type, and what `check` refuses; gives the title."""
        names = self.names
        if _CONTENT_TYPES not in names or not main_type.search(self.small(_CONTENT_TYPES)):
            found = (words for folder, words in _WHAT if any(name.startswith(folder) for name in names))
            raise self.mistaken(next(found, "some other ZIP archive"))
        self.check()
        return self.title("docProps/core.xml") if "docProps/core.xml" in names else None

    def check(self, *, doctypes: bool = False) -> None:
        """Refuses what would unpack or expand to too much, or is nested too deeply. `doctypes` lets pass those that declare
        no entities, as OpenDocument and EPUB have them.

        Declared sizes can be relied on: zipfile reads no more of a part than its entry declares.
        """
        parts = self.archive.infolist()
        size = sum(part.file_size for part in parts if part.filename.lower().endswith(_XML + _PAGES))
        if len(parts) > _MAX_PARTS or size > _MAX_XML_BYTES:
            raise DocumentRefused(
                "too_large",
                f"The document unpacks to more than {_MAX_XML_BYTES >> 20} MiB of text and marks.",
            )
        for part in parts:
            if part.filename.lower().endswith(_XML):
                _check_xml(self.archive.read(part), self.expected, doctypes=doctypes)

    def small(self, name: str) -> bytes:
        with self.archive.open(name) as part:
            return part.read(_MAX_SMALL_BYTES)

    def title(self, name: str) -> str | None:
        found = _TITLE.search(clean(self.small(name).decode("utf-8", "replace")))
        return one_line(_unescaped(found[1])) if found else None

    def mistaken(self, what: str) -> DocumentRefused:
        return DocumentRefused(
            "unsupported", f"The file should be {self.expected}, but is {what}. {SUPPORTED}"
        )


@contextmanager
def opened(content: bytes, expected: str) -> Generator[Package]:
    """Raises DocumentRefused, also for what goes wrong while it is open."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield Package(archive, expected)
    except RecursionError as error:
        raise DocumentRefused("broken", "The document is nested too deeply to be read.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DocumentRefused("broken", "The document is damaged: its parts cannot be unpacked.") from error


def _unescaped(text: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text


def _check_xml(xml: bytes, expected: str, *, doctypes: bool) -> None:
    """Entities are declared in a document type, in or out of the file; no part of these documents needs any."""
    depth = 0

    def start(_name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise _Refused("The document is nested too deeply to be read.")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def entities(*_: object) -> None:
        raise _Refused(f"The document declares XML entities, which {expected} does not need; it is not read.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entities
    if not doctypes:
        parser.StartDoctypeDeclHandler = entities
    try:
        parser.Parse(xml, True)
    except _Refused as error:
        raise DocumentRefused("broken", str(error)) from None
    except expat.ExpatError as error:
        raise DocumentRefused("broken", "The document is damaged: a part of it is no valid XML.") from error
