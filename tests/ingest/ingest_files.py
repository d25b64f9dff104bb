"""Small documents, made as bytes."""

import io
import zipfile
from collections.abc import Sequence

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
EXCEL = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
_NAMESPACE = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"

PICTURE = b"q 100 0 0 100 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x00 EI Q"


def pdf_objects(objects: Sequence[bytes], *, trailer: bytes = b"") -> bytes:
    """A PDF of numbered objects, the first of which is its catalogue."""
    out, offsets = b"%PDF-1.7\n", list[int]()
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    head = b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, table)
    end = b"trailer<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF" % (size, trailer, len(out))
    return out + head + end


def stream(content: bytes) -> bytes:
    return b"<</Length %d>>stream\n%b\nendstream" % (len(content), content)


def lines_of(*lines: str) -> bytes:
    """What draws lines of text on a page."""
    shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
    return f"BT /F1 12 Tf 72 700 Td {shown}ET".encode("latin-1")


def pdf(pages: Sequence[bytes], *, labels: bytes = b"", title: str = "", trailer: bytes = b"") -> bytes:
    """A PDF with these contents of its pages. `labels` is a number tree: `0 <</S/r>>` numbers in Roman letters."""
    count = len(pages)
    kids = b" ".join(b"%d 0 R" % (4 + 2 * index) for index in range(count))
    tree = b"/PageLabels<</Nums[%b]>>" % labels if labels else b""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R%b>>" % tree,
        b"<</Type/Pages/Kids[%b]/Count %d>>" % (kids, count),
        b"<</Title(%b)>>" % title.encode(),
    ]
    font = b"<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    for index, content in enumerate(pages):
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R/Resources%b>>"
        objects += [page % (5 + 2 * index, font), stream(content)]
    return pdf_objects(objects, trailer=b"/Info 3 0 R" + trailer)


def archive(parts: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return out.getvalue()


def paragraph(text: str, style: str = "") -> str:
    named = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{named}<w:r><w:t>{text}</w:t></w:r></w:p>"


def docx(
    body: str, *, before: str = "", main_type: str = WORD, more: dict[str, str | bytes] | None = None
) -> bytes:
    override = f'<Override PartName="/word/document.xml" ContentType="{main_type}"/>'
    target = f'<Relationship Id="r1" Type="{_RELATIONS}/officeDocument" Target="word/document.xml"/>'
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="H{level}"><w:name w:val="heading {level}"/></w:style>'
        for level in (1, 2)
    )
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">{override}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{target}</Relationships>',
            "word/styles.xml": f"<w:styles {_NAMESPACE}>{styles}</w:styles>",
            "word/document.xml": f'<?xml version="1.0"?>{before}<w:document {_NAMESPACE}><w:body>{body}</w:body></w:document>',
            **(more or {}),
        }
    )
