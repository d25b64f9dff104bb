import pytest

from app.errors import DocumentRefused
from app.ingest.formats import (
    CSV,
    DOCX,
    EPUB,
    FORMATS,
    HTML,
    JSON,
    MARKDOWN,
    MSG,
    ODT,
    PDF,
    PLAIN,
    PPTX,
    RTF,
    XLSX,
    ZIP,
    Format,
    recognise,
)

OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
PROGRAM = b"MZ\x90\x00" + bytes(60)
ARCHIVE = b"PK\x03\x04 and so on"
PDF_BYTES = b"%PDF-1.4\n%%EOF"


@pytest.mark.parametrize(
    ("content", "name", "declared", "expected"),
    [
        (b"# A", "a.md", None, MARKDOWN),
        (b"a", "A.TXT", None, PLAIN),
        (b"a", "notes.v1.markdown", "text/plain", MARKDOWN),
        (b"<p>a", "a.htm", None, HTML),
        (PDF_BYTES, "a.pdf", "application/octet-stream", PDF),
        (b"junk\n" + PDF_BYTES, "a.pdf", None, PDF),
        (ARCHIVE, "a.docx", None, DOCX),
        (b"a", "README", None, PLAIN),
        (b"a", "Letter to Dr. Smith", None, PLAIN),
        (b"\n<!DOCTYPE html><p>a", "page", None, HTML),
        (PDF_BYTES, "download", None, PDF),
        (ARCHIVE, "download", None, ZIP),
        (ARCHIVE + b"word/document.xml", "download", None, DOCX),
        (ARCHIVE + b"xl/workbook.xml", "download", None, XLSX),
        (ARCHIVE + b"ppt/presentation.xml", "download", None, PPTX),
        (ARCHIVE + b"mimetypeapplication/epub+zip", "download", None, EPUB),
        (ARCHIVE + b"mimetypeapplication/vnd.oasis.opendocument.text", "download", None, ODT),
        (ARCHIVE, "a.xlsx", None, XLSX),
        (b"{\\rtf1 a}", "download", None, RTF),
        (OLE2 + "__properties_version1.0".encode("utf-16-le"), "download", None, MSG),
        (OLE2, "a.msg", None, MSG),
        (b"{}", "download", "application/json", JSON),
        (b"# A", "download", "text/markdown; charset=utf-8", MARKDOWN),
        (b"a,b", "table.csv", "text/plain", CSV),
        (b"MZ is how programs start.", "a.txt", None, PLAIN),
    ],
)
def test_the_name_the_declared_type_and_the_bytes_tell_the_format(
    content: bytes, name: str, declared: str | None, expected: Format
):
    assert recognise(content, name, declared) is expected


@pytest.mark.parametrize(
    ("content", "name", "reason", "words"),
    [
        (b"", "a.pdf", "empty", "empty"),
        (PDF_BYTES, "a.docx", "unsupported", "looks like a PDF"),
        (PDF_BYTES, "a.txt", "unsupported", "looks like a PDF"),
        (PROGRAM, "a.pdf", "unsupported", "looks like a Windows program"),
        (PROGRAM, "a.txt", "unsupported", "looks like a Windows program"),
        (ARCHIVE, "a.md", "unsupported", "looks like a ZIP archive"),
        (ARCHIVE, "a.pdf", "unsupported", "looks like a ZIP archive"),
        (b"{\\rtf1 a}", "a.docx", "unsupported", "looks like an RTF document"),
        (OLE2, "a.docx", "unsupported", "older Microsoft Office"),
        (OLE2 + "EncryptedPackage".encode("utf-16-le"), "a.docx", "encrypted", "password"),
        (b"only words", "a.pdf", "broken", "looks like plain text"),
        (b"only words", "a.docx", "broken", "looks like plain text"),
        (bytes(range(32)) * 9, "a.pdf", "broken", "no such data"),
        (b"only words", "a.rtf", "broken", "looks like plain text"),
        (ARCHIVE, "a.msg", "unsupported", "looks like a ZIP archive"),
        (OLE2, "download", "unsupported", "older Microsoft Office"),
        (b"a,b", "a.xls", "unsupported", "Files named .xls cannot be read"),
        (b"\x1f\x8b\x08", "download", "unsupported", "looks like a gzip archive"),
    ],
)
def test_a_false_or_unknown_format_is_refused_in_words_that_say_what_it_is(
    content: bytes, name: str, reason: str, words: str
):
    with pytest.raises(DocumentRefused) as refused:
        recognise(content, name)
    assert refused.value.reason == reason
    assert words in refused.value.message


def test_a_refusal_names_what_can_be_read():
    with pytest.raises(
        DocumentRefused, match=r"PDF, Word \(\.docx\), .* and ZIP archives of these can be read"
    ):
        recognise(b"a", "a.xyz")


def test_no_extension_and_no_media_type_stands_for_two_formats():
    extensions = [extension for one in FORMATS for extension in one.extensions]
    assert len(set(extensions)) == len(extensions)
    assert len({one.media_type for one in FORMATS}) == len(FORMATS)
