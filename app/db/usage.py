"""What answers have taken: a row for each run that has ended, which outlives its session and tells nothing of what was said."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Double,
    Text,
    TextClause,
    Uuid,
    bindparam,
    cast,
    func,
    null,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables
from app.db.tables import columns_of

By = Literal["day", "assistant", "user", "session", "model"]

_usage = columns_of(tables.Usage)
_users = columns_of(tables.User)
_assistants = columns_of(tables.Assistant)


@dataclass(frozen=True, slots=True)
class Expense:
    """What one answer has taken. `model` is None where none is known to have been asked, `cost` where the price was not known.

    `is_estimated`: the model did not say what it counted.
    """

    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    embedding_tokens: int = 0
    is_estimated: bool = False
    cost: float | None = None


EXPENSE_TYPES: Mapping[str, Any] = {
    "model": Text(),
    **dict.fromkeys(("input_tokens", "output_tokens", "embedding_tokens"), BigInteger()),
    "is_estimated": Boolean(),
    "cost": Double(),
}
_OF_EXPENSE = ", ".join(EXPENSE_TYPES)
_GIVEN_EXPENSE = ", ".join(f":{name}" for name in EXPENSE_TYPES)

ADD = f"""
    INSERT INTO usage (run_id, session_id, user_id, assistant_id, status, {_OF_EXPENSE})
    SELECT id, session_id, (SELECT id FROM users WHERE users.id = run.user_id),
        (SELECT id FROM assistants WHERE assistants.id = run.assistant_id), :status, {_GIVEN_EXPENSE}
    FROM run ON CONFLICT (run_id) DO NOTHING RETURNING run_id
"""
"""A part of a statement that knows the `run`. One that an attempt has noted whose success was not told is noted once."""

CHARGE = """
    INSERT INTO spendings (account, tokens, cost)
    SELECT account, CAST(:input_tokens AS bigint) + CAST(:output_tokens AS bigint), coalesce(CAST(:cost AS float8), 0)
    FROM run CROSS JOIN unnest(run.accounts) AS account WHERE EXISTS (SELECT FROM noted)
    ON CONFLICT (account) DO UPDATE
    SET tokens = spendings.tokens + excluded.tokens, cost = spendings.cost + excluded.cost, updated_at = now()
"""
"""Another part of it, behind `noted`: what was spent, added to the accounts of the run."""

_ADD_OF_ERASED: TextClause = text(
    f"""
    WITH run AS (
        SELECT :run_id AS id, NULL::text AS session_id, CAST(:user_id AS uuid) AS user_id, CAST(:assistant_id AS uuid) AS assistant_id,
            CAST(:accounts AS text[]) AS accounts
    ), noted AS (
        {ADD}
    ) {CHARGE}
    """
).bindparams(
    *(bindparam(name, type_=Uuid()) for name in ("run_id", "user_id", "assistant_id")),
    bindparam("status", type_=Text()),
    bindparam("accounts", type_=ARRAY(Text())),
    *(bindparam(name, type_=kind) for name, kind in EXPENSE_TYPES.items()),
)


async def add_of_erased(
    session: AsyncSession,
    run_id: UUID,
    expense: Expense,
    *,
    user_id: UUID | None,
    assistant_id: UUID,
    status: str,
    accounts: Sequence[str],
) -> None:
    """Of a run that has been erased with its session while it was made."""
    whose: dict[str, Any] = {
        "run_id": run_id,
        "user_id": user_id,
        "assistant_id": assistant_id,
        "status": status,
    }
    whose["accounts"] = list(accounts)
    await session.execute(_ADD_OF_ERASED, {**whose, **asdict(expense)})


@dataclass(frozen=True, slots=True)
class Sum:
    """Of the answers that have the `key`, which has been called `name`; None: of which it is not known, or not any more.

    `cost` is that of the `priced_answers`; None if there is none.
    """

    key: str | None
    name: str | None
    answers: int
    input_tokens: int
    output_tokens: int
    embedding_tokens: int
    cost: float | None
    priced_answers: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which answers are meant: those that ended from `since` on and before `until`, of this user and this assistant, or of all."""

    since: datetime
    until: datetime
    user_id: UUID | None
    assistant_id: UUID | None


def _summed(name: str) -> Any:
    return cast(func.coalesce(func.sum(_usage.c[name]), 0), BigInteger)


_SUMS = (
    func.count(),
    *(_summed(name) for name in ("input_tokens", "output_tokens", "embedding_tokens")),
    func.sum(_usage.c.cost),
    func.count(_usage.c.cost),
)
_KEYS: Mapping[By, tuple[Any, Any]] = {
    "day": (func.to_char(func.timezone("UTC", _usage.c.ended_at), "YYYY-MM-DD"), null()),
    "assistant": (cast(_usage.c.assistant_id, Text), _assistants.c.slug),
    "user": (cast(_usage.c.user_id, Text), _users.c.email),
    "session": (_usage.c.session_id, null()),
    "model": (_usage.c.model, null()),
}


async def total(session: AsyncSession, chosen: Chosen) -> Sum:
    row = (await session.execute(_chosen(select(*_SUMS).select_from(_usage), chosen))).one()
    return Sum(None, None, *row)


async def sums(session: AsyncSession, chosen: Chosen, by: By, *, limit: int) -> list[Sum]:
    """Days in their order; of all else, those with the most tokens first."""
    key, name = _KEYS[by]
    statement = (
        select(key, name, *_SUMS)
        .select_from(_usage)
        .outerjoin(_users, _users.c.id == _usage.c.user_id)
        .outerjoin(_assistants, _assistants.c.id == _usage.c.assistant_id)
        .group_by(text("1"), text("2"))
        .limit(limit)
    )
    tokens = func.sum(_usage.c.input_tokens + _usage.c.output_tokens)
    order = (text("1"),) if by == "day" else (tokens.desc(), text("1"))
    return [Sum(*row) for row in await session.execute(_chosen(statement.order_by(*order), chosen))]


def _chosen(statement: Any, chosen: Chosen) -> Any:
    statement = statement.where(_usage.c.ended_at >= chosen.since, _usage.c.ended_at < chosen.until)
    if chosen.user_id is not None:
        statement = statement.where(_usage.c.user_id == chosen.user_id)
    if chosen.assistant_id is not None:
        statement = statement.where(_usage.c.assistant_id == chosen.assistant_id)
    return statement
