import io
import zipfile
from pathlib import Path

import pytest

from app.errors import DocumentRefused
from app.ingest.convert import ConvertedDocument, Page
from app.ingest.readers import Allowance, Reading, html, markdown, text
from app.ingest.readers import docx as word
from app.ingest.readers import pdf as portable
from tests.ingest.ingest_files import (
    EXCEL,
    PICTURE,
    archive,
    docx,
    encrypted,
    lines_of,
    paragraph,
    pdf,
    pdf_objects,
    stream,
)

LIMIT = Allowance(1_000_000)


def refusal(read: object, content: bytes, characters: int = LIMIT.characters) -> DocumentRefused:
    assert callable(read)
    with pytest.raises(DocumentRefused) as refused:
        read(content, Allowance(characters))
    return refused.value


def converted(reading: Reading, media_type: str) -> ConvertedDocument:
    pages = tuple(Page(*page) for page in reading.pages)
    return ConvertedDocument(reading.text, media_type, "txt", reading.title, pages, reading.warnings)


# Text


@pytest.mark.parametrize(
    ("said", "encoding"),
    [
        ("Grüße 日本 🎈", "utf-8"),
        ("Grüße 日本 🎈", "utf-8-sig"),
        ("Grüße 日本 🎈", "utf-16"),
        ("Grüße, plain Latin text", "utf-16-le"),
        ("Grüße, plain Latin text", "utf-16-be"),
        ("Grüße 日本 🎈", "utf-32"),
        ("Le cœur bat où l’été est déjà là, près de la forêt. L’hôtel a été fermé.", "cp1252"),
        ("naïve café", "cp1252"),
        ("Zażółć gęślą jaźń. Dzień dobry wszystkim.", "cp1250"),
        ("Привет, как дела? Это проверка кодировки текста.", "cp1251"),
        ("日本語のテキストです。文字コードを確認します。", "cp932"),
        ("这是一个中文文本。编码检测。", "gb18030"),
    ],
)
def test_text_is_read_in_any_encoding(said: str, encoding: str):
    reading = text.read(said.encode(encoding), LIMIT)
    assert (reading.text, reading.warnings) == (said, ())


def test_text_is_what_a_database_can_keep():
    said = "a\x00b\x0bc\r\nd\re\x1bf\u200bg\u0301\tx" + "." * 80
    assert text.read(said.encode(), LIMIT).text == "ab\nc\nd\nef\u200bg\u0301\tx" + "." * 80
    assert "\ud800" not in text.read(b"a \xed\xa0\x80 b", LIMIT).text


def test_a_file_cut_within_a_character_is_still_utf_8_and_the_reader_is_told():
    reading = text.read(("é" * 50).encode()[:-1], LIMIT)
    assert reading.text == "é" * 49 + "\ufffd"
    assert "utf-8" in reading.warnings[0]


def test_what_is_no_text_is_refused():
    assert refusal(text.read, b"\x00\x01\x02\x03" * 50).reason == "unsupported"
    assert refusal(text.read, b" \n\t ").reason == "no_text"


def test_text_beyond_the_limit_is_refused():
    assert refusal(text.read, b"a" * 101, 100).reason == "too_large"
    assert refusal(text.read, b"a" * 401, 100).reason == "too_large"
    assert len(text.read("é".encode() * 100, Allowance(100)).text) == 100


# Markdown


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("intro\n\n# The *title* #\n\n# Other", "The *title*"),
        ("Title\n=====\n\ntext", "Title"),
        ('---\nlayout: x\ntitle: "In front"\n---\n# Other', "In front"),
        ("```\n# code\n```\n## Second level", None),
    ],
)
def test_the_title_of_markdown_is_that_of_its_front_matter_or_first_heading(said: str, title: str | None):
    reading = markdown.read(said.encode(), LIMIT)
    assert (reading.text, reading.title) == (said, title)


# HTML


def test_html_becomes_headings_paragraphs_lists_code_and_tables():
    page = """<!doctype html><html><head><title>The  page</title><style>p{}</style></head><body>
      <h1>One <em>big</em> thing</h1><p>Some <b>words</b> and a <a href="http://a.test">link</a>.<br>Next&nbsp;line &amp; end
      <ul><li>first<ul><li>inner</ul><li><p>second</p></ul><ol><li>a<li>b</ol>
      <pre><code>x = 1
  y</code></pre><table><caption>Prices</caption><tr><th>name<th>of | it<tr><td>pen<td>2</table><img alt="a picture"></body></html>"""
    reading = html.read(page.encode(), LIMIT)
    assert reading.title == "The page"
    assert reading.text == (
        "# One big thing\n\nSome words and a link.\nNext line & end\n\n- first\n  - inner\n- second\n1. a\n2. b\n\n"
        "```\nx = 1\n  y\n```\n\nPrices\n\n| name | of \\| it |\n| --- | --- |\n| pen | 2 |\n\na picture"
    )


