"""Messages as the items of a conversation: given by a client, read one by one, and followed along their branch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Text, Uuid, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables
from app.db.conversations import MESSAGE_COLUMNS, NEWEST_SHOWN, StoredMessage, messages_in_sight
from app.db.sessions import visible_to
from app.db.tables import columns_of

_messages = columns_of(tables.Message)
_sessions = columns_of(tables.Session)

_UUID = Uuid(as_uuid=True)


@dataclass(frozen=True, slots=True)
class NewItem:
    id: UUID
    role: Literal["user", "assistant"]
    text: str


_ADD = text(
    f"""
    INSERT INTO messages (id, session_id, parent_id, role, status, text)
    SELECT given.id, :session_id, coalesce(given.parent_id, {NEWEST_SHOWN}), given.role, 'completed', given.text
    FROM unnest(:ids, :parent_ids, :roles, :texts) WITH ORDINALITY AS given (id, parent_id, role, text, number)
    ORDER BY given.number
    """
).bindparams(
    bindparam("session_id", type_=Text()),
    bindparam("ids", type_=ARRAY(_UUID)),
    bindparam("parent_ids", type_=ARRAY(_UUID)),
    bindparam("roles", type_=ARRAY(Text())),
    bindparam("texts", type_=ARRAY(Text())),
)


async def add(session: AsyncSession, session_id: str, items: Sequence[NewItem]) -> None:
    """Each behind the one before it, the first behind the newest message that is shown."""
    if not items:
        return
    ids = [item.id for item in items]
    values = {
        "session_id": session_id,
        "ids": ids,
        "parent_ids": [None, *ids[:-1]],
        "roles": [item.role for item in items],
        "texts": [item.text for item in items],
    }
    await session.execute(_ADD, values)


_ABOVE = (
    text(
        """
        WITH RECURSIVE above AS (
            SELECT id, parent_id, 1 AS number FROM messages WHERE id = :message_id
            UNION ALL SELECT m.id, m.parent_id, number + 1 FROM messages m JOIN above ON m.id = above.parent_id
            WHERE number < :limit
        ) SELECT id FROM above
        """
    )
    .bindparams(bindparam("message_id", type_=_UUID), bindparam("limit", type_=Integer()))
    .columns(_messages.c.id)
)
_INPUT = (
    text(
        """
        WITH RECURSIVE above AS (
            SELECT id, parent_id FROM messages WHERE id = (SELECT parent_id FROM messages WHERE id = :message_id)
            UNION ALL SELECT m.id, m.parent_id FROM messages m JOIN above ON m.id = above.parent_id
            WHERE NOT EXISTS (SELECT FROM runs WHERE runs.message_id = m.id)
        ) SELECT id FROM above
        """
    )
    .bindparams(bindparam("message_id", type_=_UUID))
    .columns(_messages.c.id)
)


async def up_to(session: AsyncSession, message_id: UUID, *, limit: int) -> list[StoredMessage]:
    """The last `limit` messages of the branch of this one up to itself, in time order."""
    return await _listed(session, _ABOVE, {"message_id": message_id, "limit": limit})


async def input_of(session: AsyncSession, answer_id: UUID) -> list[StoredMessage]:
    """What was said before this answer and after the one before it, in time order."""
    return await _listed(session, _INPUT, {"message_id": answer_id})


async def _listed(session: AsyncSession, ids: Any, values: dict[str, Any]) -> list[StoredMessage]:
    statement = select(*MESSAGE_COLUMNS).where(_messages.c.id.in_(ids)).order_by(_messages.c.position)
    return [StoredMessage(*row) for row in await session.execute(statement, values)]


async def page(
    session: AsyncSession, session_id: str, *, after: UUID | None, limit: int, newest_first: bool
) -> list[StoredMessage]:
    """Of the branch that is shown, those behind the message `after` in that order; none if that is not one of them."""
    position = _messages.c.position
    statement = (
        messages_in_sight(session_id)
        .where(_messages.c.is_shown)
        .order_by(position.desc() if newest_first else position)
        .limit(limit)
    )
    if after is not None:
        of_it = _messages.alias()
        behind = select(of_it.c.position).where(of_it.c.id == after, of_it.c.session_id == session_id)
        there = behind.scalar_subquery()
        statement = statement.where(position < there if newest_first else position > there)
    return [StoredMessage(*row) for row in await session.execute(statement)]


async def visible(
    session: AsyncSession, ids: Sequence[UUID], *, user_id: UUID | None
) -> dict[UUID, StoredMessage]:
    """Those of these messages that the user may see, and that no reset has put out of sight."""
    statement = (
        select(*MESSAGE_COLUMNS)
        .join(_sessions, _sessions.c.id == _messages.c.session_id)
        .where(
            _messages.c.id.in_(ids),
            _messages.c.position > _sessions.c.forgotten_up_to,
            visible_to(user_id),
        )
    )
    return {row.id: StoredMessage(*row) for row in await session.execute(statement)}
