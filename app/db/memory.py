"""What was said in a conversation, without what its answers were made of, and the summaries of what was said long ago.

A summary belongs to the last message that it reaches. As the messages of a session are a tree, that message tells the branch, and
one that is shown has nothing behind it but what is shown: a summary needs no care when a branch is put aside or a session is reset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Integer, Text, Uuid, bindparam, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables
from app.db.tables import columns_of

_sessions = columns_of(tables.Session)
_messages = columns_of(tables.Message)


@dataclass(frozen=True, slots=True)
class Said:
    id: UUID
    role: str
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Remembered:
    """The newest summary, if there is one, and the messages behind it, in time order."""

    summary: str
    messages: Sequence[Said]


async def said(session: AsyncSession, session_id: str, *, limit: int) -> list[Said]:
    """The newest messages that are shown, in time order."""
    statement = (
        select(*(_messages.c[name] for name in Said.__slots__))
        .join(_sessions, _sessions.c.id == _messages.c.session_id)
        .where(
            _messages.c.session_id == session_id,
            _messages.c.is_shown,
            _messages.c.position > _sessions.c.forgotten_up_to,
        )
        .order_by(_messages.c.position.desc())
        .limit(limit)
    )
    rows = (await session.execute(statement)).all()
    return [Said(*row) for row in reversed(rows)]


# In the order of positions, the summary comes first. Both are read from the end of an index, however long the session is.
_REMEMBERED = """
    WITH bounds AS (
        SELECT forgotten_up_to, coalesce((SELECT position FROM messages WHERE id = :before_message), :end) AS before
        FROM sessions WHERE id = :session_id
    ), summary AS (
        SELECT summaries.* FROM bounds, summaries JOIN messages m ON m.id = summaries.message_id
        WHERE summaries.session_id = :session_id AND m.is_shown
            AND summaries.position > bounds.forgotten_up_to AND summaries.position < bounds.before
        ORDER BY summaries.position DESC LIMIT 1
    ), behind AS (
        SELECT m.* FROM bounds, messages m
        WHERE m.session_id = :session_id AND m.is_shown AND m.status NOT IN ('queued', 'running') AND m.text <> ''
            AND m.position > coalesce((SELECT position FROM summary), bounds.forgotten_up_to) AND m.position < bounds.before
        ORDER BY m.position {order} LIMIT :limit
    )
    SELECT position, message_id AS id, 'summary' AS role, text, created_at FROM summary
    UNION ALL SELECT position, id, role, text, created_at FROM behind
    ORDER BY position
"""
_END = 2**63 - 1


def _remembering(order: str) -> Any:
    return text(_REMEMBERED.format(order=order)).bindparams(
        bindparam("session_id", type_=Text()),
        bindparam("before_message", type_=Uuid()),
        bindparam("end", _END, type_=BigInteger()),
        bindparam("limit", type_=Integer()),
    )


_NEWEST, _OLDEST = _remembering("DESC"), _remembering("ASC")


async def newest(
    session: AsyncSession, session_id: str, *, before_message: UUID | None = None, limit: int
) -> Remembered:
    """With the last `limit` messages that are shown, before this one if it is given; those without a text are left out."""
    return await _remembered(session, _NEWEST, session_id, before_message, limit)


async def oldest(session: AsyncSession, session_id: str, *, limit: int) -> Remembered:
    """With the first `limit` messages behind the summary."""
    return await _remembered(session, _OLDEST, session_id, None, limit)


async def _remembered(
    session: AsyncSession, statement: Any, session_id: str, before_message: UUID | None, limit: int
) -> Remembered:
    values = {"session_id": session_id, "before_message": before_message, "limit": limit}
    rows = (await session.execute(statement, values)).all()
    summary = rows[0].text if rows and rows[0].role == "summary" else ""
    return Remembered(
        summary, [Said(row.id, row.role, row.text, row.created_at) for row in rows if row.role != "summary"]
    )


# The session may have been erased since its messages were read.
_KEEP = text(
    """
    INSERT INTO summaries (message_id, session_id, position, text, usage)
    SELECT id, session_id, position, :summary, :usage FROM messages WHERE id = :message_id FOR KEY SHARE
    ON CONFLICT (message_id) DO NOTHING
    """
).bindparams(
    bindparam("message_id", type_=Uuid()),
    bindparam("summary", type_=Text()),
    bindparam("usage", type_=JSONB()),
)


async def keep(session: AsyncSession, summary: str, *, up_to_message: UUID, usage: dict[str, Any]) -> None:
    """Keep the summary of all up to this message; the first one counts. `usage` is what the model has taken for it."""
    await session.execute(_KEEP, {"message_id": up_to_message, "summary": summary, "usage": usage})