def test_what_is_not_the_text_of_a_page_is_left_out():
    page = """<nav>menu <nav>more</nav> menu</nav><script>if (a < b) x("</p>")</script><template><p>later</template>
      <noscript>no</noscript><svg><title>icon</title></svg><div hidden>secret <div>deep</div></div><p>Text.<p hidden>Shown."""
    assert html.read(page.encode(), LIMIT).text == "Text.\n\nShown."


def test_the_main_part_is_all_of_a_page_that_has_one_with_text():
    words = "Words that matter. " * 20
    page = f"<div>around</div><main><h1>T</h1><p>{words}</main><div>after</div>"
    assert html.read(page.encode(), LIMIT).text == f"# T\n\n{words.strip()}"
    assert html.read(b"<div>around</div><main>x</main>", LIMIT).text == "around\n\nx"


def test_a_table_that_lays_out_a_page_becomes_what_is_in_it():
    page = f"<table><tr><td><h2>Left</h2><td>{'word ' * 200}<tr><td><table><tr><td>1<td>2<tr><td>3</table></table>"
    assert html.read(page.encode(), LIMIT).text == f"## Left\n\n{('word ' * 200).strip()}\n\n1, 2\n\n3"


def test_tags_that_close_nothing_or_nothing_closes_do_no_harm():
    page = "</ul></table></td></pre></main><td>stray</td><nav/><div/>kept<br/>line<table><tr><td>a<td>b"
    assert html.read(page.encode(), LIMIT).text == "stray\n\nkept\nline\n\n| a | b |\n| --- | --- |"


def test_an_encoding_that_a_page_names_wrongly_is_found_out():
    page = '<meta charset="euc-kr"><p>El niño comió una piña en la montaña. ¿Qué tal?'
    assert html.read(page.encode("cp1252"), LIMIT).text == page.rpartition(">")[2]


def test_a_page_nested_without_end_is_read():
    depth = 5_000
    for tag in ("div", "ul><li", "table><tr><td", "nav", "b"):
        assert html.to_markdown(f"<p>on top<p>{f'<{tag}>' * depth}deep")[0].startswith("on top")


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        ('<meta charset="windows-1251"><p>Привет', "cp1251"),
        ('<meta http-equiv="content-type" content="text/html; charset=shift_jis"><p>日本', "cp932"),
        ('<?xml version="1.0" encoding="gb2312"?><p>编码', "gb18030"),
        ('<meta charset="iso-8859-1"><p>“quoted”', "cp1252"),
        ('<meta charset="iso-2022-jp"><p>日本', "iso2022_jp"),
        ('<meta charset="utf-16"><p>“quoted”', "utf-8"),
        ('<meta charset="windows-1251"><p>“quoted”', "utf-8"),
        ('<meta charset="no-such"><p>“quoted”', "utf-8"),
        ('<meta charset="windows-1251"><p>“quoted”', "utf-16"),
    ],
)
def test_the_encoding_of_a_page_is_what_its_bytes_say_then_what_it_says(page: str, encoding: str):
    assert html.read(page.encode(encoding), LIMIT).text == page.rpartition(">")[2]


def test_a_page_without_text_is_refused():
    assert refusal(html.read, b"<script>render()</script><div id=app></div>").reason == "no_text"
    assert refusal(html.read, b"<p>" + b"a" * 101, 100).reason == "too_large"


# PDF


def test_a_pdf_has_the_text_of_each_page_under_the_label_printed_on_it():
    reading = portable.read(
        pdf([lines_of(f"Page of number {number}") for number in range(4)], labels=b"0<</S/r>> 2<</S/D>>"),
        LIMIT,
    )
    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        ("i", "Page of number 0"),
        ("ii", "Page of number 1"),
        ("1", "Page of number 2"),
        ("2", "Page of number 3"),
    ]


def test_pages_without_labels_are_counted_from_one():
    reading = portable.read(pdf([lines_of("a b c"), lines_of("d"), lines_of("e")], title="Report"), LIMIT)
    assert ([label for label, _, _ in reading.pages], reading.title) == (["1", "2", "3"], "Report")


def test_words_broken_at_the_end_of_a_line_are_whole_again():
    reading = portable.read(
        pdf([lines_of("They were con-", "trolled by the state of the well-", "known art.")]), LIMIT
    )
    assert "controlled by" in reading.text


