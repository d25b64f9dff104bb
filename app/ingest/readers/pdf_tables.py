"""The tables of a page of a PDF as records: those with rules, and those without that have numbers under names."""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

from app.ingest.readers import records
from app.ingest.readers.pdf_columns import Gutter, cells
from app.ingest.readers.pdf_layout import Span, text_of
from app.ingest.readers.pdf_rules import Grid

# A header has at most so many rows, and is looked for in so many.
_HEADER_ROWS = 3
_LOOK_AHEAD = 5
_HEADER_SHARE = 0.6
_LONGEST_NAME = 80
# Without rules, what is in the cells of a table is short and mostly numbers.
_SHORT = 40
_NUMBERS_SHARE = 0.6
_FEWEST_ROWS = 3
_LABEL_SHARE = 0.6
# In points: columns of the next page that are so near are those of the table before.
_NEAR = 8.0

_LETTER = re.compile(r"[^\W\d_]")
_YEAR = re.compile(r"(19|20)\d\d")
_NUMBER = re.compile(r"[-+−–(<>≤≥~$€£¥]{0,3}\s?\d[\d.,’' ]*\s?[%)*†‡]{0,3}[a-zA-Z]?")
_NO_VALUE = re.compile(r"(?i)(n/?a|n\.a\.|nil|none|yes|no|not met|met|-+|–|—)\*?")

Row = list[str]
Edges = tuple[float, float]
Style = Callable[[int], object]


@dataclass(slots=True)
class Table:
    """`cells` are the words of each cell, row by row. `lines` are those that it was drawn as."""

    cells: list[list[list[Span]]]
    lines: set[int]
    ruled: bool

    @property
    def edges(self) -> list[Edges]:
        """From where to where each column goes."""
        of_columns = [
            [word.box for cell in column for word in cell] for column in zip(*self.cells, strict=True)
        ]
        return [
            (min(box.left for box in boxes), max(box.right for box in boxes)) if boxes else (0.0, 0.0)
            for boxes in of_columns
        ]

    @property
    def top(self) -> float:
        return max(word.box.top for row in self.cells for cell in row for word in cell)

    @property
    def bottom(self) -> float:
        return min(word.box.bottom for row in self.cells for cell in row for word in cell)

    def texts(self) -> list[Row]:
        return [[text_of(cell) for cell in row] for row in self.cells]


@dataclass(frozen=True, slots=True)
class Header:
    """Of a table that may go on on the next page."""

    names: Row
    edges: list[Edges]

    def fits(self, table: Table) -> bool:
        edges = table.edges
        return (
            len(edges) == len(self.edges)
            and abs(edges[0][0] - self.edges[0][0]) <= _NEAR
            and all(
                left < old_right and old_left < right
                for (left, right), (old_left, old_right) in zip(edges, self.edges, strict=True)
            )
        )


def ruled(grid: Grid, words: Sequence[Span], a_line: Counter[int]) -> Table | None:
    """`words` are in order from the bottom up, and `a_line` has how many each line holds."""
    low = bisect_left(words, grid.rows[-1], key=lambda word: word.box.middle)
    high = bisect_right(words, grid.rows[0], key=lambda word: word.box.middle)
    placed: dict[tuple[int, int], list[Span]] = {}
    for word in words[low:high]:
        place = grid.place(word.box)
        if place is not None:
            placed.setdefault(place, []).append(word)
    filled_rows = sorted({row for row, _ in placed})
    filled_columns = sorted({column for _, column in placed})
    table = Table(
        [
            [sorted(placed.get((row, column), []), key=lambda word: word.start) for column in filled_columns]
            for row in filled_rows
        ],
        {word.line for cell in placed.values() for word in cell},
        ruled=True,
    )
    wide = sum(sum(map(bool, row)) >= 2 for row in table.cells)
    if len(filled_columns) < 2 or wide < 2 or wide * 2 < len(filled_rows):
        return None
    return table if _is_all_of(table.lines, placed.values(), a_line) else None


def unruled(run: Sequence[list[Span]], gutters: Sequence[Gutter], a_line: Counter[int]) -> Table | None:
    """What was drawn row by row; the labels of a chart are not. `a_line` has how many spans each line holds."""
    of_rows = [cells(row, gutters) for row in run]
    lines = {piece.line for row in run for piece in row}
    pieces = [piece for row in run for piece in row]
    drawn = [piece.start for piece in pieces]
    if len(run) < _FEWEST_ROWS or drawn != sorted(drawn):
        return None
    if median(len(piece.text) for piece in pieces) > _SHORT or not _is_all_of(lines, [pieces], a_line):
        return None
    return Table(of_rows, lines, ruled=False)


def _is_all_of(lines: set[int], of_cells: Iterable[list[Span]], a_line: Counter[int]) -> bool:
    return sum(map(len, of_cells)) == sum(a_line[line] for line in lines)


