"""Which formats there are, and which one a file is, told by its first bytes and its name together."""

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from app.errors import DocumentRefused

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,10}")

Kind = Literal["pdf", "docx", "txt", "web"]
Container = Literal["text", "pdf", "zip", "ole2", "rtf"]


@dataclass(frozen=True, slots=True)
class Format:
    """`reader` is the module of `app.ingest.readers` that reads it; `name` is as it stands in a sentence; `kind` is what
    clients are told of it, who know few. `holds_others` tells whether there may be files of any format inside of it."""

    name: str
    media_type: str
    kind: Kind
    container: Container
    extensions: tuple[str, ...]
    reader: str
    holds_others: bool = False


PLAIN = Format("plain text", "text/plain", "txt", "text", ("txt", "text", "log"), "text")
MARKDOWN = Format("Markdown", "text/markdown", "txt", "text", ("md", "markdown", "mdown", "mkd"), "markdown")
HTML = Format("an HTML page", "text/html", "web", "text", ("html", "htm", "xhtml"), "html")
PDF = Format("a PDF", "application/pdf", "pdf", "pdf", ("pdf",), "pdf")
DOCX = Format(
    "a Word document (.docx)",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "docx",
    "zip",
    ("docx", "docm", "dotx"),
    "docx",
)
PPTX = Format(
    "a PowerPoint presentation (.pptx)",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "docx",
    "zip",
    ("pptx", "pptm", "ppsx", "potx"),
    "pptx",
)
XLSX = Format(
    "an Excel workbook (.xlsx)",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "docx",
    "zip",
    ("xlsx", "xlsm", "xltx"),
    "xlsx",
)
CSV = Format("a CSV table", "text/csv", "txt", "text", ("csv", "tsv", "tab"), "csv")
ODT = Format(
    "an OpenDocument text (.odt)",
    "application/vnd.oasis.opendocument.text",
    "docx",
    "zip",
    ("odt", "ott"),
    "odt",
)
RTF = Format("an RTF document", "application/rtf", "docx", "rtf", ("rtf",), "rtf")
EPUB = Format("an EPUB book", "application/epub+zip", "docx", "zip", ("epub",), "epub")
JSON = Format("JSON", "application/json", "txt", "text", ("json", "jsonl", "ndjson"), "json")
EML = Format("an email (.eml)", "message/rfc822", "txt", "text", ("eml",), "eml", holds_others=True)
MSG = Format(
    "an Outlook message (.msg)",
    "application/vnd.ms-outlook",
    "txt",
    "ole2",
    ("msg",),
    "msg",
    holds_others=True,
)
ZIP = Format("a ZIP archive", "application/zip", "txt", "zip", ("zip",), "zip", holds_others=True)

FORMATS = (PDF, DOCX, PPTX, XLSX, CSV, ODT, RTF, EPUB, HTML, MARKDOWN, JSON, PLAIN, EML, MSG, ZIP)
SUPPORTED = (
    "PDF, Word (.docx), PowerPoint (.pptx), Excel (.xlsx), CSV, OpenDocument text (.odt), RTF, EPUB, HTML, Markdown, JSON, "
    "plain text, email (.eml, .msg) and ZIP archives of these can be read."
)

_BY_EXTENSION = {extension: one for one in FORMATS for extension in one.extensions}
_BY_MEDIA_TYPE = {one.media_type: one for one in FORMATS} | {
    "application/xhtml+xml": HTML,
    "text/x-markdown": MARKDOWN,
    "text/tab-separated-values": CSV,
    "text/rtf": RTF,
    "application/x-ndjson": JSON,
    "application/x-zip-compressed": ZIP,
}

_OLE2_FILE = "an older Microsoft Office file (OLE2)"
_OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

