import io
import struct
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from app.ingest.headings import headings, literal, lowered
from app.ingest.readers import Allowance, TooMuchInside, eml, msg
from app.ingest.readers import zip as archives
from app.ingest.split import split
from tests.ingest.ingest_files import archive, docx, lines_of, ole2, paragraph, pdf, row, xlsx
from tests.ingest.test_readers import converted, refusal

BOOK = xlsx({"Sheet1": row("name", "age") + row("Ann", 30), "Sheet2": row("more")})


def allowance() -> Allowance:
    """A new one each time: what is unpacked is taken from it."""
    return Allowance(1_000_000)


def letter(subject: str = "Report", body: str = "See what is attached.") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "Zoë <zoe@a.test>", "b@a.test"
    message.set_content(body)
    return message


def attach(message: EmailMessage, name: str, content: bytes, kind: str = "application/octet-stream") -> None:
    main, _, sub = kind.partition("/")
    message.add_attachment(content, maintype=main, subtype=sub, filename=name)


# Headings of what is put under others


@pytest.mark.parametrize(
    "text",
    ["# a", "   ###### a", "a\n===\nb\n---", "```\n# a", "~~~ x\ntext\n~~~", "---\ntitle: a\n---\n# b"],
)
def test_text_that_is_no_markdown_has_no_headings_in_it(text: str):
    assert list(headings(literal(text))) == []
    assert [heading.text for heading in headings(f"{literal(text)}\n# after")] == ["after"]
    assert literal(text).replace("\\", "") == text


def test_headings_of_a_document_inside_of_another_are_below_its_name():
    said = "---\ntitle: x\n---\nTop\n===\n\n# a\n\n```\n# code\n```\n\n###### deep\n\n~~~\nopen # code"
    below = lowered(said, 1)
    assert [(heading.level, heading.text) for heading in headings(f"{below}\n\n# after")] == [
        (2, "Top"),
        (2, "a"),
        (6, "deep"),
        (1, "after"),
    ]


# ZIP


def test_each_file_of_an_archive_is_a_page_or_has_its_pages_under_its_name():
    content = archive(
        {
            "docs/paper.pdf": pdf([lines_of("# first"), lines_of("second")]),
            "report.xlsx": BOOK,
            "notes.txt": "# no heading",
            "letter.docx": docx(paragraph("Title", "H1") + paragraph("text")),
        }
    )
    reading = archives.read(content, allowance())
    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        ("docs/paper.pdf > 1", "# docs/paper.pdf\n\n\\# first"),
        ("docs/paper.pdf > 2", "second"),
        ("report.xlsx > Sheet1", "# report.xlsx\n\n## Sheet1\n\nname: Ann; age: 30"),
        ("report.xlsx > Sheet2", "## Sheet2\n\nmore"),
        ("notes.txt", "# notes.txt\n\n\\# no heading"),
        ("letter.docx", "# letter.docx\n\n## Title\n\ntext"),
    ]


def test_a_passage_tells_in_which_file_and_on_which_page_it_stands():
    content = archive({"paper.pdf": pdf([lines_of("first"), lines_of("second")]), "report.xlsx": BOOK})
    document = converted(archives.read(content, allowance()), "application/zip")
    chunks = split(document, count_tokens=lambda text: len(text.split()), max_tokens=200)
    assert [(chunk.page_label, chunk.headings) for chunk in chunks] == [
        ("paper.pdf > 1", ("paper.pdf",)),
        ("paper.pdf > 2", ("paper.pdf",)),
        ("report.xlsx > Sheet1", ("report.xlsx", "Sheet1")),
        ("report.xlsx > Sheet2", ("report.xlsx", "Sheet2")),
    ]


def test_what_cannot_be_read_is_named_with_the_reason_and_the_rest_is_read():
    content = archive(
        {
            "good.txt": "text",
            "photo.png": "x",
            "broken.pdf": b"%PDF-1.4",
            "scan.pdf": pdf([b""]),
            "bad page.pdf": pdf([lines_of("a"), lines_of("b")]).replace(
                b"6 0 obj\n<</Type/Page/", b"6 0 obj\n<</Type/Font"
            ),
            "__MACOSX/good.txt": "junk",
            "sub/.DS_Store": "junk",
        }
    )
    reading = archives.read(content, allowance())
    assert [label for label, _, _ in reading.pages] == ["good.txt", "bad page.pdf > 1", "bad page.pdf > 2"]
    assert reading.warnings == (
        "photo.png is left out. Files named .png cannot be read.",
        "broken.pdf is left out. The PDF is damaged: it has no readable structure.",
        "scan.pdf is left out. The PDF holds no text.",
        "bad page.pdf: Page 2 could not be read and is left out.",
    )


