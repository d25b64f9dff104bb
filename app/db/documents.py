"""Queries on documents and the files that they were made of."""

from collections.abc import Collection as Several
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, RowMapping, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import Collection, Document, DocumentFile, Ingestion

Status = Literal["pending", "processing", "ready", "failed", "cancelled"]
Stage = Literal["waiting", "converting", "splitting", "embedding", "storing"]

_QUIET: dict[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the work on the newest file; `done`, `total` and `reused` are passages, and 0 before there are any.

    `reused` are those that the document had before: they are not embedded again. `seconds_left` is an estimate. `problem` is
    why the last attempt did not get through, while another is to come.
    """

    stage: Stage
    done: int = 0
    total: int = 0
    reused: int = 0
    attempts: int = 0
    seconds_left: float | None = None
    problem: str | None = None
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DocumentView:
    """`position` grows with each document that is added. `warnings` are for people.

    `status` and the error are about the newest file, `chunk_count` and what else is known of the text about what can be found:
    after another file was refused, or while one is ingested, that is the one before.
    """

    id: UUID
    position: int
    collection_id: UUID
    collection_name: str
    origin: str | None
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
    progress: Progress
    created_at: datetime
    updated_at: datetime

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status not in {"pending", "processing"}


@dataclass(frozen=True, slots=True)
class NewFile:
    """`title` goes before the one that is found in the file."""

    file_name: str
    declared_type: str | None
    content: bytes
    sha256: bytes
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A document as it is before it is given a file."""

    id: UUID
    content_sha256: bytes
    indexed_sha256: bytes | None
    status: Status
    error_reason: str | None


@dataclass(frozen=True, slots=True)
class Original:
    """A file as it was given, without its bytes; `media_type` is known once it has been read."""

    document_id: UUID
    content_sha256: bytes
    file_name: str
    media_type: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Excerpt:
    """`text` is from `start` to `end` of a text of `length` characters."""

    text: str
    start: int
    end: int
    length: int


_view = (
    select(
        Document.id,
        Document.position,
        Document.collection_id,
        Collection.name.label("collection_name"),
        Document.origin,
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
        Ingestion.stage,
        Ingestion.done,
        Ingestion.total,
        Ingestion.reused,
        Ingestion.attempts,
        Ingestion.seconds_left,
        Ingestion.problem,
        Ingestion.started_at,
    )
    .join(Collection, Collection.id == Document.collection_id)
    .outerjoin(Ingestion, Ingestion.document_id == Document.id)
)
_OF_PROGRESS = ("stage", "done", "total", "reused", "attempts", "seconds_left", "problem", "started_at")


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
    statuses: Several[Status],
    before: int | None,
    limit: int,
    attachments: bool = False,
) -> list[DocumentView]:
    """The `limit` documents that were added last before the position `before`, newest first; of any status, or of these. What is
    attached to sessions is among them if it is asked for, or is what the collection holds."""
    statement = _view.order_by(Document.position.desc()).limit(limit)
    if collection_id is not None:
        statement = statement.where(Document.collection_id == collection_id)
    elif not attachments:
        statement = statement.where(Collection.session_id.is_(None))
    if statuses:
        statement = statement.where(Document.status.in_(statuses))
    if before is not None:
        statement = statement.where(Document.position < before)
    return [_as_view(row) for row in (await session.execute(statement)).mappings()]


async def count(session: AsyncSession, collection_id: UUID) -> int:
    statement = select(func.count()).where(Document.collection_id == collection_id)
    return (await session.execute(statement)).scalar_one()


async def those_of(
    session: AsyncSession, collection_id: UUID, document_ids: Sequence[UUID]
) -> list[DocumentView]:
    """Those of them that are in the collection."""
    statement = _view.where(Document.collection_id == collection_id, Document.id.in_(document_ids))
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
    file: NewFile,
    *,
    origin: str | None = None,
    url: str | None = None,
) -> tuple[Known, bool]:
    """A `pending` document, and true; or false and the one that there is: of this origin, or, without one, of these bytes.

    That one is held until the transaction ends.
    """
    row = {
        "id": uuid4(),
        "collection_id": collection_id,
        "origin": origin,
        "url": url,
        "file_name": file.file_name,
        "declared_type": file.declared_type,
        "title": file.title,
        "content_sha256": file.sha256,
        "size_bytes": len(file.content),
        "status": "pending",
    }
    new = insert(Document).values(row).on_conflict_do_nothing().returning(Document.id)
    document_id = (await session.execute(new)).scalar_one_or_none()
    if document_id is not None:
        await _store_file(session, document_id, file)
        return Known(document_id, file.sha256, None, "pending", None), True
    same = (
        (Document.content_sha256 == file.sha256) & Document.origin.is_(None)
        if origin is None
        else Document.origin == origin
    )
    known = await _held(session, (Document.collection_id == collection_id) & same)
    if known is None:
        # It was deleted since; or else it could not have been in the way.
        return await add(session, collection_id, file, origin=origin, url=url)
    return known, False


async def hold(session: AsyncSession, document_id: UUID) -> Known | None:
    """Until the transaction ends, nobody else changes its status or gives it a file."""
    return await _held(session, Document.id == document_id)


async def id_of_origin(session: AsyncSession, collection_id: UUID, origin: str) -> UUID | None:
    statement = select(Document.id).where(Document.collection_id == collection_id, Document.origin == origin)
    return (await session.execute(statement)).scalar_one_or_none()


