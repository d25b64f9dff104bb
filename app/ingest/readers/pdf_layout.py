"""Where the text of a page of a PDF stands: its lines in the order in which they were drawn, and the boxes of their words."""

import ctypes
import re
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import NamedTuple, Protocol, cast

import pypdfium2.raw as pdfium

# Beyond these a page is taken as it was drawn, so that what one costs stays bounded.
_MOST_CHARACTERS = 100_000
_MOST_WORDS = 20_000
# One in so many lines is measured to see whether a page has columns, and each that ends in numbers; of the last ones
# before it, so many must agree with one.
_SAMPLED = 2
_AGREEING = 2
_COMPARED = 4
_ENDS_IN_NUMBERS = re.compile(r"\S\s+[-(+$€£]?\d[\d.,]*[%)]?\s+[-(+$€£]?\d[\d.,]*[%)]?\S{0,2}\s*$")
# PDFium puts this character in place of a hyphen at the end of a line, and leaves the line end out.
HYPHEN = "\ufffe"
_PARTS = re.compile(f"[^{HYPHEN}]*{HYPHEN}|[^{HYPHEN}]+")
_WORD = re.compile(r"\S+")
# With a character on each side.
_BLANK = re.compile(r"\S\s+\S")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# In heights of a line: a blank is a quarter of one.
_WIDE_GAP = 1.0
# They stand apart from their numbers where these are aligned to the right.
_CURRENCIES = frozenset("$€£¥(")
_SLOPE = 0.2


class _Rect(Protocol):
    left: float
    right: float
    bottom: float
    top: float


class Pdfium(Protocol):
    """What is used of `pypdfium2.raw`, which is typed in part. Pages, text pages and objects are handles."""

    FS_RECTF: type[ctypes.Structure]
    FS_MATRIX: type[ctypes.Structure]

    FPDFText_CountChars: Callable[[object], int]
    FPDFText_GetCharIndexFromTextIndex: Callable[[object, int], int]
    FPDFText_GetLooseCharBox: Callable[[object, int, object], int]
    FPDFText_GetFontInfo: Callable[[object, int, object, int, None], int]
    FPDFText_GetFillColor: Callable[[object, int, object, object, object, object], int]
    FPDF_GetPageBoundingBox: Callable[[object, object], int]
    FPDFPage_CountObjects: Callable[[object], int]
    FPDFPage_GetObject: Callable[[object, int], object]
    FPDFPageObj_GetType: Callable[[object], int]
    FPDFPageObj_GetMatrix: Callable[[object, object], int]
    FPDFPath_CountSegments: Callable[[object], int]
    FPDFPath_GetPathSegment: Callable[[object, int], object]
    FPDFPathSegment_GetPoint: Callable[[object, object, object], int]
    FPDFPathSegment_GetType: Callable[[object], int]


raw = cast("Pdfium", pdfium)


