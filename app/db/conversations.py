"""Sessions, their messages, and the runs that make the answers.

The three statements of every turn are written out: built anew each time, they cost as much again as running them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Interval,
    Text,
    Uuid,
    bindparam,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables
from app.db.tables import columns_of
from app.errors import NotFound, SessionBusy

_sessions = columns_of(tables.Session)
_messages = columns_of(tables.Message)


def _bound(name: str, kind: type[Text | Uuid[Any]]) -> BindParameter[Any]:
    return bindparam(name, type_=kind())


@dataclass(frozen=True, slots=True)
class StoredMessage:
    id: UUID
    position: int
    role: str
    status: str
    text: str
    created_at: datetime
    finish_reason: str | None
    error_code: str | None
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    visualization: dict[str, Any] | None
    usage: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """How an answer ended, as it is stored."""

    status: str
    text: str
    finish_reason: str | None = None
    error_code: str | None = None
    sources: Sequence[dict[str, Any]] = ()
    steps: Sequence[dict[str, Any]] = ()
    usage: dict[str, Any] | None = None


_OPEN_SESSION = text(
    """
    INSERT INTO sessions (id, user_id, assistant_id) VALUES (:session_id, :user_id, :assistant_id)
    ON CONFLICT (id) DO UPDATE SET last_active_at = now() WHERE sessions.user_id IS NULL OR sessions.user_id = :user_id
    RETURNING created_at <> last_active_at
    """
).bindparams(_bound("session_id", Text), _bound("user_id", Uuid), _bound("assistant_id", Uuid))


async def open_session(
    session: AsyncSession, session_id: str, *, user_id: UUID | None, assistant_id: UUID
) -> bool:
    """Make or enter the session, and hold its row to the end of the transaction, so that turns come one after the other.

    Says whether it was there before. Raises `NotFound` if it is another user's.
    """
    values = {"session_id": session_id, "user_id": user_id, "assistant_id": assistant_id}
    was_there = (await session.execute(_OPEN_SESSION, values)).scalar_one_or_none()
    if was_there is None:
        raise NotFound("session", session_id)
    return was_there


_ADD_TURN = text(
    """
    WITH messages_of_the_turn AS (
        INSERT INTO messages (id, session_id, role, status, text)
        VALUES (:question_id, :session_id, 'user', 'completed', :question), (:answer_id, :session_id, 'assistant', 'running', '')
    )
    INSERT INTO runs (id, session_id, assistant_id, user_message_id, message_id, process_id, status)
    VALUES (:run_id, :session_id, :assistant_id, :question_id, :answer_id, :process_id, 'running')
    """
).bindparams(
    *(_bound(name, Uuid) for name in ("run_id", "process_id", "assistant_id", "question_id", "answer_id")),
    _bound("session_id", Text),
    _bound("question", Text),
)


async def add_turn(
    session: AsyncSession,
    *,
    run_id: UUID,
    process_id: UUID,
    session_id: str,
    assistant_id: UUID,
    question_id: UUID,
    question: str,
    answer_id: UUID,
) -> None:
    """Store the question, reserve the answer, and note that it is being made. Raises `SessionBusy`."""
    values = {
        "run_id": run_id,
        "process_id": process_id,
        "session_id": session_id,
        "assistant_id": assistant_id,
        "question_id": question_id,
        "question": question,
        "answer_id": answer_id,
    }
    try:
        await session.execute(_ADD_TURN, values)
    except IntegrityError as error:
        if "runs_one_running_a_session_key" in str(error.orig):
            raise SessionBusy from error
        raise


_END_TURN = text(
    """
    WITH ended_run AS (
        UPDATE runs SET status = :status, error_code = :error_code, ended_at = now()
        WHERE id = :run_id AND (status = 'running' OR error_code = 'interrupted') RETURNING message_id
    )
    UPDATE messages SET status = :status, text = :answer, finish_reason = :finish_reason, error_code = :error_code,
        sources = :sources, steps = :steps, usage = :usage
    FROM ended_run WHERE messages.id = ended_run.message_id
    """
).bindparams(
    _bound("run_id", Uuid),
    *(_bound(name, Text) for name in ("status", "answer", "finish_reason", "error_code")),
    *(bindparam(name, type_=JSONB(none_as_null=True)) for name in ("sources", "steps", "usage")),
)


async def end_turn(session: AsyncSession, *, run_id: UUID, end: AnswerEnd) -> None:
    """Store the answer and how it ended, once: a run that has already been ended stays as it is.

    But an interruption that another process has only assumed, when this one could not tell that it lived, gives way.
    """
    values = {
        "run_id": run_id,
        "status": end.status,
        "answer": end.text,
        "finish_reason": end.finish_reason,
        "error_code": end.error_code,
        "sources": list(end.sources),
        "steps": list(end.steps),
        "usage": end.usage,
    }
    await session.execute(_END_TURN, values)


async def recent_messages(
    session: AsyncSession, session_id: str, *, before_message: UUID, limit: int
) -> list[StoredMessage]:
    """The last `limit` messages that a reset has not put out of sight, in time order; failed answers without a text are left out."""
    before = select(_messages.c.position).where(_messages.c.id == before_message).scalar_subquery()
    statement = (
        _visible_messages(session_id)
        .where(_messages.c.position < before, _messages.c.status != "running", _messages.c.text != "")
        .order_by(_messages.c.position.desc())
        .limit(limit)
    )
    rows = (await session.execute(statement)).all()
    return [StoredMessage(*row) for row in reversed(rows)]


async def page_of_messages(
    session: AsyncSession, session_id: str, *, user_id: UUID | None, before: int | None, limit: int
) -> list[StoredMessage]:
    """The last `limit` messages behind position `before` of a session that the user may see, in time order; none if there is none."""
    statement = (
        _visible_messages(session_id)
        .where(_visible_to(user_id))
        .order_by(_messages.c.position.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(_messages.c.position < before)
    rows = (await session.execute(statement)).all()
    return [StoredMessage(*row) for row in reversed(rows)]


async def get_message(session: AsyncSession, message_id: UUID) -> StoredMessage | None:
    statement = select(*_COLUMNS).where(_messages.c.id == message_id)
    row = (await session.execute(statement)).one_or_none()
    return StoredMessage(*row) if row is not None else None


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
        .where(_sessions.c.id == session_id, _visible_to(user_id))
        .values(forgotten_up_to=newest.scalar_subquery())
    )


_BEAT = text(
    """
    WITH long_gone AS (DELETE FROM processes WHERE heartbeat_at < now() - interval '1 day')
    INSERT INTO processes (id) VALUES (:process_id) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()
    """
).bindparams(_bound("process_id", Uuid))


async def beat(session: AsyncSession, process_id: UUID) -> None:
    """Note that the process lives, and forget those that have long been gone."""
    await session.execute(_BEAT, {"process_id": process_id})


_END_ABANDONED = text(
    """
    WITH abandoned AS (
        UPDATE runs SET status = 'failed', error_code = 'interrupted', ended_at = now()
        WHERE status = 'running' AND started_at < now() - :silence AND (
            process_id NOT IN (SELECT id FROM processes WHERE heartbeat_at >= now() - :silence)
            OR process_id = :process_id AND id <> ALL (:running)
        )
        RETURNING message_id
    )
    UPDATE messages SET status = 'failed', error_code = 'interrupted'
    FROM abandoned WHERE messages.id = abandoned.message_id RETURNING messages.id
    """
).bindparams(
    _bound("process_id", Uuid),
    bindparam("running", type_=ARRAY(Uuid(as_uuid=True))),
    bindparam("silence", type_=Interval()),
)


async def end_abandoned_runs(
    session: AsyncSession, process_id: UUID, *, running: Sequence[UUID], silence: timedelta
) -> int:
    """End, as interrupted, the runs of processes that have been silent for `silence`, and those of this process that it no longer runs.

    A run of this process counts only when it is older than `silence`: it may have been accepted and not yet be among `running`.
    """
    values = {"process_id": process_id, "running": list(running), "silence": silence}
    return len((await session.execute(_END_ABANDONED, values)).all())


_COLUMNS = (
    _messages.c.id,
    _messages.c.position,
    _messages.c.role,
    _messages.c.status,
    _messages.c.text,
    _messages.c.created_at,
    _messages.c.finish_reason,
    _messages.c.error_code,
    _messages.c.sources,
    _messages.c.citations,
    _messages.c.steps,
    _messages.c.visualization,
    _messages.c.usage,
)


def _visible_messages(session_id: str) -> Any:
    return (
        select(*_COLUMNS)
        .join(_sessions, _sessions.c.id == _messages.c.session_id)
        .where(_messages.c.session_id == session_id, _messages.c.position > _sessions.c.forgotten_up_to)
    )


def _visible_to(user_id: UUID | None) -> Any:
    """An anonymous session is open to whoever knows its id; a user's to that user."""
    return (
        _sessions.c.user_id.is_(None)
        if user_id is None
        else or_(_sessions.c.user_id.is_(None), _sessions.c.user_id == user_id)
    )