async def of_same_bytes(session: AsyncSession, document_id: UUID, sha256: bytes) -> UUID | None:
    """Another document without an origin in its collection, where this one has none either."""
    this = select(Document.collection_id).where(Document.id == document_id, Document.origin.is_(None))
    statement = select(Document.id).where(
        Document.collection_id == this.scalar_subquery(),
        Document.content_sha256 == sha256,
        Document.origin.is_(None),
        Document.id != document_id,
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def give_file(session: AsyncSession, known: Known, file: NewFile) -> None:
    """To be ingested. What is found of the document stays as it is until then, with the file it was made of."""
    unused = delete(DocumentFile).where(
        DocumentFile.document_id == known.id,
        DocumentFile.content_sha256.not_in(
            [sha256 for sha256 in (known.indexed_sha256, file.sha256) if sha256]
        ),
    )
    await session.execute(unused, execution_options=_QUIET)
    await _store_file(session, known.id, file)
    fields: dict[str, Any] = {"content_sha256": file.sha256}
    if known.indexed_sha256 is None:
        fields |= {
            "file_name": file.file_name,
            "declared_type": file.declared_type,
            "title": file.title,
            "size_bytes": len(file.content),
        }
    await _change(session, known.id, fields)


async def keep_file(session: AsyncSession, known: Known) -> None:
    """After all: the document is `ready` with the file that its text was made of."""
    unused = delete(DocumentFile).where(
        DocumentFile.document_id == known.id, DocumentFile.content_sha256 != known.indexed_sha256
    )
    await session.execute(unused, execution_options=_QUIET)
    await _change(
        session,
        known.id,
        {
            "content_sha256": known.indexed_sha256,
            "status": "ready",
            "error_reason": None,
            "error_message": None,
        },
    )


async def describe(session: AsyncSession, document_id: UUID, *, url: str | None, title: str | None) -> None:
    """Of what somebody else keeps: where it is, and what it is called there, as far as that is told."""
    fields = {name: value for name, value in (("url", url), ("title", title)) if value is not None}
    if not fields:
        return
    different = or_(*(getattr(Document, name).is_distinct_from(value) for name, value in fields.items()))
    statement = update(Document).where(Document.id == document_id, different).values(**fields)
    await session.execute(statement, execution_options=_QUIET)


async def original(session: AsyncSession, document_id: UUID) -> Original | None:
    """The file that the document's text was made of; before there is one, the file that was given."""
    statement = (
        select(
            DocumentFile.document_id,
            DocumentFile.content_sha256,
            DocumentFile.file_name,
            Document.media_type,
            func.octet_length(DocumentFile.content).label("size_bytes"),
        )
        .join(Document, Document.id == DocumentFile.document_id)
        .where(
            Document.id == document_id,
            DocumentFile.content_sha256 == func.coalesce(Document.indexed_sha256, Document.content_sha256),
        )
    )
    row = (await session.execute(statement)).mappings().one_or_none()
    return Original(**row) if row is not None else None


async def part(session: AsyncSession, original: Original, start: int, length: int) -> bytes | None:
    """`length` of its bytes from `start`; None if it is no more."""
    statement = select(func.substring(DocumentFile.content, start + 1, length)).where(
        DocumentFile.document_id == original.document_id,
        DocumentFile.content_sha256 == original.content_sha256,
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def remove(session: AsyncSession, document_id: UUID) -> bool:
    if await hold_collection(session, document_id) is None:
        return False
    statement = delete(Document).where(Document.id == document_id).returning(Document.id)
    return (await session.execute(statement, execution_options=_QUIET)).first() is not None


async def hold_collection(session: AsyncSession, document_id: UUID) -> UUID | None:
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


async def _held(session: AsyncSession, which: ColumnElement[bool]) -> Known | None:
    statement = (
        select(
            Document.id,
            Document.content_sha256,
            Document.indexed_sha256,
            Document.status,
            Document.error_reason,
        )
        .where(which)
        .with_for_update()
    )
    row = (await session.execute(statement)).mappings().one_or_none()
    return Known(**row) if row is not None else None


async def _store_file(session: AsyncSession, document_id: UUID, file: NewFile) -> None:
    named = {"file_name": file.file_name, "declared_type": file.declared_type, "title": file.title}
    statement = insert(DocumentFile).values(
        document_id=document_id, content_sha256=file.sha256, content=file.content, **named
    )
    key = [DocumentFile.document_id, DocumentFile.content_sha256]
    await session.execute(statement.on_conflict_do_update(index_elements=key, set_=named))


async def _change(session: AsyncSession, document_id: UUID, fields: dict[str, Any]) -> None:
    statement = update(Document).where(Document.id == document_id).values(updated_at=func.now(), **fields)
    await session.execute(statement, execution_options=_QUIET)


def _as_view(row: RowMapping) -> DocumentView:
    fields = dict[str, Any](row)
    of_progress = {name: fields.pop(name) for name in _OF_PROGRESS}
    # What was never queued, as it was put into the table by other means, has no row of its work.
    fields["progress"] = Progress(**of_progress) if of_progress["stage"] is not None else Progress("waiting")
    fields["warnings"] = tuple(warning["message"] for warning in row["warnings"])
    return DocumentView(**fields)
