"""`freshet eval`, by what it prints and writes."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Freshet

DOCUMENTS = [
    {"_id": "apples", "text": "Apples grow on trees."},
    {"_id": "fish", "text": "Fish swim in water."},
    {"_id": "birds", "text": "Birds are in the air, where they fly."},
]
QUESTIONS = [
    {"_id": "q1", "text": "Where do fish swim?"},
    {"_id": "q2", "text": "Which animals have wings?"},
    {"_id": "q3", "text": "Where are apples found in nature?"},
]


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    directory = tmp_path / "nature"
    directory.mkdir()
    for name, entries in (("corpus", DOCUMENTS), ("queries", QUESTIONS)):
        (directory / f"{name}.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (directory / "qrels.tsv").write_text("q1\tfish\t1\nq2\tbirds\t1\nq3\tapples\t1\n")
    return str(directory)


@pytest.fixture
async def nature(freshet: Freshet, on_new_database: None, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for document in DOCUMENTS:
        (tmp_path / "files" / f"{document['_id']}.txt").write_text(document["text"])
    assert (await freshet("ingest", str(tmp_path / "files"), "--collection", "nature")).exit_code == 0


async def test_a_labelled_set_is_measured_in_each_mode(
    freshet: Freshet, monkeypatch: pytest.MonkeyPatch, labelled: str
) -> None:
    # On the embedded server, which needs no key.
    monkeypatch.delenv("SECRET_KEY")

    result = await freshet("eval", labelled)

    assert "nature: 3 documents, 3 chunks, 3 questions" in result.output
    assert re.search(r"^ +nDCG@10 +Recall@100 +MRR@10 +Hit@10 +no result", result.output, re.MULTILINE)
    for mode, line in {"dense": r" +1\.000 +1\.000 +1\.000 +1\.000 +0", "both": r" +1\.000 +1\.000"}.items():
        assert re.search(rf"^{mode}{line}", result.output, re.MULTILINE)
    assert re.search(r"^words +0\.667 +0\.667 +0\.667 +0\.667 +1", result.output, re.MULTILINE)
    assert re.search(
        r"^dense and words and both, p50 / p95 / p99: embedding \d+ / \d+ / \d+ ms, search in",
        result.output,
        re.MULTILINE,
    )
    assert re.search(r"all-MiniLM-L6-v2: \d+ tokens of passages, \d+ of questions", result.output)


async def test_two_settings_are_compared_in_words_and_in_files(
    freshet: Freshet, on_new_database: None, labelled: str, tmp_path: Path
) -> None:
    files = tmp_path / "results.json", tmp_path / "results.csv"
    words = ("eval", labelled, "--setting", "mode=words", "--against", "mode=both,top_k=2")
    await freshet(*words, "--results", str(files[0]))
    result = await freshet(*words, "--results", str(files[1]))

    first, second = "mode=words,top_k=all", "mode=both,top_k=2"
    told = f"nDCG@10: {second} is ahead of {first} by 0.333, which may be chance: p = 1.00, 95 % interval 0.000 to 1.000; 1 questions better, 0 worse, 2 equal."
    assert told in result.output
    stored: dict[str, Any] = json.loads(files[0].read_text())
    assert stored["comparison_of_ndcg_10"]["worse"] == 1
    of_words, of_both = stored["runs"]
    assert (of_words["name"], of_words["without_result"]) == (first, 1)
    assert of_both["questions"][1]["passages"][0]["is_right"] is True
    assert len(of_both["questions"][1]["passages"]) == 2
    with files[1].open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == ["q1", "q2", "q3"] * 2
    assert (rows[1]["setting"], rows[1]["ndcg_10"], rows[1]["found"]) == (first, "0.0", "0")
    assert rows[4]["first"].startswith("birds | ")


async def test_a_table_is_asked_of_a_collection(freshet: Freshet, nature: None, tmp_path: Path) -> None:
    table = tmp_path / "questions.csv"
    table.write_text("question;document;answer\nWhere do fish swim?;fish.txt;\nWho has wings?;;they fly\n")

    result = await freshet(
        "eval", str(table), "--collection", "nature", "--setting", "top_k=3", "--recall-at", "3"
    )

    assert "questions.csv: 3 documents, 3 chunks, 2 questions" in result.output
    assert "Recall@3" in result.output
    assert re.search(r"^both +1\.000 +1\.000 +1\.000", result.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nature"], "name it with --collection"),
        (["nature", "--collection", "nature"], "leave --collection out"),
        (["nature", "--against", "mode=both"], "Both settings are the same"),
        (["nature", "--setting", "mood=both"], "'mood=both' is no setting"),
        (["nature", "--setting", "embedding_model=large"], "There is no server to ask for large"),
    ],
)
async def test_what_does_not_go_together_is_told(
    freshet: Freshet, on_new_database: None, labelled: str, tmp_path: Path, words: list[str], complaint: str
) -> None:
    table = tmp_path / "questions.csv"
    table.write_text("question,answer\na,b\n")
    data = str(table) if complaint.startswith("name it") else labelled

    result = await freshet("eval", data, *words[1:])

    assert result.exit_code == 1
    assert complaint in result.output