def written(table: Table, style: Style, before: Header | None) -> tuple[list[str], Header | None] | None:
    """The paragraphs of the table, and its header; None where nothing is gained, as no header says what its cells are."""
    rows = table.texts()
    if _is_form(rows):
        return [_form(row) for row in rows], None
    names = before.names if before is not None and before.fits(table) else None
    if not table.ruled:
        header = _numbers_under_names(rows)
        if header is None and names is None:
            return None
        own, at = header or ([], 0)
        names = own or names or []
        return list(_records(rows[at:], names)), Header(names, table.edges)
    return _styled(table, rows, style, names)


def _styled(
    table: Table, rows: list[Row], style: Style, names: Row | None
) -> tuple[list[str], Header | None]:
    written: list[str] = []
    of_header: object = None
    for index, row in enumerate(rows):
        own = _style_of(table.cells[index], style)
        following = _next_wide(rows, index)
        if following is not None and _is_header(row, len(row)):
            differs = own is not None and own != _style_of(table.cells[following], style)
            first = index < _LOOK_AHEAD and of_header is None
            if (differs and (first or own == of_header)) or (first and _above_numbers(row, rows[following])):
                names, of_header = row, own
                continue
        written.append(_line(row, names))
    return written, None if names is None else Header(names, table.edges)


def _next_wide(rows: Sequence[Row], index: int) -> int | None:
    return next(
        (place for place in range(index + 1, min(index + 3, len(rows))) if _filled(rows[place]) > 1), None
    )


def _style_of(row: Sequence[list[Span]], style: Style) -> object:
    """That of its cells, where it is one and the same."""
    styles = {style(cell[0].start) for cell in islice(filter(None, row), _LOOK_AHEAD)}
    return styles.pop() if len(styles) == 1 else None


def _is_header(row: Row, width: int) -> bool:
    filled = [cell for cell in row if cell]
    if len(filled) < max(2, width * _HEADER_SHARE) or len(set(filled)) < len(filled):
        return False
    named = not row[0] or any(map(_is_name, filled))
    return named and all(_is_name(cell) or _YEAR.fullmatch(cell) for cell in filled)


def _is_name(cell: str) -> bool:
    return len(cell) <= _LONGEST_NAME and bool(_LETTER.search(cell)) and not _NO_VALUE.fullmatch(cell)


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell))


def _above_numbers(names: Row, row: Row) -> bool:
    return any(name and _is_number(cell) for name, cell in zip(names, row, strict=True))


def _numbers_under_names(rows: Sequence[Row]) -> tuple[Row, int] | None:
    """The names, and where the rows under them begin."""
    at = next((index for index, row in enumerate(rows) if _has_numbers(row)), 0)
    above = [row for row in rows[:at] if any(row[1:])]
    body = rows[at:]
    if (
        not 1 <= len(above) <= _HEADER_ROWS
        or above != list(rows[: len(above)])
        or len(body) < _FEWEST_ROWS - 1
    ):
        return None
    names = [" ".join(filter(None, column)) for column in zip(*above, strict=True)]
    values = [cell for row in body for cell in row[1:] if cell]
    numbers = sum(_is_number(cell) or bool(_NO_VALUE.fullmatch(cell)) for cell in values)
    if not all(names[1:]) or len(set(names)) < len(names) or numbers < _NUMBERS_SHARE * len(values):
        return None
    named = all(_is_name(name) or _YEAR.fullmatch(name) for name in filter(None, names))
    return (names, len(above)) if named else None


def _has_numbers(row: Row) -> bool:
    """Of a row of years, those may be the names."""
    return any(_is_number(cell) and not _YEAR.fullmatch(cell) for cell in row[1:])


def _records(rows: Sequence[Row], names: Row) -> Iterator[str]:
    """A label that stands alone is a heading, or goes on in the next row. What has no label is not a row by itself."""
    alone = ""
    for row in rows:
        if alone and row[0][:1].islower():
            row = [f"{alone} {row[0]}", *row[1:]]
        elif alone:
            yield alone
        alone = "" if any(row[1:]) else row[0]
        if not alone:
            yield _line(row, names if row[0] else None)
    if alone:
        yield alone


def _line(row: Row, names: Row | None) -> str:
    if _filled(row) < 2:
        return " ".join(filter(None, row))
    if names is None:
        return " | ".join(filter(None, row))
    return records.record(zip(names, row, strict=True))


def _filled(row: Row) -> int:
    return sum(map(bool, row))


def _is_form(rows: Sequence[Row]) -> bool:
    """Labels that end in a colon, each with its value beside it."""
    labels = [row[0] for row in rows if row[0]]
    return sum(label.endswith(":") for label in labels) >= _LABEL_SHARE * len(labels) > 0


def _form(row: Row) -> str:
    pairs: list[list[str]] = []
    for cell in filter(None, row):
        if pairs and not cell.endswith(":"):
            pairs[-1].append(cell)
        else:
            pairs.append([cell])
    return "; ".join(" ".join(pair) for pair in pairs)
