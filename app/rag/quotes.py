"""Where a source says what a claim says: the sentences of it that can be quoted, and whether they bear the claim out.

Without a model: a quote bears a claim out if it has half of the claim's content words, all of its numbers beside the same words, denies
what the claim denies, and differs from it by more than one word put in another's place; names may stand anywhere in the source. The
thresholds were chosen on every other source of bench/citation_cases.jsonl; docs/retrieval.md has the measure of the rest.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

from app import wording
from app.wording import Span

_LEAST_COVERAGE = 0.5
# A quote of more sentences must have this much more of the claim's words for each of them.
_WORTH_OF_A_SENTENCE = 0.12
# Between quotes with as many of its words, the one with the claim's numbers is meant.
_WORTH_OF_NUMBERS = 0.05
_MOST_SENTENCES = 3
_LONGEST_QUOTE = 600
# A clause is about the same if it has this share of what the best one has: where a number must stand, and where a denial.
_NEAR = 0.5
_NEAREST = 0.99
# Longer words are the same if they begin with the same letters, as what follows is inflection in most European languages.
_PREFIX = 5
_SAME_WORD = 4

# Capitals within a sentence, what has digits and letters, options, and what is marked as code.
_NAME = re.compile(
    r"(?<![.!?:»„“\"'(]\s)(?<!^)(?<!^\W)\b[A-Z][\w-]*|\b\w*\d\w*[^\W\d_]\w*|\b[A-Z]{2,}\w*|`[^`]+`|--[\w-]+"
)
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nor|neither|without|cannot|\w+n['’]t|nicht|nie|niemals|ohne|kein\w*|ne|n['’]|pas|jamais|sans|sin|nunca)\b"
    "|不|没|未|ません|ない",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[,;:，；、]\s|\n|(?<=[.!?])\s|(?<=。)"
    r"|(?<!\d)\s(?=(?:and|but|while|whereas|because|und|aber|während|et|mais|y|pero)\s)"
)
_WORD = re.compile(r"[^\W_]+")
# Whether a claim denies is told by itself, and these say little else.
_EMPTY = frozenset(
    "not no never none nor neither without cannot can don doesn nicht nie niemals ohne kein keine keinen pas jamais sans sin nunca"
    " each every per must also jede jeder jedes muss chaque".split()
)


@dataclass(frozen=True, slots=True)
class Quote:
    """The characters `start` to `end` of a source's text. `verified`: they bear the claim out."""

    start: int
    end: int
    verified: bool


class _Said:
    """The content words and numbers of a stretch of text."""

    __slots__ = ("_beginnings", "numbers", "words")

    def __init__(self, text: str) -> None:
        self.words = frozenset(
            word for word in wording.content_words(text) if not word.isdecimal() and word not in _EMPTY
        )
        self.numbers = wording.numbers(text, spelled=True)
        self._beginnings = frozenset(word[:_PREFIX] for word in self.words if len(word) >= _PREFIX)

    def share_of(self, asked: "_Said") -> float:
        """How many of the words that were asked for are here, in [0, 1]."""
        return sum(map(self._has, asked.words)) / len(asked.words) if asked.words else 0.0

    def _has(self, word: str) -> bool:
        return word in self.words or (len(word) > _PREFIX and word[:_PREFIX] in self._beginnings)


class Quotable:
    """A source, read for its sentences when it is first cited. `about` is what is known of it besides its text, such as its title."""

    def __init__(self, text: str, about: str) -> None:
        self._text = text
        self._known = f"{about}\n{text}".casefold()

    @cached_property
    def _stretches(self) -> list[tuple[Span, int, _Said]]:
        """One to three sentences each, and how many they are."""
        spans = wording.sentences(self._text)
        return [
            (span, length, _Said(self._text[span.start : span.end]))
            for first in range(len(spans))
            for length in range(1, min(_MOST_SENTENCES, len(spans) - first) + 1)
            if (span := Span(spans[first].start, spans[first + length - 1].end))
            and (length == 1 or span.end - span.start <= _LONGEST_QUOTE)
        ]

    def quote(self, claim: str) -> Quote:
        """The sentences that say most of what the claim says, the first ones if none says any of it."""
        asked = _Said(claim)
        best: tuple[float, Span, _Said] | None = None
        for span, length, said in self._stretches:
            numbers = len(asked.numbers & said.numbers) / len(asked.numbers) if asked.numbers else 0.0
            worth = said.share_of(asked) + _WORTH_OF_NUMBERS * numbers - _WORTH_OF_A_SENTENCE * (length - 1)
            if best is None or worth > best[0]:
                best = worth, span, said
        if best is None:
            return Quote(0, 0, verified=False)
        _, (start, end), said = best
        return Quote(start, end, verified=self._bears_out(claim, asked, self._text[start:end], said))

    def _bears_out(self, claim: str, asked: _Said, quote: str, said: _Said) -> bool:
        if not asked.words:
            return bool(asked.numbers) and asked.numbers <= said.numbers
        if _is_verbatim(claim, quote):
            return True
        return (
            said.share_of(asked) >= _LEAST_COVERAGE
            and asked.numbers <= said.numbers
            and all(name.strip("`").casefold() in self._known for name in _names(claim))
            and _clauses_agree(claim, quote)
            and not _has_one_word_for_another(claim, quote)
        )


def _is_verbatim(claim: str, quote: str) -> bool:
    """Whether its words stand in the quote one after the other, and none before them that denies them."""
    ours, theirs = (f" {' '.join(_WORD.findall(text.casefold()))} " for text in (claim, quote))
    return ours in theirs and _denies(claim) == _denies(quote)


def _names(claim: str) -> Iterator[str]:
    # In German a word that is polite has a capital too.
    return (name for name in _NAME.findall(claim) if wording.content_words(name))


def _clauses_agree(claim: str, quote: str) -> bool:
    """Numbers and denials belong to the words that they stand beside."""
    quoted = [(clause, _Said(clause)) for clause in _clauses(quote)]
    for part in _clauses(claim):
        asked = _Said(part)
        shares = [said.share_of(asked) for _, said in quoted]
        most = max(shares, default=0.0)
        if most == 0.0:
            continue
        near = {
            n
            for (_, said), share in zip(quoted, shares, strict=True)
            if share >= _NEAR * most
            for n in said.numbers
        }
        nearest = [
            clause for (clause, _), share in zip(quoted, shares, strict=True) if share >= _NEAREST * most
        ]
        if not asked.numbers <= near or any(_denies(clause) != _denies(part) for clause in nearest):
            return False
    return True


def _clauses(text: str) -> list[str]:
    return [clause for clause in _CLAUSE_END.split(text) if clause.strip()]


def _denies(text: str) -> bool:
    return _NEGATION.search(text) is not None


def _has_one_word_for_another(claim: str, quote: str) -> bool:
    """Whether they run alike around one word that is another: "each address may …" of "each key may …"."""
    ours, theirs = (_WORD.findall(text.casefold()) for text in (claim, quote))
    for kind, begin, end, other_begin, other_end in SequenceMatcher(
        None, ours, theirs, autojunk=False
    ).get_opcodes():
        if kind != "replace" or (end - begin, other_end - other_begin) != (1, 1):
            continue
        word, other = ours[begin], theirs[other_begin]
        is_within = (begin > 0 or other_begin == 0) and end < len(ours)
        if is_within and word[:_SAME_WORD] != other[:_SAME_WORD] and _Said(word).words and _Said(other).words:
            return True
    return False
