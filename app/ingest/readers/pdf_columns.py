"""The columns of a page of a PDF: what is read down, although it was drawn across."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median

from app.ingest.readers.pdf_layout import Span, join

# In heights of a line, of which a blank is a quarter; and what must be left of it over all lines.
_NARROWEST_GUTTER = 0.7
_NARROWEST_GUTTER_PT = 4.0
# What is read down, and not across: so many lines on both sides of a gutter, of so many characters, that fill so much of
# the width and go on from line to line.
_FEWEST_LINES = 4
_FEWEST_CHARACTERS = 15
_FILLED = 0.6
_CONTINUED = 0.25
# In distances from line to line: so far apart stand at most so many rows that do not belong to the columns below or above.
_APART = 1.8
_MOST_APART = 2


def rows(pieces: Iterable[Span]) -> list[list[Span]]:
    """What stands beside each other, from left to right, and these from the top down."""
    found: list[list[Span]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.box.middle):
        if found and found[-1][0].box.middle - piece.box.middle < piece.box.height * 0.4:
            found[-1].append(piece)
        else:
            found.append([piece])
    return [sorted(row, key=lambda piece: piece.box.left) for row in found]


Gutter = tuple[float, float]


def runs(page: Sequence[list[Span]]) -> Iterator[tuple[list[list[Span]], list[Gutter]]]:
    """The runs of rows through which a gutter goes that has text on both of its sides, with their gutters.

    These are the cuts of Nagy and Seth (Hierarchical representation of optically scanned documents, ICPR 1984) of two
    levels: across the page where a gutter ends, then down the gutters.
    """
    run: list[list[Span]] = []
    free: list[Gutter] = []
    gutters: list[Gutter] = []
    left = right = 0.0
    for row in page:
        common, start, end = _free(row), row[0].box.left, row[-1].box.right
        if run:
            still, first, last = _common(free, common), min(left, start), max(right, end)
            inner = _inner(still, first, last)
            # What goes over a gutter by itself is a heading, or text below.
            if inner and (len(row) > 1 or len(inner) >= len(gutters)):
                run.append(row)
                free, gutters, left, right = still, inner, first, last
                continue
            if len(run) > 1:
                yield _together(run), gutters
        free, left, right, gutters = common, start, end, _inner(common, start, end)
        run = [row] if gutters else []
    if len(run) > 1:
        yield _together(run), gutters


def _inner(free: Iterable[Gutter], left: float, right: float) -> list[Gutter]:
    return [gutter for gutter in free if left < gutter[0] and gutter[1] < right]


def _free(row: Sequence[Span]) -> list[Gutter]:
    between = [
        (one.box.right, other.box.left)
        for one, other in pairwise(row)
        if other.box.left - one.box.right >= _NARROWEST_GUTTER * one.box.height
    ]
    return [(float("-inf"), row[0].box.left), *between, (row[-1].box.right, float("inf"))]


def _common(some: Sequence[Gutter], others: Sequence[Gutter]) -> list[Gutter]:
    """Both are in order, and so is what they have in common."""
    common: list[Gutter] = []
    one = other = 0
    while one < len(some) and other < len(others):
        low, high = max(some[one][0], others[other][0]), min(some[one][1], others[other][1])
        if high - low >= _NARROWEST_GUTTER_PT:
            common.append((low, high))
        if some[one][1] < others[other][1]:
            one += 1
        else:
            other += 1
    return common


def cells(row: Sequence[Span], gutters: Sequence[Gutter]) -> list[list[Span]]:
    """What of a row is in each column."""
    found: list[list[Span]] = [[] for _ in range(len(gutters) + 1)]
    for piece in row:
        found[bisect_left(gutters, (piece.box.across, 0.0))].append(piece)
    return found


def read_down(run: Sequence[list[Span]], gutters: Sequence[Gutter]) -> list[list[Span]] | None:
    """The columns of a run that were drawn line by line across them, although each goes on in its own next line."""
    down: list[list[Span]] = [[] for _ in range(len(gutters) + 1)]
    for row in run:
        for side, parts in enumerate(cells(row, gutters)):
            if parts:
                down[side].append(join(parts))
    if not all(map(_is_prose, down)):
        return None
    drawn = sorted((piece.start, side) for side, column in enumerate(down) for piece in column)
    turns = sum(before[1] != after[1] for before, after in pairwise(drawn))
    return down if turns >= min(map(len, down)) * len(gutters) else None


def _together(run: list[list[Span]]) -> list[list[Span]]:
    """Without the rows that stand apart above and below, as the header of a page does, or a heading under columns."""
    pitches = [above[0].box.middle - below[0].box.middle for above, below in pairwise(run)]
    far = _APART * median(pitches)
    near = [place for place, pitch in enumerate(pitches) if pitch <= far]
    start = near[0] if near[0] <= _MOST_APART else 0
    end = near[-1] + 2
    return run[start : end if len(run) - end <= _MOST_APART else len(run)]


def _is_prose(column: Sequence[Span]) -> bool:
    if len(column) < _FEWEST_LINES or median(len(line.text) for line in column) < _FEWEST_CHARACTERS:
        return False
    width = max(line.box.right for line in column) - min(line.box.left for line in column)
    filled = median(line.box.right - line.box.left for line in column) >= _FILLED * width
    return filled and sum(line.text[0].islower() for line in column) >= _CONTINUED * len(column)
