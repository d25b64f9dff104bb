"""The processes that make answers: their signs of life, and what they tell each other."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Interval, Text, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

_BEAT = text(
    """
    WITH long_gone AS (
        DELETE FROM processes WHERE heartbeat_at < now() - interval '1 day' AND id <> :process_id
            AND NOT EXISTS (SELECT FROM runs WHERE process_id = processes.id AND status IN ('queued', 'running'))
    )
    INSERT INTO processes (id) VALUES (:process_id) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()
    """
).bindparams(bindparam("process_id", type_=Uuid(as_uuid=True)))


async def beat(session: AsyncSession, process_id: UUID) -> None:
    """Note that the process lives, and forget those that have long been gone.

    Holds the process's row to the end of the transaction. Whoever ends the runs of a silent process holds it as well, so that a
    process which wakes up sees in its next statement what has become of them.
    """
    await session.execute(_BEAT, {"process_id": process_id})


_SILENT = text(
    """
    SELECT id FROM processes WHERE heartbeat_at < now() - :silence AND id <> :process_id
        AND EXISTS (SELECT FROM runs WHERE process_id = processes.id AND status IN ('queued', 'running'))
    FOR UPDATE SKIP LOCKED
    """
).bindparams(bindparam("process_id", type_=Uuid(as_uuid=True)), bindparam("silence", type_=Interval()))


async def hold_silent(session: AsyncSession, process_id: UUID, *, silence: timedelta) -> Sequence[UUID]:
    """The other processes that have open runs and have shown no sign of life for `silence`; held to the end of the transaction."""
    return (await session.execute(_SILENT, {"process_id": process_id, "silence": silence})).scalars().all()


_NOTIFY = text(
    "SELECT pg_notify(:channel, message) FROM unnest(CAST(:messages AS text[])) AS message"
).bindparams(bindparam("channel", type_=Text))


async def tell(session: AsyncSession, channel: str, messages: Sequence[str]) -> None:
    """To all that listen, when the transaction commits. A message has less than 8,000 bytes."""
    await session.execute(_NOTIFY, {"channel": channel, "messages": list(messages)})
