"""The `[n]` marks of an answer, resolved while it is being made: those of sources that it was given become citations, the others
never reach a reader."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app import wording
from app.events import Citation, Source, Tokens
from app.rag.quotes import Quotable

# What models make of `[n]`: [1], [1, 2], [1-3], [^1], [Source 1], 【1】, 【1†title】. Four digits are a year, and stay as they are.
_MARK = re.compile(
    r"(?<! )(?P<blanks> *)(?<!\\)(?:"
    r"\[\^?(?:sources? ?:? ?)?#?(?P<numbers>\d{1,3}(?: ?[,;–-] ?\d{1,3})*)\]|【(?P<only>\d{1,3})(?:[†:][^】\n]{0,80})?】"
    r")",
    re.IGNORECASE,
)
# A text that ends so may go on as a mark, or as more backticks.
_BEGINS_A_MARK = re.compile(
    r"(?: +|`+| *\[\^?[a-z]{0,7} ?:? ?#?[\d ,;–-]{0,40}| *【\d{0,3}(?:[†:][^】\n]{0,80})?)$", re.IGNORECASE
)
_OPENS = re.compile(r"[\[【`\0]")
_TICKS = re.compile(r"`+|\n")
_SENTENCE_ENDS = re.compile(r"[.!?](?=\s)|[。！？\n]")
_LONGEST_MARK = 130
_LONGEST_CLAIM = 1_000
# Each costs some milliseconds: a model that repeats itself must not keep the others waiting.
_MOST_CITATIONS = 500
# A range of more sources than this is no range of sources.
_WIDEST_RANGE = 50
# A sentence is sought in so much of the text before its mark.
_LOOK_BACK = 1_500
# Before a mark, fewer content words make no claim: "according to [1]", where the claim is what follows.
_LEAST_CLAIM = 2


@dataclass(frozen=True, slots=True)
class _Mark:
    """One number of a mark that was kept, at `start` to `end` of the answer."""

    number: int
    start: int
    end: int


class CitedAnswer:
    """What a model says, as it is sent on: `Tokens`, and a `Citation` behind the claim that each mark is for."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """`sources` are those that the model was given; the ids are the numbers of their marks."""
        self._sources = {int(source.id): source for source in sources}
        self._quotable: dict[int, Quotable] = {}
        self._latest: list[str] = []
        self._held = ""
        self._ticks = self._count = 0
        self._waiting: list[_Mark] = []
        # Where the last mark's claim begins, and where that mark ends.
        self._last_claim = self._last_end = 0

    def read(self, pieces: list[str]) -> Iterator[Tokens | Citation]:
        """The pieces that came together; what may yet become a mark is held back."""
        said = pieces[0] if len(pieces) == 1 else "".join(pieces)
        if not self._held and not said.endswith(" ") and not self._is_noteworthy(said):
            self._latest.append(said)
            yield Tokens(contents=pieces)
        else:
            for piece in pieces:
                yield from self._read_one(piece)

    def _is_noteworthy(self, said: str) -> bool:
        return bool(self._ticks or self._waiting or _OPENS.search(said))

    def _read_one(self, said: str) -> Iterator[Tokens | Citation]:
        text = self._held + said
        if self._held.strip(" ") or self._is_noteworthy(said) or len(text) > _LONGEST_MARK:
            yield from self._read_closely(text)
        else:
            plain = text.rstrip(" ")
            self._held = text[len(plain) :]
            yield from self._say(plain)

    def end(self) -> Iterator[Tokens | Citation]:
        """The model has said all."""
        rest, self._held = self._held, ""
        yield from self._resolve(rest)
        yield from self._cite_waiting(len(self._text))

    def _read_closely(self, text: str) -> Iterator[Tokens | Citation]:
        text = text.replace("\0", "")
        held = _BEGINS_A_MARK.search(text, max(0, len(text) - _LONGEST_MARK))
        cut = held.start() if held is not None else len(text)
        self._held = text[cut:]
        yield from self._resolve(text[:cut])

    @property
    def _text(self) -> str:
        """All that was sent. Joined when it is looked at: each time would cost more than all the rest."""
        if len(self._latest) > 1:
            self._latest = ["".join(self._latest)]
        return self._latest[0] if self._latest else ""

    def _resolve(self, text: str) -> Iterator[Tokens | Citation]:
        position = 0
        for mark in _MARK.finditer(text):
            before = text[position : mark.start()]
            self._see_code(before)
            position = mark.end()
            numbers = None if self._ticks or (before or self._text).endswith("\\") else _numbers(mark)
            if numbers is None:
                yield from self._say(before + mark[0])
                continue
            room = _MOST_CITATIONS - self._count
            kept = [number for number in numbers if number in self._sources][:room]
            self._count += len(kept)
            before += mark["blanks"] if kept else ""
            for number in kept:
                yield from self._say(f"{before}[{number}]")
                yield from self._cited(number)
                before = ""
            yield from self._say(before)
        self._see_code(text[position:])
        yield from self._say(text[position:])

    def _see_code(self, text: str) -> None:
        """In code, brackets are no marks. What is opened by backticks is closed by as many; within a line unless they are three."""
        for run in _TICKS.findall(text):
            if run == "\n":
                self._ticks = self._ticks if self._ticks >= 3 else 0
            elif not self._ticks:
                self._ticks = len(run)
            elif self._ticks == len(run):
                self._ticks = 0

    def _say(self, text: str) -> Iterator[Tokens | Citation]:
        if not text:
            return
        self._latest.append(text)
        yield Tokens(contents=[text])
        while self._waiting and (end := _SENTENCE_ENDS.search(self._text, self._waiting[0].end)):
            yield from self._cite_waiting(end.end())

    def _cited(self, number: int) -> Iterator[Citation]:
        end = len(self._text)
        mark = _Mark(number, end - len(f"[{number}]"), end)
        start = self._claim_before(mark.start)
        if start is None:
            self._waiting.append(mark)
        else:
            self._last_claim, self._last_end = start, end
            yield self._citation(mark, start, end)

    def _claim_before(self, position: int) -> int | None:
        """Where the claim begins that ends before this position; None if there is none."""
        if self._last_end and not self._text[self._last_end : position].strip(" .,;:!?"):
            return self._last_claim
        offset = max(0, position - _LOOK_BACK)
        spans = wording.sentences(self._text[offset:position])
        if not spans or "\n" in self._text[offset + spans[-1].end : position]:
            return None
        start = offset + spans[-1].start
        # Of "this [1] and that [2]" the second mark is for what follows the first, if that says enough.
        after = max(start, self._last_end)
        for begin in (after, start):
            if _says_enough(self._text[begin:position]):
                return begin + len(self._text[begin:position]) - len(self._text[begin:position].lstrip(" ,;"))
        return None

    def _cite_waiting(self, end: int) -> Iterator[Citation]:
        """The marks within the sentence that ends here, whose claim is around them."""
        while self._waiting and self._waiting[0].end <= end:
            mark = self._waiting.pop(0)
            offset = max(0, mark.start - _LOOK_BACK)
            spans = wording.sentences(self._text[offset : min(end, mark.end + _LONGEST_CLAIM)])
            start = max(
                (offset + span.start for span in spans if offset + span.start <= mark.start),
                default=mark.start,
            )
            yield self._citation(mark, start, end)

    def _citation(self, mark: _Mark, start: int, end: int) -> Citation:
        end = start + len(self._text[start:end].rstrip())
        claim = without_marks(self._text[start : min(end, start + _LONGEST_CLAIM)])
        source = self._sources[mark.number]
        if mark.number not in self._quotable:
            about = f"{source.name}\n{source.metadata.get('heading', '')}"
            self._quotable[mark.number] = Quotable(source.text, about)
        quote = self._quotable[mark.number].quote(claim)
        offset = source.metadata["start"]
        return Citation(
            index=mark.number,
            source_id=source.id,
            start=start,
            end=end,
            quote=source.text[quote.start : quote.end],
            quote_start=quote.start,
            quote_end=quote.end,
            verified=quote.verified,
            document_id=source.metadata["document_id"],
            document_start=offset + quote.start,
            document_end=offset + quote.end,
            page_label=source.metadata.get("page_label"),
        )


def without_marks(text: str) -> str:
    """For a reader who was given other sources, or none."""
    return _MARK.sub("", text)


def _says_enough(text: str) -> bool:
    return len(wording.content_words(without_marks(text))) >= _LEAST_CLAIM


def _numbers(mark: re.Match[str]) -> list[int] | None:
    """The sources that it names, each once; None if it is none, as in the interval [0, 1]."""
    if mark["only"] is not None:
        return [int(mark["only"])]
    parts = re.split(r" ?([,;–-]) ?", mark["numbers"])
    found: list[int] = []
    for place in range(0, len(parts), 2):
        number = int(parts[place])
        if place and parts[place - 1] in "–-":
            if not 0 < number - found[-1] <= _WIDEST_RANGE:
                return None
            found += range(found[-1] + 1, number + 1)
        else:
            found.append(number)
    if 0 in found and len(found) > 1:
        return None
    return list(dict.fromkeys(found))
