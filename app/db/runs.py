"""Runs: their lines, who makes them, how they end, and which of a session comes next.

`open` is a run that is queued or running. Only the process that makes a run ends it, or another once that one has been silent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    Integer,
    Interval,
    LargeBinary,
    Text,
    TextClause,
    Uuid,
    bindparam,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables, usage
from app.db.sessions import visible_to
from app.db.tables import OPEN, columns_of
from app.db.usage import Expense

_runs = columns_of(tables.Run)
_messages = columns_of(tables.Message)
_sessions = columns_of(tables.Session)

_UUID = Uuid(as_uuid=True)
_UUIDS = ARRAY(_UUID)


def _statement(script: str, **types: Any) -> TextClause:
    return text(script).bindparams(*(bindparam(name, type_=kind) for name, kind in types.items()))


@dataclass(frozen=True, slots=True)
class RunRow:
    """`last_seq` is None for a run that is open. `was_abandoned`: another process has ended it, with what its own had stored.
    `request` is what is told of the request by who tells it again; None where nobody does, empty where nobody does any more."""

    id: UUID
    session_id: str
    message_id: UUID
    process_id: UUID
    status: str
    last_seq: int | None
    was_abandoned: bool
    request: dict[str, Any] | None

    @property
    def is_open(self) -> bool:
        return self.status in ("queued", "running")


_COLUMNS = tuple(_runs.c[name] for name in RunRow.__slots__)


async def find(session: AsyncSession, session_id: str, run_id: UUID | None) -> RunRow | None:
    """The run of this session, or its newest; none whose answer a reset has put out of sight."""
    statement = (
        select(*_COLUMNS)
        .join(_messages, _messages.c.id == _runs.c.message_id)
        .join(_sessions, _sessions.c.id == _runs.c.session_id)
        .where(_runs.c.session_id == session_id, _messages.c.position > _sessions.c.forgotten_up_to)
        .order_by(_messages.c.position.desc())
        .limit(1)
    )
    if run_id is not None:
        statement = statement.where(_runs.c.id == run_id)
    row = (await session.execute(statement)).one_or_none()
    return RunRow(*row) if row is not None else None


async def of_answer(session: AsyncSession, message_id: UUID, *, user_id: UUID | None) -> RunRow | None:
    """The run that made this answer, if the user may see it; none whose answer a reset has put out of sight."""
    statement = (
        select(*_COLUMNS)
        .join(_messages, _messages.c.id == _runs.c.message_id)
        .join(_sessions, _sessions.c.id == _runs.c.session_id)
        .where(
            _runs.c.message_id == message_id,
            _messages.c.position > _sessions.c.forgotten_up_to,
            visible_to(user_id),
        )
    )
    row = (await session.execute(statement)).one_or_none()
    return RunRow(*row) if row is not None else None


async def drop_request(session: AsyncSession, run_id: UUID) -> bool:
    """Tell nothing of the request any more. False if its session has only runs of which nothing is told any more."""
    dropped: dict[str, Any] = {}
    await session.execute(update(_runs).where(_runs.c.id == run_id).values(request=dropped))
    of_session = select(_runs.c.session_id).where(_runs.c.id == run_id).scalar_subquery()
    others = select(_runs.c.id).where(
        _runs.c.session_id == of_session, _runs.c.request.is_distinct_from(dropped)
    )
    return (await session.execute(others.limit(1))).first() is not None


async def running(session: AsyncSession, session_id: str) -> RunRow | None:
    statement = select(*_COLUMNS).where(_runs.c.session_id == session_id, _runs.c.status == "running")
    row = (await session.execute(statement)).one_or_none()
    return RunRow(*row) if row is not None else None


async def with_key(session: AsyncSession, scope: str, key: str) -> tuple[RunRow, bytes] | None:
    """The run that this idempotency key has started, and the hash of the request that it came with."""
    statement = select(*_COLUMNS, _runs.c.request_sha256).where(
        _runs.c.idempotency_scope == scope, _runs.c.idempotency_key == key
    )
    row = (await session.execute(statement)).one_or_none()
    return (RunRow(*row[:-1]), row[-1]) if row is not None else None


async def packed_log(session: AsyncSession, run_id: UUID) -> bytes | None:
    """Of a run that has ended."""
    return (await session.execute(select(_runs.c.log).where(_runs.c.id == run_id))).scalar_one_or_none()


_OPEN_OF_SESSION = text(f"SELECT id FROM runs WHERE session_id = :session_id AND {OPEN}")


async def open_of_session(session: AsyncSession, session_id: str) -> tuple[UUID, ...]:
    return tuple((await session.execute(_OPEN_OF_SESSION, {"session_id": session_id})).scalars())


_PROMOTE = _statement(
    f"""
    WITH promoted AS (
        UPDATE runs SET status = 'running', started_at = now()
        WHERE id = :run_id AND status = 'queued' AND NOT EXISTS (
            SELECT FROM runs other JOIN messages answer ON answer.id = other.message_id
            WHERE other.session_id = runs.session_id AND other.id <> runs.id AND other.{OPEN} AND (
                other.status = 'running' OR answer.position < (SELECT position FROM messages WHERE id = runs.message_id)))
        RETURNING message_id
    )
    UPDATE messages SET status = 'running' FROM promoted WHERE messages.id = promoted.message_id RETURNING messages.id
    """,
    run_id=_UUID,
)


async def promote(session: AsyncSession, run_id: UUID) -> bool:
    """Let a queued run run, if it is the first of its session and none is running. It may be tried in a transaction of its own only."""
    try:
        promoted = (await session.execute(_PROMOTE, {"run_id": run_id})).first() is not None
    except IntegrityError as error:
        if "runs_one_running_a_session_key" in str(error.orig):
            return False
        raise
    # It may have been promoted by an attempt whose success was not told.
    status = select(_runs.c.status).where(_runs.c.id == run_id)
    return promoted or (await session.execute(status)).scalar_one_or_none() == "running"


async def request_stop(session: AsyncSession, run_ids: Sequence[UUID]) -> None:
    """Ask the processes that make these runs to end them; those that have ended stay as they are."""
    await session.execute(
        _statement(
            f"UPDATE runs SET stop_requested = true WHERE id = ANY (:run_ids) AND {OPEN}", run_ids=_UUIDS
        ),
        {"run_ids": list(run_ids)},
    )


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """How an answer ended, as it is stored. `log` is the packed log of its run, `last_seq` the number of its last line."""

    status: str
    text: str
    log: bytes
    last_seq: int
    finish_reason: str | None = None
    error_code: str | None = None
    sources: Sequence[dict[str, Any]] = ()
    citations: Sequence[dict[str, Any]] = ()
    steps: Sequence[dict[str, Any]] = ()
    usage: dict[str, Any] | None = None
    expense: Expense = field(default_factory=Expense)
    was_abandoned: bool = False


_END = _statement(
    f"""
    WITH open AS (
        SELECT id, accounts FROM runs WHERE id = :run_id AND {OPEN} FOR NO KEY UPDATE
    ), run AS (
        UPDATE runs SET status = :status, error_code = :error_code, ended_at = now(), last_seq = :last_seq, log = :log,
            was_abandoned = :was_abandoned, accounts = NULL
        FROM open WHERE runs.id = open.id
        RETURNING runs.id, message_id, session_id, user_id, assistant_id, open.accounts
    ), unneeded AS (
        DELETE FROM run_lines USING run WHERE run_lines.run_id = run.id
    ), noted AS (
        {usage.ADD}
    ), charged AS (
        {usage.CHARGE}
    )
    UPDATE messages SET status = :status, text = :answer, finish_reason = :finish_reason, error_code = :error_code,
        sources = :sources, citations = :citations, steps = :steps, usage = :usage
    FROM run WHERE messages.id = run.message_id RETURNING messages.id
    """,
    run_id=_UUID,
    **dict.fromkeys(("status", "answer", "finish_reason", "error_code"), Text()),
    **dict.fromkeys(("sources", "citations", "steps", "usage"), JSONB(none_as_null=True)),
    **usage.EXPENSE_TYPES,
    last_seq=Integer(),
    log=LargeBinary(),
    was_abandoned=Boolean(),
)


async def end(session: AsyncSession, run_id: UUID, end: AnswerEnd) -> bool:
    """Store the answer and how it ended, once: False if the run has been ended already, or is gone."""
    values = {
        "run_id": run_id,
        "status": end.status,
        "answer": end.text,
        "finish_reason": end.finish_reason,
        "error_code": end.error_code,
        "sources": list(end.sources),
        "citations": list(end.citations),
        "steps": list(end.steps),
        "usage": end.usage,
        "last_seq": end.last_seq,
        "log": end.log,
        "was_abandoned": end.was_abandoned,
        **asdict(end.expense),
    }
    return (await session.execute(_END, values)).first() is not None


@dataclass(frozen=True, slots=True)
class NewLines:
    """Lines of one run that follow each other, as one text."""

    run_id: UUID
    first_seq: int
    last_seq: int
    lines: bytes


# Those that were written by an attempt whose success was not told are written again, with what has come since.
_ADD_LINES = _statement(
    f"""
    INSERT INTO run_lines (run_id, first_seq, last_seq, lines)
    SELECT given.* FROM unnest(:run_ids, :first_seqs, :last_seqs, :lines) AS given (run_id, first_seq, last_seq, lines)
    JOIN runs ON runs.id = given.run_id WHERE runs.{OPEN} ORDER BY runs.id FOR KEY SHARE OF runs
    ON CONFLICT (run_id, first_seq) DO UPDATE SET last_seq = excluded.last_seq, lines = excluded.lines
    RETURNING run_id
    """,
    run_ids=_UUIDS,
    first_seqs=ARRAY(Integer()),
    last_seqs=ARRAY(Integer()),
    lines=ARRAY(LargeBinary()),
)


async def add_lines(session: AsyncSession, batches: Sequence[NewLines]) -> set[UUID]:
    """Keep the lines of the runs that are open; tells which these are. After `processes.beat` in the same transaction: see there."""
    values = {
        "run_ids": [batch.run_id for batch in batches],
        "first_seqs": [batch.first_seq for batch in batches],
        "last_seqs": [batch.last_seq for batch in batches],
        "lines": [batch.lines for batch in batches],
    }
    return set((await session.execute(_ADD_LINES, values)).scalars())


@dataclass(frozen=True, slots=True)
class News:
    """What is new of a run: lines from `first_seq` on; or, of one that has ended, its whole packed log. `exists` is False if it is gone."""

    run_id: UUID
    exists: bool
    log: bytes | None
    first_seq: int | None
    lines: bytes | None


# One statement, and so one view of both tables: the lines are gone in the moment in which the log is there.
_NEWS = _statement(
    f"""
    SELECT wanted.run_id, runs.id IS NOT NULL, runs.log, run_lines.first_seq, run_lines.lines
    FROM unnest(:run_ids, :after) AS wanted (run_id, after)
    LEFT JOIN runs ON runs.id = wanted.run_id
    LEFT JOIN run_lines ON run_lines.run_id = runs.id AND run_lines.last_seq > wanted.after AND runs.{OPEN}
    ORDER BY wanted.run_id, run_lines.first_seq
    """,
    run_ids=_UUIDS,
    after=ARRAY(Integer()),
)


async def news(session: AsyncSession, after: Mapping[UUID, int]) -> list[News]:
    """Of each of these runs what is behind the line of that number, in the order of the lines. A text of lines may begin before it."""
    values = {"run_ids": list(after), "after": list(after.values())}
    return [News(*row) for row in await session.execute(_NEWS, values)]


_CALLED_OFF = _statement(
    f"""
    SELECT given.id, coalesce(runs.{OPEN}, false) AS is_open FROM unnest(:run_ids) AS given (id)
    LEFT JOIN runs ON runs.id = given.id
    WHERE runs.id IS NULL OR runs.stop_requested OR NOT runs.{OPEN}
    """,
    run_ids=_UUIDS,
)


async def called_off(session: AsyncSession, run_ids: Sequence[UUID]) -> Mapping[UUID, bool]:
    """Those of these runs that need not be made any more; True where somebody asked to stop it, False where it has been ended or is gone."""
    return {row.id: row.is_open for row in await session.execute(_CALLED_OFF, {"run_ids": list(run_ids)})}


@dataclass(frozen=True, slots=True)
class Abandoned:
    run_id: UUID
    process_id: UUID
    session_id: str
    message_id: UUID
    user_message_id: UUID


_ABANDONED = _statement(
    f"""
    SELECT id, process_id, session_id, message_id, user_message_id FROM runs WHERE {OPEN} AND (
        process_id = ANY (:silent) OR started_at < now() - :silence AND (
            process_id = :process_id AND id <> ALL (:running) OR process_id NOT IN (SELECT id FROM processes)))
    LIMIT :limit FOR UPDATE SKIP LOCKED
    """,
    silent=_UUIDS,
    silence=Interval(),
    process_id=_UUID,
    running=_UUIDS,
    limit=Integer(),
)


async def abandoned(
    session: AsyncSession,
    process_id: UUID,
    *,
    silent: Sequence[UUID],
    running: Sequence[UUID],
    silence: timedelta,
    limit: int,
) -> list[Abandoned]:
    """Open runs that nobody makes any more: of processes that are `silent` or unknown, and those of this one that are not among `running`.

    A run of this process, or of an unknown one, counts only when it is older than `silence`: it may have been accepted a moment ago.
    """
    values = {
        "silent": list(silent),
        "silence": silence,
        "process_id": process_id,
        "running": list(running),
        "limit": limit,
    }
    return [Abandoned(*row) for row in await session.execute(_ABANDONED, values)]


async def lines_of(session: AsyncSession, run_ids: Sequence[UUID]) -> Mapping[UUID, list[bytes]]:
    """The lines that have been kept of these runs, in order."""
    statement = _statement(
        "SELECT run_id, lines FROM run_lines WHERE run_id = ANY (:run_ids) ORDER BY run_id, first_seq",
        run_ids=_UUIDS,
    )
    found: dict[UUID, list[bytes]] = {run_id: [] for run_id in run_ids}
    for row in await session.execute(statement, {"run_ids": list(run_ids)}):
        found[row.run_id] += row.lines.splitlines(keepends=True)
    return found
