"""What a text says, as far as that can be told without a model: its sentences, its content words and its numbers."""

import re
from functools import lru_cache
from typing import NamedTuple

_LONGEST_SENTENCE = 600

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)\]]))\s+(?=[^\sa-z])|(?<=[。！？])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|z\. ?B|d\. ?h|vs|cf|ca|approx|Dr|Prof|Mr|Mrs|Nr|No|bzw|usw)|(?<![\w-])[A-Z])\.$"
)
# A line that begins so is not the rest of the sentence above it.
_BEGINS_ANEW = re.compile(r"\s*(?:[-*+•|>#]|\[\^?\d+\]|\d+[.)]\s|```|~~~)")
# A line that is no part of a sentence above or below it.
_STANDS_ALONE = re.compile(r"\s*(?:#+\s|```|~~~)")
_LIST_MARK = re.compile(r"\s*(?:(?:[-*+•]|\d+[.)])\s+|>\s+|#+\s+)+")
_NUMBER = re.compile(r"\d+(?:[.,'’\u00a0\u202f]\d+)*")
_THOUSANDS = re.compile(r"\d{1,3}(?:([.,'’\u00a0\u202f])\d{3})(?:\1\d{3})*")
_STOP_WORDS = frozenset(
    "a about an and any are as at be been but by can could did do does for from get had has have how i if in into is it its may me my of on or"
    " our shall should so than that the their them then there these they this those to was we were what when where which while who whom whose"
    " why will with would you your"
    " aber als am auch auf aus bei bin das dass dem den der des die du ein eine einem einen einer er es gibt hat ich ihr im ist kann man mein mit"
    " nach nicht oder sich sie sind so und uns vom von vor wann warum was welche welcher welches wem wen wenn wer werden wie wieso wird wir wo zu zum zur".split()
)
_ENDINGS = ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly")
_NUMBER_WORDS = {
    word: str(number)
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve",
        "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    )
    for number, word in enumerate(words.split())
}
# "one" and "two" are said of more than of numbers; "ten" and "dozens" of less.
_SAID_OF_MORE = frozenset({"one", "eins", "null", "zero"})


class Span(NamedTuple):
    """The characters `start` to `end` of a text."""

    start: int
    end: int


def sentences(text: str) -> list[Span]:
    """In order, without blanks around them and marks of lists before them. Lines of one paragraph belong together; what is longer than a
    sentence is ends where a line does, or after 600 characters."""
    spans: list[Span] = []
    for start, end in _paragraphs(text):
        for first, last in _sentences_of(text[start:end]):
            spans += _not_too_long(text, Span(start + first, start + last))
    return spans


def content_words(text: str) -> frozenset[str]:
    """What is left of its words without those that any text has, by their stems; pairs of characters in scripts without spaces."""
    words: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        if word.isascii():
            if word not in _STOP_WORDS:
                words.add(stem(word))
        elif ord(word[0]) >= 0x2E80 and len(word) > 1:
            # Scripts without spaces: pairs of characters stand for words.
            words.update(word[i : i + 2] for i in range(len(word) - 1))
        else:
            words.add(word)
    return frozenset(words)


def first_content_word(text: str) -> str | None:
    for word in _WORD.findall(text[:80].casefold())[:3]:
        if found := content_words(word):
            return next(iter(found))
    return None


def numbers(text: str, *, spelled: bool = False) -> frozenset[str]:
    """Each in one form, however its thousands and decimals are written: 1,000 and 1.000 are 1000; 4.50 and 4,5 are 4.5. `spelled`: also
    those that are spelled out, in English and German."""
    found = {_plain(number) for number in _NUMBER.findall(text)}
    if spelled:
        words = _WORD.findall(text.casefold())
        found |= {
            _NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS and word not in _SAID_OF_MORE
        }
    return frozenset(found)


def _plain(number: str) -> str:
    if _THOUSANDS.fullmatch(number):
        return re.sub(r"\D", "", number).lstrip("0") or "0"
    whole, mark, rest = number.replace("’", "'").replace("'", "").replace(",", ".").rpartition(".")
    if not mark:
        return rest.lstrip("0") or "0"
    if "." in whole:
        # Thousands and decimals together (1,234.50), or the parts of a version or date: one form in either case.
        parts = whole.split(".")
        whole = "".join(parts) if all(len(part) == 3 for part in parts[1:]) else whole
    decimals = rest.rstrip("0")
    return f"{whole.lstrip('0') or '0'}.{decimals}" if decimals else whole.lstrip("0") or "0"


def _paragraphs(text: str) -> list[Span]:
    """Lines that follow each other, up to an empty one, or one that begins something new."""
    spans: list[Span] = []
    start: int | None = None
    end = position = 0
    for line in text.splitlines(keepends=True):
        if start is not None and (not line.strip() or _BEGINS_ANEW.match(line)):
            spans.append(Span(start, end))
            start = None
        if line.strip():
            if start is None:
                mark = _LIST_MARK.match(line)
                start = position + (mark.end() if mark is not None else 0)
            end = position + len(line.rstrip())
            if _STANDS_ALONE.match(line):
                spans.append(Span(start, end))
                start = None
        position += len(line)
    if start is not None:
        spans.append(Span(start, end))
    return [span for span in spans if span.start < span.end and _WORD.search(text, *span)]


def _sentences_of(paragraph: str) -> list[Span]:
    spans: list[Span] = []
    start = 0
    for gap in _SENTENCE_END.finditer(paragraph):
        before = paragraph[max(start, gap.start() - 8) : gap.start()]
        if gap.start() - start < _LONGEST_SENTENCE and _ABBREVIATION.search(before):
            continue
        spans.append(Span(start, gap.start()))
        start = gap.end()
    spans.append(Span(start, len(paragraph)))
    return [span for span in spans if paragraph[span.start : span.end].strip()]


def _not_too_long(text: str, span: Span) -> list[Span]:
    """Where nothing ends for long, as in code, lines are taken for sentences, and then words."""
    parts: list[Span] = []
    start, end = span
    while end - start > _LONGEST_SENTENCE:
        limit = start + _LONGEST_SENTENCE
        cut = max(text.find("\n", start, limit), text.rfind(" ", start, limit))
        if cut <= start:
            cut = limit
        parts.append(Span(start, cut))
        while cut < end and text[cut].isspace():
            cut += 1
        start = cut
    if start < end:
        parts.append(Span(start, end))
    return parts


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """Enough to let "streams", "streamed" and "streaming" meet."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word