def test_an_archive_without_a_file_that_can_be_read_is_refused_and_says_why():
    refused = refusal(archives.read, archive({"a.png": "x", "b.jpg": "y"}))
    assert refused.reason == "unsupported"
    assert "a.png is left out. Files named .png cannot be read." in refused.message
    assert refusal(archives.read, archive({"a.png": "x", "b.txt": ""})).reason == "no_text"
    assert refusal(archives.read, b"PK\x03\x04 cut").reason == "broken"
    assert refusal(archives.read, archive({"a.txt": "a" * 200}), 100).reason == "too_large"


def test_a_name_that_leads_out_of_an_archive_is_a_name_and_no_more(tmp_path: Path):
    names = [
        "../../../etc/a.txt",
        f"{tmp_path}/b.txt",
        "..\\..\\c.txt",
        "C:\\d.txt",
        "e\x07\n.txt",
        "/",
        "x/../",
    ]
    content = archive(dict.fromkeys(names, "text"))
    labels = [label for label, _, _ in archives.read(content, allowance()).pages]
    assert labels == ["etc/a.txt", f"{tmp_path}/b.txt"[1:], "c.txt", "C:/d.txt", "e .txt"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "cp437"])
def test_a_name_that_is_not_said_to_be_in_an_encoding_is_read_all_the_same(encoding: str):
    name = {"gbk": "审计压缩包文件检索测试.txt"}.get(encoding, "Grüße.txt")
    plain = "x" * len(name.encode(encoding))
    content = archive({plain: "text"}).replace(plain.encode(), name.encode(encoding))
    assert [label for label, _, _ in archives.read(content, allowance()).pages] == [name]


def test_an_encrypted_or_damaged_file_of_an_archive_is_left_out():
    content = archive({"secret.txt": "text", "b.txt": "text", "c.txt": "also text"})
    flags = content.index(b"PK\x01\x02") + 8
    locked = content[:flags] + b"\x01" + content[flags + 1 :]
    third = locked.rindex(b"PK\x03\x04")
    reading = archives.read(locked[:third] + b"PK\x03\x05" + locked[third + 4 :], allowance())
    assert reading.text == "# b.txt\n\ntext"
    assert reading.warnings == (
        "secret.txt is left out. It is protected with a password.",
        "c.txt is left out. It is damaged and cannot be unpacked.",
    )


# Bombs


def test_an_archive_that_would_unpack_to_too_much_is_refused_unread():
    assert "200 times" in refusal(archives.read, archive({"a.txt": "A" * 20_000_000})).message
    room = allowance()
    room.room.bytes = 10
    with pytest.raises(TooMuchInside, match="256 MiB"):
        archives.read(archive({"a.txt": "A" * 11}), room)


def test_an_archive_of_too_many_files_is_refused():
    assert (
        "2,000 files"
        in refusal(archives.read, archive({f"{number}.txt": "a" for number in range(2001)})).message
    )


def test_archives_in_archives_are_counted_together():
    inner = archive({f"{number}.txt": "a" for number in range(1500)})
    refused = refusal(archives.read, archive({"a.zip": inner, "b.zip": inner, "c.txt": "text"}))
    assert (refused.reason, "2,000 files" in refused.message) == ("too_large", True)


def test_an_archive_nested_too_deeply_is_left_out_and_named():
    content = archive({"deep.txt": "out of reach"})
    for depth in range(5, 0, -1):
        content = archive({f"{depth}.zip": content, f"{depth}.txt": f"at {depth}"})
    reading = archives.read(content, allowance())
    assert [label for label, _, _ in reading.pages] == ["1.zip > 2.zip > 3.txt", "1.zip > 2.txt", "1.txt"]
    assert reading.warnings == (
        "1.zip: 2.zip: 3.zip is left out. It lies more than 3 deep inside of others.",
    )


