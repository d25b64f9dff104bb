"""Queries on documents and on what is made of them.

The table is the queue of what is to be ingested: a `pending` document is claimed by making it `processing`, and a claim
counts for as long as `updated_at` is kept fresh.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any, Literal, cast
from uuid import UUID, uuid4

import asyncpg
import numpy as np
from anyio import to_thread
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, RowMapping, Update, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import Chunk, Collection, Document, DocumentFile

Status = Literal["pending", "processing", "ready", "failed"]

# A claim not refreshed for so long is that of a process that has died.
CLAIM_COUNTS_FOR = timedelta(seconds=60)

_INT2 = struct.Struct(">h")
_INT4 = struct.Struct(">i")
_COPIED = (
    "document_id",
    "collection_id",
    "ordinal",
    "start_offset",
    "end_offset",
    "page_label",
    "heading",
    "text",
    "language",
    "embedding",
)
_QUIET: dict[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class DocumentView:
    """`position` grows with each document that is added. `warnings` are for people."""

    id: UUID
    position: int
    collection_id: UUID
    collection_name: str
    file_name: str
    title: str | None
    kind: str | None
    media_type: str | None
    url: str | None
    size_bytes: int
    status: Status
    error_reason: str | None
    error_message: str | None
    warnings: tuple[str, ...]
    page_count: int
    chunk_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Added:
    """`is_new` is false for bytes that the collection has already."""

    id: UUID
    status: Status
    is_new: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    id: UUID
    file_name: str
    declared_type: str | None
    content: bytes


@dataclass(frozen=True, slots=True)
class NewChunk:
    """`start` and `end` count in the document's text."""

    start: int
    end: int
    text: str
    page_label: str | None
    heading: str


@dataclass(frozen=True, slots=True)
class NewText:
    """What a document was converted to; `pages` are label, start and end of each in `text`. `language` names one of
    PostgreSQL's text search configurations."""

    text: str
    media_type: str
    kind: str
    title: str | None
    language: str
    pages: Sequence[tuple[str, int, int]]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """`text` is from `start` to `end` of a text of `length` characters."""

    text: str
    start: int
    end: int
    length: int


_view = select(
    Document.id,
    Document.position,
    Document.collection_id,
    Collection.name.label("collection_name"),
    Document.file_name,
    Document.title,
    Document.kind,
    Document.media_type,
    Document.url,
    Document.size_bytes,
    Document.status,
    Document.error_reason,
    Document.error_message,
    Document.warnings,
    func.jsonb_array_length(Document.pages).label("page_count"),
    Document.chunk_count,
    Document.created_at,
    Document.updated_at,
).join(Collection, Collection.id == Document.collection_id)


async def get(session: AsyncSession, document_id: UUID) -> DocumentView | None:
    rows = (await session.execute(_view.where(Document.id == document_id))).mappings().all()
    return _as_view(rows[0]) if rows else None


async def names(session: AsyncSession, collection_id: UUID) -> dict[UUID, str]:
    """The file names of all documents of the collection, by their ids."""
    statement = select(Document.id, Document.file_name).where(Document.collection_id == collection_id)
    return {row.id: row.file_name for row in await session.execute(statement)}


async def page(
    session: AsyncSession,
    *,
    collection_id: UUID | None,
    status: Status | None,
    before: int | None,
    limit: int,
) -> list[DocumentView]:
    """The `limit` documents that were added last before the position `before`, newest first."""
    statement = _view.order_by(Document.position.desc()).limit(limit)
    if collection_id is not None:
        statement = statement.where(Document.collection_id == collection_id)
    if status is not None:
        statement = statement.where(Document.status == status)
    if before is not None:
        statement = statement.where(Document.position < before)
    return [_as_view(row) for row in (await session.execute(statement)).mappings()]