class Box(NamedTuple):
    """In points, from the lower left corner of the page."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @property
    def across(self) -> float:
        return (self.left + self.right) / 2

    @property
    def middle(self) -> float:
        return (self.bottom + self.top) / 2


class Span(NamedTuple):
    """Words of a line that stand together. `start` is where they start in the text of the page, and `line` counts the
    lines as they were drawn."""

    text: str
    start: int
    line: int
    box: Box


class Sheet:
    """The lines of a page as they were drawn, and where they stand."""

    def __init__(self, page: object, text_page: object, text: str) -> None:
        self.page = page
        self._text_page = text_page
        rect = raw.FS_RECTF()
        self._rect = cast("_Rect", rect)
        self._reference = ctypes.byref(rect)
        self._shifted = raw.FPDFText_CountChars(text_page) != len(text)
        self.lines: list[str] = []
        self._starts: list[int] = []
        position = 0
        for line in text.split("\r\n"):
            for part in _PARTS.findall(line) or [""]:
                self.lines.append(part)
                self._starts.append(position)
                position += len(part)
            position += 2
        # Above the first plane of Unicode, a character is two in PDFium's count.
        self.measurable = len(text) <= _MOST_CHARACTERS and max(text, default="") <= "\uffff"

    def bounds(self) -> Box:
        raw.FPDF_GetPageBoundingBox(self.page, self._reference)
        return Box(self._rect.left, self._rect.bottom, self._rect.right, self._rect.top)

    def line_box(self, line: int) -> Box | None:
        """Of the first and last character of a line that is not blank; None where it does not run from left to right."""
        text = self.lines[line]
        start = self._starts[line]
        first = self._character(start + len(text) - len(text.lstrip()))
        last = self._character(start + len(text.rstrip()) - 1)
        rise = abs(first.bottom - last.bottom)
        sloping = rise > first.height * 0.6 and rise > _SLOPE * abs(last.right - first.left)
        return None if sloping or last.right <= first.left else _around((first, last))

    def words(self, line: int) -> list[Span]:
        words: list[Span] = []
        at = self._starts[line]
        for word in _WORD.finditer(self.lines[line]):
            start, end = word.span()
            left, bottom, right, top = first = self._character(at + start)
            if end - start > 1:
                _, low, right, high = self._character(at + end - 1)
                first = Box(left, min(bottom, low), right, max(top, high))
            words.append(Span(word[0], at + start, line, first))
        return words

    def looks_divided(self, but: Container[int]) -> bool:
        """Whether lines of those that are measured have wide gaps at the same place. `but` are lines not to ask."""
        before: deque[list[tuple[float, float]]] = deque(maxlen=_COMPARED)
        for line, text in enumerate(self.lines):
            in_numbers = _ENDS_IN_NUMBERS.search(text)
            if line in but or (line % _SAMPLED and not in_numbers):
                continue
            of_line = self._gaps(line)
            agreeing = sum(
                any(left < end and start < right for left, right in of_line for start, end in gaps)
                for gaps in before
            )
            if agreeing >= (1 if in_numbers else _AGREEING):
                return True
            before.append(of_line)
        return False

    def _gaps(self, line: int) -> list[tuple[float, float]]:
        """From where to where the wide gaps of a line go."""
        gaps: list[tuple[float, float]] = []
        at, rect = self._starts[line], self._rect
        for blank in _BLANK.finditer(self.lines[line]):
            self._measure(at + blank.start())
            right, height = rect.right, rect.top - rect.bottom
            self._measure(at + blank.end() - 1)
            if rect.left - right > _WIDE_GAP * height:
                gaps.append((right, rect.left))
        return gaps

    def all_words(self, within: Sequence[tuple[float, float]] | None) -> list[Span] | None:
        """Of the lines that are level, those outside of all these heights as if each was one word. None where text runs
        from right to left, or there are too many."""
        words: list[Span] = []
        for line, text in enumerate(self.lines):
            if _RIGHT_TO_LEFT.search(text):
                return None
            box = self.line_box(line) if text.strip() else None
            if box is None:
                continue
            if within is None or any(low <= box.top and box.bottom <= high for low, high in within):
                words += self.words(line)
            else:
                words.append(Span(text.strip(), self._starts[line], line, box))
            if len(words) > _MOST_WORDS:
                return None
        return words

    def style(self, start: int) -> tuple[bytes, tuple[int, ...]]:
        """The font and the colour of a character."""
        index = self._index(start)
        name = ctypes.create_string_buffer(64)
        raw.FPDFText_GetFontInfo(self._text_page, index, name, len(name), None)
        red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
        parts = [ctypes.byref(part) for part in (red, green, blue, alpha)]
        raw.FPDFText_GetFillColor(self._text_page, index, *parts)
        return name.value, (red.value, green.value, blue.value, alpha.value)

    def _character(self, start: int) -> Box:
        self._measure(start)
        rect = self._rect
        return Box(rect.left, rect.bottom, rect.right, rect.top)

    def _measure(self, start: int) -> None:
        raw.FPDFText_GetLooseCharBox(self._text_page, self._index(start), self._reference)

    def _index(self, start: int) -> int:
        return raw.FPDFText_GetCharIndexFromTextIndex(self._text_page, start) if self._shifted else start


def spans(words: Sequence[Span]) -> list[Span]:
    """The words of a line, joined where no more than a blank is between them."""
    joined: list[list[Span]] = []
    right = 0.0
    for word in words:
        left, bottom, end, top = word.box
        height = top - bottom
        if joined and (-height < left - right <= _WIDE_GAP * height or joined[-1][-1].text in _CURRENCIES):
            joined[-1].append(word)
        else:
            joined.append([word])
        right = end
    return [join(parts) for parts in joined]


def text_of(parts: Iterable[Span]) -> str:
    """In the order given."""
    return " ".join(part.text for part in parts).replace(f"{HYPHEN} ", HYPHEN)


def join(parts: Sequence[Span]) -> Span:
    if len(parts) == 1:
        return parts[0]
    return Span(text_of(parts), parts[0].start, parts[0].line, _around([part.box for part in parts]))


def _around(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.left for box in boxes),
        min(box.bottom for box in boxes),
        max(box.right for box in boxes),
        max(box.top for box in boxes),
    )
