import pytest

from app.ingest.readers import csv, json, records, xlsx
from app.ingest.split import split
from tests.ingest import ingest_files
from tests.ingest.ingest_files import paragraph, row
from tests.ingest.test_readers import LIMIT, converted, refusal


def rows(text: str) -> list[str]:
    return list(records.paragraphs([line.split(",") for line in text.split("/")]))


# Rows as records


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("name,age/Ann,30/Bob,", ["name: Ann; age: 30", "name: Bob"]),
        ("1,2/3,4", ["1; 2", "3; 4"]),
        ("only", ["only"]),
        ("Prices of 2024/name,price/pen,2", ["Prices of 2024", "name: pen; price: 2"]),
        (",2023,2024/sales,5,7", ["sales; 2023: 5; 2024: 7"]),
        ("2023,2024/5,7", ["2023; 2024", "5; 7"]),
        ("0,name,city,age/1,Ann,Rome,3", ["0: 1; name: Ann; city: Rome; age: 3"]),
        ("2024-05-01,paid/2024-05-02,due", ["2024-05-01; paid", "2024-05-02; due"]),
        ("a,b/x,1/,/c,d/y,2", ["a: x; b: 1", "c: y; d: 2"]),
        ("a,b/x,1/,/z,w", ["a: x; b: 1", "a: z; b: w"]),
        ("a,b/x,1,more", ["a: x; b: 1; more"]),
    ],
)
def test_each_row_repeats_the_names_of_its_columns(table: str, expected: list[str]):
    assert rows(table) == expected


def test_a_long_row_has_a_line_for_each_field():
    [record] = records.paragraphs([["a", "b"], ["x" * 300, "second\nline"]])
    assert record == f"a: {'x' * 300}\nb: second line"


def test_no_field_is_taken_for_a_heading():
    assert records.record([("# a", "1")]) == "\\# a: 1"
    assert records.record([("", "x" * 300), ("", "---"), ("", "```")]).split("\n")[1:] == ["\\---", "\\```"]


def test_every_chunk_of_a_table_tells_what_its_numbers_are():
    table = "city,inhabitants\n" + "".join(f"City {number},{number * 1000}\n" for number in range(500))
    document = converted(csv.read(table.encode(), LIMIT), "text/csv")
    chunks = split(document, count_tokens=lambda text: len(text.split()), max_tokens=100)
    assert len(chunks) > 10
    assert all(chunk.text.startswith("city: City ") and "inhabitants: " in chunk.text for chunk in chunks)


# CSV


@pytest.mark.parametrize(
    "table",
    [
        'name,said\nAnn,"a; b, c"\nBob,d\n',
        "name;said\nAnn;a; b, c\nBob;d\n".replace("a; b, c", '"a; b, c"'),
        "name\tsaid\nAnn\ta; b, c\nBob\td\n",
        'sep=|\nname|said\r\nAnn|"a; b, c"\r\nBob|d',
    ],
)
def test_the_delimiter_is_found_out(table: str):
    assert csv.read(table.encode(), LIMIT).text == "name: Ann; said: a; b, c\n\nname: Bob; said: d"


def test_a_comma_within_numbers_is_no_delimiter():
    assert csv.read(b"1,5;2,5\n3,5;4,5\n", LIMIT).text == "1,5; 2,5\n\n3,5; 4,5"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_is_read_in_any_encoding(encoding: str):
    table = "prénom;cœur\nZoé;déjà vu, naïve été\n"
    assert csv.read(table.encode(encoding), LIMIT).text == "prénom: Zoé; cœur: déjà vu, naïve été"


def test_a_quote_that_is_never_closed_costs_no_text():
    assert csv.read(b'a,b\n"x,1\ny,2\n' + b"z,3\n" * 50_000, LIMIT).text.startswith("a: x,1 y,2 z,3")


def test_a_formula_in_a_table_is_text():
    assert csv.read(b'name,value\n=HYPERLINK("http://a.test"),1\n', LIMIT).text == (
        'name: =HYPERLINK("http://a.test"); value: 1'
    )


def test_the_records_of_a_table_may_be_no_longer_than_text_may_be():
    table = ("n" * 80 + ",b\n" + "1,2\n" * 20).encode()
    assert refusal(csv.read, table, 1000).reason == "too_large"


# Excel


def test_a_workbook_has_a_page_for_each_sheet_with_its_name_as_heading():
    book = ingest_files.xlsx(
        {"First": row("name", "age") + row("Ann", 30), "Empty": "", "Last &amp; least": row("just this")}
    )
    reading = xlsx.read(book, LIMIT)
    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        ("First", "# First\n\nname: Ann; age: 30"),
        ("Empty", ""),
        ("Last & least", "# Last & least\n\njust this"),
    ]