def test_a_hyphen_at_the_end_of_a_line_stays_if_both_halves_are_words_of_the_document():
    lines = ["A self is taught.", "He is self-", "taught in Anglo-", "Saxon."]
    reading = portable.read(pdf([lines_of(*lines)]), LIMIT)
    assert "self-taught" in reading.text
    assert "Anglo-Saxon" in reading.text


def test_a_title_that_is_only_a_file_name_is_none():
    for title in ("scan0001.pdf", "Microsoft Word - Letter", "untitled"):
        assert portable.read(pdf([lines_of("a")], title=title), LIMIT).title is None


def test_a_pdf_of_pictures_is_refused_as_scanned():
    refused = refusal(portable.read, pdf([PICTURE, PICTURE]))
    assert refused.reason == "no_text"
    assert "scanned" in refused.message


def test_pictures_among_pages_of_text_are_a_warning():
    reading = portable.read(pdf([lines_of("text"), PICTURE, PICTURE]), LIMIT)
    assert reading.warnings == ("Pages 2, 3 have pictures but no text, as if scanned.",)
    assert reading.pages[1][1] == reading.pages[1][2]


def test_an_empty_pdf_is_refused():
    assert "scanned" not in refusal(portable.read, pdf([b""])).message
    assert refusal(portable.read, pdf([])).reason == "broken"


def test_a_bad_page_is_left_out_and_named():
    whole = pdf([lines_of("first"), lines_of("second"), lines_of("third")])
    reading = portable.read(whole.replace(b"6 0 obj\n<</Type/Page/", b"6 0 obj\n<</Type/Font"), LIMIT)
    assert reading.text.split() == ["first", "third"]
    assert reading.warnings == ("Page 2 could not be read and is left out.",)
    assert [label for label, _, _ in reading.pages] == ["1", "2", "3"]


def test_a_pdf_without_a_good_page_is_refused():
    bad = pdf([lines_of("a"), lines_of("b")]).replace(b"<</Type/Page/", b"<</Type/Font")
    refused = refusal(portable.read, bad)
    assert (refused.reason, refused.message) == (
        "broken",
        "The PDF is damaged: none of its pages can be read.",
    )


