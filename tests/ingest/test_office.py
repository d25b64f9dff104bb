import io

import pytest
from pptx import Presentation
from pptx.shapes.autoshape import Shape
from pptx.shapes.base import BaseShape
from pptx.text.text import TextFrame
from pptx.util import Inches

from app.ingest.readers import epub, odt, pptx, rtf
from app.ingest.split import split
from tests.ingest import ingest_files
from tests.ingest.ingest_files import paragraph
from tests.ingest.test_readers import LIMIT, converted, refusal

BOMB = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'


# PowerPoint

INCH = Inches(1)


def text_of(shape: BaseShape) -> TextFrame:
    assert isinstance(shape, Shape)
    return shape.text_frame


def presentation() -> bytes:
    """A title; points, a table, a group and notes; a blank slide; and text without a title."""
    made = Presentation()
    titled, with_content, blank = (made.slide_layouts[number] for number in (0, 1, 6))
    first = made.slides.add_slide(titled)
    text_of(first.shapes[0]).text = "Quarterly  report"
    second = made.slides.add_slide(with_content)
    text_of(second.shapes[0]).text = "Sales"
    points = text_of(second.shapes[1])
    points.text = "# they grew"
    points.add_paragraph().text = "in the north"
    points.paragraphs[1].level = 1
    cells = second.shapes.add_table(2, 2, INCH, INCH, INCH, INCH).table
    for number, said in enumerate(["city", "sum", "Rome | Milan", "5"]):
        cells.cell(number // 2, number % 2).text = said
    second.shapes.add_group_shape().shapes.add_textbox(INCH, INCH, INCH, INCH).text_frame.text = "in a group"
    notes = second.notes_slide.notes_text_frame
    assert notes is not None
    notes.text = "say it slowly"
    made.slides.add_slide(blank)
    made.slides.add_slide(blank).shapes.add_textbox(INCH, INCH, INCH, INCH).text_frame.text = "the end"
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def test_a_presentation_has_a_page_for_each_slide_with_its_table_and_notes():
    reading = pptx.read(presentation(), LIMIT)
    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        ("1", "# Quarterly report"),
        (
            "2",
            "# Sales\n\n\\# they grew\n- in the north\n\n| city | sum |\n| --- | --- |\n| Rome \\| Milan | 5 |\n\nin a group\n\nNotes: say it slowly",
        ),
        ("3", ""),
        ("4", "# Slide 4\n\nthe end"),
    ]


def test_a_passage_of_a_slide_has_the_slides_number_and_title():
    document = converted(pptx.read(presentation(), LIMIT), "application/of-slides")
    chunks = split(document, count_tokens=lambda text: len(text.split()), max_tokens=200)
    assert [(chunk.page_label, chunk.headings) for chunk in chunks] == [
        ("1", ("Quarterly report",)),
        ("2", ("Sales",)),
        ("4", ("Slide 4",)),
    ]


def test_a_damaged_slide_is_left_out_and_named():
    made = presentation()
    whole = ingest_files.unpacked(made)
    slide = "ppt/slides/slide2.xml"
    whole[slide] = (
        whole[slide].replace(b"<p:spTree>", b"<p:nothing>").replace(b"</p:spTree>", b"</p:nothing>")
    )
    reading = pptx.read(ingest_files.archive(whole), LIMIT)
    assert reading.warnings == ("Slide 2 could not be read and is left out.",)
    assert "Quarterly report" in reading.text
    assert "the end" in reading.text


def test_what_is_no_presentation_or_holds_nothing_is_refused():
    empty = io.BytesIO()
    Presentation().save(empty)
    assert refusal(pptx.read, empty.getvalue()).reason == "no_text"
    assert "is a Word document" in refusal(pptx.read, ingest_files.docx(paragraph("a"))).message
    whole = ingest_files.unpacked(presentation())
    slide = "ppt/slides/slide1.xml"
    whole[slide] = BOMB.encode() + whole[slide].partition(b"?>")[2].lstrip()
    assert "entities" in refusal(pptx.read, ingest_files.archive(whole)).message


# OpenDocument


def test_a_text_document_becomes_headings_lists_tables_and_notes():
    body = (
        '<text:h text:outline-level="2">Part &amp; one</text:h><text:p>Some<text:s/>words<text:tab/>and <text:span>more</text:span>'
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>below</text:p></text:note-body></text:note>.</text:p>"
        "<text:list><text:list-item><text:p>first</text:p></text:list-item><text:list-item><text:p>second</text:p></text:list-item></text:list>"
        "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
        '<table:table><table:table-row><table:table-cell table:number-columns-repeated="2"><text:p>a</text:p></table:table-cell>'
        '<table:table-cell table:number-columns-repeated="16000"/></table:table-row></table:table>'
    )
    reading = odt.read(ingest_files.odt(body), LIMIT)
    assert reading.text.startswith("## Part & one\n\nSome words and more")
    assert "below" in reading.text
    assert "- first\n- second" in reading.text
    assert "deleted" not in reading.text
    assert reading.text.endswith("| a | a |  |\n| --- | --- | --- |")
    assert reading.title == "Part & one"