async def excerpt(session: AsyncSession, document_id: UUID, *, start: int, end: int) -> Excerpt | None:
    """None if there is no such document, or no text of it yet."""
    statement = select(
        func.substring(Document.text, start + 1, end - start).label("text"),
        func.length(Document.text).label("length"),
    ).where(Document.id == document_id, Document.text.is_not(None))
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        return None
    first = min(start, row.length)
    return Excerpt(row.text, first, first + len(row.text), row.length)


async def add(
    session: AsyncSession,
    collection_id: UUID,
    *,
    file_name: str,
    declared_type: str | None,
    content: bytes,
    content_sha256: bytes,
    status: Literal["pending", "processing"],
) -> Added:
    """The same bytes in one collection are one document: if they have failed before, they are to be tried again."""
    row = {
        "id": uuid4(),
        "collection_id": collection_id,
        "file_name": file_name,
        "declared_type": declared_type,
        "content_sha256": content_sha256,
        "size_bytes": len(content),
        "status": status,
    }
    again = {
        "status": status,
        "file_name": file_name,
        "declared_type": declared_type,
        "error_reason": None,
        "error_message": None,
        "updated_at": func.now(),
    }
    statement = (
        insert(Document)
        .values(row)
        .on_conflict_do_update(
            index_elements=[Document.collection_id, Document.content_sha256],
            set_=again,
            where=Document.status == "failed",
        )
        .returning(Document.id)
    )
    document_id = (await session.execute(statement)).scalar_one_or_none()
    if document_id is None:
        known = select(Document.id, Document.status).where(
            Document.collection_id == collection_id, Document.content_sha256 == content_sha256
        )
        found = (await session.execute(known)).one()
        return Added(found.id, found.status, is_new=False)
    file = insert(DocumentFile).values(document_id=document_id, content=content)
    await session.execute(file.on_conflict_do_nothing())
    return Added(document_id, status, is_new=True)