def test_a_pdf_of_too_many_pages_is_refused():
    kids = b"3 0 R " * 50_001
    pages = b"<</Type/Pages/Kids[%b]/Count 50001>>" % kids
    many = pdf_objects(
        [b"<</Type/Catalog/Pages 2 0 R>>", pages, b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"]
    )
    assert refusal(portable.read, many).reason == "too_large"


def test_what_is_typed_into_the_fields_of_a_form_is_text():
    font = b"<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    shown = b"BT /F1 12 Tf 2 6 Td (typed in) Tj ET"
    form = b"<</Type/XObject/Subtype/Form/BBox[0 0 100 20]/Resources%b/Length %d>>stream\n%b\nendstream" % (
        font,
        len(shown),
        shown,
    )
    page = (
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 5 0 R/Resources%b/Annots[4 0 R]>>" % font
    )
    field = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(typed in)/F 4/P 3 0 R/Rect[72 600 172 620]/AP<</N 6 0 R>>>>"
    content = pdf_objects(
        [
            b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[4 0 R]>>>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            page,
            field,
            stream(lines_of("printed")),
            form,
        ]
    )
    assert portable.read(content, LIMIT).text.split("\n") == ["printed", "typed in"]


def test_a_damaged_pdf_is_refused_and_one_with_a_damaged_table_is_read():
    whole = pdf([lines_of("saved")])
    assert refusal(portable.read, b"%PDF-1.4\n%%EOF").reason == "broken"
    assert portable.read(whole[: whole.rindex(b"xref\n0")] + b"trailer<</Root 1 0 R>>", LIMIT).text == "saved"


def test_a_pdf_that_lies_about_its_pages_ends():
    lie = pdf_objects(
        [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 2000000000>>", b"<</Type/Page>>"]
    )
    assert refusal(portable.read, lie).reason in {"too_large", "broken", "no_text"}
    assert refusal(portable.read, pdf([lines_of("too much")]), 5).reason == "too_large"


def test_an_encrypted_pdf_that_opens_without_a_password_is_read():
    assert portable.read(encrypted(b""), LIMIT).text == "behind a lock"


def test_an_encrypted_pdf_that_asks_for_a_password_is_refused():
    refused = refusal(portable.read, encrypted(b"secret"))
    assert (refused.reason, "Give it" in refused.message) == ("encrypted", True)


def test_an_encrypted_pdf_opens_with_its_password_and_no_other():
    locked = encrypted("señal".encode("latin-1"))
    assert portable.read(locked, Allowance(1000, password="señal")).text == "behind a lock"
    with pytest.raises(DocumentRefused, match="not the one given"):
        portable.read(locked, Allowance(1000, password="secret"))


# DOCX


def test_a_word_document_becomes_headings_paragraphs_and_tables():
    cells = "".join(
        f"<w:tr><w:tc>{paragraph(a)}</w:tc><w:tc>{paragraph(b)}</w:tc></w:tr>"
        for a, b in [("x", "y"), ("1", "2")]
    )
    body = (
        paragraph("Top", "H1")
        + paragraph("Some &amp; text")
        + paragraph("Under", "H2")
        + f"<w:tbl>{cells}</w:tbl>"
    )
    reading = word.read(docx(body), LIMIT)
    assert reading.text == "# Top\n\nSome & text\n\n## Under\n\n| x | y |\n| --- | --- |\n| 1 | 2 |"
    assert reading.title == "Top"


def test_the_title_of_a_word_document_is_that_of_its_properties():
    core = '<c xmlns:dc="d"><dc:title>Plans &amp; goals</dc:title></c>'
    assert word.read(docx(paragraph("a"), more={"docProps/core.xml": core}), LIMIT).title == "Plans & goals"


def test_xml_entities_are_refused_in_every_part():
    bomb = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    outside = '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    for content in (
        docx(paragraph("&b;"), before=bomb),
        docx(paragraph("&x;"), before=outside),
        docx(paragraph("a"), more={"word/footnotes.xml": f"{outside}<a>&x;</a>"}),
    ):
        refused = refusal(word.read, content)
        assert refused.reason == "broken"
        assert "entities" in refused.message


def test_a_word_document_that_unpacks_to_too_much_is_refused_before_it_is_unpacked():
    assert refusal(word.read, docx(paragraph("A" * 70_000_000))).reason == "too_large"
    assert refusal(word.read, docx(paragraph("A" * 200)), 100).reason == "too_large"


def test_a_word_document_that_lies_about_its_sizes_is_refused():
    content = docx(paragraph("A" * 5_000_000))
    with zipfile.ZipFile(io.BytesIO(content)) as package:
        size = package.getinfo("word/document.xml").file_size
    lie = content.replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lie != content
    assert refusal(word.read, lie).reason == "broken"


def test_a_word_document_nested_without_end_is_refused():
    deep = "<w:tbl><w:tr><w:tc>" * 2000 + paragraph("deep") + "</w:tc></w:tr></w:tbl>" * 2000
    assert "nested" in refusal(word.read, docx(deep)).message
    nested = "<w:tbl><w:tr><w:tc>" * 130 + paragraph("deep") + "</w:tc></w:tr></w:tbl>" * 130
    assert "nested" in refusal(word.read, docx(nested)).message


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"PK\x03\x04 cut", "broken", "damaged"),
        (docx(paragraph("a"))[:-40], "broken", "damaged"),
        (docx("<w:p>"), "broken", "no valid XML"),
        (docx(""), "no_text", "no text"),
        (
            docx(paragraph("a"), main_type=EXCEL, more={"xl/workbook.xml": "<a/>"}),
            "unsupported",
            "an Excel workbook",
        ),
        (archive({"photo.txt": "a"}), "unsupported", "some other ZIP archive"),
    ],
)
def test_what_is_no_whole_word_document_is_refused(content: bytes, reason: str, words: str):
    refused = refusal(word.read, content)
    assert refused.reason == reason
    assert words in refused.message


def test_nothing_outside_of_a_word_document_is_opened():
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    link = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="p" Type="{relations}/image" Target="file:///etc/hostname" TargetMode="External"/></Relationships>'
    )
    picture = (
        '<w:p><w:r><w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing">'
        '<a:graphic xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><a:graphicData>'
        '<pic:pic xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:blipFill>'
        f'<a:blip xmlns:r="{relations}" r:link="p"/></pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline>'
        "</w:drawing></w:r></w:p>"
    )
    content = docx(picture + paragraph("text"), more={"word/_rels/document.xml.rels": link})
    assert word.read(content, LIMIT).text == "text"


def test_names_in_an_archive_lead_nowhere(tmp_path: Path):
    content = docx(paragraph("text"), more={f"../../..{tmp_path}/evil.txt": "x", f"{tmp_path}/evil.txt": "x"})
    assert word.read(content, LIMIT).text == "text"
    assert list(tmp_path.iterdir()) == []
