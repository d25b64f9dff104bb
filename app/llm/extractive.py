"""The built-in answerer: it quotes the sentences of the given passages that answer the question best. No key, no network, no language model."""

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from app import wording
from app.llm.protocols import Finish, Passage, Prompt, Usage

NOTHING_FOUND = "I found nothing about this in the documents that I can quote from."

_MAX_QUOTES = 3
# A further sentence is quoted only if it says nearly as much about the question as the best one.
_WORTH_QUOTING = 0.6
# Of the question's words, weighted by how rare they are: with less in common, a sentence is about something else.
_LEAST_COVERAGE = 0.3
# A passage this close to the question (cosine) is quoted from its beginning even without a word in common.
_CLOSE_IN_MEANING = 0.5
# A sentence that begins with what is asked about is likelier to be about it, and so is the first of a passage; a line of code is none.
_BEGINS_WITH_IT = 1.3
_BEGINS_PASSAGE = 1.2
_IS_CODE = 0.5
_LONGEST_QUOTE = 600
_WORDS_OF_A_TITLE = 2

_PIECE = re.compile(r"\s*\S+")
_FENCE = re.compile(r"```|~~~")
_NO_SENTENCE = re.compile(r"#+\s|\|?[\s:|-]+$")
# What a text calls its own references would be taken for marks of ours.
_REFERENCE = re.compile(r" ?\[\d{1,3}\]")
# Said of everything, so that they tell little of what is asked about; by their stems.
_VAGUE_STEMS = frozenset(
    "chang describ explain find giv happen know lik list look mak mean nam need show tell thing us want work".split()
)


class _Sentence(NamedTuple):
    text: str
    passage: Passage
    words: frozenset[str]
    is_code: bool
    is_first: bool


class ExtractiveModel:
    name = "extractive"
    provider = "built-in"
    can_write = False
    notice = "No language model is configured: this answer is quoted word for word from the sources."

    async def aclose(self) -> None:
        pass

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[str] | Finish]:
        words = 0
        for number, quote in enumerate(_best_sentences(prompt.question, prompt.passages)):
            pieces = _PIECE.findall(f"{chr(10) * 2 if number else ''}{quote.text} [{quote.passage.number}]")
            words += len(pieces)
            yield pieces
        if not words:
            pieces = _PIECE.findall(prompt.reply or NOTHING_FOUND)
            words = len(pieces)
            yield pieces
        read = len(prompt.question.split()) + sum(len(passage.text.split()) for passage in prompt.passages)
        yield Finish("stop", Usage(input_tokens=read, output_tokens=words))


def _best_sentences(question: str, passages: Sequence[Passage]) -> list[_Sentence]:
    sentences = [
        _Sentence(text, passage, wording.content_words(text), is_code, is_first=number == 0)
        for passage in passages
        for number, (text, is_code) in enumerate(_sentences(passage.text))
    ]
    asked = wording.content_words(question)
    known = Counter(word for sentence in sentences for word in sentence.words & asked)
    weights = {
        word: math.log(1 + len(sentences) / (known[word] + 0.5)) * (0.4 if word in _VAGUE_STEMS else 1)
        for word in asked
    }
    whole = sum(weights.values())

    def coverage(sentence: _Sentence) -> float:
        return sum(weights[word] for word in sentence.words & asked) / whole if whole else 0.0

    def worth(sentence: _Sentence) -> float:
        # Long sentences hold more words by chance: BM25's length normalisation, with b = 0.4 about 20 words.
        return (
            coverage(sentence)
            * (_BEGINS_WITH_IT if wording.first_content_word(sentence.text) in asked else 1)
            * (_BEGINS_PASSAGE if sentence.is_first else 1)
            * (_IS_CODE if sentence.is_code else 1)
            * (0.75 + 0.25 * sentence.passage.score)
            / (0.6 + 0.4 * max(len(sentence.words), 8) / 20)
        )

    def says_something(sentence: _Sentence) -> bool:
        # A title that only repeats what is asked about answers nothing.
        return len(sentence.words) > _WORDS_OF_A_TITLE or not sentence.words <= asked

    ranked = sorted(
        (s for s in sentences if coverage(s) >= _LEAST_COVERAGE and says_something(s)),
        key=worth,
        reverse=True,
    )
    chosen: list[_Sentence] = []
    for sentence in ranked:
        if worth(sentence) < _WORTH_QUOTING * worth(ranked[0]) or len(chosen) == _MAX_QUOTES:
            break
        # Overlapping passages hold the same sentence twice, perhaps cut at their edge.
        if not any(sentence.text in other.text or other.text in sentence.text for other in chosen):
            chosen.append(sentence)
    if not chosen and passages:
        closest = max(passages, key=lambda passage: passage.score)
        if closest.score >= _CLOSE_IN_MEANING:
            chosen = [s for s in sentences if s.passage is closest and not s.is_code and says_something(s)][
                :2
            ]
    return chosen


def _sentences(text: str) -> list[tuple[str, bool]]:
    """Each as it stands in the text, but for white space and the marks around it, and whether it is a line of code."""
    found: list[tuple[str, bool]] = []
    prose: list[str] = []
    in_code = False
    for line in text.splitlines():
        bare = line.strip()
        if _FENCE.match(bare):
            in_code = not in_code
            found += _of_prose(prose)
            prose = []
        elif in_code:
            found.append((" ".join(bare.split()), True))
        else:
            # An empty line ends what is above it, as a heading does.
            prose.append("" if _NO_SENTENCE.match(bare) else line)
    found += _of_prose(prose)
    return [(_shortened(text), is_code) for text, is_code in found if len(text) > 1]


def _of_prose(lines: list[str]) -> list[tuple[str, bool]]:
    text = "\n".join(lines)
    found = (text[start:end].strip("| ").replace("**", "") for start, end in wording.sentences(text))
    return [(" ".join(_REFERENCE.sub("", sentence).split()), False) for sentence in found]


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_QUOTE:
        return text
    cut = text[:_LONGEST_QUOTE]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut else cut} …"
