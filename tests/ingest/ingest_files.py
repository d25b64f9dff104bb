"""Small documents, made as bytes."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import md5

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


def archive(parts: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in parts.items():
            package.writestr(name, content)
    return out.getvalue()


def encrypted(user_password: bytes) -> bytes:
    """A PDF under the standard's first encryption (ISO 32000-1, 7.6.3, revision 2)."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")

    def rc4(key: bytes, plain: bytes) -> bytes:
        state, j, out = list(range(256)), 0, bytearray()
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) % 256
            state[i], state[j] = state[j], state[i]
        i = j = 0
        for byte in plain:
            i = (i + 1) % 256
            j = (j + state[i]) % 256
            state[i], state[j] = state[j], state[i]
            out.append(byte ^ state[(state[i] + state[j]) % 256])
        return bytes(out)

    identifier = b"0123456789abcdef"
    user = (user_password + padding)[:32]
    owner = rc4(md5((b"owner" + padding)[:32], usedforsecurity=False).digest()[:5], user)
    permissions = (-4).to_bytes(4, "little", signed=True)
    key = md5(user + owner + permissions + identifier, usedforsecurity=False).digest()[:5]
    content = lines_of("behind a lock")
    of_object = md5(key + (5).to_bytes(3, "little") + bytes(2), usedforsecurity=False).digest()[:10]
    plain = pdf(
        [content],
        trailer=b"/ID[<%b><%b>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%b>/U<%b>>>"
        % (
            identifier.hex().encode(),
            identifier.hex().encode(),
            owner.hex().encode(),
            rc4(key, padding).hex().encode(),
        ),
    )
    return plain.replace(content, rc4(of_object, content))


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as package:
        return {name: package.read(name) for name in package.namelist()}


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


def office(main: str, main_type: str, parts: Mapping[str, str | bytes]) -> bytes:
    """An Office Open XML package whose main part is `main`."""
    override = f'<Override PartName="/{main}" ContentType="{main_type}"/>'
    target = f'<Relationship Id="r1" Type="{_RELATIONS}/officeDocument" Target="{main}"/>'
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">{override}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{target}</Relationships>',
            **parts,
        }
    )


def xlsx(sheets: Mapping[str, str], *, styles: str = "", before: str = "", dimension: str = "") -> bytes:
    """A workbook of sheets by their names, each with these rows as XML. `styles` are formats of numbers, by commas;
    `dimension` is what the sheets say of their size."""
    namespace = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    listed = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="s{number}"/>' for number, name in enumerate(sheets, 1)
    )
    related = "".join(
        f'<Relationship Id="s{number}" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        for number in range(1, len(sheets) + 1)
    )
    size = f'<dimension ref="{dimension}"/>' if dimension else ""
    parts = {
        f"xl/worksheets/sheet{number}.xml": f"{before}<worksheet {namespace}>{size}<sheetData>{rows}</sheetData></worksheet>"
        for number, rows in enumerate(sheets.values(), 1)
    }
    formats = "".join(f'<xf numFmtId="{one}"/>' for one in ["0", *filter(None, styles.split(","))])
    return office(
        "xl/workbook.xml",
        EXCEL,
        {
            "xl/workbook.xml": f'<workbook {namespace} xmlns:r="{_RELATIONS}"><sheets>{listed}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{related}</Relationships>',
            "xl/styles.xml": f"<styleSheet {namespace}><cellXfs>{formats}</cellXfs></styleSheet>",
            **parts,
        },
    )


def row(*cells: str | float, style: int = 0) -> str:
    """Numbers may be given as strings of the form `=1.50`, to be written as they are."""
    written: list[str] = []
    for cell in cells:
        if isinstance(cell, str) and not cell.startswith("="):
            written.append(f'<c t="inlineStr"><is><t>{cell}</t></is></c>')
        else:
            written.append(f'<c s="{style}"><v>{str(cell).removeprefix("=")}</v></c>')
    return f"<row>{''.join(written)}</row>"


