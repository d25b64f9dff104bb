"""Queries on the work of ingesting: who does it, how far it has come, and how it ended.

Whoever changes a document's status holds its row first, then that of its ingestion, then its job.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray
from sqlalchemy import Update, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import queue
from app.db.documents import Progress, hold, hold_collection
from app.db.engine import driver_of
from app.db.tables import Chunk, Document, DocumentFile, Ingestion

ENTRYPOINT = "document"
"""Of the queue; the payload of its jobs is a document's id."""

# A claim that has not been refreshed for so long is that of a process that has died, or sleeps.
CLAIM_COUNTS_FOR = timedelta(seconds=15)

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
_IDLE: dict[str, Any] = {"claim_id": None, "seconds_left": None, "updated_at": func.now()}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to end an attempt. It is lost when the document is cancelled, deleted, given another file, or when another
    process has taken it over. `attempt` counts from 1."""

    id: UUID
    document_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Claimed:
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


async def enqueue(session: AsyncSession, document_id: UUID, *, execute_after: timedelta | None = None) -> int:
    """The newest file of a document that is held, or new: from the beginning, and instead of what may be going on. The job."""
    await discard(session, document_id)
    job_id = await queue.enqueue(session, ENTRYPOINT, str(document_id).encode(), execute_after=execute_after)
    fresh = {
        **_IDLE,
        "job_id": job_id,
        "attempts": 0,
        "stage": "waiting",
        "done": 0,
        "total": 0,
        "reused": 0,
        "problem": None,
        "started_at": None,
    }
    statement = insert(Ingestion).values(document_id=document_id, **fresh)
    await session.execute(statement.on_conflict_do_update(index_elements=[Ingestion.document_id], set_=fresh))
    await _set_status(
        session, document_id, {"status": "pending", "error_reason": None, "error_message": None}
    )
    return job_id


async def discard(session: AsyncSession, document_id: UUID) -> None:
    """The job of a document that is held, if it has one; whoever does it has lost his claim."""
    held = select(Ingestion.job_id).where(Ingestion.document_id == document_id).with_for_update()
    job_id = (await session.execute(held)).scalar_one_or_none()
    if job_id is not None:
        await _change(session, document_id, {**_IDLE, "job_id": None})
        await queue.discard(session, job_id)


async def claim(session: AsyncSession, document_id: UUID, job_id: int) -> Claim | timedelta | None:
    """The next attempt; None if the job is not, or no more, the document's; or for how long another's claim yet counts."""
    if await hold(session, document_id) is None:
        return None
    lapses_in = (Ingestion.updated_at + CLAIM_COUNTS_FOR - func.now()).label("lapses_in")
    found = await session.execute(
        select(Ingestion.claim_id, Ingestion.attempts, lapses_in)
        .where(Ingestion.document_id == document_id, Ingestion.job_id == job_id)
        .with_for_update()
    )
    row = found.one_or_none()
    if row is None:
        return None
    if row.claim_id is not None and row.lapses_in > timedelta(0):
        return row.lapses_in
    mine = Claim(uuid4(), document_id, row.attempts + 1)
    begun = {
        "claim_id": mine.id,
        "attempts": mine.attempt,
        "stage": "converting",
        "done": 0,
        "total": 0,
        "reused": 0,
        "seconds_left": None,
        "started_at": func.now(),
        "updated_at": func.now(),
    }
    await _change(session, document_id, begun)
    await _set_status(session, document_id, {"status": "processing"})
    return mine


async def file(session: AsyncSession, document_id: UUID) -> Claimed | None:
    """The newest."""
    statement = (
        select(DocumentFile.file_name, DocumentFile.declared_type, DocumentFile.content)
        .join(Document, Document.id == DocumentFile.document_id)
        .where(Document.id == document_id, DocumentFile.content_sha256 == Document.content_sha256)
    )
    row = (await session.execute(statement)).mappings().one_or_none()
    return Claimed(**row) if row is not None else None


async def embedded(session: AsyncSession, document_id: UUID) -> dict[tuple[str, str], NDArray[np.float16]]:
    """The vectors of the passages that are found of it now, by heading and text."""
    vector = func.halfvec_send(Chunk.embedding).label("vector")
    statement = select(Chunk.heading, Chunk.text, vector).where(Chunk.document_id == document_id)
    rows = (await session.execute(statement)).all()
    # Two numbers of two bytes, then the values.
    return {(row.heading, row.text): np.frombuffer(row.vector, ">f2", offset=4) for row in rows}


async def keep_claim(session: AsyncSession, claim: Claim, progress: Progress) -> bool:
    """Says how far it has come, and that it is still being worked on. False if the claim is lost."""
    told = {
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "reused": progress.reused,
        "seconds_left": progress.seconds_left,
        "updated_at": func.now(),
    }
    statement = _claimed(claim).values(told).returning(Ingestion.document_id)
    return (await session.execute(statement, execution_options=_QUIET)).first() is not None


async def give_back(session: AsyncSession, claim: Claim) -> None:
    """Nothing is held against the document: the attempt does not count."""
    back = {**_IDLE, "stage": "waiting", "attempts": claim.attempt - 1}
    await _end(session, claim, back, {"status": "pending"})


async def put_off(session: AsyncSession, claim: Claim, problem: str) -> None:
    """Another attempt is to come, by the same job."""
    await _end(session, claim, {**_IDLE, "stage": "waiting", "problem": problem}, {"status": "pending"})


async def fail(session: AsyncSession, claim: Claim, *, reason: str, message: str) -> None:
    failed = {"status": "failed", "error_reason": reason, "error_message": message}
    if await _end(session, claim, {**_IDLE, "problem": None}, failed):
        await discard(session, claim.document_id)


async def cancel(session: AsyncSession, document_id: UUID) -> None:
    """Of a document that is held. Whoever works on it has lost his claim, and finds that out when he next keeps it."""
    await discard(session, document_id)
    await _set_status(session, document_id, {"status": "cancelled"})


async def finish(
    session: AsyncSession,
    claim: Claim,
    text: NewText,
    chunks: Sequence[NewChunk],
    embeddings: NDArray[np.float32],
    *,
    reused: int = 0,
) -> bool:
    """Makes the document `ready`, with its chunks, one embedding a row, in place of those it had; `reused` of the embeddings it
    had before. False if the claim is lost."""
    document_id = claim.document_id
    if (collection_id := await hold_collection(session, document_id)) is None:
        return False
    all_of_them = {"done": len(chunks), "total": len(chunks), "reused": reused}
    over = {**_IDLE, "stage": "storing", "problem": None, **all_of_them}
    if not await _end(session, claim, over, {}):
        return False
    newest = (
        select(DocumentFile)
        .join(Document, Document.id == DocumentFile.document_id)
        .where(Document.id == document_id, DocumentFile.content_sha256 == Document.content_sha256)
        .with_only_columns(
            DocumentFile.content_sha256,
            DocumentFile.file_name,
            DocumentFile.declared_type,
            DocumentFile.title,
            func.length(DocumentFile.content).label("size_bytes"),
        )
    )
    file = (await session.execute(newest)).one()
    ready = {
        "status": "ready",
        "error_reason": None,
        "error_message": None,
        "file_name": file.file_name,
        "declared_type": file.declared_type,
        "size_bytes": file.size_bytes,
        "indexed_sha256": file.content_sha256,
        "text": text.text,
        "media_type": text.media_type,
        "kind": text.kind,
        "title": file.title or text.title,
        "pages": [{"label": label, "start": start, "end": end} for label, start, end in text.pages],
        "warnings": [{"message": warning} for warning in text.warnings],
        "chunk_count": len(chunks),
    }
    await _set_status(session, document_id, ready)
    await discard(session, document_id)
    before = delete(DocumentFile).where(
        DocumentFile.document_id == document_id, DocumentFile.content_sha256 != file.content_sha256
    )
    await session.execute(before, execution_options=_QUIET)
    await session.execute(delete(Chunk).where(Chunk.document_id == document_id), execution_options=_QUIET)
    await _copy_chunks(session, document_id, collection_id, text.language, chunks, embeddings)
    return True


def _claimed(claim: Claim) -> Update:
    return update(Ingestion).where(Ingestion.document_id == claim.document_id, Ingestion.claim_id == claim.id)


async def _end(
    session: AsyncSession, claim: Claim, of_ingestion: dict[str, Any], of_document: dict[str, Any]
) -> bool:
    """False, and nothing changed, if the claim is lost."""
    await hold(session, claim.document_id)
    statement = _claimed(claim).values(of_ingestion).returning(Ingestion.document_id)
    if (await session.execute(statement, execution_options=_QUIET)).first() is None:
        return False
    await _set_status(session, claim.document_id, of_document)
    return True


async def _change(session: AsyncSession, document_id: UUID, fields: dict[str, Any]) -> None:
    statement = update(Ingestion).where(Ingestion.document_id == document_id).values(fields)
    await session.execute(statement, execution_options=_QUIET)


async def _set_status(session: AsyncSession, document_id: UUID, fields: dict[str, Any]) -> None:
    statement = update(Document).where(Document.id == document_id).values(updated_at=func.now(), **fields)
    await session.execute(statement, execution_options=_QUIET)


async def _copy_chunks(
    session: AsyncSession,
    document_id: UUID,
    collection_id: UUID,
    language: str,
    chunks: Sequence[NewChunk],
    embeddings: NDArray[np.float32],
) -> None:
    rows = await to_thread.run_sync(_as_copied, document_id, collection_id, language, chunks, embeddings)
    driver = await driver_of(session)
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
