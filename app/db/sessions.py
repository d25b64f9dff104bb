"""Sessions: whose they are, and what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Interval,
    Text,
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables
from app.db.tables import columns_of
from app.errors import NotFound

_sessions = columns_of(tables.Session)
_messages = columns_of(tables.Message)


_OPEN_SESSION = text(
    """
    INSERT INTO sessions (id, user_id, assistant_id) VALUES (:session_id, :user_id, :assistant_id)
    ON CONFLICT (id) DO UPDATE SET last_active_at = now(), assistant_id = coalesce(sessions.assistant_id, excluded.assistant_id)
    WHERE sessions.user_id IS NULL OR sessions.user_id = :user_id
    RETURNING EXISTS (SELECT FROM messages WHERE messages.session_id = sessions.id),
        EXISTS (SELECT FROM runs WHERE runs.session_id = sessions.id AND runs.status IN ('queued', 'running')),
        EXISTS (SELECT FROM collections WHERE collections.session_id = sessions.id)
    """
).bindparams(
    bindparam("session_id", type_=Text()),
    bindparam("user_id", type_=Uuid()),
    bindparam("assistant_id", type_=Uuid()),
)


class Opened(NamedTuple):
    """Whether anything has been said in the session, whether an answer is being made in it, and whether something is attached to it,
    as far as could be seen."""

    has_messages: bool
    is_busy: bool
    has_attachments: bool


async def open_session(
    session: AsyncSession, session_id: str, *, user_id: UUID | None, assistant_id: UUID | None
) -> Opened:
    """Make or enter the session, and hold its row to the end of the transaction, so that turns come one after the other.

    Raises `NotFound` if it is another user's.
    """
    values = {"session_id": session_id, "user_id": user_id, "assistant_id": assistant_id}
    row = (await session.execute(_OPEN_SESSION, values)).one_or_none()
    if row is None:
        raise NotFound("session", session_id)
    return Opened(*row)


@dataclass(frozen=True, slots=True)
class Described:
    """A session as its client has noted it down, if one has."""

    id: str
    created_at: datetime
    client_metadata: dict[str, Any] | None


_described: tuple[ColumnElement[Any], ...] = (
    _sessions.c.id,
    _sessions.c.created_at,
    _sessions.c.client_metadata,
)


async def add(
    session: AsyncSession, session_id: str, *, user_id: UUID | None, client_metadata: dict[str, Any]
) -> Described:
    """One that no assistant has been asked in yet."""
    values = {"id": session_id, "user_id": user_id, "client_metadata": client_metadata}
    row = (await session.execute(insert(_sessions).values(values).returning(*_described))).one()
    return Described(*row)


async def described(session: AsyncSession, session_id: str, *, user_id: UUID | None) -> Described | None:
    """None if there is no such session that the user may see."""
    statement = select(*_described).where(_sessions.c.id == session_id, visible_to(user_id))
    row = (await session.execute(statement)).one_or_none()
    return Described(*row) if row is not None else None


async def describe(
    session: AsyncSession, session_id: str, *, user_id: UUID | None, client_metadata: dict[str, Any]
) -> Described | None:
    """None if there is no such session that the user may see."""
    statement = (
        update(_sessions)
        .where(_sessions.c.id == session_id, visible_to(user_id))
        .values(client_metadata=client_metadata)
        .returning(*_described)
    )
    row = (await session.execute(statement)).one_or_none()
    return Described(*row) if row is not None else None


async def hold(session: AsyncSession, session_id: str) -> bool:
    """Hold the session's row to the end of the transaction. False if there is none."""
    statement = update(_sessions).where(_sessions.c.id == session_id).values(last_active_at=func.now())
    return (await session.execute(statement.returning(_sessions.c.id))).first() is not None


async def owner_of(session: AsyncSession, session_id: str) -> tuple[UUID | None] | None:
    """The session's user, or no user, in a tuple; None if there is no such session."""
    row = (
        await session.execute(select(_sessions.c.user_id).where(_sessions.c.id == session_id))
    ).one_or_none()
    return (row.user_id,) if row is not None else None


async def forget(session: AsyncSession, session_id: str, *, user_id: UUID | None) -> None:
    """Put all messages up to now out of sight, of its user and of later answers."""
    newest = select(func.coalesce(func.max(_messages.c.position), 0)).where(
        _messages.c.session_id == session_id
    )
    await session.execute(
        update(_sessions)
        .where(_sessions.c.id == session_id, visible_to(user_id))
        .values(forgotten_up_to=newest.scalar_subquery())
    )


@dataclass(frozen=True, slots=True)
class SessionRow:
    """`title` is its user's, else how its first question begins."""

    id: str
    title: str | None
    assistant_id: UUID | None
    created_at: datetime
    last_active_at: datetime