def test_the_title_of_a_text_document_is_that_of_its_properties():
    meta = '<m xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>T &amp; U</dc:title></m>'
    assert odt.read(ingest_files.odt("<text:p>a</text:p>", more={"meta.xml": meta}), LIMIT).title == "T & U"


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (ingest_files.odt(""), "no_text", "no text"),
        (ingest_files.odt("<text:p>"), "broken", "no valid XML"),
        (ingest_files.odt("<text:p>a</text:p>")[:-30], "broken", "damaged"),
        (ingest_files.archive({"a": "b"}), "unsupported", "some other ZIP archive"),
        (ingest_files.odt("<text:p>&b;</text:p>", before=BOMB), "broken", "entities"),
        (
            ingest_files.odt(
                "<text:p>&x;</text:p>", before='<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
            ),
            "broken",
            "entities",
        ),
        (ingest_files.odt("<text:p>" * 500 + "</text:p>" * 500), "broken", "nested"),
        (ingest_files.odt(f"<text:p>{'A' * 70_000_000}</text:p>"), "too_large", "MiB"),
        (
            ingest_files.odt(
                "", more={"META-INF/manifest.xml": '<m xmlns:manifest="m"><manifest:encryption-data/></m>'}
            ),
            "encrypted",
            "password",
        ),
    ],
    ids=["empty", "XML", "cut", "archive", "bomb", "outside", "deep", "large", "encrypted"],
)
def test_what_is_no_whole_text_document_is_refused(content: bytes, reason: str, words: str):
    refused = refusal(odt.read, content)
    assert (refused.reason, words in refused.message) == (reason, True)


# RTF


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (r"{\rtf1\ansi\ansicpg1252 \'e9t\'e9\par {\b bold} text}", "été\n\nbold text"),
        (r"{\rtf1\ansi\ansicpg1251 \'cf\'f0\'e8\'e2\'e5\'f2}", "Привет"),
        (r"{\rtf1{\fonttbl{\f0\fcharset128 x;}}\f0\'93\'fa\'96\'7b}", "日本"),
        (r"{\rtf1\uc1 \u26085?\u26412? {\*\generator secret}\pict0 }", "日本"),
        (r"{\rtf1 # a\par \trowd a\cell b\cell\row c\cell d\cell\row end}", "\\# a\n\na|b|\nc|d|\n\nend"),
    ],
)
def test_rich_text_is_read_with_its_encodings_and_tables(said: str, expected: str):
    assert rtf.read(said.encode(), LIMIT).text == expected


def test_rich_text_is_bounded_and_survives_damage():
    assert refusal(rtf.read, rb"{\rtf1 \b0 }").reason == "no_text"
    assert refusal(rtf.read, rb"{\rtf1 " + b"a" * 200 + b"}", 100).reason == "too_large"
    assert refusal(rtf.read, rb"{\rtf1 " + b"a" * 3000 + b"}", 100).reason == "too_large"
    assert rtf.read(rb"{\rtf1 " + b"{" * 100_000 + b"deep", LIMIT).text == "deep"
    assert rtf.read(rb"{\rtf1 \'ff\'f a b}}}}", LIMIT).text


# EPUB

PAGE = "<html><head><title>The Book</title></head><body>{}</body></html>"
POINT = '<navPoint><navLabel><text>{}</text></navLabel><content src="{}"/></navPoint>'


def test_a_book_is_read_in_its_order_under_the_names_of_its_chapters():
    chapters = {
        "b.xhtml": PAGE.format("<p>second &nbsp; words</p>"),
        "cover.xhtml": PAGE.format('<img src="http://a.test/cover.png">'),
        "text/a b.xhtml": PAGE.format("<h1>First</h1><p>first words</p>"),
    }
    book = ingest_files.epub(
        chapters, contents=POINT.format("Named", "b.xhtml#x") + POINT.format("Not this", "text/a%20b.xhtml")
    )
    reading = epub.read(book, LIMIT)
    assert (reading.title, reading.warnings) == ("The Book", ())
    assert reading.text == "# Named\n\nsecond words\n\n# First\n\nfirst words"


def test_a_chapter_that_is_not_there_or_bad_is_named_and_the_rest_is_read():
    book = ingest_files.epub(
        {"a.xhtml": PAGE.format("<p>here</p>"), "b.xhtml": "\x01\x02\x03" * 50, "../../gone.xhtml": ""}
    )
    whole = ingest_files.unpacked(book)
    del whole["OPS/../../gone.xhtml"]
    reading = epub.read(ingest_files.archive(whole), LIMIT)
    assert reading.text == "here"
    assert ["OPS/b.xhtml" in reading.warnings[0], "gone.xhtml" in reading.warnings[1]] == [True, True]


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (ingest_files.epub({}), "no_text", "no text"),
        (ingest_files.archive({"a": "b"}), "unsupported", "some other ZIP archive"),
        (ingest_files.archive({"META-INF/container.xml": "<a/>"}), "broken", "where its chapters are"),
        (ingest_files.epub({"a.xhtml": ""}, contents="<"), "broken", "no valid XML"),
        (ingest_files.epub({}, more={"OPS/toc.ncx": f"{BOMB}<ncx>&b;</ncx>"}), "broken", "entities"),
        (ingest_files.epub({"a.xhtml": "A" * 70_000_000}), "too_large", "MiB"),
        (
            ingest_files.epub(
                {}, more={"META-INF/encryption.xml": '<e><EncryptionMethod Algorithm="aes"/></e>'}
            ),
            "encrypted",
            "reader it was sold for",
        ),
    ],
    ids=["empty", "archive", "no list", "XML", "bomb", "large", "encrypted"],
)
def test_what_is_no_whole_book_is_refused(content: bytes, reason: str, words: str):
    refused = refusal(epub.read, content)
    assert (refused.reason, words in refused.message) == (reason, True)


def test_a_book_may_have_hidden_its_fonts():
    method = '<e><EncryptionMethod Algorithm="http://www.idpf.org/2008/embedding"/></e>'
    book = ingest_files.epub({"a.xhtml": PAGE.format("words")}, more={"META-INF/encryption.xml": method})
    assert epub.read(book, LIMIT).text == "words"
