"""Searching the chunks: by meaning and by words, fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, REAL, BindParameter, Double, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import words

# Measured: below this many chunks comparing the question with each is as fast as the index, which then finds less.
_EXACT_BELOW = 20_000

# Reciprocal rank fusion's constant, Cormack et al. 2009, section 3.
_FUSION_K = 60

# More chunks than this match a question's words only where words come together far more often than was expected.
_MOST_MATCHES = 4_000

# What `ts_rank` makes of a lexeme that stands n times is this times the sum of 1/i² for i up to n, over the sum for all i.
_RANK_OF_ONE = 0.1
_SUM_OF_SQUARES = pi**2 / 6


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk and why it was found. Ranks count from 1 and are None where that half of the search did not find it.

    `similarity` is the cosine between question and chunk, in [-1, 1]. `words_score` is BM25's. `score` is the fused one, at
    most 2/61.
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


def passage(heading: str, text: str) -> str:
    """What is embedded of a chunk: its heading says what it is about when its text does not."""
    return f"{heading}\n{text}" if heading else text


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
    lookups = await words.look_up(session, question, collection_ids)
    shapes = tuple((len(lookup.terms), lookup.by_index) for lookup in lookups)
    values: dict[str, Any] = {
        "embedding": embedding.tolist(),
        "collection_ids": list(collection_ids),
        "limit": limit,
        "similarity_cutoff": similarity_cutoff,
    }
    for place, lookup in enumerate(lookups):
        values |= {
            f"language_{place}": lookup.language,
            f"sought_{place}": lookup.sought,
            f"terms_{place}": [term.query for term in lookup.terms],
            f"weights_{place}": [term.weight for term in lookup.terms],
            f"average_length_{place}": lookup.average_length,
        }
    statement = _statement(len(embedding), depth, exact=chunk_count < _EXACT_BELOW, lookups=shapes)
    return [Hit(*row) for row in await session.execute(statement, values)]


@lru_cache(maxsize=256)
def _statement(
    dimensions: int, depth: int, *, exact: bool, lookups: tuple[tuple[int, bool], ...]
) -> TextClause:
    """`lookups` are, for each language, how many terms its chunks are scored by, and whether they are found in the index."""
    # In a query of its own the vector is converted once, not for each row; an array is sent three times as fast as its text.
    distance = f"c.embedding::halfvec({dimensions}) <=> (SELECT CAST(CAST(:embedding AS real[]) AS halfvec))"
    # What is added keeps the planner from one index or the other, which it would choose by how large collections are on average.
    order = f"({distance}) + 0" if exact else distance
    collections = _OF_THESE if exact else f"({_OF_THESE}) IS TRUE"
    script = f"""
    WITH {_words(lookups, depth)}, dense AS (
        SELECT id, row_number() OVER (ORDER BY distance, id) AS rank FROM (
            SELECT c.id, {distance} AS distance FROM chunks c
            WHERE {collections} ORDER BY {order} LIMIT {depth}
        ) nearest
    ), fused AS (
        SELECT id, dense.rank AS dense_rank, words.rank AS words_rank, words.score AS words_score,
            coalesce(1.0 / ({_FUSION_K} + dense.rank), 0) + coalesce(1.0 / ({_FUSION_K} + words.rank), 0) AS score
        FROM dense FULL JOIN words USING (id)
    )
    SELECT c.id, c.document_id, fused.score::float8, 1 - ({distance}), fused.dense_rank, fused.words_rank, fused.words_score,
        c.text, c.heading, c.page_label, c.start_offset, c.end_offset, d.file_name, d.title, d.kind, d.url
    FROM fused JOIN chunks c ON c.id = fused.id JOIN documents d ON d.id = c.document_id
    WHERE 1 - ({distance}) >= :similarity_cutoff
    ORDER BY fused.score DESC, {distance}, c.id LIMIT :limit
    """
    of_words = [parameter for place in range(len(lookups)) for parameter in _parameters_of_words(place)]
    return text(script).bindparams(*_PARAMETERS, *of_words)


def _words(lookups: tuple[tuple[int, bool], ...], depth: int) -> str:
    """The definition of `words`: the `depth` best by BM25, of the chunks that were sought in each language."""
    if not lookups:
        return "words AS (SELECT 0::bigint AS id, 0::float8 AS score, 0::bigint AS rank WHERE false)"
    asked = "".join(
        f"""asked_{place} AS MATERIALIZED (
        SELECT CAST(:sought_{place} AS text)::tsquery AS sought, CAST(:terms_{place} AS text[])::tsquery[] AS terms,
            CAST(:weights_{place} AS float8[]) AS weights
    ), """
        for place in range(len(lookups))
    )
    matches = " UNION ALL ".join(
        _matches(place, terms, by_index=by_index) for place, (terms, by_index) in enumerate(lookups)
    )
    return f"""{asked}matches AS ({matches}), words AS (
        SELECT id, score, row_number() OVER (ORDER BY score DESC, id) AS rank
        FROM matches ORDER BY score DESC, id LIMIT {depth}
    )"""


def _matches(place: int, terms: int, *, by_index: bool) -> str:
    """The chunks that are sought in one language, with their scores."""
    sought = f"c.words @@ (SELECT sought FROM asked_{place})"
    where = f"({_OF_THESE}) IS TRUE AND {sought}" if by_index else f"{_OF_THESE} AND ({sought}) IS TRUE"
    # Each value in a query of its own, which is run once, not for each row. How often a lexeme stands in a chunk is told fastest
    # by what `ts_rank` makes of it alone, as the rest of the sum of 1/i² beyond n is about 1/(n + 1/2).
    frequencies = ", ".join(
        f"round(1 / ({_SUM_OF_SQUARES} * (1 - ts_rank(c.words, (SELECT terms[{n}] FROM asked_{place}))"
        f" / {_RANK_OF_ONE}::float8)) - 0.5) AS f{n}"
        for n in range(1, terms + 1)
    )
    score = " + ".join(
        f"(SELECT weights[{n}] FROM asked_{place}) * f{n} / (f{n} + saturation)" for n in range(1, terms + 1)
    )
    return f"""(SELECT id, {score} AS score FROM (
            SELECT c.id, {words.K1} * ({1 - words.B} + {words.B} * c.word_count / :average_length_{place}) AS saturation, {frequencies}
            FROM chunks c WHERE {where} AND c.language = :language_{place} LIMIT {_MOST_MATCHES}
        ) counted)"""


_OF_THESE = "c.collection_id = ANY (:collection_ids)"
_PARAMETERS = (
    bindparam("embedding", type_=ARRAY(REAL)),
    bindparam("collection_ids", type_=ARRAY(Uuid(as_uuid=True))),
    bindparam("limit", type_=Integer),
    bindparam("similarity_cutoff", type_=Double),
)


def _parameters_of_words(place: int) -> tuple[BindParameter[Any], ...]:
    return (
        bindparam(f"language_{place}", type_=Text),
        bindparam(f"sought_{place}", type_=Text),
        bindparam(f"terms_{place}", type_=ARRAY(Text)),
        bindparam(f"weights_{place}", type_=ARRAY(Double)),
        bindparam(f"average_length_{place}", type_=Double),
    )
