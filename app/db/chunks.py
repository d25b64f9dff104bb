"""Searching the chunks: by meaning and by words, fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, REAL, Double, Integer, TextClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import words
from app.db.words import OF_THESE, Matches

# Below this many chunks comparing the question with each is as fast as the index, which then finds less.
_EXACT_BELOW = 20_000
# The index is of all collections, and finds less the more of what is near belongs to others: of 100,000 chunks recall@10 is .998,
# of three quarters of them .87, of a quarter .67. So more are compared behind a filter: at about 0.3 µs each, up to where a
# search that is ten times as wide takes as long, or finds less than .95 of the ten nearest.
_EXACT_BELOW_OF_MUCH = 60_000
_EXACT_BELOW_OF_PART = 150_000
_PART = 0.6
_NEARLY_ALL = 0.98
# The most that pgvector takes for `hnsw.ef_search`. Of three quarters recall@10 is .97 with it, of nine tenths .985.
_WIDEST = 1_000

# How far the meaning is trusted and not the words, as the argument of a logistic function: tuned on half of the questions of
# twelve sets in six languages (docs/retrieval.md says how, and how far to trust it). By itself; by how well the two agree on the
# best by words, as a correlation; by how far the best by words is ahead of its first ten, as a share of its score; and by how
# far the nearest is ahead of its first ten, as a cosine.
_TRUST = -0.7
_TRUST_BY_AGREEMENT = 2.2
_TRUST_BY_LEAD_OF_WORDS = -4
_TRUST_BY_LEAD_OF_MEANING = 11
# So many of each half tell this, and what the scores are normalised by, however many are looked at.
_TELLING = 50


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk and why it was found. Ranks count from 1 and are None where that half of the search did not find it.

    `similarity` is the cosine between question and chunk, in [-1, 1]. `words_score` is BM25's. `score` is the fused one, at
    most 1; it compares the chunks of one search.
    `start` and `end` count in the document's text.
    """

    chunk_id: int
    document_id: UUID
    score: float
    similarity: float
    dense_rank: int | None
    words_rank: int | None
    words_score: float | None
    text: str
    heading: str
    page_label: str | None
    start: int
    end: int
    file_name: str
    title: str | None
    kind: str | None
    url: str | None
    duplicates: tuple[UUID, ...] = ()
    """Other documents that say the same."""


def passage(heading: str, text: str) -> str:
    """What is embedded of a chunk: its heading says what it is about when its text does not."""
    return f"{heading}\n{text}" if heading else text


@dataclass(frozen=True, slots=True)
class Way:
    """How the nearest are found: by comparing with each chunk, or by the index, as wide as it is set or as wide as it can."""

    exact: bool
    wide: bool = False


def way(chunk_count: int, of_all: int) -> Way:
    """For collections that hold so many chunks, of all that there are."""
    if chunk_count >= _NEARLY_ALL * of_all:
        return Way(exact=chunk_count < _EXACT_BELOW)
    most = _EXACT_BELOW_OF_PART if chunk_count < _PART * of_all else _EXACT_BELOW_OF_MUCH
    exact = chunk_count < most
    return Way(exact, wide=not exact)


async def search(
    session: AsyncSession,
    *,
    embedding: NDArray[np.float32],
    question: str,
    collection_ids: Sequence[UUID],
    chunk_count: int,
    depth: int,
    limit: int,
    similarity_cutoff: float,
) -> list[Hit]:
    """The `limit` best of these collections that are at least so similar, best first.

    Each half of the search contributes its `depth` best. `chunk_count` is how many chunks the collections hold together;
    it decides how they are searched, not what is found.
    """
    return await fuse(
        session,
        embedding=embedding,
        by_words=await words.match(session, question, collection_ids, depth=depth),
        collection_ids=collection_ids,
        chunk_count=chunk_count,
        depth=depth,
        limit=limit,
        similarity_cutoff=similarity_cutoff,
    )


async def fuse(
    session: AsyncSession,
    *,
    embedding: NDArray[np.float32],
    by_words: Matches,
    collection_ids: Sequence[UUID],
    chunk_count: int,
    depth: int,
    limit: int,
    similarity_cutoff: float,
) -> list[Hit]:
    """`search`, whose half by words has been done, for the same collections and depth."""
    lookups = by_words.lookups
    statement = _statement(
        len(embedding),
        depth,
        way(chunk_count, by_words.of_all),
        slots=tuple(words.slots(lookup) for lookup in lookups),
    )
    values: dict[str, Any] = {
        "embedding": embedding.tolist(),
        "collection_ids": list(collection_ids),
        "matched": by_words.chunk_ids,
        "scores": by_words.scores,
        "limit": limit,
        "similarity_cutoff": similarity_cutoff,
    }
    for place, lookup in enumerate(lookups):
        values |= words.values_of_score(place, lookup)
    return [Hit(*row) for row in await session.execute(statement, values)]


