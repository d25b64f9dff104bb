"""The queue of what is done in the background: pgqueuer's tables, in the same database as everything else.

A job is put there in the transaction that makes it necessary. Any process that works takes it; one that a process left
behind when it died is taken up by another when its heartbeat has been missed for long enough.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import pgqueuer
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.core.tm import TaskManager
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel
from pgqueuer.models import Context
from pgqueuer.ports.driver import Driver, NotifyCallback
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import notifications
from app.db.engine import Sessions, driver_of
from app.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

# All of them named here, as it would read them from variables with such names as CHANNEL.
SETTINGS = DBSettings(
    prefix="",
    db_schema=None,
    channel=Channel("ch_pgqueuer"),
    function="fn_pgqueuer_changed",
    trigger="tg_pgqueuer_changed",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    schedules_table="pgqueuer_schedules",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    durability=Durability.durable,
    widen_id=True,
)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LOG_KEPT_FOR = timedelta(days=7)
_TIDIED_EVERY_S = 6 * 3_600.0


@dataclass(frozen=True, slots=True)
class Job:
    """`attempts` counts how often it has been put back."""

    id: int
    payload: bytes
    attempts: int


class Later(Exception):
    """Raised by a handler: the job is put back, and taken up again when `after` is over."""

    def __init__(self, after: timedelta) -> None:
        super().__init__(after)
        self.after = after


Handler = Callable[[Job], Awaitable[None]]
"""May see the same job again, after its process was taken for dead: that nothing is done twice is for it to see to. What it
raises, but for `Later`, is a bug: it is logged, and the job is kept in the queue as `failed`."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with the jobs of one entrypoint: at most `concurrency` at once in this process."""

    handler: Handler
    concurrency: int


async def enqueue(
    session: AsyncSession, entrypoint: str, payload: bytes, *, execute_after: timedelta | None = None
) -> int:
    """In the session's transaction. The id of the job, which is not taken up before `execute_after` is over."""
    if not (await driver_of(session)).is_in_transaction():
        # It is begun with the first statement that does not go to the driver itself.
        await session.execute(text("SELECT 1"))
    queries = _queries(_SessionDriver(session))
    (job_id,) = await queries.enqueue(entrypoint, payload, execute_after=execute_after)
    return int(job_id)


async def discard(session: AsyncSession, job_id: int) -> None:
    """Also while it is being done; whoever does it has to be told otherwise."""
    await session.execute(text("DELETE FROM pgqueuer WHERE id = :id"), {"id": job_id})


async def forget_what_is_old(session: AsyncSession) -> None:
    """Of the queue's log of jobs that are over, what is older than a week."""
    for table in (SETTINGS.queue_table_log, SETTINGS.statistics_table):
        old = text(f"DELETE FROM {table} WHERE created < now() - CAST(:kept_for AS interval)")
        await session.execute(old, {"kept_for": _LOG_KEPT_FOR})