_TITLE_CHARACTERS = 80
_first_question = (
    select(func.left(_messages.c.text, _TITLE_CHARACTERS))
    .where(
        _messages.c.session_id == _sessions.c.id,
        _messages.c.role == "user",
        _messages.c.position > _sessions.c.forgotten_up_to,
        _messages.c.is_shown,
    )
    .order_by(_messages.c.position)
    .limit(1)
    .scalar_subquery()
)
_session_rows = select(
    _sessions.c.id,
    func.coalesce(_sessions.c.title, _first_question),
    _sessions.c.assistant_id,
    _sessions.c.created_at,
    _sessions.c.last_active_at,
)


async def page(
    session: AsyncSession, user_id: UUID, *, before: tuple[datetime, str] | None, limit: int
) -> list[SessionRow]:
    """The user's sessions, the last active first: those behind the one that was active then and has that id."""
    statement = (
        _session_rows.where(_sessions.c.user_id == user_id)
        .order_by(_sessions.c.last_active_at.desc(), _sessions.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        active_at, session_id = before
        earlier = _sessions.c.last_active_at < active_at
        same = and_(_sessions.c.last_active_at == active_at, _sessions.c.id < session_id)
        statement = statement.where(or_(earlier, same))
    return [SessionRow(*row) for row in await session.execute(statement)]


async def get(session: AsyncSession, session_id: str) -> SessionRow | None:
    row = (await session.execute(_session_rows.where(_sessions.c.id == session_id))).one_or_none()
    return SessionRow(*row) if row is not None else None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session, and the assistant that it was opened with, if that is still there."""

    id: str
    assistant_id: UUID | None
    created_at: datetime


_conversations = select(_sessions.c.id, _sessions.c.assistant_id, _sessions.c.created_at)


async def conversation(
    session: AsyncSession, session_id: str, *, user_id: UUID | None
) -> Conversation | None:
    """None also if the user may not see it."""
    statement = _conversations.where(_sessions.c.id == session_id, visible_to(user_id))
    row = (await session.execute(statement)).one_or_none()
    return Conversation(*row) if row is not None else None


async def with_assistants(
    session: AsyncSession,
    assistant_ids: Sequence[UUID],
    *,
    user_id: UUID | None,
    anonymous_of: Sequence[UUID],
    limit: int,
) -> list[Conversation]:
    """The newest `limit` sessions that the user has opened with these assistants, in time order; with those of `anonymous_of`,
    also such as nobody's."""
    is_shown = _sessions.c.user_id.is_(None) & _sessions.c.assistant_id.in_(anonymous_of)
    if user_id is not None:
        is_shown |= _sessions.c.user_id == user_id
    statement = (
        _conversations.where(_sessions.c.assistant_id.in_(assistant_ids), is_shown)
        .order_by(_sessions.c.created_at.desc(), _sessions.c.id)
        .limit(limit)
    )
    rows = (await session.execute(statement)).all()
    return [Conversation(*row) for row in reversed(rows)]


async def rename(session: AsyncSession, session_id: str, *, user_id: UUID, title: str | None) -> bool:
    """False if it is not this user's session."""
    statement = (
        update(_sessions)
        .where(_sessions.c.id == session_id, _sessions.c.user_id == user_id)
        .values(title=title)
        .returning(_sessions.c.id)
    )
    return (await session.execute(statement)).first() is not None


async def claim(session: AsyncSession, session_id: str, *, user_id: UUID) -> bool:
    """Make an anonymous session the user's; one that is the user's already stays so. False for any other."""
    statement = (
        update(_sessions)
        .where(_sessions.c.id == session_id, visible_to(user_id))
        .values(user_id=user_id)
        .returning(_sessions.c.id)
    )
    return (await session.execute(statement)).first() is not None


async def erase(session: AsyncSession, session_id: str, *, user_id: UUID | None) -> None:
    """Delete the session with its messages and runs, if the user may see it."""
    await session.execute(delete(_sessions).where(_sessions.c.id == session_id, visible_to(user_id)))


async def discard(session: AsyncSession, session_id: str) -> None:
    """Delete the session with its messages and runs, whosever it is."""
    await session.execute(delete(_sessions).where(_sessions.c.id == session_id))


_ERASE_SILENT = text(
    """
    DELETE FROM sessions WHERE id IN (
        SELECT id FROM sessions s WHERE last_active_at < now() - :age AND NOT EXISTS (
            SELECT FROM runs WHERE session_id = s.id AND status IN ('queued', 'running'))
        ORDER BY last_active_at LIMIT 200 FOR UPDATE SKIP LOCKED)
    RETURNING id
    """
).bindparams(bindparam("age", type_=Interval()))


async def erase_older_than(session: AsyncSession, age: timedelta) -> int:
    """Delete some of the sessions in which nothing has happened for so long; tells how many. None is left when it was none."""
    return len((await session.execute(_ERASE_SILENT, {"age": age})).all())


def visible_to(user_id: UUID | None) -> ColumnElement[bool]:
    """An anonymous session is open to whoever knows its id; a user's to that user."""
    return (
        _sessions.c.user_id.is_(None)
        if user_id is None
        else or_(_sessions.c.user_id.is_(None), _sessions.c.user_id == user_id)
    )