def test_an_archive_that_lies_about_a_size_costs_that_file():
    content = archive({"a.txt": "A" * 5000, "b.txt": "text"})
    with zipfile.ZipFile(io.BytesIO(content)) as package:
        size = package.getinfo("a.txt").file_size
    reading = archives.read(
        content.replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little")), allowance()
    )
    assert reading.warnings == ("a.txt is left out. It is damaged and cannot be unpacked.",)
    assert reading.text == "# b.txt\n\ntext"


# Email


def test_an_email_is_its_headers_and_text_and_then_what_is_attached():
    message = letter()
    message["Cc"], message["Date"] = "c@a.test", "Thu, 26 Nov 2026 10:00:00 +0000"
    attach(message, "Zahlen für Zoë.xlsx", BOOK)
    attach(message, "a.txt", "# Grüße".encode("cp1252"), "text/plain")
    reading = eml.read(message.as_bytes(), allowance())
    assert reading.title == "Report"
    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        (
            "",
            "# Report\n\nFrom: Zoë <zoe@a.test>\nTo: b@a.test\nCc: c@a.test\nDate: Thu, 26 Nov 2026 10:00:00 +0000\n\nSee what is attached.",
        ),
        ("Zahlen für Zoë.xlsx > Sheet1", "## Zahlen für Zoë.xlsx\n\n### Sheet1\n\nname: Ann; age: 30"),
        ("Zahlen für Zoë.xlsx > Sheet2", "### Sheet2\n\nmore"),
        ("a.txt", "## a.txt\n\n\\# Grüße"),
    ]


def test_an_email_without_attachments_has_no_pages():
    assert eml.read(letter().as_bytes(), allowance()).pages == ()
    assert eml.read(b"From: a@b\n\ntext", allowance()).title is None


def test_of_the_versions_of_a_text_the_plain_one_is_read():
    message = letter(body="plain")
    message.add_alternative("<p>rich</p>", subtype="html")
    assert "rich" not in eml.read(message.as_bytes(), allowance()).text
    rich = letter()
    rich.set_content("<h1>Rich</h1><p>page</p><script>x</script>", subtype="html")
    assert eml.read(rich.as_bytes(), allowance()).text.endswith("# Rich\n\npage")


def test_what_is_attached_to_the_rich_version_alone_is_read():
    message = letter(body="plain")
    message.add_alternative("<p>rich</p>", subtype="html")
    versions = list(message.iter_parts())
    attach(versions[1], "a.txt", b"attached", "text/plain")  # pyright: ignore[reportArgumentType]  # they are of the same class
    assert [label for label, _, _ in eml.read(message.as_bytes(), allowance()).pages] == ["", "a.txt"]


def test_an_email_in_an_email_is_read_with_what_is_attached_to_it():
    inner = letter("Inner: a/b", "inside")
    attach(inner, "a.txt", b"deep", "text/plain")
    outer = letter("Outer")
    outer.add_attachment(inner)
    labels = [label for label, _, _ in eml.read(outer.as_bytes(), allowance()).pages]
    assert labels == ["", "Inner: a-b.eml", "Inner: a-b.eml > a.txt"]


@pytest.mark.parametrize(
    ("head", "subject"),
    [
        ("Subject: =?utf-8?B?R3LDvMOfZQ==?= =?iso-8859-1?Q?_f=FCr_dich?=", "Grüße für dich"),
        ("Subject: =?no-such?Q?a?=", "a"),
        ("Subject: Grüße", "Grüße"),
        ("Subject: Grüße =?utf-8?Q?f=C3=BCr?= dich", "Grüße für dich"),
        ("Subject: =?a\0b?Q?a?=", "a"),
        ("Subject: =?utf-8?B?R3LDvMOfZQ=?=", "Grüße"),
        ("Subject: a\n\tb", "a b"),
    ],
)
def test_a_subject_is_read_in_any_encoding(head: str, subject: str):
    assert eml.read(f"{head}\nFrom: a@b\n\ntext".encode(), allowance()).title == subject


def test_bytes_that_are_in_no_encoding_cost_an_email_nothing_else():
    inner = b"Subject: \xff inner\n\n\xffinside\n"
    head = b'Subject: \xff\xfe a\nContent-Type: multipart/mixed; boundary="x"\n\n'
    named = b"--x\nContent-Disposition: attachment; filename*=a\0b''%FF.txt\n\nattached\n"
    content = head + b"--x\nContent-Type: message/rfc822\n\n" + inner + named + b"--x--\n"
    reading = eml.read(content, allowance())
    assert "inside" in reading.text
    assert reading.text.endswith("attached")


