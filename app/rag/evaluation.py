"""Labelled sets: questions, and what should be found for each.

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

from app.errors import InvalidInput

Grades = Mapping[str, int]
"""By document, above 0 if it answers the question."""


@dataclass(frozen=True, slots=True)
class JudgedDocument:
    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """With an `answer`, what is to be found is a passage that contains it, of the documents in `grades` if there are any;
    else it is the documents."""

    id: str
    text: str
    grades: Grades
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """`questions` are those that have judgements; of a conversation, the last turn."""

    name: str
    documents: tuple[JudgedDocument, ...]
    questions: tuple[JudgedQuestion, ...]


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
    questions = tuple(
        JudgedQuestion(identifier, texts[identifier], grades) for identifier, grades in judgements.items()
    )
    return JudgedSet(directory.resolve().name, documents, questions)


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


def _read_judgements(path: Path) -> Mapping[str, Grades]:
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
