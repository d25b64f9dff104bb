"""How much has been asked of late, and what has been spent of each budget: counted here, so that all processes count together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ARRAY, Interval, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

# As the generic cell rate algorithm counts: a row tells when all that it allows will be free again. Each turn moves that on by its
# share of a minute, and is refused where that would be more than a minute from now.
_TAKE = text(
    """
    INSERT INTO rate_limits AS own (subject, free_at) VALUES (:subject, clock_timestamp() + :share)
    ON CONFLICT (subject) DO UPDATE SET free_at = greatest(own.free_at, clock_timestamp()) + :share
    WHERE greatest(own.free_at, clock_timestamp()) + :share <= clock_timestamp() + interval '1 minute'
    RETURNING subject
    """
).bindparams(bindparam("subject", type_=Text()), bindparam("share", type_=Interval()))
_WAIT_S = text(
    """
    SELECT extract(epoch FROM free_at + :share - interval '1 minute' - clock_timestamp())::float8
    FROM rate_limits WHERE subject = :subject
    """
).bindparams(bindparam("subject", type_=Text()), bindparam("share", type_=Interval()))


async def take(session: AsyncSession, subject: str, *, per_minute: int) -> float | None:
    """One turn of so many a minute, to be given back by giving up the transaction; else in how many seconds there is one."""
    # Rounded down, or the last one of a minute would be a microsecond late.
    values = {"subject": subject, "share": timedelta(microseconds=60_000_000 // per_minute)}
    if (await session.execute(_TAKE, values)).first() is not None:
        return None
    return max(0.0, (await session.execute(_WAIT_S, values)).scalar_one())


@dataclass(frozen=True, slots=True)
class Spending:
    tokens: int
    cost: float


_SPENT = text("SELECT account, tokens, cost FROM spendings WHERE account = ANY (:accounts)").bindparams(
    bindparam("accounts", type_=ARRAY(Text()))
)


async def spent(session: AsyncSession, accounts: Sequence[str]) -> Mapping[str, Spending]:
    """Of those accounts of which anything was spent."""
    rows = await session.execute(_SPENT, {"accounts": list(accounts)})
    return {row.account: Spending(row.tokens, row.cost) for row in rows}


_FORGET = (
    text("DELETE FROM rate_limits WHERE free_at < clock_timestamp() - interval '1 minute'"),
    # The longest period is a month.
    text("DELETE FROM spendings WHERE updated_at < now() - interval '32 days'"),
)


async def forget_what_is_over(session: AsyncSession) -> None:
    for statement in _FORGET:
        await session.execute(statement)