def test_numbers_are_as_they_are():
    numbers = ["=0.1", "=1.1000000000000001", "=123456789012345678", "=1E+25", "=-0.5", "=100"]
    book = ingest_files.xlsx({"a": row(*numbers)})
    assert xlsx.read(book, LIMIT).text == "# a\n\n0.1; 1.1; 123456789012345678; 1e+25; -0.5; 100"


def test_dates_and_shares_are_written_out():
    rows = (
        row("=0.125", "=1", style=1)
        + row("=45292", style=2)
        + row("=45292.5", style=3)
        + row("=0.75", style=4)
    )
    book = ingest_files.xlsx({"a": rows}, styles="10,14,22,20")
    assert xlsx.read(book, LIMIT).text.split("\n\n")[1:] == [
        "12.5%; 100%",
        "2024-01-01",
        "2024-01-01 12:00:00",
        "18:00:00",
    ]


def test_what_a_sheet_says_of_its_size_is_not_believed():
    rows = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    for dimension in ("A1:A1", "A1:XFD1048576"):
        book = ingest_files.xlsx({"a": rows}, dimension=dimension)
        assert xlsx.read(book, LIMIT).text == "# a\n\n1\n\n2"


def test_a_damaged_sheet_is_named_and_the_others_are_read():
    bad = row("kept") * 30 + '<row><c t="s"><v>99</v></c></row>'
    reading = xlsx.read(ingest_files.xlsx({"Bad": bad, "Good": row("fine")}), LIMIT)
    assert reading.text.startswith("# Bad\n\nkept")
    assert reading.text.endswith("# Good\n\nfine")
    assert reading.warnings == ("Sheet Bad is damaged, and some or all of it is left out.",)
    bad = bad.removeprefix(row("kept") * 30)
    assert refusal(xlsx.read, ingest_files.xlsx({"Bad": bad})).reason == "broken"


def test_what_is_no_workbook_or_holds_nothing_is_refused():
    assert "is a Word document" in refusal(xlsx.read, ingest_files.docx(paragraph("a"))).message
    assert refusal(xlsx.read, ingest_files.xlsx({"a": ""})).reason == "no_text"
    assert refusal(xlsx.read, ingest_files.xlsx({"a": row("x" * 200)}), 100).reason == "too_large"


def test_a_workbook_with_entities_is_refused():
    bomb = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    refused = refusal(xlsx.read, ingest_files.xlsx({"a": row("&b;")}, before=bomb))
    assert (refused.reason, "entities" in refused.message) == ("broken", True)


def test_a_workbook_that_unpacks_to_too_much_is_refused():
    assert refusal(xlsx.read, ingest_files.xlsx({"a": row("A" * 70_000_000)})).reason == "too_large"


# JSON


def test_objects_of_a_list_are_records_and_names_of_objects_are_headings():
    said = """{"shop": "Corner", "open": true, "owner": null, "address": {"street": "A 1", "code": "0042"},
      "items": [{"id": 12345678901234567890, "price": 1.10, "tags": ["a", "b"], "parts": [{"n": 1e3}, {"n": 2}]}, {"id": 2}],
      "deep": {"er": {"still": [1, 2], "more": {"x": {"y": "# z"}}}}}"""
    assert json.read(said.encode(), LIMIT).text == (
        "shop: Corner; open: true; address.street: A 1; address.code: 0042\n\n"
        "# items\n\nid: 12345678901234567890; price: 1.10; tags: a, b; parts.1.n: 1e3; parts.2.n: 2\n\nid: 2\n\n"
        "# deep\n\n## er\n\nstill: 1, 2\n\n### more\n\nx.y: # z"
    )


def test_a_value_on_each_line_is_a_list():
    assert json.read(b'{"a": 1}\n\n{"a": 2}\n', LIMIT).text == "a: 1\n\na: 2"
    assert json.read('"just words"'.encode("utf-16"), LIMIT).text == "just words"


def test_json_that_is_none_is_refused_and_the_place_is_told():
    refused = refusal(json.read, b'{"a": 1,\n "b": }')
    assert (refused.reason, refused.message) == ("broken", "The file is no valid JSON: line 2, column 7.")
    assert refusal(json.read, b"[{}, null]").reason == "no_text"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_json_nested_without_end_is_refused(opening: bytes):
    assert "nested" in refusal(json.read, opening * 100_000).message


def test_json_nested_deeply_is_read():
    assert json.read(b'{"a":' * 50 + b"1" + b"}" * 50, LIMIT).text.endswith("a: 1")
    assert json.read(b"[" * 50 + b"1" + b"]" * 50, LIMIT).text.endswith("1")


def test_the_text_of_json_is_bounded():
    said = b'[{"a": {"b": [{"c": 1}]}}' + b', {"a": {"b": [{"c": 1}]}}' * 20 + b"]"
    assert len(json.read(said, LIMIT).text) < len(said)
    assert refusal(json.read, b'[{"name": [[1],[1],[1],[1],[1],[1],[1],[1]]}]', 60).reason == "too_large"