async def claim_next(session: AsyncSession) -> UUID | None:
    """The oldest document that waits, or whose claim has lapsed; those that others are just claiming are passed over."""
    waiting = (
        select(Document.id)
        .where(_waiting())
        .order_by(Document.position)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return await _claim(session, Document.id == waiting)


async def claim(session: AsyncSession, document_id: UUID) -> bool:
    """Whether the document waited, or its claim had lapsed."""
    return await _claim(session, (Document.id == document_id) & _waiting()) is not None


async def file(session: AsyncSession, document_id: UUID) -> Claimed | None:
    statement = (
        select(Document.id, Document.file_name, Document.declared_type, DocumentFile.content)
        .join(DocumentFile, DocumentFile.document_id == Document.id)
        .where(Document.id == document_id)
    )
    row = (await session.execute(statement)).mappings().one_or_none()
    return Claimed(**row) if row is not None else None


async def keep_claim(session: AsyncSession, document_id: UUID) -> None:
    await session.execute(_claimed(document_id).values(updated_at=func.now()), execution_options=_QUIET)


async def give_back(session: AsyncSession, document_id: UUID) -> None:
    await session.execute(
        _claimed(document_id).values(status="pending", updated_at=func.now()), execution_options=_QUIET
    )


async def fail(session: AsyncSession, document_id: UUID, *, reason: str, message: str) -> None:
    failed = {"status": "failed", "error_reason": reason, "error_message": message, "updated_at": func.now()}
    await session.execute(_claimed(document_id).values(failed), execution_options=_QUIET)


async def finish(
    session: AsyncSession,
    document_id: UUID,
    text: NewText,
    chunks: Sequence[NewChunk],
    embeddings: NDArray[np.float32],
) -> bool:
    """Makes the document `ready`, with its chunks, one embedding a row. False if it is gone, or ready already."""
    if (collection_id := await _hold_collection(session, document_id)) is None:
        return False
    ready = {
        "status": "ready",
        "error_reason": None,
        "error_message": None,
        "text": text.text,
        "media_type": text.media_type,
        "kind": text.kind,
        "title": text.title,
        "pages": [{"label": label, "start": start, "end": end} for label, start, end in text.pages],
        "warnings": [{"message": warning} for warning in text.warnings],
        "chunk_count": len(chunks),
        "updated_at": func.now(),
    }
    statement = (
        update(Document)
        .where(Document.id == document_id, Document.status != "ready")
        .values(ready)
        .returning(Document.id)
    )
    if (await session.execute(statement, execution_options=_QUIET)).first() is None:
        return False
    await session.execute(delete(Chunk).where(Chunk.document_id == document_id), execution_options=_QUIET)
    await _copy_chunks(session, document_id, collection_id, text.language, chunks, embeddings)
    return True


async def remove(session: AsyncSession, document_id: UUID) -> bool:
    if await _hold_collection(session, document_id) is None:
        return False
    statement = delete(Document).where(Document.id == document_id).returning(Document.id)
    return (await session.execute(statement, execution_options=_QUIET)).first() is not None


def _waiting() -> ColumnElement[bool]:
    return Document.status.in_(("pending", "processing")) & or_(
        Document.status == "pending", Document.updated_at < func.now() - CLAIM_COUNTS_FOR
    )


def _claimed(document_id: UUID) -> Update:
    return update(Document).where(Document.id == document_id, Document.status == "processing")


async def _claim(session: AsyncSession, which: ColumnElement[bool]) -> UUID | None:
    statement = (
        update(Document)
        .where(which)
        .values(status="processing", updated_at=func.now())
        .returning(Document.id)
    )
    return (await session.execute(statement, execution_options=_QUIET)).scalar_one_or_none()


async def _hold_collection(session: AsyncSession, document_id: UUID) -> UUID | None:
    """The document's collection, which cannot be deleted before the transaction ends.

    Whoever writes chunks holds it before anything else, as who deletes it does: they would deadlock over the counts.
    """
    statement = (
        select(Collection.id)
        .join(Document, Document.collection_id == Collection.id)
        .where(Document.id == document_id)
        .with_for_update(read=True, key_share=True, of=Collection)
    )
    return (await session.execute(statement)).scalar_one_or_none()


def _as_view(row: RowMapping) -> DocumentView:
    fields = dict[str, Any](row)
    fields["warnings"] = tuple(warning["message"] for warning in row["warnings"])
    return DocumentView(**fields)


async def _copy_chunks(
    session: AsyncSession,
    document_id: UUID,
    collection_id: UUID,
    language: str,
    chunks: Sequence[NewChunk],
    embeddings: NDArray[np.float32],
) -> None:
    rows = await to_thread.run_sync(_as_copied, document_id, collection_id, language, chunks, embeddings)
    raw = await (await session.connection()).get_raw_connection()
    driver = cast("asyncpg.Connection[asyncpg.Record]", raw.driver_connection)
    await driver.copy_to_table("chunks", source=BytesIO(rows), columns=_COPIED, format="binary")


def _as_copied(
    document_id: UUID,
    collection_id: UUID,
    language: str,
    chunks: Sequence[NewChunk],
    embeddings: NDArray[np.float32],
) -> bytes:
    """Rows in PostgreSQL's binary COPY format, in which a vector is what numpy has in memory: the driver would spell it out."""
    ids = document_id.bytes, collection_id.bytes
    halves = embeddings.astype(">f2")
    dimensions = struct.pack(">hh", halves.shape[1], 0)
    rows = bytearray(b"PGCOPY\n\xff\r\n\x00" + bytes(8))
    for ordinal, (chunk, half) in enumerate(zip(chunks, halves, strict=True)):
        label = chunk.page_label
        fields = (
            *ids,
            *(_INT4.pack(number) for number in (ordinal, chunk.start, chunk.end)),
            None if label is None else label.encode(),
            chunk.heading.encode(),
            chunk.text.encode(),
            language.encode(),
            dimensions + half.tobytes(),
        )
        rows += _INT2.pack(len(fields))
        for field in fields:
            rows += _INT4.pack(-1) if field is None else _INT4.pack(len(field)) + field
    return bytes(rows + _INT2.pack(-1))
