"""The rules that are drawn on a page of a PDF, and the grids that they make."""

import ctypes
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from app.ingest.readers.pdf_layout import Box, raw

_PATH = 2
_BEZIER, _MOVE = 1, 2
# Beyond these the rules of a page are not looked at: it is a drawing.
_MOST_OBJECTS = 20_000
_MOST_POINTS = 20_000
_MOST_RULES = 5_000
# In points: a line is so thin, what is ruled so wide and high, and edges so near to each other are one.
_THIN = 3.0
_SHORTEST = 7.0
_NEAR = 4.0
# An edge between rows goes through so much of the width of a table.
_THROUGH = 0.85
# An edge between columns goes down so much of the height.
_DOWN = 0.25
_MOST_CELLS = 20_000


Rule = tuple[float, float, float]


class _Matrix(Protocol):
    a: float
    b: float
    c: float
    d: float
    e: float
    f: float


@dataclass(slots=True)
class Rules:
    """Each is where it is, and from where to where it goes: those across by their height, those down by their distance
    from the left."""

    across: list[Rule] = field(default_factory=list[Rule])
    down: list[Rule] = field(default_factory=list[Rule])

    def add(self, box: Box) -> None:
        width, height = box.right - box.left, box.height
        if height <= _THIN < _SHORTEST <= width:
            self.across.append((box.middle, box.left, box.right))
        elif width <= _THIN < _SHORTEST <= height:
            self.down.append((box.across, box.bottom, box.top))
        elif width >= _SHORTEST and height >= _SHORTEST:
            self.across += [(box.bottom, box.left, box.right), (box.top, box.left, box.right)]
            self.down += [(box.left, box.bottom, box.top), (box.right, box.bottom, box.top)]


@dataclass(frozen=True, slots=True)
class Grid:
    """The edges of its rows from the top down, of its columns from the left, and for each row the columns that a cell of it
    starts in."""

    rows: list[float]
    columns: list[float]
    starts: list[list[int]]

    def place(self, box: Box) -> tuple[int, int] | None:
        """In which row the middle of the box is, and in which column its cell starts."""
        row = bisect_right(self.rows, -box.middle, key=lambda edge: -edge) - 1
        column = bisect_right(self.columns, box.across) - 1
        if not (0 <= row < len(self.rows) - 1 and 0 <= column < len(self.columns) - 1):
            return None
        return row, self.starts[row][bisect_right(self.starts[row], column) - 1]


def rules(page: object) -> Rules:
    found = Rules()
    count = raw.FPDFPage_CountObjects(page)
    points = _MOST_POINTS
    for index in range(count if count <= _MOST_OBJECTS else 0):
        item = raw.FPDFPage_GetObject(page, index)
        if raw.FPDFPageObj_GetType(item) != _PATH:
            continue
        points -= raw.FPDFPath_CountSegments(item)
        if points < 0 or len(found.across) > _MOST_RULES or len(found.down) > _MOST_RULES:
            return Rules()
        for box in _boxes(item):
            found.add(box)
    return found


def _boxes(path: object) -> Iterator[Box]:
    """Around each part of the path that is made of straight lines."""
    matrix = raw.FS_MATRIX()
    raw.FPDFPageObj_GetMatrix(path, ctypes.byref(matrix))
    by = cast("_Matrix", matrix)
    x, y = ctypes.c_float(), ctypes.c_float()
    corners: list[tuple[float, float]] = []
    straight = True
    for index in range(raw.FPDFPath_CountSegments(path)):
        segment = raw.FPDFPath_GetPathSegment(path, index)
        kind = raw.FPDFPathSegment_GetType(segment)
        if kind == _MOVE:
            if straight and len(corners) > 1:
                yield _around(corners)
            corners, straight = [], True
        straight = straight and kind != _BEZIER
        raw.FPDFPathSegment_GetPoint(segment, ctypes.byref(x), ctypes.byref(y))
        corners.append((by.a * x.value + by.c * y.value + by.e, by.b * x.value + by.d * y.value + by.f))
    if straight and len(corners) > 1:
        yield _around(corners)


def _around(corners: Sequence[tuple[float, float]]) -> Box:
    across, up = [x for x, _ in corners], [y for _, y in corners]
    return Box(min(across), min(up), max(across), max(up))


def grids(found: Rules) -> Iterator[Grid]:
    """The grids of which it is clear what is a row: every edge between two of them goes through, but for lines under text."""
    for down in _bands(found.down):
        bottom, top = min(low for _, low, _ in down), max(high for _, _, high in down)
        left, right = min(x for x, _, _ in down), max(x for x, _, _ in down)
        parts = [near for near in _near(down) if _covered(near) >= (top - bottom) * _DOWN]
        columns = [sum(x for x, _, _ in near) / len(near) for near in parts]
        across = [rule for rule in found.across if bottom - _NEAR <= rule[0] <= top + _NEAR]
        rows = _row_edges(across, left, right, columns)
        if rows is not None and len(rows) > 2 < len(columns) and len(rows) * len(columns) <= _MOST_CELLS:
            yield Grid(rows, columns, _starts(rows, parts))


def _starts(rows: Sequence[float], parts: Sequence[list[Rule]]) -> list[list[int]]:
    """A cell goes on over an edge that is not drawn beside it."""
    starts = [[0] for _ in rows[1:]]
    for column, part in enumerate(parts[1:-1], 1):
        reached, rules_up = float("-inf"), iter(sorted(part, key=lambda rule: rule[1]))
        rule = next(rules_up, None)
        for row in range(len(rows) - 2, -1, -1):
            middle = (rows[row] + rows[row + 1]) / 2
            while rule is not None and rule[1] <= middle:
                reached, rule = max(reached, rule[2]), next(rules_up, None)
            if reached >= middle:
                starts[row].append(column)
    return starts


def _bands(down: Sequence[Rule]) -> Iterator[list[Rule]]:
    """From the top down, what is beside each other or touches."""
    band: list[Rule] = []
    bottom = 0.0
    for rule in sorted(down, key=lambda rule: -rule[2]):
        if band and rule[2] < bottom - _NEAR:
            yield band
            band = []
        bottom = min(bottom, rule[1]) if band else rule[1]
        band.append(rule)
    if band:
        yield band


def _row_edges(
    across: Sequence[Rule], left: float, right: float, columns: Sequence[float]
) -> list[float] | None:
    edges: list[float] = []
    for near in _near(across):
        inside = [
            (y, max(start, left), min(end, right)) for y, start, end in near if end > left and start < right
        ]
        if _covered(inside) >= _THROUGH * (right - left):
            edges.append(sum(y for y, _, _ in near) / len(near))
        elif any(_is_edge(start, columns) and _is_edge(end, columns) for _, start, end in inside):
            return None
    return edges[::-1]


def _is_edge(x: float, columns: Sequence[float]) -> bool:
    place = bisect_right(columns, x)
    return any(abs(x - edge) <= _NEAR for edge in columns[max(0, place - 1) : place + 1])


def _near(found: Sequence[Rule]) -> list[list[Rule]]:
    near: list[list[Rule]] = []
    for rule in sorted(found):
        if near and rule[0] - near[-1][-1][0] <= _NEAR:
            near[-1].append(rule)
        else:
            near.append([rule])
    return near


def _covered(near: Sequence[Rule]) -> float:
    """How long they are together, where they lie over each other counted once."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted((start, end) for _, start, end in near):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
