"""Questions in a table, with what should be found for each: a document, a passage that contains the answer, or both."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from app.errors import InvalidInput
from app.ingest.readers.text import decode
from app.rag import measures
from app.rag.evaluation import JudgedQuestion

# What the columns may be called, in small letters and without what stands between words.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "questions", "query", "prompt"),
    "document": (
        "document",
        "documents",
        "expecteddocument",
        "expecteddocuments",
        "file",
        "files",
        "filename",
        "expectedfile",
        "source",
        "sources",
    ),
    "answer": ("answer", "expectedanswer", "answertext", "expectedanswertext", "expectedtext", "groundtruth"),
}
_DELIMITERS = ",;\t|"
_NAMED_DELIMITER = re.compile(r"\Asep=.\n")
_WANTED = "question, and document (file name or id, several separated by ;) or answer, or both"
_MOST_CHARACTERS = 20_000_000
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Row:
    """`documents` are file names or ids. `number` is the row's place in the table, from 1, the heads left out."""

    number: int
    question: str
    documents: tuple[str, ...]
    answer: str | None


def read(path: Path) -> list[Row]:
    """CSV in any encoding, separated by commas, semicolons, tabs or bars. Raises `InvalidInput`, which names the columns
    that were seen, or the row that cannot be used."""
    try:
        text, _ = decode(path.read_bytes(), _MOST_CHARACTERS)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    # It is the whole process's: others may read fields that are longer.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        heads, *cells = max((_lines(text, delimiter) for delimiter in _DELIMITERS), key=_known_heads)
    except csv.Error as error:
        raise InvalidInput(f"{path} is a damaged table: {error}.") from error
    places = _places(path, heads)
    rows = [_row(path, number, line, places) for number, line in enumerate(cells, 1)]
    if not rows:
        raise InvalidInput(f"{path} has no row under its heads.")
    return rows


def resolve(rows: Sequence[Row], names: Mapping[UUID, str], *, collection: str) -> list[JudgedQuestion]:
    """`names` are the file names of the collection's documents. Raises `InvalidInput` if some that are expected are not
    among them."""
    by_name = {name.casefold(): name for name in names.values()}
    by_id = {str(document_id): str(document_id) for document_id in names}
    known = by_name | by_id
    unknown = [
        f"row {row.number}: {document}"
        for row in rows
        for document in row.documents
        if document.casefold() not in known
    ]
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        raise InvalidInput(
            f"The collection {collection} does not hold what is expected in {'; '.join(unknown[:_MOST_NAMED])}{more}."
        )
    return [
        JudgedQuestion(
            str(row.number),
            row.question,
            {known[document.casefold()]: 1 for document in row.documents},
            row.answer,
        )
        for row in rows
    ]


def _lines(text: str, delimiter: str) -> list[list[str]]:
    """Those that are not blank. Spreadsheets may put the delimiter into a line before the heads."""
    cells = csv.reader(io.StringIO(_NAMED_DELIMITER.sub("", text), newline=""), delimiter=delimiter)
    return [line for line in cells if any(cell.strip() for cell in line)]


def _known_heads(lines: Sequence[Sequence[str]]) -> int:
    """Where the names of documents are separated as columns might be, the heads still tell which the columns are."""
    return len(_columns(lines[0]))


def _columns(heads: Sequence[str]) -> Mapping[str, int]:
    plain = [re.sub(r"[\W_]+", "", head).casefold() for head in heads]
    return {
        column: plain.index(name)
        for column, names in _COLUMNS.items()
        for name in reversed(names)
        if name in plain
    }


def _places(path: Path, heads: Sequence[str]) -> Mapping[str, int]:
    places = _columns(heads)
    if "question" not in places or len(places) == 1:
        seen = ", ".join(head.strip() for head in heads)
        raise InvalidInput(f"{path} has the columns {seen}. Wanted are {_WANTED}.")
    return places


def _row(path: Path, number: int, line: Sequence[str], places: Mapping[str, int]) -> Row:
    cells = {column: line[place].strip() for column, place in places.items() if place < len(line)}
    question, answer = cells.get("question", ""), cells.get("answer", "")
    documents = tuple(part.strip() for part in cells.get("document", "").split(";") if part.strip())
    if not question:
        raise InvalidInput(f"{path}, row {number}: there is no question.")
    if not documents and not measures.normalised(answer):
        raise InvalidInput(f"{path}, row {number}: neither a document nor an answer is expected.")
    return Row(number, question, documents, answer if measures.normalised(answer) else None)