class Worker:
    """Does the jobs of the queue in this process, those of each entrypoint by themselves.

    A job whose process has shown no sign of life for `silence_s` is taken over. What is put into the queue is heard of at
    once; whatever else may have come to pass is looked for every `look_again_s`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        work: Mapping[str, Work],
        *,
        look_again_s: float = 5.0,
        silence_s: float = 30.0,
    ) -> None:
        self._listening = notifications.listening_engine(engine)
        self._sessions = Sessions(engine)
        self._driver = _PatientDriver(self._sessions)
        self._look_again = timedelta(seconds=look_again_s)
        self._silence = timedelta(seconds=silence_s)
        self._parts = [_Part(entrypoint, one, self._driver) for entrypoint, one in work.items()]

    @asynccontextmanager
    async def running(self, *, grace_s: float = 5.0) -> AsyncGenerator[None]:
        """At the end no more is taken; what is not done within `grace_s` is cancelled and given back."""
        try:
            async with anyio.create_task_group() as listening, anyio.create_task_group() as working:
                listening.start_soon(self._listen)
                listening.start_soon(self._tidy_up)
                for part in self._parts:
                    working.start_soon(part.run, self._look_again, self._silence)
                try:
                    yield
                finally:
                    self._driver.close()
                    for part in self._parts:
                        part.stop(anyio.current_time() + grace_s)
                    listening.cancel_scope.cancel()
        finally:
            await self._listening.dispose()  # noqa: ASYNC102  # holds no connection: there is nothing to wait for

    async def _listen(self) -> None:
        await notifications.listen(
            self._listening,
            SETTINGS.channel,
            heard=self._driver.heard,
            connected=self._driver.connected.set,
            check_every_s=10.0,
        )

    async def _tidy_up(self) -> None:
        while True:
            try:
                async with self._sessions.begin() as session:
                    await forget_what_is_old(session)
            except DatabaseUnavailable:
                logger.info("The queue's log is tidied up later: there is no database.")
            await anyio.sleep(_TIDIED_EVERY_S)


class _Part:
    """One entrypoint's."""

    def __init__(self, entrypoint: str, work: Work, driver: "_PatientDriver") -> None:
        self._work = work
        self._scopes: set[anyio.CancelScope] = set()
        self._deadline = float("inf")
        self._manager = pgqueuer.QueueManager(
            _LimitedQueries(driver, **_builders(), concurrency=work.concurrency), channel=SETTINGS.channel
        )
        self._manager.entrypoint(entrypoint, on_failure="hold")(self._do)

    async def run(self, look_again: timedelta, silence: timedelta) -> None:
        """Until it is stopped."""
        # Shielded: it takes the cancelling of what it runs for the cancelling of jobs, and would delete them.
        with anyio.CancelScope(shield=True):
            while not self._manager.shutdown.is_set():
                try:
                    await self._manager.run(
                        dequeue_timeout=look_again, batch_size=1, heartbeat_timeout=silence
                    )
                except DatabaseUnavailable:
                    logger.warning("The queue was left without a database: others take its jobs over.")
                except Exception:  # a bug must cost one look, not all that come after
                    logger.exception("Looking for jobs failed.")
                    await anyio.sleep(look_again.total_seconds())

    def stop(self, deadline: float) -> None:
        """What is not done by `deadline` is given back."""
        self._manager.shutdown.set()
        self._deadline = deadline
        for scope in self._scopes:
            scope.deadline = deadline

    async def _do(self, job: pgqueuer.Job, _context: Context) -> None:
        with anyio.CancelScope(deadline=self._deadline) as scope:
            self._scopes.add(scope)
            try:
                return await self._work.handler(Job(int(job.id), job.payload or b"", job.attempts))
            except Later as later:
                raise pgqueuer.RetryRequested(later.after) from None
            finally:
                self._scopes.discard(scope)
        raise pgqueuer.RetryRequested


def _builders() -> dict[str, Any]:
    return {
        "qbe": QueryBuilderEnvironment(SETTINGS),
        "qbq": QueryQueueBuilder(SETTINGS),
        "qbs": QuerySchedulerBuilder(SETTINGS),
    }


def _queries(driver: Driver) -> pgqueuer.Queries:
    return pgqueuer.Queries(driver, **_builders())


@dataclass
class _LimitedQueries(pgqueuer.Queries):
    """Takes no more than `concurrency` at once. Told so itself, the manager wants to take two at least."""

    concurrency: int = 1

    async def dequeue(self, *args: Any, **named: Any) -> list[pgqueuer.Job]:
        return await super().dequeue(*args, **(named | {"global_concurrency_limit": self.concurrency}))


class _Driver(Driver):
    """What pgqueuer asks of a connection, but for how one comes by it."""

    def __init__(self) -> None:
        self._shutdown = asyncio.Event()

    async def notify(self, channel: str, payload: str) -> None:
        await self.execute("SELECT pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        raise NotImplementedError

    @property
    def shutdown(self) -> asyncio.Event:
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        return TaskManager()

    async def __aenter__(self) -> "_Driver":
        return self

    async def __aexit__(self, *_: object) -> None: ...


class _SessionDriver(_Driver):
    """Within a session's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__()
        self._session = session

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        driver = await driver_of(self._session)
        return [dict(row) for row in await driver.fetch(query, *args)]

    async def execute(self, query: str, *args: Any) -> str:
        return await (await driver_of(self._session)).execute(query, *args)


class _PatientDriver(_Driver):
    """On connections of the pool, one for each statement; waits for a database that is away, until it is closed."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self._sessions = sessions
        self._callbacks: list[NotifyCallback] = []
        self._closed = False
        self.connected = anyio.Event()

    def close(self) -> None:
        self._closed = True
        self.connected.set()

    def heard(self, message: str) -> None:
        for callback in self._callbacks:
            callback(message)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:  # noqa: ARG002  # there is one channel
        self._callbacks.append(callback)
        # What is put into the queue before anybody listens would not be heard of.
        await self.connected.wait()

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        async def ask() -> list[dict[str, Any]]:
            async with self._sessions.read() as session:
                return await _SessionDriver(session).fetch(query, *args)

        return await self._patiently(ask)

    async def execute(self, query: str, *args: Any) -> str:
        async def ask() -> str:
            async with self._sessions.read() as session:
                return await _SessionDriver(session).execute(query, *args)

        return await self._patiently(ask)

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await ask()
            except DatabaseUnavailable:
                if self._closed:
                    raise
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
