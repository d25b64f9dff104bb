"""`freshet eval`, by what it prints and writes."""

import csv
import json
import re
from html.parser import HTMLParser
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


class Page(HTMLParser):
    """Its elements, open to closed, its text, and the attributes that name something elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.named: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.named += [name for name, _ in attrs if name in {"src", "href", "srcset", "data", "action"}]
        self.named += [
            name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")
        ]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_report_is_one_page_that_needs_nothing_else_and_runs_nothing(
    freshet: Freshet, on_new_database: None, labelled: str, tmp_path: Path
) -> None:
    hostile = "Which animals have wings?</b></svg><script>alert(1)</script><img src=q onerror='alert(2)'>"
    queries = Path(labelled) / "queries.jsonl"
    queries.write_text(queries.read_text().replace("Which animals have wings?", hostile))
    corpus = Path(labelled) / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("where they fly", "where they fly</ol><a href='x'>"))
    file = tmp_path / "report.html"

    result = await freshet(
        "eval", labelled, "--setting", "mode=dense", "--against", "mode=words", "--report", str(file)
    )

    assert f"The report is {file}." in result.output
    source = file.read_text()
    page = Page(source)
    assert page.open == []
    assert page.named == []
    assert {"script", "img", "link", "iframe", "a"} & set(page.tags) == set()
    assert not re.search(r"url\(|@import|https?:", source)
    assert page.tags.count("svg") == 3
    assert page.text.count(hostile) >= 2
    assert "prefers-color-scheme: dark" in page.text
    for said in (
        "nDCG@10: dense is ahead of words by",
        "Nothing was found.",
        "Expected: birds",
        "fly</ol><a href='x'>",
    ):
        assert said in page.text


async def test_the_report_of_a_single_setting_shows_where_it_is_worst(
    freshet: Freshet, nature: None, tmp_path: Path
) -> None:
    table, file = tmp_path / "questions.csv", tmp_path / "report.html"
    table.write_text(
        "question,document,answer\nWhere do fish swim?,fish.txt,on land\nWho flies?,birds.txt,\n"
    )

    await freshet(
        "eval", str(table), "--collection", "nature", "--setting", "mode=both", "--report", str(file)
    )

    page = Page(file.read_text())
    assert page.tags.count("svg") == 2
    assert "1 questions are below 1; 1 are shown." in page.text
    assert "Expected: “on land” in fish.txt" in page.text


async def test_a_table_is_asked_of_a_collection(freshet: Freshet, nature: None, tmp_path: Path) -> None:
    table = tmp_path / "questions.csv"
    table.write_text("question;document;answer\nWhere do fish swim?;fish.txt;\nWho has wings?;;they fly\n")

    result = await freshet(
        "eval", str(table), "--collection", "nature", "--setting", "top_k=3", "--recall-at", "3"
    )

    assert "questions.csv: 3 documents, 3 chunks, 2 questions" in result.output
    assert "Recall@3" in result.output
    assert re.search(r"^both +1\.000 +1\.000 +1\.000", result.output, re.MULTILINE)


async def test_answers_are_made_and_what_they_cost_is_told(
    freshet: Freshet, nature: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, price in {
        "EMBEDDING_PRICE": "2",
        "MODEL_INPUT_PRICE": "100",
        "MODEL_OUTPUT_PRICE": "1000",
    }.items():
        monkeypatch.setenv(name, price)
    table, file, page = (tmp_path / name for name in ("questions.csv", "results.json", "report.html"))
    table.write_text("question,answer\nWhere do fish swim?,in water\nWhere do birds fly?,in the sky\n")

    result = await freshet(
        *("eval", str(table), "--collection", "nature", "--answers"),
        *("--results", str(file), "--report", str(page)),
    )

    told = re.search(
        r"^both: answering took [\d. /]+ s; (\d+) tokens read, (\d+) written, which cost ([\d.]+); 1 of 2 answers hold",
        result.output,
        re.MULTILINE,
    )
    assert told is not None
    assert float(told[3]) == pytest.approx(int(told[1]) / 10_000 + int(told[2]) / 1_000)
    assert re.search(r"0 tokens of passages, \d+ of questions, which cost 0\.0000", result.output)
    fish, birds = json.loads(file.read_text())["runs"][0]["questions"]
    assert fish["answer"]["text"] == "Fish swim in water. [1]"
    assert birds["answer"]["text"] in Page(page.read_text()).text


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
