"""How good retrieval is on a labelled set: reading the set, and its figures.

A set is a directory in the layout that BEIR made common: `corpus.jsonl` (`{_id, title, text}` a line), `queries.jsonl`
(`{_id, text}` a line) and `qrels.tsv` or `qrels/test.tsv` (query, document and grade, tab-separated, with or without a
header). The first two may end in `.gz`; `id` does for `_id`.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ir_measures

from app.errors import InvalidInput

DEPTH = 100
"""How many documents of a ranking the figures look at."""

Judgements = Mapping[str, Mapping[str, int]]
"""By question, then by document: the grade, above 0 if the document answers the question."""

Ranking = Mapping[str, float]
"""The score by document; the order is that of the scores."""


@dataclass(frozen=True, slots=True)
class JudgedDocument:
    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """`questions` are those that have judgements; of a conversation, the last turn."""

    name: str
    documents: tuple[JudgedDocument, ...]
    questions: tuple[JudgedQuestion, ...]
    judgements: Judgements


@dataclass(frozen=True, slots=True)
class Figures:
    """Each in [0, 1], the mean over the judged questions; a question without results counts 0."""

    ndcg_10: float
    recall_100: float
    mrr: float


def read(directory: Path) -> JudgedSet:
    """Raises `InvalidInput`, which names the file and the line that cannot be used."""
    documents = tuple(
        JudgedDocument(identifier, _text(entry, "title", place, default=""), _text(entry, "text", place))
        for identifier, entry, place in _entries(_file(directory, "corpus.jsonl", "corpus.jsonl.gz"))
    )
    texts = {
        identifier: _text(entry, "text", place)
        for identifier, entry, place in _entries(_file(directory, "queries.jsonl", "queries.jsonl.gz"))
    }
    path = _file(directory, "qrels.tsv", "qrels/test.tsv")
    judgements = _read_judgements(path)
    for question in judgements:
        if question not in texts:
            raise InvalidInput(f"{path} judges the query {question!r}, which the queries do not hold.")
    questions = tuple(JudgedQuestion(identifier, texts[identifier]) for identifier in judgements)
    return JudgedSet(directory.resolve().name, documents, questions, judgements)


def measure(judgements: Judgements, rankings: Mapping[str, Ranking]) -> Figures:
    """`rankings` by question. nDCG with the grades as gains and a logarithmic discount, as trec_eval has it."""
    ndcg, recall, mrr = ir_measures.nDCG @ 10, ir_measures.R @ DEPTH, ir_measures.RR
    # A question without any result has to be there, or the mean would be that of the others.
    run = {question: dict(rankings.get(question, {})) for question in judgements}
    grades = {question: dict(documents) for question, documents in judgements.items()}
    aggregate = cast("Any", ir_measures.pytrec_eval).calc_aggregate([ndcg, recall, mrr], grades, run)
    return Figures(ndcg_10=aggregate[ndcg], recall_100=aggregate[recall], mrr=aggregate[mrr])


def _file(directory: Path, *names: str) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise InvalidInput(f"{directory} is no labelled set: it has no {' or '.join(names)}.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}.") from error


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Identifier, entry, and where it stands."""
    seen: set[str] = set()
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{place}: this is not JSON: {error.msg}.") from error
        if not isinstance(entry, dict):
            raise InvalidInput(f"{place}: this is not a JSON object.")
        fields = cast("dict[str, Any]", entry)
        identifier = fields.get("_id", fields.get("id"))
        if not isinstance(identifier, str) or not identifier:
            raise InvalidInput(f"{place}: `_id` (or `id`) is not a string.")
        if identifier in seen:
            raise InvalidInput(f"{place}: {identifier!r} was there before.")
        seen.add(identifier)
        yield identifier, fields, place
    if not seen:
        raise InvalidInput(f"{path} is empty.")


def _text(entry: Mapping[str, Any], key: str, place: str, *, default: str | None = None) -> str:
    text = entry.get(key)
    if text is None:
        text = default
    if not isinstance(text, str):
        raise InvalidInput(f"{place}: `{key}` is not a string.")
    return text


def _read_judgements(path: Path) -> Judgements:
    judgements: dict[str, dict[str, int]] = {}
    for number, (place, cells) in enumerate(_rows(path)):
        if len(cells) != 3:
            raise InvalidInput(f"{place}: these are not three columns separated by tabs.")
        question, document, grade = cells
        if number == 0 and not _is_whole(grade):
            continue
        if not _is_whole(grade):
            raise InvalidInput(f"{place}: the grade {grade!r} is not a whole number.")
        judgements.setdefault(question, {})[document] = int(grade)
    if not judgements:
        raise InvalidInput(f"{path} holds no judgement.")
    return judgements


def _rows(path: Path) -> Iterable[tuple[str, list[str]]]:
    return ((f"{path}, line {number}", line.strip("\r\n").split("\t")) for number, line in _lines(path))


def _is_whole(grade: str) -> bool:
    return grade.removeprefix("-").isdecimal()
