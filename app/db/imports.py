"""Queries that put conversations into the database which were held elsewhere."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import Assistant, Collection, Document, Message, Session, columns_of

_sessions = columns_of(Session)
_messages = columns_of(Message)


@dataclass(frozen=True, slots=True)
class PastMessage:
    """`parent_id` is the message before it."""

    id: UUID
    parent_id: UUID | None
    role: str
    text: str
    created_at: datetime
    sources: list[dict[str, Any]]


async def add_session(
    session: AsyncSession,
    session_id: str,
    *,
    user_id: UUID | None,
    assistant_id: UUID | None,
    created_at: datetime,
    last_active_at: datetime,
) -> bool:
    """False if there is one of this id."""
    statement = insert(_sessions).values(
        id=session_id,
        user_id=user_id,
        assistant_id=assistant_id,
        created_at=created_at,
        last_active_at=last_active_at,
    )
    new = statement.on_conflict_do_nothing().returning(_sessions.c.id)
    return (await session.execute(new)).first() is not None


async def add_messages(session: AsyncSession, session_id: str, past: Sequence[PastMessage]) -> None:
    """In the order given, each as one that is complete."""
    rows = [{**asdict(message), "session_id": session_id, "status": "completed"} for message in past]
    if rows:
        await session.execute(insert(_messages), rows)


async def session_ids(session: AsyncSession, ids: Iterable[str]) -> set[str]:
    """Those that there are."""
    statement = select(_sessions.c.id).where(_sessions.c.id.in_(list(ids)))
    return set((await session.execute(statement)).scalars())


async def message_ids(session: AsyncSession, session_id: str) -> set[UUID]:
    statement = select(_messages.c.id).where(_messages.c.session_id == session_id)
    return set((await session.execute(statement)).scalars())


async def any_message(session: AsyncSession, ids: Iterable[UUID]) -> bool:
    """Whether any session has one of these."""
    statement = select(_messages.c.id).where(_messages.c.id.in_(list(ids))).limit(1)
    return (await session.execute(statement)).first() is not None


async def is_assistant(session: AsyncSession, assistant_id: UUID) -> bool:
    return (
        await session.execute(select(Assistant.id).where(Assistant.id == assistant_id))
    ).first() is not None


async def is_collection(session: AsyncSession, collection_id: UUID) -> bool:
    return (
        await session.execute(select(Collection.id).where(Collection.id == collection_id))
    ).first() is not None


async def document_of_origin(session: AsyncSession, origin: str) -> tuple[UUID, str] | None:
    """The id and the file name of the newest document of this origin, in whichever collection."""
    statement = (
        select(Document.id, Document.file_name)
        .where(Document.origin == origin)
        .order_by(Document.position.desc())
        .limit(1)
    )
    row = (await session.execute(statement)).one_or_none()
    return (row.id, row.file_name) if row is not None else None