# Signatures that no text starts with by chance. The rest, in _SHORT, count only before bytes that are not text.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", ZIP.name),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (_OLE2, _OLE2_FILE),
    (b"{\\rtf", RTF.name),
    (b"%!PS", "a PostScript file"),
    (b"\x7fELF", "a program (ELF)"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a RIFF sound, film or picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"SQLite format 3\x00", "a SQLite database"),
    (b"\xcf\xfa\xed\xfe", "a program (Mach-O)"),
    (b"\xca\xfe\xba\xbe", "a program (Mach-O or Java)"),
    (b"!BDN", "an Outlook mailbox"),
)
_SHORT: tuple[tuple[bytes, str], ...] = (
    (b"MZ", "a Windows program"),
    (b"BM", "a BMP picture"),
    (b"BZh", "a bzip2 archive"),
    (b"ID3", "an MP3 sound"),
)
_PDF_HEADER_WITHIN = 1024
_STARTS = {"pdf": PDF.name, "zip": ZIP.name, "ole2": _OLE2_FILE, "rtf": RTF.name}
# Names of parts stand in an archive as they are, and those of an OLE2 file in UTF-16.
_MARKS: tuple[tuple[bytes, Format], ...] = (
    (b"mimetypeapplication/epub+zip", EPUB),
    (b"mimetypeapplication/vnd.oasis.opendocument.text", ODT),
    (b"word/document.xml", DOCX),
    (b"ppt/presentation.xml", PPTX),
    (b"xl/workbook.xml", XLSX),
    ("__properties_version1.0".encode("utf-16-le"), MSG),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b"))
_MAX_CONTROL_SHARE = 0.05
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def is_binary(content: bytes) -> bool:
    """Whether it is no text: compressed data has control characters in a tenth of its bytes, text in none. Text in
    UTF-16 is told by its first bytes."""
    head = content[:65_536]
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return not content.startswith(_BOMS) and controls > _MAX_CONTROL_SHARE * len(head)


def looks_like(content: bytes) -> str | None:
    """What the first bytes say, in words, or None when they say nothing: then it may be text."""
    if content.startswith(b"%PDF-"):
        return "a PDF"
    for signature, words in _SIGNATURES:
        if content.startswith(signature):
            return words
    for signature, words in _SHORT:
        if content.startswith(signature) and is_binary(content):
            return words
    return None


def recognise(content: bytes, file_name: str, declared_type: str | None = None) -> Format:
    """The format of a file. The name's extension decides which one is meant, then `declared_type`, then the
    content alone; what is meant must agree with the first bytes. Raises DocumentRefused."""
    if not content:
        raise DocumentRefused("empty", "The file is empty.")
    extension = _extension(file_name)
    meant = _BY_EXTENSION.get(extension) or _BY_MEDIA_TYPE.get(_media_type(declared_type))
    if meant is None and extension:
        raise DocumentRefused("unsupported", f"Files named .{extension} cannot be read. {SUPPORTED}")
    if meant is None:
        return _by_content(content)
    _check(content, meant)
    return meant


def media_type_of(file_name: str) -> str | None:
    """By its extension alone."""
    meant = _BY_EXTENSION.get(_extension(file_name))
    return meant.media_type if meant is not None else None


def _extension(file_name: str) -> str:
    extension = PurePath(file_name.replace("\\", "/")).suffix[1:]
    return extension.lower() if _EXTENSION.fullmatch(extension) else ""


def _media_type(declared_type: str | None) -> str:
    return (declared_type or "").partition(";")[0].strip().lower()


def _by_content(content: bytes) -> Format:
    seen = looks_like(content)
    if seen == "a PDF":
        return PDF
    if seen == RTF.name:
        return RTF
    marked = next((one for mark, one in _MARKS if mark in content), None)
    if seen == ZIP.name:
        return marked or ZIP
    if seen == _OLE2_FILE and marked is MSG:
        return MSG
    if seen is not None:
        raise DocumentRefused("unsupported", f"The file looks like {seen}. {SUPPORTED}")
    start = content[:512].lstrip().lower()
    return HTML if start.startswith((b"<!doctype html", b"<html")) else PLAIN


def _check(content: bytes, meant: Format) -> None:
    seen = looks_like(content)
    if meant.container == "pdf" and b"%PDF-" in content[:_PDF_HEADER_WITHIN]:
        return
    if seen == _STARTS.get(meant.container):
        return
    if (
        meant.container == "zip"
        and content.startswith(_OLE2)
        and "EncryptedPackage".encode("utf-16-le") in content
    ):
        raise DocumentRefused(
            "encrypted", "The document is protected with a password. Save it without one and try again."
        )
    if seen is not None:
        raise DocumentRefused(
            "unsupported", f"The file should be {meant.name}, but looks like {seen}. {SUPPORTED}"
        )
    what = "holds no such data" if is_binary(content) else "looks like plain text"
    raise DocumentRefused("broken", f"The file should be {meant.name}, but {what}.")
