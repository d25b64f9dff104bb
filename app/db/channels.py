"""Queries on what has been said over channels whose answers are brought."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Interval, Text, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import ChannelMessage


@dataclass(frozen=True, slots=True)
class Letter:
    """`content` is as the channel wrote it. `tries` counts this one, `posted` is what earlier ones have left."""

    channel: str
    key: str
    conversation: str
    content: dict[str, Any]
    posted: tuple[str, ...] = ()
    tries: int = 1


async def add(session: AsyncSession, letter: Letter) -> bool:
    """False if it has come before."""
    added = insert(ChannelMessage).values(
        channel=letter.channel, key=letter.key, conversation=letter.conversation, content=letter.content
    )
    row = await session.execute(added.on_conflict_do_nothing().returning(ChannelMessage.position))
    return row.first() is not None


_CLAIM = text(
    """
    UPDATE channel_messages AS taken SET due_at = now() + :lease, tries = tries + 1
    FROM (
        SELECT channel, key FROM channel_messages AS waiting
        WHERE answered_at IS NULL AND due_at <= now() AND channel = ANY(:channels) AND NOT EXISTS (
            SELECT FROM channel_messages AS before WHERE before.answered_at IS NULL AND before.channel = waiting.channel
            AND before.conversation = waiting.conversation AND before.position < waiting.position
        )
        ORDER BY position LIMIT :most FOR UPDATE SKIP LOCKED
    ) AS chosen
    WHERE taken.channel = chosen.channel AND taken.key = chosen.key
    RETURNING taken.channel, taken.key, taken.conversation, taken.content, taken.posted, taken.tries
    """
).bindparams(bindparam("lease", type_=Interval()), bindparam("channels", type_=ARRAY(Text)))


async def claim(
    session: AsyncSession, channels: Sequence[str], *, lease: timedelta, most: int
) -> list[Letter]:
    """Those that are due, the first of each conversation alone: it is answered in the order in which it was spoken."""
    rows = await session.execute(_CLAIM, {"channels": list(channels), "lease": lease, "most": most})
    return [Letter(row[0], row[1], row[2], row[3], tuple(row[4]), row[5]) for row in rows]


_PUT_OFF = text(
    """
    UPDATE channel_messages SET due_at = now() + :wait FROM unnest(CAST(:channels AS text[]), CAST(:keys AS text[])) AS given (channel, key)
    WHERE channel_messages.channel = given.channel AND channel_messages.key = given.key AND answered_at IS NULL
    """
).bindparams(
    bindparam("wait", type_=Interval()),
    bindparam("channels", type_=ARRAY(Text)),
    bindparam("keys", type_=ARRAY(Text)),
)


async def put_off(session: AsyncSession, letters: Sequence[Letter], wait: timedelta) -> None:
    values = {"channels": [one.channel for one in letters], "keys": [one.key for one in letters]}
    await session.execute(_PUT_OFF, {**values, "wait": wait})


_POSTED = text(
    "UPDATE channel_messages SET posted = :posted WHERE channel = :channel AND key = :key"
).bindparams(bindparam("posted", type_=JSONB))


async def note_posted(session: AsyncSession, letter: Letter, posted: Sequence[str]) -> None:
    values = {"channel": letter.channel, "key": letter.key, "posted": list(posted)}
    await session.execute(_POSTED, values)


_ANSWERED = text(
    "UPDATE channel_messages SET answered_at = now(), content = '{}', posted = '[]' WHERE channel = :channel AND key = :key"
)


async def answered(session: AsyncSession, letter: Letter) -> None:
    """What was said is forgotten here: the session has it."""
    await session.execute(_ANSWERED, {"channel": letter.channel, "key": letter.key})


_FORGET = text("DELETE FROM channel_messages WHERE answered_at < now() - :age").bindparams(
    bindparam("age", type_=Interval())
)


async def forget_answered(session: AsyncSession, age: timedelta) -> None:
    await session.execute(_FORGET, {"age": age})


_POLL = text(
    """
    INSERT INTO channel_pollers AS held (channel, process_id, until) VALUES (:channel, :process_id, now() + :lease)
    ON CONFLICT (channel) DO UPDATE SET process_id = excluded.process_id, until = excluded.until
    WHERE held.process_id = excluded.process_id OR held.until < now()
    RETURNING channel
    """
).bindparams(bindparam("process_id", type_=Uuid(as_uuid=True)), bindparam("lease", type_=Interval()))


async def hold_polling(session: AsyncSession, channel: str, process_id: UUID, lease: timedelta) -> bool:
    """Whether this process is the one that polls the channel, for as long as the lease."""
    values = {"channel": channel, "process_id": process_id, "lease": lease}
    return (await session.execute(_POLL, values)).first() is not None


_LEAVE = text("DELETE FROM channel_pollers WHERE channel = :channel AND process_id = :process_id").bindparams(
    bindparam("process_id", type_=Uuid(as_uuid=True))
)


async def leave_polling(session: AsyncSession, channel: str, process_id: UUID) -> None:
    await session.execute(_LEAVE, {"channel": channel, "process_id": process_id})
