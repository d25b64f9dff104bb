"""Whether what was found can answer the question: a probability, from what the search tells by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from app.db.assistants import Answerability
from app.rag import languages
from app.rag.retrieval import Hit, Matches

# What is less probable is taken for no answer. On the half of the questions that both were fitted on, this costs 1 and 5 % of
# those that the documents answer.
_LEAST: Mapping[Answerability, float] = {"off": 0.0, "normal": 0.18, "strict": 0.34}


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weights of a logistic function: by itself, of the highest cosine, and of how much of the question's words stands in
    one passage."""

    base: float
    by_similarity: float
    by_coverage: float


# By the name of the embedder, as each spreads its cosines differently. docs/retrieval.md says how they were fitted.
CALIBRATIONS: Mapping[str, Calibration] = {"all-MiniLM-L6-v2": Calibration(-6.2, 8.9, 5.6)}


@dataclass(frozen=True, slots=True)
class Judgement:
    answerable: bool
    confidence: float


def judge(
    calibration: Calibration | None,
    strictness: Answerability,
    question: str,
    hits: Sequence[Hit],
    by_words: Matches | None,
) -> Judgement | None:
    """None where it is not asked for, or cannot be told: of an embedder without a calibration."""
    if calibration is None or strictness == "off" or by_words is None:
        return None
    similarity = max((hit.similarity for hit in hits), default=0.0)
    probability = 1 / (
        1
        + exp(
            -calibration.base
            - calibration.by_similarity * similarity
            - calibration.by_coverage * _coverage(question, hits, by_words)
        )
    )
    return Judgement(bool(hits) and probability >= _LEAST[strictness], round(probability, 3))


def _coverage(question: str, hits: Sequence[Hit], by_words: Matches) -> float:
    """The best score by words as a share of the highest that there could be; words that no document holds count as much as the
    others do on average."""
    most = max((sum(term.weight for term in lookup.terms) for lookup in by_words.lookups), default=0.0)
    if not most:
        return 0.0
    best = max((hit.words_score or 0.0 for hit in hits), default=0.0)
    known = max(len(lookup.terms) for lookup in by_words.lookups)
    language = languages.of(question)
    asked = len(language.content(question)) if language is not None else known
    return best / most * min(1.0, known / asked if asked else 1.0)
