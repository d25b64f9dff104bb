"""Documents to chunks: passages of about the same length that begin and end where the document does.

Sections (under a heading, or a page) come first; a section that is too long is split at blocks, then sentences, then
words; what is too short to say something by itself is joined with its neighbour on the same page. Chunks do not overlap:
each knows where it stands in the text, so that what surrounds it can be fetched, and text that is embedded twice costs
twice and fills the answer's context with repetitions.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from app.ingest.convert import ConvertedDocument
from app.ingest.formats import PDF, PLAIN
from app.ingest.headings import Heading, front_matter, headings
from app.ingest.tables import columns_at, tables

# A full chunk leaves room for the heading of its section, and for a code block or table a little longer than the target.
_TARGET_SHARE = 0.8
# Below these shares of the target a passage is joined with the next: in any section, in one under the same heading.
_SHORT = 0.25
_SHORT_SECTION = 0.5
# The library takes more than twice the time for twice the text (11.6 MB/s at 1 MB, 1.5 MB/s at 10 MB), and how many
# characters a token has changes within a document.
_WINDOW = 32_768
_SAMPLE = 2_048
# Characters a token, whatever a sample says: blanks are none, so a page of them would say thousands.
_MIN_RATIO, _MAX_RATIO = 0.1, 12.0
# A passage ends where so many blanks follow.
_LONGEST_GAP = 1_000
_MIN_TOKENS = 8

# A line end within a sentence is no place to split: after a long line that ends, and before one that starts, in a word.
_WRAP = re.compile(r"\n(?<=[^\n]{49}[^\W\d_]\n|[^\n]{49}[,;]\n)(?=[ \t]*[^\W\d_])")
_WINDOW_ENDS = ("\n\n", "\n", ". ", " ")


@dataclass(frozen=True, slots=True)
class Chunk:
    """`text` is the document's `text[start:end]`. `page_label` is that of the page that it is on. `headings` is the
    path to it, outermost first; where several short sections are one chunk, what their paths have in common. Where it
    starts among the rows of a table, the names of the columns are the last of the path."""

    start: int
    end: int
    text: str
    page_label: str | None
    headings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Section:
    """`body` is where the heading ends. `page` is the index of the page."""

    start: int
    body: int
    end: int
    headings: tuple[str, ...] = ()
    page: int = 0


@dataclass(slots=True)
class _Piece:
    """`tokens` is exact for what was split; for what was joined it is the sum. `parts` are what it was joined from."""

    start: int
    end: int
    tokens: int
    section: _Section
    headings: tuple[str, ...]
    only_heading: bool = False
    parts: tuple["_Piece", ...] = ()


def split(document: ConvertedDocument, *, count_tokens: Callable[[str], int], max_tokens: int) -> list[Chunk]:
    """Chunks of at most `max_tokens` each, in order, that together hold all that is not blank.

    `count_tokens` is asked about once for each chunk, so it may be as slow as a tokenizer. It must not truncate.
    """
    if max_tokens < _MIN_TOKENS:
        raise ValueError(f"max_tokens is {max_tokens}, and must be at least {_MIN_TOKENS}")
    splitter = _Splitter(document, count_tokens, max_tokens)
    starts = [page.start for page in document.pages]
    of_text = tables(document.text) if splitter.markdown else []
    return [
        Chunk(
            start=piece.start,
            end=piece.end,
            text=document.text[piece.start : piece.end],
            page_label=_page_label(document, starts, piece.start),
            headings=(*piece.headings, *filter(None, [columns_at(of_text, piece.start)])),
        )
        for piece in splitter.pieces()
    ]


def _page_label(document: ConvertedDocument, starts: list[int], position: int) -> str | None:
    page = bisect_right(starts, position) - 1
    return document.pages[page].label or None if page >= 0 else None


class _Splitter:
    def __init__(
        self, document: ConvertedDocument, count_tokens: Callable[[str], int], max_tokens: int
    ) -> None:
        self._document = document
        self._text = document.text
        self._count = count_tokens
        self._max = max_tokens
        self._target = int(max_tokens * _TARGET_SHARE)
        self.markdown = document.media_type not in (PDF.media_type, PLAIN.media_type)
        # The same text as far as positions go, for choosing where to split.
        self._unwrapped = _WRAP.sub(" ", document.text)
        sample = document.text[:_SAMPLE]
        self._characters_a_token = _ratio(len(sample), count_tokens(sample))

    def pieces(self) -> Iterator[_Piece]:
        joined: _Piece | None = None
        for section in self._sections():
            for piece in self._pieces_of(section):
                if joined is None:
                    joined = piece
                elif self._belong_together(joined, piece):
                    joined = _join(joined, piece)
                else:
                    yield from self._checked(joined)
                    joined = piece
        if joined is not None:
            yield from self._checked(joined)

    def _sections(self) -> Iterator[_Section]:
        if self.markdown:
            starts = [page.start for page in self._document.pages]
            for section in _under_headings(self._text, starts):
                yield from _on_pages(section, starts)
        elif self._document.pages:
            for index, page in enumerate(self._document.pages):
                yield _Section(page.start, page.start, page.end, page=index)
        else:
            yield _Section(0, 0, len(self._text))

    def _pieces_of(self, section: _Section) -> Iterator[_Piece]:
        start, end = self._trim(section.start, section.end)
        if start == end:
            return
        if end - start <= self._capacity(self._target):
            tokens = self._count(self._text[start:end])
            if tokens <= self._max:
                only_heading = section.body > start and not self._text[section.body : section.end].strip()
                yield _Piece(
                    start,
                    end,
                    tokens,
                    section,
                    section.headings,
                    only_heading=only_heading,
                )
                return
        if section.body > start:
            yield from self._with_heading(section)
        else:
            yield from self._pieces_in(start, end, section)

    def _with_heading(self, section: _Section) -> Iterator[_Piece]:
        """The heading goes with as much of what follows as fits."""
        start, end = self._trim(section.start, section.body)
        heading = _Piece(start, end, self._count(self._text[start:end]), section, section.headings)
        if heading.tokens > self._max // 2:
            yield from self._pieces_in(*self._trim(section.start, section.end), section)
            return
        pieces = self._pieces_in(*self._trim(section.body, section.end), section)
        first = next(pieces, None)
        if first is None:
            yield heading
            return
        room = self._max - heading.tokens
        parts = (
            iter([first]) if first.tokens <= room else self._pieces_in(first.start, first.end, section, room)
        )
        yield _join(heading, next(parts))
        yield from parts
        yield from pieces

    def _pieces_in(
        self, start: int, end: int, section: _Section, most: int | None = None
    ) -> Iterator[_Piece]:
        """Pieces of at most `most` tokens, each counted once and split again if it has more."""
        most = self._max if most is None else most
        for window_start, window_end in self._windows(start, end):
            characters = tokens = 0
            for piece in self._split(window_start, window_end, section, most, self._capacity(most)):
                characters, tokens = characters + piece.end - piece.start, tokens + piece.tokens
                yield piece
            if tokens > self._target:
                self._characters_a_token = _ratio(characters, tokens)

    def _split(self, start: int, end: int, section: _Section, most: int, capacity: int) -> Iterator[_Piece]:
        wanted = max(1, int(capacity * _TARGET_SHARE))
        kind = MarkdownSplitter if self.markdown else TextSplitter
        for offset, text in kind((wanted, capacity)).chunk_indices(self._unwrapped[start:end]):
            first, last = self._trim(start + offset, start + offset + len(text))
            if first == last:
                continue
            tokens = self._count(self._text[first:last])
            if tokens <= most or last - first == 1:
                yield _Piece(first, last, tokens, section, section.headings)
            else:
                smaller = min(capacity, last - first) * most * 0.9 / tokens
                yield from self._split(
                    first, last, section, most, max(1, min(int(smaller), last - first - 1))
                )

    def _windows(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        while end - start > _WINDOW:
            cut = start + _WINDOW
            for mark in _WINDOW_ENDS:
                found = self._text.rfind(mark, start + _WINDOW // 2, cut)
                if found != -1:
                    cut = found + len(mark)
                    break
            yield start, cut
            start = cut
        yield start, end

    def _capacity(self, tokens: int) -> int:
        return max(1, int(tokens * self._characters_a_token))

    def _trim(self, start: int, end: int) -> tuple[int, int]:
        text = self._text[start:end]
        stripped = text.lstrip()
        start += len(text) - len(stripped)
        return start, start + len(stripped.rstrip())

    def _belong_together(self, piece: _Piece, following: _Piece) -> bool:
        tokens = piece.tokens + following.tokens
        if tokens > self._max or following.start - piece.end > _LONGEST_GAP:
            return False
        if piece.section.page != following.section.page:
            # A passage has one page label, and what is quoted of it must stand on that page.
            return False
        if following.only_heading:
            return True
        if piece.section is following.section:
            return min(piece.tokens, following.tokens) < self._target * _SHORT
        related = bool(_shared(piece, following))
        return tokens <= self._target and piece.tokens < self._target * (
            _SHORT_SECTION if related else _SHORT
        )

    def _checked(self, piece: _Piece) -> Iterator[_Piece]:
        """The sum of two counts is close to the count of both, but only the count decides."""
        if piece.parts and self._count(self._text[piece.start : piece.end]) > self._max:
            yield from piece.parts
        else:
            yield piece


def _ratio(characters: int, tokens: int) -> float:
    return min(max(characters / max(1, tokens), _MIN_RATIO), _MAX_RATIO)


def _join(piece: _Piece, following: _Piece) -> _Piece:
    return _Piece(
        start=piece.start,
        end=following.end,
        tokens=piece.tokens + following.tokens,
        section=following.section,
        headings=_shared(piece, following),
        parts=(*(piece.parts or (piece,)), following),
    )


def _shared(piece: _Piece, following: _Piece) -> tuple[str, ...]:
    """What the paths have in common. What stands before the first heading goes under it."""
    if piece.section.body == piece.section.start:
        return following.headings
    same = takewhile(lambda pair: pair[0] == pair[1], zip(piece.headings, following.headings, strict=False))
    return tuple(heading for heading, _ in same)


def _under_headings(markdown: str, page_starts: list[int]) -> Iterator[_Section]:
    """What stands under each heading, from the heading on, and what stands before the first. A heading that nothing stands
    under is taken into the section after it, if no page starts there."""
    path: list[Heading] = []
    start, body = 0, len(front_matter(markdown))
    for heading in headings(markdown):
        turned = bisect_right(page_starts, heading.start) > bisect_right(page_starts, start)
        if (turned or not markdown[body : heading.start].isspace()) and heading.start > body:
            yield _Section(start, body, heading.start, tuple(outer.text for outer in path))
            start = heading.start
        path = [outer for outer in path if outer.level < heading.level] + [heading]
        body = heading.end
    yield _Section(start, body, len(markdown), tuple(outer.text for outer in path))


def _on_pages(section: _Section, page_starts: list[int]) -> Iterator[_Section]:
    """The section, cut where pages start in it."""
    first, last = bisect_right(page_starts, section.start), bisect_left(page_starts, section.end)
    start = section.start
    for page in range(first, last):
        end = page_starts[page]
        yield _Section(start, min(max(start, section.body), end), end, section.headings, page - 1)
        start = end
    yield _Section(start, max(start, section.body), section.end, section.headings, max(first, last) - 1)
