import pytest

from app.ingest.tables import columns_at, tables


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", "a | b"),
        ("a | b\n--- | :-:\n1 | 2\n", "a | b"),
        ("| a \\| b | |\n|---|---|\n| 1 | 2 |\n", "a | b"),
        ("|" + "name |" * 100 + "\n|" + "-|" * 100 + "\n| 1 |", "name | " * 28 + "name…"),
    ],
)
def test_a_table_is_told_by_the_line_under_its_names(text: str, names: str):
    [table] = tables(text)

    assert table.names == names
    assert text[table.body :].startswith(("| 1", "1 |"))
    assert table.end == len(text)


@pytest.mark.parametrize(
    "text",
    [
        "```\n| a | b |\n|---|---|\n| 1 | 2 |\n```\n",
        "a or b\n---\n| 1 | 2 |",
        "| --- | --- |\n| 1 | 2 |",
        "| a | b |\n\n|---|---|\n",
        "",
    ],
)
def test_what_only_looks_like_a_table_is_none(text: str):
    assert tables(text) == []


def test_only_the_rows_of_a_table_have_its_columns():
    text = "Before\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\nAfter\n~~~\n| x |\n~~~\n| c | d |\n|---|---|\n| 5 | 6 |\n"
    found = tables(text)

    assert [
        columns_at(found, text.index(part)) for part in ("Before", "| a", "| 1", "| 3", "After", "| x", "| 5")
    ] == [
        "",
        "",
        "a | b",
        "a | b",
        "",
        "",
        "c | d",
    ]


def test_a_long_line_of_dashes_takes_no_time():
    assert tables("|" + "-" * 200_000 + "x\n" + "| a |\n" + "-|" * 100_000 + "x") == []
