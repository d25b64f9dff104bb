"""A page of a PDF as a person reads it: its columns one after the other, the rows of its tables as records."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest

from app.ingest.readers import clean
from app.ingest.readers.pdf_columns import read_down, rows, runs
from app.ingest.readers.pdf_layout import HYPHEN, Sheet, Span, spans
from app.ingest.readers.pdf_rules import Grid, grids, rules
from app.ingest.readers.pdf_tables import Header, Table, ruled, unruled, written

# So many lines that were drawn first and last may be the running ones, if they are in the outer tenth of the page.
_FIRST_AND_LAST = 4
_MARGIN = 0.1
_FEWEST_PAGES = 5
_NUMBER = re.compile(r"\d+")
_TRAILING_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)
_BROKEN = re.compile(r"[^\W\d_]-$")


@dataclass(slots=True)
class Page:
    """`running` are the lines in the margins, by their place among the lines, each as it is known on other pages."""

    lines: list[str]
    running: dict[int, str] = field(default_factory=dict[int, str])
    # Of a table that ends the page.
    header: Header | None = None


@dataclass(slots=True)
class _Blocks:
    """What is written in place of lines as they were drawn: by the first of them."""

    written: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    taken: set[int] = field(default_factory=set[int])

    def put(self, lines: set[int], text: list[str]) -> None:
        self.written[min(lines)] = text
        self.taken |= lines


def read(page: object, text_page: object, text: str, before: Page) -> Page:
    """`before` is the page before, whose last table may go on here."""
    sheet = Sheet(page, text_page, text)
    if not sheet.measurable:
        return Page(sheet.lines)
    margins = _margins(sheet)
    drawn = list(grids(rules(page)))
    blocks, header = _Blocks(), None
    divided = before.header is not None or sheet.looks_divided(margins)
    heights = None if divided else [(grid.rows[-1], grid.rows[0]) for grid in drawn]
    if (divided or drawn) and (words := sheet.all_words(heights)):
        found = _tables(words, drawn, blocks, divided=divided)
        header = _put_tables(sheet, words, found, blocks, margins, before)
        if divided:
            _put_columns(words, blocks)
    lines: list[str] = []
    running: dict[int, str] = {}
    for line, shown in enumerate(sheet.lines):
        if line in blocks.written:
            lines += blocks.written[line][1 if lines and not lines[-1] else 0 :]
        elif line not in blocks.taken:
            if line in margins:
                running[len(lines)] = margins[line]
            lines.append(shown)
    return Page(lines, running, header)


def _margins(sheet: Sheet) -> dict[int, str]:
    """The lines that may be running ones: first and last of those drawn, in the outer parts of the page."""
    shown = [line for line, text in enumerate(sheet.lines) if text.strip()]
    bounds = sheet.bounds()
    low, high = bounds.bottom + _MARGIN * bounds.height, bounds.top - _MARGIN * bounds.height
    found: dict[int, str] = {}
    for line in dict.fromkeys(shown[:_FIRST_AND_LAST] + shown[-_FIRST_AND_LAST:]):
        box = sheet.line_box(line)
        if box is not None and (box.top <= low or box.bottom >= high):
            place = "below" if box.top <= low else "above"
            found[line] = f"{place} {_NUMBER.sub('#', sheet.lines[line].strip())}"
    return found


def _put_tables(
    sheet: Sheet,
    words: Sequence[Span],
    tables: Iterable[Table],
    blocks: _Blocks,
    margins: dict[int, str],
    before: Page,
) -> Header | None:
    """The header of the table that ends the page, if one does."""
    known = set(before.running.values())
    top = max((word.box.top for word in words if margins.get(word.line) not in known), default=0.0)
    bottom = min((word.box.bottom for word in words if word.line not in margins), default=0.0)
    last: Header | None = None
    for table in tables:
        found = written(table, sheet.style, before.header if table.top >= top - 1 else None)
        if found is None:
            continue
        blocks.put(
            table.lines, [line for paragraph in found[0] for line in ("", *paragraph.split("\n"))] + [""]
        )
        if table.bottom <= bottom + 1:
            last = found[1]
    return last


def _tables(
    words: Sequence[Span], drawn: Sequence[Grid], blocks: _Blocks, *, divided: bool
) -> Iterator[Table]:
    """Without rules only where the page is divided. `blocks` takes the lines of each before the next is looked for."""
    upwards = sorted(words, key=lambda word: word.box.middle)
    a_line = Counter(word.line for word in words)
    for grid in drawn:
        table = ruled(grid, upwards, a_line)
        if table is not None and not table.lines & blocks.taken:
            yield table
    pieces = _pieces(words, blocks) if divided else []
    a_line = Counter(piece.line for piece in pieces)
    for run, gutters in runs(rows(pieces)):
        table = unruled(run, gutters, a_line)
        if table is not None:
            yield table


def _put_columns(words: Sequence[Span], blocks: _Blocks) -> None:
    pieces = _pieces(words, blocks)
    a_line = Counter(piece.line for piece in pieces)
    for run, gutters in runs(rows(pieces)):
        down = read_down(run, gutters)
        lines = {piece.line for row in run for piece in row}
        if down is None or sum(map(len, run)) != sum(a_line[line] for line in lines):
            continue
        blocks.put(lines, [line for column in down for line in _hyphenated(column)])


def _pieces(words: Sequence[Span], blocks: _Blocks) -> list[Span]:
    """The spans of the lines that are not in a table."""
    free = (word for word in words if word.line not in blocks.taken)
    return [span for _, line in groupby(free, key=lambda word: word.line) for span in spans(list(line))]


def _hyphenated(column: Sequence[Span]) -> Iterator[str]:
    """A hyphen that was not at the end of a line as it was drawn, but is now, is marked as one."""
    for line, following in zip_longest(column, column[1:]):
        goes_on = following is not None and following.text[0].islower() and _BROKEN.search(line.text)
        yield line.text[:-1] + HYPHEN if goes_on else line.text


def without_running(pages: Sequence[Page]) -> list[str]:
    """The text of each page; a line in the margin of most pages, of which only a number changes, is in the first alone."""
    with_text = sum(any(line.strip() for line in page.lines) for page in pages)
    often = Counter(known for page in pages for known in set(page.running.values()))
    most = max(_FEWEST_PAGES - 1, with_text // 2) if len(pages) >= _FEWEST_PAGES else len(pages) + 1
    seen: set[str] = set()
    texts: list[str] = []
    for page in pages:
        left_out = {place for place, known in page.running.items() if often[known] >= most and known in seen}
        seen.update(page.running.values())
        left = _text([line for place, line in enumerate(page.lines) if place not in left_out])
        texts.append(left or _text(page.lines))
    return texts


def _text(lines: Sequence[str]) -> str:
    joined = "\n".join(lines).replace(f"{HYPHEN}\n", HYPHEN)
    return _TRAILING_BLANKS.sub("", clean(joined)).strip()
