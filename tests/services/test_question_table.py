import csv
from pathlib import Path
from uuid import uuid4

import pytest

from app.errors import InvalidInput
from app.rag.evaluation import JudgedQuestion
from app.services import question_table
from app.services.question_table import Row


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "questions.csv"


@pytest.mark.parametrize(
    "content",
    [
        "question,document,answer\nHow long?,a.pdf;b.pdf,15 minutes\n",
        '\ufeffFrage;Question;Expected document;Expected answer\nx;How long?;"a.pdf; b.pdf";15 minutes\n',
        'sep=;\r\nQUESTION;expected_document;answer_text\r\nHow long?;"a.pdf;b.pdf";15 minutes\r\n\r\n',
        "answer\tquery\tfile name\n15 minutes\tHow long?\ta.pdf;b.pdf\n",
    ],
)
def test_a_table_is_read_whatever_separates_its_columns(table: Path, content: str):
    table.write_text(content, newline="")

    assert question_table.read(table) == [Row(1, "How long?", ("a.pdf", "b.pdf"), "15 minutes")]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_a_table_is_read_in_any_encoding(table: Path, encoding: str):
    table.write_bytes(
        'question;answer\n"Wie heißt die Straße; und wo?";Königsallee für Fußgänger\n'.encode(encoding)
    )

    [row] = question_table.read(table)

    assert (row.question, row.answer) == ("Wie heißt die Straße; und wo?", "Königsallee für Fußgänger")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text,page\na,1\n", r"has the columns text, page\. Wanted are question, and document"),
        ("question,page\na,1\n", r"has the columns question, page\. Wanted"),
        ("document,answer\na,1\n", r"has the columns document, answer\. Wanted"),
        ("question,answer\n", "has no row under its heads"),
        ("question,answer\na,b\n,c\n", "row 2: there is no question"),
        ("question,answer,document\na,b,\nc,…,;\n", "row 2: neither a document nor an answer"),
        ("question,answer\nonly this\n", "row 1: neither a document nor an answer"),
        (" \n", "nothing but blank space"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_what_was_seen(table: Path, content: str, complaint: str):
    table.write_text(content)

    with pytest.raises(InvalidInput, match=complaint):
        question_table.read(table)


def test_other_tables_of_the_process_may_have_longer_fields(table: Path):
    # The reader of CSV files has a process to itself, but for its tests: it leaves a limit of its own.
    csv.field_size_limit(131_072)
    table.write_text("question,answer\na,b\n")
    question_table.read(table)

    assert list(csv.reader(["x" * 100_000])) == [["x" * 100_000]]


def test_a_table_that_is_not_there_is_told(table: Path):
    with pytest.raises(InvalidInput, match=r"questions\.csv cannot be read: No such file"):
        question_table.read(table)


def test_documents_are_found_by_name_whatever_its_case_and_by_id():
    one, other = uuid4(), uuid4()
    rows = [Row(1, "a?", ("LEASE.pdf", str(other).upper()), None), Row(2, "b?", (), "yes")]

    questions = question_table.resolve(rows, {one: "Lease.pdf", other: "rent.md"}, collection="leases")

    assert questions == [
        JudgedQuestion("1", "a?", {"Lease.pdf": 1, str(other): 1}),
        JudgedQuestion("2", "b?", {}, "yes"),
    ]


def test_documents_that_are_not_there_are_told_with_their_rows():
    rows = [Row(number, "a?", (f"{number}.pdf",), None) for number in range(1, 9)]

    with pytest.raises(
        InvalidInput, match=r"collection leases does not hold .* row 2: 2\.pdf; .*6\.pdf and 2 more"
    ):
        question_table.resolve(rows, {uuid4(): "1.pdf"}, collection="leases")
