"""Searching the chunks: by meaning and by words, fused, in one statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, REAL, BigInteger, Double, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

# Measured: below this many chunks comparing the question with each is as fast as the index, which then finds less.
_EXACT_BELOW = 20_000

# Reciprocal rank fusion's constant, Cormack et al. 2009, section 3.
_FUSION_K = 60

# How many chunks may be looked at for each of the two sets of words below: 4 µs each. Measured on SciFact with this share of
# 100,000 chunks: nDCG@10 of the words alone is .66, where it is .68 without a bound and .60 without the second set.
_WORD_MATCHES = 600
# Reading that many entries of the index of words costs about as much as scoring the matches.
_INDEX_ENTRIES = 5 * _WORD_MATCHES
# A question as long as a document is told by its rarest words.
_MOST_LEXEMES = 32


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk and why it was found. Ranks count from 1 and are None where that half of the search did not find it.

    `similarity` is the cosine between question and chunk, in [-1, 1]. `words_score` sums, over the question's lexemes,
    the inverse document frequency times a saturating frequency in the chunk. `score` is the fused one, at most 2/61.
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
    statement = _statement(len(embedding), depth, exact=chunk_count < _EXACT_BELOW)
    values = {
        "embedding": embedding.tolist(),
        "question": question.replace("\0", " "),
        "collection_ids": list(collection_ids),
        "chunk_count": chunk_count,
        "limit": limit,
        "similarity_cutoff": similarity_cutoff,
    }
    return [Hit(*row) for row in await session.execute(statement, values)]


@lru_cache
def _statement(dimensions: int, depth: int, *, exact: bool) -> TextClause:
    """The words: a chunk is looked at if it holds one of the rarest lexemes of the question, or the next rarest together
    with one of the two after it; it is scored by all of them. `ts_rank` of one lexeme saturates with its frequency much as BM25 does.

    How many chunks that will be is known beforehand: the frequencies count for the collections by their share of all.
    Two limits hold where that is wrong.
    """
    # In a query of its own the vector is converted once, not for each row; an array is sent three times as fast as its text.
    distance = f"c.embedding::halfvec({dimensions}) <=> (SELECT CAST(CAST(:embedding AS real[]) AS halfvec))"
    # What is added keeps the planner from one index or the other, which it would choose by how large collections are on average.
    order = f"({distance}) + 0" if exact else distance
    of_these = "c.collection_id = ANY (:collection_ids)"
    collections = of_these if exact else f"({of_these}) IS TRUE"
    matches = f"""
        SELECT c.id, (SELECT sum(asked.idf * ts_rank(c.words, asked.term)) FROM asked) AS score
        FROM chunks c WHERE {collections} AND c.words @@ (SELECT {{}} FROM sought)"""
    script = f"""
    WITH known AS (
        SELECT l.lexeme, l.chunk_count, greatest(total.chunk_count, l.chunk_count) AS total
        FROM lexemes l, (SELECT sum(chunk_count) AS chunk_count FROM collections) total
        WHERE l.lexeme = ANY (tsvector_to_array(to_tsvector('english', :question)))
        ORDER BY l.chunk_count, l.lexeme LIMIT {_MOST_LEXEMES}
    ), asked AS MATERIALIZED (
        SELECT array_to_tsvector(ARRAY[lexeme])::text::tsquery AS term, chunk_count,
            ln(1 + (total - chunk_count + 0.5) / (chunk_count + 0.5))::float8 AS idf,
            sum(chunk_count * least(1, :chunk_count / total)) OVER rarest_first AS matches_so_far,
            sum(chunk_count) OVER rarest_first AS entries_so_far,
            row_number() OVER rarest_first AS place
        FROM known WINDOW rarest_first AS (ORDER BY chunk_count, lexeme)
    ), divided AS (
        SELECT term, chunk_count, place, count(*) FILTER (
            WHERE matches_so_far <= {_WORD_MATCHES} AND entries_so_far <= {_INDEX_ENTRIES}) OVER () AS rare FROM asked
    ), sought AS MATERIALIZED (
        SELECT string_agg(term::text, ' | ') FILTER (WHERE place <= rare)::tsquery AS rare,
            (min(term::text) FILTER (WHERE place = rare + 1 AND chunk_count <= {_INDEX_ENTRIES}) || ' & (' ||
                string_agg(term::text, ' | ') FILTER (WHERE place - rare IN (2, 3)) || ')')::tsquery AS paired
        FROM divided
    ), matches AS (
        ({matches.format("rare")} LIMIT {_WORD_MATCHES}) UNION ({matches.format("paired")} LIMIT {_WORD_MATCHES})
    ), words AS (
        SELECT id, score, row_number() OVER (ORDER BY score DESC, id) AS rank
        FROM matches ORDER BY score DESC, id LIMIT {depth}
    ), dense AS (
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
    return text(script).bindparams(
        bindparam("embedding", type_=ARRAY(REAL)),
        bindparam("question", type_=Text),
        bindparam("collection_ids", type_=ARRAY(Uuid(as_uuid=True))),
        bindparam("chunk_count", type_=BigInteger),
        bindparam("limit", type_=Integer),
        bindparam("similarity_cutoff", type_=Double),
    )
