"""From a question to the passages that may answer it."""

from dataclasses import dataclass
from uuid import UUID

from app.db import chunks
from app.db.chunks import Hit
from app.db.engine import AsyncSession
from app.llm.protocols import Vector

__all__ = ["Hit", "Query", "search"]

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


async def search(session: AsyncSession, embedding: Vector, query: Query) -> list[Hit]:
    """At most `top_k`, best first; none if nothing is relevant. One statement, which needs no transaction."""
    if not query.collection_ids or query.top_k == 0:
        return []
    return await chunks.search(
        session,
        embedding=embedding,
        question=query.question,
        collection_ids=query.collection_ids,
        chunk_count=query.chunk_count,
        depth=max(query.top_k, _DEPTH),
        limit=query.top_k,
        similarity_cutoff=query.similarity_cutoff,
    )
