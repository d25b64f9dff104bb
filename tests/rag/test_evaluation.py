import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidInput
from app.rag import evaluation

DOCUMENTS: list[dict[str, Any]] = [
    {"_id": "d1", "title": "Notice", "text": "The lease is ended in writing."},
    {"_id": "d2", "text": "The rent is due on the third."},
]
QUESTIONS: list[dict[str, Any]] = [
    {"_id": "q1", "text": "How is it ended?", "history": []},
    {"_id": "q2", "text": "Not judged"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"

MakeSet = Callable[..., Path]


def lines(entries: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(entry) for entry in entries) + "\n\n"


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """A set with these files in the place of its own; None for none."""

    def make(**files: str | None) -> Path:
        all_files = {"corpus": lines(DOCUMENTS), "queries": lines(QUESTIONS), "qrels": QRELS} | files
        for name, content in all_files.items():
            if content is not None:
                (tmp_path / f"{name}{'.tsv' if name == 'qrels' else '.jsonl'}").write_text(content)
        return tmp_path

    return make


def test_a_set_is_read_with_the_questions_that_are_judged(make_set: MakeSet):
    judged = evaluation.read(make_set())

    assert [(document.id, document.title) for document in judged.documents] == [("d1", "Notice"), ("d2", "")]
    assert [question.text for question in judged.questions] == ["How is it ended?"]
    assert [question.grades for question in judged.questions] == [{"d1": 2, "d2": 0}]


def test_a_set_may_be_compressed_have_other_names_and_no_header(tmp_path: Path):
    for name, entries in (("corpus", DOCUMENTS), ("queries", QUESTIONS)):
        renamed = [{"id": entry["_id"], "text": entry["text"]} for entry in entries]
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines(renamed).encode()))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t-1\r\nq2\td2\t1\r\n")

    judged = evaluation.read(tmp_path)

    assert [question.grades for question in judged.questions] == [{"d1": -1}, {"d2": 1}]
    assert judged.name == tmp_path.name


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"corpus": None}, r"no labelled set: it has no corpus\.jsonl or corpus\.jsonl\.gz"),
        ({"corpus": ""}, r"corpus\.jsonl is empty"),
        ({"corpus": '{"_id": "d1", "text": "a"}\n{"_id"'}, r"corpus\.jsonl, line 2: this is not JSON"),
        ({"corpus": "[]"}, r"line 1: this is not a JSON object"),
        ({"corpus": '{"text": "a"}'}, r"line 1: `_id` \(or `id`\) is not a string"),
        ({"corpus": '{"_id": 7, "text": "a"}'}, r"line 1: `_id` \(or `id`\) is not a string"),
        ({"corpus": '{"_id": "d"}'}, r"line 1: `text` is not a string"),
        ({"corpus": '{"_id": "d", "text": "", "title": 1}'}, r"line 1: `title` is not a string"),
        ({"corpus": '{"_id": "d", "text": ""}\n' * 2}, r"line 2: 'd' was there before"),
        ({"qrels": "q1\td1\n"}, r"qrels\.tsv, line 1: these are not three columns"),
        ({"qrels": "q1\td1\t1\nq1\td2\thigh\n"}, r"line 2: the grade 'high' is not a whole number"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, r"holds no judgement"),
        ({"qrels": "q3\td1\t1\n"}, r"judges the query 'q3', which the queries do not hold"),
    ],
)
def test_a_set_that_cannot_be_read_is_refused_with_the_place(
    make_set: MakeSet, files: dict[str, str | None], complaint: str
):
    with pytest.raises(InvalidInput, match=complaint):
        evaluation.read(make_set(**files))


@pytest.mark.parametrize("content", [b"\x1f\x8b broken", gzip.compress(b'{"_id": "\xff"}', mtime=0)])
def test_a_file_that_is_damaged_is_refused_by_name(make_set: MakeSet, content: bytes):
    directory = make_set(corpus=None)
    (directory / "corpus.jsonl.gz").write_bytes(content)

    with pytest.raises(InvalidInput, match=r"corpus\.jsonl\.gz cannot be read"):
        evaluation.read(directory)
