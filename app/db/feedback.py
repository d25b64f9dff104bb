"""What readers say of answers: one rating a message, deleted with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Text, Uuid, bindparam, case, delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables
from app.db.tables import columns_of

Rating = Literal["up", "down"]

_feedback = columns_of(tables.Feedback)
_messages = columns_of(tables.Message)
_questions = _messages.alias("questions")
_sessions = columns_of(tables.Session)
_runs = columns_of(tables.Run)


@dataclass(frozen=True, slots=True)
class Feedback:
    message_id: UUID
    rating: Rating
    comment: str | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = tuple(_feedback.c[name] for name in Feedback.__slots__)


_PUT = text(
    """
    INSERT INTO feedback (message_id, rating, comment) VALUES (:message_id, :rating, :comment)
    ON CONFLICT (message_id) DO UPDATE SET rating = excluded.rating, comment = excluded.comment, updated_at = now()
    RETURNING created_at, updated_at
    """
).bindparams(
    bindparam("message_id", type_=Uuid()),
    bindparam("rating", type_=Text()),
    bindparam("comment", type_=Text()),
)


async def put(session: AsyncSession, message_id: UUID, rating: Rating, comment: str | None) -> Feedback:
    """In place of what was said of this answer before."""
    said = {"message_id": message_id, "rating": rating, "comment": comment}
    return Feedback(message_id, rating, comment, *(await session.execute(_PUT, said)).one())


async def remove(session: AsyncSession, message_id: UUID) -> None:
    await session.execute(delete(_feedback).where(_feedback.c.message_id == message_id))


async def of_messages(session: AsyncSession, message_ids: Sequence[UUID]) -> Mapping[UUID, Feedback]:
    if not message_ids:
        return {}
    statement = select(*_COLUMNS).where(_feedback.c.message_id.in_(message_ids))
    return {row.message_id: Feedback(*row) for row in await session.execute(statement)}


@dataclass(frozen=True, slots=True)
class Review:
    """A rating with what it is of. `question` and `answer` are None where a reset has put them out of sight."""

    position: int
    message_id: UUID
    session_id: str
    user_id: UUID | None
    assistant_id: UUID | None
    rating: Rating
    comment: str | None
    question: str | None
    answer: str | None
    created_at: datetime
    updated_at: datetime


async def page(
    session: AsyncSession,
    *,
    rating: Rating | None,
    assistant_id: UUID | None,
    before: int | None,
    limit: int,
) -> list[Review]:
    """The newest `limit` behind position `before`, the newest first. An assistant's are those of the answers that it made."""
    in_sight = _messages.c.position > _sessions.c.forgotten_up_to
    statement = (
        select(
            _feedback.c.position,
            _feedback.c.message_id,
            _sessions.c.id,
            _sessions.c.user_id,
            _runs.c.assistant_id,
            _feedback.c.rating,
            _feedback.c.comment,
            case((in_sight, _questions.c.text)),
            case((in_sight, _messages.c.text)),
            _feedback.c.created_at,
            _feedback.c.updated_at,
        )
        .join_from(_feedback, _messages, _messages.c.id == _feedback.c.message_id)
        .join(_sessions, _sessions.c.id == _messages.c.session_id)
        .outerjoin(_runs, _runs.c.message_id == _messages.c.id)
        .outerjoin(_questions, _questions.c.id == _messages.c.parent_id)
        .order_by(_feedback.c.position.desc())
        .limit(limit)
    )
    if rating is not None:
        statement = statement.where(_feedback.c.rating == rating)
    if assistant_id is not None:
        statement = statement.where(_runs.c.assistant_id == assistant_id)
    if before is not None:
        statement = statement.where(_feedback.c.position < before)
    return [Review(*row) for row in await session.execute(statement)]
