"""Queries on the rounds of connectors: who does one, how far it has come, how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, delete, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import queue
from app.db.tables import ConnectorSync

ENTRYPOINT = "sync"
"""Of the queue; the payload of its jobs is a sync's id."""

Status = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled", "interrupted"]
Cause = Literal["manual", "schedule", "removal"]

# A claim that has not been refreshed for so long is that of a process that has died, or sleeps.
CLAIM_COUNTS_FOR = timedelta(seconds=20)

_KEPT_A_CONNECTOR = 200
_QUIET: dict[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class ItemError:
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class SyncView:
    """`position` grows with each sync. `doing` is the key that it is at; `message` why it ended otherwise than completed."""

    id: UUID
    position: int
    connector_id: UUID
    status: Status
    cause: Cause
    added: int
    changed: int
    unchanged: int
    removed: int
    passed_over: int
    failed: int
    doing: str | None
    message: str | None
    errors: tuple[ItemError, ...]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do a sync. It is lost when the connector is deleted, or another process has taken it over."""

    id: UUID
    sync_id: UUID
    connector_id: UUID


_table = ConnectorSync.__table__.c
_view = select(*(_table[field] for field in SyncView.__slots__))


async def begin(session: AsyncSession, connector_id: UUID, cause: Cause) -> UUID | None:
    """A sync that waits for whoever claims it. None if there is an open one; one that its process has left is ended for it."""
    abandoned = (
        update(ConnectorSync)
        .where(
            ConnectorSync.connector_id == connector_id,
            ConnectorSync.status == "running",
            ConnectorSync.updated_at < func.now() - 3 * CLAIM_COUNTS_FOR,
        )
        .values(status="interrupted", ended_at=func.now(), claim_id=None, doing=None)
    )
    await session.execute(abandoned, execution_options=_QUIET)
    statement = (
        insert(ConnectorSync)
        .values(id=uuid4(), connector_id=connector_id, status="queued", cause=cause)
        .on_conflict_do_nothing(
            index_elements=[ConnectorSync.connector_id], index_where=ConnectorSync.ended_at.is_(None)
        )
        .returning(ConnectorSync.id)
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def enqueue(session: AsyncSession, sync_id: UUID) -> None:
    await queue.enqueue(session, ENTRYPOINT, sync_id.bytes)


async def claim(session: AsyncSession, sync_id: UUID) -> Claim | timedelta | None:
    """How long to wait where another process does it, None where it is over."""
    held = (
        select(
            ConnectorSync.connector_id,
            ConnectorSync.status,
            (ConnectorSync.updated_at < func.now() - CLAIM_COUNTS_FOR).label("has_lapsed"),
        )
        .where(ConnectorSync.id == sync_id, ConnectorSync.ended_at.is_(None))
        .with_for_update()
    )
    row = (await session.execute(held)).one_or_none()
    if row is None:
        return None
    if row.status == "running" and not row.has_lapsed:
        return CLAIM_COUNTS_FOR
    claim_id = uuid4()
    counts = dict.fromkeys(("added", "changed", "unchanged", "removed", "passed_over", "failed"), 0)
    statement = (
        update(ConnectorSync)
        .where(ConnectorSync.id == sync_id)
        .values(
            status="running",
            claim_id=claim_id,
            updated_at=func.now(),
            started_at=func.coalesce(ConnectorSync.started_at, func.now()),
            errors=[],
            **counts,
        )
    )
    await session.execute(statement, execution_options=_QUIET)
    return Claim(claim_id, sync_id, row.connector_id)


async def tell(session: AsyncSession, claim: Claim, fields: Mapping[str, Any]) -> bool | None:
    """How far it has come, which keeps the claim. Whether it is to be cancelled; None when the claim is lost."""
    statement = (
        update(ConnectorSync)
        .where(ConnectorSync.id == claim.sync_id, ConnectorSync.claim_id == claim.id)
        .values(**fields, updated_at=func.now())
        .returning(ConnectorSync.cancel_requested)
    )
    return (await session.execute(statement, execution_options=_QUIET)).scalar_one_or_none()


async def give_back(session: AsyncSession, claim: Claim) -> None:
    """For whoever comes next."""
    await tell(session, claim, {"status": "queued", "claim_id": None, "doing": None})


async def end(session: AsyncSession, claim: Claim, status: Status, fields: Mapping[str, Any]) -> None:
    """Keeps the newest of the connector's syncs, and forgets the others."""
    ended = {**fields, "status": status, "ended_at": func.now(), "claim_id": None, "doing": None}
    if await tell(session, claim, ended) is None:
        return
    oldest_kept = (
        select(ConnectorSync.position)
        .where(ConnectorSync.connector_id == claim.connector_id)
        .order_by(ConnectorSync.position.desc())
        .offset(_KEPT_A_CONNECTOR)
        .limit(1)
        .scalar_subquery()
    )
    forgotten = delete(ConnectorSync).where(
        ConnectorSync.connector_id == claim.connector_id, ConnectorSync.position <= oldest_kept
    )
    await session.execute(forgotten, execution_options=_QUIET)


async def cancel(session: AsyncSession, connector_id: UUID) -> UUID | None:
    """The open sync, which ends when its process hears of it, or now if none has it. None if there is none."""
    open_one = (ConnectorSync.connector_id == connector_id) & ConnectorSync.ended_at.is_(None)
    waiting = (
        update(ConnectorSync)
        .where(open_one, ConnectorSync.status == "queued")
        .values(status="cancelled", ended_at=func.now(), cancel_requested=True)
        .returning(ConnectorSync.id)
    )
    cancelled = (await session.execute(waiting, execution_options=_QUIET)).scalar_one_or_none()
    if cancelled is not None:
        return cancelled
    running = update(ConnectorSync).where(open_one).values(cancel_requested=True).returning(ConnectorSync.id)
    return (await session.execute(running, execution_options=_QUIET)).scalar_one_or_none()


async def get(session: AsyncSession, sync_id: UUID) -> SyncView | None:
    row = (await session.execute(_view.where(ConnectorSync.id == sync_id))).mappings().one_or_none()
    return _as_view(row) if row is not None else None


async def page(
    session: AsyncSession, connector_id: UUID, *, before: int | None, limit: int
) -> list[SyncView]:
    """The newest first, those that began before the position `before`."""
    statement = _view.where(ConnectorSync.connector_id == connector_id)
    if before is not None:
        statement = statement.where(ConnectorSync.position < before)
    statement = statement.order_by(ConnectorSync.position.desc()).limit(limit)
    return [_as_view(row) for row in (await session.execute(statement)).mappings()]


async def last_of(session: AsyncSession, connector_ids: Sequence[UUID]) -> dict[UUID, SyncView]:
    """The newest sync of each that has one."""
    statement = (
        _view.where(ConnectorSync.connector_id.in_(connector_ids))
        .ext(distinct_on(ConnectorSync.connector_id))
        .order_by(ConnectorSync.connector_id, ConnectorSync.position.desc())
    )
    rows = (await session.execute(statement)).mappings()
    return {row["connector_id"]: _as_view(row) for row in rows}


def _as_view(row: RowMapping) -> SyncView:
    fields = dict[str, Any](row)
    fields["errors"] = tuple(ItemError(**error) for error in row["errors"])
    return SyncView(**fields)
