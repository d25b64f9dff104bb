"""The processes that make answers: their signs of life, and what they tell each other."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ARRAY, Interval, Text, Uuid, bindparam, text
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


_SILENT_AMONG = text(
    """
    SELECT given.id FROM unnest(CAST(:process_ids AS uuid[])) AS given (id)
    WHERE NOT EXISTS (SELECT FROM processes WHERE id = given.id AND heartbeat_at >= now() - :silence)
    """
).bindparams(
    bindparam("process_ids", type_=ARRAY(Uuid(as_uuid=True))), bindparam("silence", type_=Interval())
)


async def silent_among(
    session: AsyncSession, process_ids: Collection[UUID], *, silence: timedelta
) -> Sequence[UUID]:
    """Those of these processes that have shown no sign of life for `silence`."""
    values = {"process_ids": list(process_ids), "silence": silence}
    return (await session.execute(_SILENT_AMONG, values)).scalars().all()


CHANNEL = "freshet"

# A notification has less than 8,000 bytes.
_IDS_A_MESSAGE = 200

_NOTIFY = text(
    "SELECT pg_notify(:channel, message) FROM unnest(CAST(:messages AS text[])) AS message"
).bindparams(bindparam("channel", type_=Text))


async def tell(session: AsyncSession, what: str, ids: Sequence[UUID]) -> None:
    """Something about these processes or runs, to all that listen, when the transaction commits."""
    words = [identifier.hex for identifier in ids]
    messages = [
        " ".join([what, *words[at : at + _IDS_A_MESSAGE]]) for at in range(0, len(words), _IDS_A_MESSAGE)
    ]
    await session.execute(_NOTIFY, {"channel": CHANNEL, "messages": messages})