@lru_cache(maxsize=256)
def _statement(dimensions: int, depth: int, nearest: Way, *, slots: tuple[int, ...]) -> TextClause:
    """`slots` are, for each language, for how many terms there is room in its score."""
    # In a query of its own the vector is converted once, not for each row; an array is sent three times as fast as its text.
    vector = "SELECT CAST(CAST(:embedding AS real[]) AS halfvec)"
    distance = f"c.embedding::halfvec({dimensions}) <=> ({vector})"
    # The index is searched when the vector is known, and so with what is set while that is computed, for this statement alone.
    widened = f"{vector} FROM set_config('hnsw.ef_search', '{_WIDEST}', true)"
    # What is added keeps the planner from one index or the other, which it would choose by how large collections are on average.
    order = f"({distance}) + 0" if nearest.exact else distance
    if nearest.wide:
        order = order.replace(vector, widened)
    collections = OF_THESE if nearest.exact else f"({OF_THESE}) IS TRUE"
    script = f"""
    WITH dense AS (
        SELECT id, distance, row_number() OVER (ORDER BY distance, id) AS rank FROM (
            SELECT c.id, {distance} AS distance FROM chunks c
            WHERE {collections} ORDER BY {order} LIMIT {depth}
        ) nearest
    ), found AS MATERIALIZED (
        SELECT id, dense.rank AS dense_rank, words.rank AS words_rank, words.score AS words_score,
            coalesce(words.score, {_score_in_its_language(slots)}, 0) AS relevance,
            1 - coalesce(distance, {distance}) AS similarity
        FROM dense FULL JOIN unnest(CAST(:matched AS bigint[]), CAST(:scores AS float8[]))
            WITH ORDINALITY AS words (id, score, rank) USING (id) JOIN chunks c USING (id)
    ), {_TOLD}, best AS (
        SELECT found.*, trust * coalesce((similarity - lowest) / nullif(highest - lowest, 0), 1)
            + (1 - trust) * coalesce(relevance / nullif(most_relevant, 0), 0) AS score
        FROM found, told WHERE similarity >= :similarity_cutoff
        ORDER BY score DESC, similarity DESC, id LIMIT :limit
    )
    SELECT c.id, c.document_id, best.score, best.similarity, best.dense_rank, best.words_rank, best.words_score,
        c.text, c.heading, c.page_label, c.start_offset, c.end_offset, d.file_name, d.title, d.kind, d.url
    FROM best JOIN chunks c ON c.id = best.id JOIN documents d ON d.id = c.document_id
    ORDER BY best.score DESC, best.similarity DESC, c.id
    """
    of_words = [parameter for place in range(len(slots)) for parameter in words.parameters_of_score(place)]
    return text(script).bindparams(*_PARAMETERS, *of_words)


def _score_in_its_language(slots: tuple[int, ...]) -> str:
    cases = "".join(f" WHEN :language_{n} THEN {words.score(n, count)}" for n, count in enumerate(slots))
    return f"CASE c.language{cases} END" if cases else "0"


# What the scores of both halves tell of each other: `trust` is the weight of the meaning, the rest is that of the words.
_TOLD = f"""told AS (
        SELECT lowest, highest, most_relevant, 1 / (1 + exp(-({_TRUST} + {_TRUST_BY_AGREEMENT} * agreement
            + {_TRUST_BY_LEAD_OF_WORDS} * (1 - coalesce(of_first_words / nullif(most_relevant, 0), 1))
            + {_TRUST_BY_LEAD_OF_MEANING} * (highest - of_first_nearest)))) AS trust
        FROM (
            SELECT min(similarity) AS lowest, max(similarity) AS highest, max(relevance) AS most_relevant,
                CASE WHEN count(words_rank) > 5 THEN coalesce(corr(similarity, relevance) FILTER (WHERE words_rank <= {_TELLING}), 0) ELSE 0 END
                    AS agreement,
                sum(relevance) FILTER (WHERE words_rank <= 10) / 10 AS of_first_words,
                avg(similarity) FILTER (WHERE dense_rank <= 10) AS of_first_nearest
            FROM found WHERE dense_rank <= {_TELLING} OR words_rank <= {_TELLING}
        ) both_halves
    )"""


_PARAMETERS = (
    bindparam("embedding", type_=ARRAY(REAL)),
    bindparam("collection_ids", type_=ARRAY(Uuid(as_uuid=True))),
    bindparam("limit", type_=Integer),
    bindparam("similarity_cutoff", type_=Double),
)
