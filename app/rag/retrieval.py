"""From a question to the passages that may answer it."""

from dataclasses import dataclass
from uuid import UUID

from app.db import chunks, words
from app.db.chunks import Hit
from app.db.engine import AsyncSession
from app.db.words import Matches
from app.llm.protocols import Vector

__all__ = ["Hit", "Matches", "Prepared", "Query", "match", "search"]

# What one half of the search ranks low the other may rank first, so more are fused than are wanted.
_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Query:
    """`chunk_count` is how many chunks the collections hold together. What is less similar than the cut-off, a cosine in
    [-1, 1], is not found, however many words it shares with the question."""

    question: str
    collection_ids: tuple[UUID, ...]
    chunk_count: int
    top_k: int
    similarity_cutoff: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question's embedding, and what its words have found, unless that has yet to be looked for."""

    embedding: Vector
    by_words: Matches | None = None


async def match(session: AsyncSession, query: Query) -> Matches:
    """The half of the search that needs no embedding, so that it can be done while that is made."""
    if not query.collection_ids or query.top_k == 0:
        return words.NOTHING
    return await words.match(session, query.question, query.collection_ids, depth=_depth(query))


async def search(
    session: AsyncSession, prepared: Prepared, query: Query, *, candidates: int = 0
) -> list[Hit]:
    """At most `top_k`, or as many candidates, best first; none if nothing is relevant. Needs no transaction."""
    if not query.collection_ids or query.top_k == 0:
        return []
    return await chunks.fuse(
        session,
        embedding=prepared.embedding,
        by_words=prepared.by_words or await match(session, query),
        collection_ids=query.collection_ids,
        chunk_count=query.chunk_count,
        depth=_depth(query),
        limit=max(query.top_k, candidates),
        similarity_cutoff=query.similarity_cutoff,
    )


def _depth(query: Query) -> int:
    return max(query.top_k, _DEPTH)
