"""What was said in a conversation, without what its answers were made of."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
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
