"""Rows of a table as text: each row a record that repeats the names of its columns, so that any part of it makes sense."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice

from app.ingest.headings import literal
from app.ingest.readers import clean

# In so many rows the header is looked for, as some tables have lines of a title above it.
_LOOK_AHEAD = 20
_HEADER_SHARE = 0.6
_NAMES_SHARE = 0.75
_LONGEST_NAME = 80
_LONGEST_LINE = 300
_YEAR = re.compile(r"(19|20)\d\d")
_WORD = re.compile(r"[^\W\d_]")
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}\b|\d{1,2}:\d{2}")

Row = Sequence[str]


def paragraphs(rows: Iterable[Row]) -> Iterator[str]:
    """A paragraph of Markdown for each row that is not blank, `name: value; name: value`; a field a line in long ones.

    Blank rows set tables apart: the next one may have names of its own. Without names the values stand alone.
    """
    header: Row = ()
    for blank, table in groupby(rows, key=lambda row: not any(row)):
        if blank:
            continue
        ahead = list(islice(table, _LOOK_AHEAD))
        at = _header_at(ahead, strictly=bool(header))
        if at is not None:
            yield from (record([("", cell) for cell in row]) for row in ahead[:at])
            header, ahead = ahead[at], ahead[at + 1 :]
        for row in chain(ahead, table):
            names = chain(header, [""] * max(0, len(row) - len(header)))
            yield record(zip(names, row, strict=False))


def record(fields: Iterable[tuple[str, str]]) -> str:
    """Of the fields that are not blank; those without a name are their value."""
    shown: list[str] = []
    for name, value in fields:
        value = flat(value)
        if value:
            shown.append(f"{flat(name)[:_LONGEST_NAME]}: {value}" if name.strip() else value)
    line = "; ".join(shown)
    return literal(line if len(line) <= _LONGEST_LINE else "\n".join(shown))


def flat(text: str) -> str:
    """In one line. What is printable needs no cleaning, and most fields are."""
    return " ".join((text if text.isprintable() else clean(text)).split())


def _header_at(rows: list[Row], *, strictly: bool) -> int | None:
    """The first row that is about as wide as the table and holds names, with a row after it. `strictly`, where there has
    been a header: it must be the first, and above numbers."""
    width = max(_filled(row) for row in rows)
    for index, row in enumerate(rows[: 1 if strictly else -1]):
        wide = _filled(row) >= max(2, width * _HEADER_SHARE)
        share = _share_of_names(row)
        certain = share == 1 and not strictly
        if wide and share >= _NAMES_SHARE and (certain or _above_numbers(row, rows[index + 1 :])):
            return index
    return None


def _filled(row: Row) -> int:
    return sum(bool(cell.strip()) for cell in row)


def _share_of_names(row: Row) -> float:
    """Years are names too, but not by themselves."""
    cells = [cell.strip() for cell in row if cell.strip()]
    if row[0].strip() and not any(_is_name(cell) for cell in cells):
        return 0.0
    return sum(_is_name(cell) or bool(_YEAR.fullmatch(cell)) for cell in cells) / len(cells)


def _is_name(cell: str) -> bool:
    return bool(_WORD.search(cell)) and len(cell) <= _LONGEST_NAME and not _DATE.match(cell)


def _above_numbers(names: Row, rows: Iterable[Row]) -> bool:
    return any(
        _is_name(name) and cell.strip() and not _is_name(cell)
        for row in islice(rows, 1)
        for name, cell in zip(names, row, strict=False)
    )