def odt(body: str, *, more: Mapping[str, str | bytes] | None = None, before: str = "") -> bytes:
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "text", "table")
    )
    content = f"{before}<office:document-content {spaces}><office:body><office:text>{body}</office:text></office:body></office:document-content>"
    return archive(
        {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content, **(more or {})}
    )


def epub(
    chapters: Mapping[str, str], *, contents: str = "", more: Mapping[str, str | bytes] | None = None
) -> bytes:
    """A book of pages by their paths below `OPS`, in this order. `contents` are the points of its table of contents."""
    items = "".join(
        f'<item id="c{number}" href="{path}" media-type="application/xhtml+xml"/>'
        for number, path in enumerate(chapters)
    )
    order = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    rootfile = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    return archive(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": rootfile,
            "OPS/book.opf": '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>The Book</dc:title></metadata>'
            f'<manifest>{items}<item id="n" href="toc.ncx" media-type="application/x-dtbncx+xml"/></manifest><spine>{order}</spine></package>',
            "OPS/toc.ncx": f'<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "ncx.dtd"><ncx><navMap>{contents}</navMap></ncx>',
            **{f"OPS/{path}": page for path, page in chapters.items()},
            **(more or {}),
        }
    )


_FREE, _END, _NONE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF


def ole2(streams: Mapping[str, bytes]) -> bytes:
    """An OLE2 file of streams by their paths, each of less than 4,096 bytes."""
    folders = {path[:cut] for path in streams for cut in range(len(path)) if path[cut] == "/"}
    paths = ["", *sorted(folders), *streams]
    small, short_fat, starts = b"", list[int](), dict[str, int]()
    for path, content in streams.items():
        starts[path] = len(short_fat)
        sectors = max(1, -(-len(content) // 64))
        short_fat += [*range(len(short_fat) + 1, len(short_fat) + sectors), _END]
        small += content.ljust(64 * sectors, b"\0")
    chunks = [_sectors(b"".join(_ole2_entry(path, paths, streams, starts, len(small)) for path in paths))]
    chunks += [_sectors(struct.pack(f"<{len(short_fat)}I", *short_fat), b"\xff"), _sectors(small)]
    fat, at = [0xFFFFFFFD], list[int]()
    for chunk in chunks:
        at.append(len(fat))
        fat += [*range(len(fat) + 1, len(fat) + len(chunk) // 512), _END]
    # Where the small streams begin was not known when the first entry was made.
    chunks[0] = chunks[0][:116] + struct.pack("<I", at[2]) + chunks[0][120:]
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    head += struct.pack("<IIIIIIIII", 0, 1, at[0], 0, 4096, at[1], len(chunks[1]) // 512, _END, 0)
    head += struct.pack("<109I", 0, *[_FREE] * 108)
    return head + struct.pack("<128I", *fat, *[_FREE] * (128 - len(fat))) + b"".join(chunks)


def _sectors(content: bytes, filler: bytes = b"\0") -> bytes:
    return content + filler * (-len(content) % 512)


def _ole2_entry(
    path: str, paths: list[str], streams: Mapping[str, bytes], starts: Mapping[str, int], small: int
) -> bytes:
    folder, _, name = path.rpartition("/")
    beside = [one for one in paths[1:] if one.rpartition("/")[0] == folder]
    inside = [one for one in paths[1:] if one.rpartition("/")[0] == path]
    after = beside[beside.index(path) + 1 :] if path else []
    named = (name or "Root Entry").encode("utf-16-le")
    kind = 5 if not path else 2 if path in streams else 1
    size = small if not path else len(streams.get(path, b""))
    return struct.pack(
        "<64sHBBIII16x4x16xIQ",
        named,
        len(named) + 2,
        kind,
        1,
        _NONE,
        paths.index(after[0]) if after else _NONE,
        paths.index(inside[0]) if inside and path not in streams else _NONE,
        starts.get(path, 0),
        size,
    )
