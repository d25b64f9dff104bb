"""What the tables of docs/retrieval.md are made with."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from app.rag.evaluation import JudgedDocument
from app.settings import Settings
from bench import evaluation
from bench.chunking import by_structure, coverage, windows, within
from tests.words_embedder import WordsEmbedder

SENTENCE = "The lease of the house ends in writing, after a notice of three months. "


def test_coverage_counts_each_character_once() -> None:
    found = [("a", 0, 10), ("a", 5, 20), ("b", 0, 10)]

    of = coverage([("a", 10, 30), ("a", 15, 30)], found)

    assert (of.recall, of.precision, of.overlap) == (10 / 20, 10 / 30, 10 / 40)
    assert coverage([("a", 0, 5)], []).precision == 0


def test_a_budget_cuts_off_the_last_passage() -> None:
    assert within([("a", 0, 10), ("b", 5, 30), ("c", 0, 9)], 15) == [("a", 0, 10), ("b", 5, 10)]


@pytest.mark.parametrize("overlap", [0, 40])
def test_a_passage_knows_its_characters_however_much_it_shares_with_the_one_before(overlap: int) -> None:
    document = JudgedDocument("d", "", f"# Lease\n\n{SENTENCE * 40}")

    pieces = by_structure(document, WordsEmbedder(), max_tokens=60, overlap=overlap)

    assert len(pieces) > 3
    for before, piece in pairwise(pieces):
        assert document.text[piece.start : piece.end] == piece.text
        assert overlap - 12 <= before.end - piece.start <= overlap
    assert {piece.heading for piece in pieces} == {"Lease"}


def test_windows_together_are_the_document() -> None:
    document = JudgedDocument("d", "", SENTENCE * 40)

    assert (
        "".join(piece.text for piece in windows(document, WordsEmbedder(), characters=100)) == document.text
    )


async def test_the_table_has_a_row_for_each_set(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("birds", "animals"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.jsonl").write_text(
            json.dumps({"id": "1", "text": "Birds fly in the air."})
        )
        (tmp_path / name / "queries.jsonl").write_text(json.dumps({"id": "q", "text": "Where do birds fly?"}))
        (tmp_path / name / "qrels.tsv").write_text("q\t1\t1\n")

    await evaluation.print_table(settings, evaluation.sets(tmp_path, []))

    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| animals", "| birds"]
    assert rows[2].startswith("| animals | 1 | 1 | 1 | 1 / 1 / 1 | 1 / 1 / 1 | 1 / 1 / 1 |")
