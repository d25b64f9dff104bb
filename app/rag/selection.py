"""Which of the passages that were found are given to the model: none twice, and not too many of one document."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np

from app.llm.protocols import Vector
from app.rag.retrieval import Hit

# Of those that are found, some may say the same or be of one document: so many times `top_k` leave enough.
_OVER = 2

_WORD = re.compile(r"\w+")
# So many words in a row are a shingle; passages that share this share of the shorter one's say the same.
_SHINGLE = 4
_SAME = 0.9


@dataclass(frozen=True, slots=True)
class Selection:
    """How passages are chosen of those that were found, of which the first `candidates` are reranked, or of twice as many as are wanted where nothing is. No more
    than `most_of_document` are of one document; each is widened to `neighbour_characters`, unless they are 0."""

    candidates: int = 30
    most_of_document: int | None = None
    neighbour_characters: int = 0

    def looked_at(self, top_k: int, *, reranked: bool) -> int:
        return max(_OVER * top_k, self.candidates if reranked else 0)


def reranked(hits: Sequence[Hit], scores: Vector, *, weight: float = 1) -> list[Hit]:
    """By the scores, those of equal score as they were, and behind them the hits for which there is no score.

    With a `weight` below 1 the scores count so much and the search's the rest, both stretched to [0, 1].
    """
    scored = hits[: len(scores)]
    mixed = scores
    if weight < 1:
        of_search = np.array([hit.score for hit in scored], np.float32)
        mixed = np.float32(weight) * _stretched(scores) + np.float32(1 - weight) * _stretched(of_search)
    order = np.argsort(-mixed, kind="stable")
    return [*(scored[place] for place in order), *hits[len(scores) :]]


def select(hits: Sequence[Hit], *, limit: int, most_of_document: int | None = None) -> list[Hit]:
    """The first `limit` of the hits, which are best first, that say something else than those before them.

    `duplicates` of a hit names the other documents that say the same. No more than `most_of_document` are of one document.
    """
    kept: list[Hit] = []
    shingles: list[frozenset[tuple[str, ...]]] = []
    of_document: Counter[UUID] = Counter()
    for hit in hits:
        mine = _shingles(hit.text)
        same = next((place for place, its in enumerate(shingles) if _say_the_same(mine, its)), None)
        if same is not None:
            kept[same] = _with_duplicate(kept[same], hit)
        elif len(kept) < limit and (
            most_of_document is None or of_document[hit.document_id] < most_of_document
        ):
            kept.append(hit)
            shingles.append(mine)
            of_document[hit.document_id] += 1
    return kept


def _stretched(scores: Vector) -> Vector:
    """From 0 for the lowest to 1 for the highest; all 1 where they are equal."""
    lowest, highest = scores.min(), scores.max()
    return (scores - lowest) / (highest - lowest) if highest > lowest else np.ones_like(scores)


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return frozenset(tuple(words[at : at + _SHINGLE]) for at in range(max(1, len(words) - _SHINGLE + 1)))


def _say_the_same(some: frozenset[tuple[str, ...]], others: frozenset[tuple[str, ...]]) -> bool:
    return len(some & others) >= _SAME * min(len(some), len(others))


def _with_duplicate(hit: Hit, other: Hit) -> Hit:
    if other.document_id in {hit.document_id, *hit.duplicates}:
        return hit
    return replace(hit, duplicates=(*hit.duplicates, other.document_id))
