"""Queries on collections as OpenAI's wire knows them: stores that files are put into and taken out of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import collections, documents, ingestions
from app.db.documents import DocumentView, Status
from app.db.identifiers import unique
from app.db.tables import Chunk, Document
from app.errors import NotFound

_QUIET: dict[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Tally:
    """How many documents of each status there are, and how large their files are together."""

    documents: Mapping[Status, int]
    size_bytes: int


async def tallies(session: AsyncSession, collection_ids: Sequence[UUID]) -> dict[UUID, Tally]:
    """Of those among the collections that hold documents."""
    statement = (
        select(Document.collection_id, Document.status, func.count(), func.sum(Document.size_bytes))
        .where(Document.collection_id.in_(collection_ids))
        .group_by(Document.collection_id, Document.status)
    )
    counts: dict[UUID, dict[Status, int]] = {}
    sizes: dict[UUID, int] = {}
    for collection_id, status, count, size_bytes in await session.execute(statement):
        counts.setdefault(collection_id, {})[cast("Status", status)] = count
        sizes[collection_id] = sizes.get(collection_id, 0) + int(size_bytes)
    return {collection_id: Tally(of, sizes[collection_id]) for collection_id, of in counts.items()}


async def hold(session: AsyncSession, document_id: UUID) -> DocumentView:
    """With its collection, as whoever ends its ingestion does. Raises `NotFound`."""
    await documents.hold_collection(session, document_id)
    await documents.hold(session, document_id)
    document = await documents.get(session, document_id)
    if document is None:
        raise NotFound("file", document_id)
    return document


async def move(session: AsyncSession, document: DocumentView, collection: str) -> None:
    """Into another collection, a document that is held; an ingestion that is going on begins anew. Raises `Conflict` if that
    has the same bytes, and `NotFound` if there is no such collection."""
    (collection_id,) = await collections.hold(session, [collection])
    moved = update(Document).where(Document.id == document.id).values(collection_id=collection_id)
    with unique(f"The vector store {collection} has these bytes already, as another file."):
        await session.execute(moved, execution_options=_QUIET)
    chunks = update(Chunk).where(Chunk.document_id == document.id).values(collection_id=collection_id)
    await session.execute(chunks, execution_options=_QUIET)
    if not document.is_over:
        await ingestions.enqueue(session, document.id)
