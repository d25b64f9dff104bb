"""Tokens of chat sockets: each lets its holder into one session, for a while."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import (
    Interval,
    LargeBinary,
    RowMapping,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import ChatToken, Session, User, columns_of

_tokens = columns_of(ChatToken)
_sessions = columns_of(Session)
_users = columns_of(User)

_ADD = text(
    """
    WITH expired AS (DELETE FROM chat_tokens WHERE expires_at <= now())
    INSERT INTO chat_tokens (id, token_hash, name, session_id, user_id, assistant_id, expires_at)
    VALUES (:id, :token_hash, :name, :session_id, :user_id, :assistant_id, now() + :lifetime)
    """
).bindparams(
    bindparam("id", type_=Uuid()),
    bindparam("token_hash", type_=LargeBinary()),
    bindparam("name", type_=Text()),
    bindparam("session_id", type_=Text()),
    bindparam("user_id", type_=Uuid()),
    bindparam("assistant_id", type_=Uuid()),
    bindparam("lifetime", type_=Interval()),
)
_FIND = (
    select(
        _tokens.c.id,
        _tokens.c.name,
        _tokens.c.session_id,
        _tokens.c.assistant_id,
        _sessions.c.created_at.label("session_start"),
        func.extract("epoch", _tokens.c.expires_at - func.now()).label("left_s"),
        _tokens.c.user_id,
        _users.c.email,
        _users.c.name.label("user_name"),
        _users.c.role,
    )
    .join(_sessions, _sessions.c.id == _tokens.c.session_id)
    .outerjoin(_users, _users.c.id == _tokens.c.user_id)
    .where(
        _tokens.c.token_hash == bindparam("token_hash", type_=LargeBinary()),
        _tokens.c.expires_at > func.now(),
        or_(_tokens.c.user_id.is_(None), _users.c.is_active),
    )
)


@dataclass(frozen=True, slots=True)
class NewToken:
    id: UUID
    token_hash: bytes
    name: str
    session_id: str
    user_id: UUID | None
    assistant_id: UUID


async def add(session: AsyncSession, token: NewToken, *, lifetime: timedelta) -> None:
    """Forgets those that have expired."""
    values = {name: getattr(token, name) for name in NewToken.__slots__}
    await session.execute(_ADD, {**values, "lifetime": lifetime})


async def find(session: AsyncSession, token_hash: bytes) -> RowMapping | None:
    """The token with the beginning of its session, the seconds that are left to it, and its user; none that has expired, or
    whose user is no longer active."""
    return (await session.execute(_FIND, {"token_hash": token_hash})).mappings().one_or_none()


async def remove(session: AsyncSession, token_hash: bytes) -> UUID | None:
    """Which one it was; None if there is none."""
    statement = delete(_tokens).where(_tokens.c.token_hash == token_hash).returning(_tokens.c.id)
    return (await session.execute(statement)).scalar_one_or_none()