def test_a_picture_in_an_email_is_named_unless_its_page_shows_it():
    message = letter()
    message.add_attachment(b"\x89PNG\r\n", maintype="image", subtype="png", filename="logo.png", cid="<1>")
    attach(message, "photo.png", b"\x89PNG\r\n", "image/png")
    assert eml.read(message.as_bytes(), allowance()).warnings == (
        "photo.png is left out. Files named .png cannot be read.",
    )


def test_an_email_that_is_none_or_nested_without_end_is_refused():
    assert refusal(eml.read, b"just words, no headers").reason == "broken"
    deep = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (number, number)
        for number in range(5_000)
    )
    assert refusal(eml.read, b"From: a@b\n" + deep).reason == "broken"


def test_an_email_of_too_many_parts_is_refused():
    parts = b'Content-Type: multipart/mixed; boundary="x"\n\n' + b"--x\n\na\n" * 2_001
    assert refusal(eml.read, b"From: a@b\n" + parts).reason == "too_large"


# Outlook


def stored(
    properties: dict[int, str | bytes],
    *,
    folder: str = "",
    head: int = 32,
    numbers: dict[int, int] | None = None,
) -> dict[str, bytes]:
    """The streams of properties under a folder."""
    entries = b"".join(
        struct.pack("<HHIQ", 0x40, number, 6, value) for number, value in (numbers or {}).items()
    )
    streams = {f"{folder}__properties_version1.0": bytes(head) + entries}
    for number, value in properties.items():
        kind = "001F" if isinstance(value, str) else "0102"
        content = value.encode("utf-16-le") if isinstance(value, str) else value
        streams[f"{folder}__substg1.0_{number:04X}{kind}"] = content
    return streams


SUBJECT, BODY, HTML, FROM, ADDRESS, TO = 0x0037, 0x1000, 0x1013, 0x0C1A, 0x5D01, 0x0E04
NAME, CONTENT = 0x3707, 0x3701


def test_an_outlook_message_is_its_headers_and_text_and_then_what_is_attached():
    inner = f"__attach_version1.0_#00000001/__substg1.0_{CONTENT:04X}000D/"
    content = ole2(
        stored(
            {SUBJECT: "Grüße", BODY: "# said\r\nso", FROM: "Zoë", ADDRESS: "zoe@a.test", TO: "b"},
            numbers={0x0039: 133_484_544_000_000_000},
        )
        | stored({NAME: "a.txt", CONTENT: b"attached"}, folder="__attach_version1.0_#00000000/", head=8)
        | stored({}, folder="__attach_version1.0_#00000001/", head=8)
        | stored({SUBJECT: "Inner", BODY: "inside"}, folder=inner, head=24)
        | stored(
            {NAME: "b.bin", CONTENT: b"\x00\x01"}, folder=f"{inner}__attach_version1.0_#00000000/", head=8
        )
    )
    reading = msg.read(content, allowance())
    assert reading.title == "Grüße"
    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        ("", "# Grüße\n\nFrom: Zoë <zoe@a.test>\nTo: b\nDate: 2023-12-31 00:00 UTC\n\n\\# said\nso"),
        ("a.txt", "## a.txt\n\nattached"),
        ("Inner.msg", "## Inner.msg\n\n### Inner\n\ninside"),
    ]
    assert reading.warnings == ("Inner.msg: b.bin is left out. Files named .bin cannot be read.",)


@pytest.mark.parametrize(
    ("streams", "text"),
    [
        (stored({HTML: b"<h1>Rich</h1><p>page"}), "# Email\n\n# Rich\n\npage"),
        (
            {"__properties_version1.0": bytes(32), "__substg1.0_1000001E": "Привет".encode()},
            "# Email\n\nПривет",
        ),
        (
            {
                "__properties_version1.0": bytes(32) + struct.pack("<HHIQ", 3, 0x3FDE, 6, 950),
                "__substg1.0_0037001E": "中文測試".encode("cp950"),
            },
            "# 中文測試",
        ),
    ],
)
def test_an_outlook_message_is_read_in_its_encoding(streams: dict[str, bytes], text: str):
    assert msg.read(ole2(streams), allowance()).text == text


def test_an_outlook_file_that_is_no_message_is_refused():
    assert refusal(msg.read, ole2({"WordDocument": b"x"})).reason == "broken"
