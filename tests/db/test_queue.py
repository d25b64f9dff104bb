from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pgqueuer
import pytest
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import queue
from app.db.engine import Sessions, create_engine, driver_of
from app.db.queue import Job, Later, Work, Worker
from app.settings import DatabaseSettings
from tests.relay import Relay


@pytest.fixture
async def engine(database_url: str) -> AsyncGenerator[AsyncEngine]:
    engine = create_engine(database_url, DatabaseSettings(db_connect_timeout_s=2))
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return Sessions(engine)


class Recorded:
    """What a worker did; it is held at each job until it may go on."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.at_once = 0
        self.most_at_once = 0
        self.may = anyio.Event()
        self.begun = anyio.Event()
        self.cancelled = False

    async def do(self, job: Job) -> None:
        self.payloads.append(job.payload)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.set()
        try:
            await self.may.wait()
        except BaseException:
            self.cancelled = True
            raise
        finally:
            self.at_once -= 1


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def _worker(
    engine: AsyncEngine, handler: Callable[[Job], Any], *, concurrency: int = 1, **patience: float
) -> Worker:
    return Worker(engine, {"work": Work(handler, concurrency)}, **patience)


async def _enqueue(sessions: Sessions, *payloads: bytes) -> None:
    async with sessions.begin() as session:
        for payload in payloads:
            await queue.enqueue(session, "work", payload)


async def _left(sessions: Sessions) -> list[Any]:
    async with sessions.read() as session:
        return list((await session.execute(text("SELECT status, attempts FROM pgqueuer ORDER BY id"))).all())


async def _until_left(sessions: Sessions, count: int) -> None:
    while len(await _left(sessions)) != count:
        pass


async def test_the_tables_are_those_that_the_library_asks_for(sessions: Sessions):
    async with sessions.read() as session:
        queries = pgqueuer.Queries(AsyncpgDriver(await driver_of(session)))
        plan = await queries.plan_upgrade()

    assert not plan.statements


async def test_a_job_is_put_there_with_the_transaction_or_not_at_all(sessions: Sessions):
    with suppress(ZeroDivisionError):
        async with sessions.begin() as session:
            await queue.enqueue(session, "work", b"")
            raise ZeroDivisionError
    assert await _left(sessions) == []

    async with sessions.begin() as session:
        job_id = await queue.enqueue(session, "work", b"")
    assert await _left(sessions) == [("queued", 0)]

    async with sessions.begin() as session:
        await queue.discard(session, job_id)
    assert await _left(sessions) == []


async def test_what_a_worker_finds_and_what_comes_later_is_done_at_once(
    engine: AsyncEngine, sessions: Sessions, recorded: Recorded
):
    recorded.may.set()
    await _enqueue(sessions, b"before")

    with anyio.fail_after(10):
        async with _worker(engine, recorded.do, look_again_s=1_000).running():
            await _until_left(sessions, 0)
            await _enqueue(sessions, b"after")
            await _until_left(sessions, 0)

    assert recorded.payloads == [b"before", b"after"]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_is_done_at_once_than_is_allowed(
    engine: AsyncEngine, sessions: Sessions, recorded: Recorded, concurrency: int
):
    await _enqueue(sessions, *(b"%d" % number for number in range(5)))

    with anyio.fail_after(10):
        async with _worker(engine, recorded.do, concurrency=concurrency, look_again_s=0.01).running():
            while recorded.at_once < concurrency:
                await anyio.lowlevel.checkpoint()
            recorded.may.set()
            await _until_left(sessions, 0)

    assert recorded.most_at_once == concurrency
    assert len(recorded.payloads) == 5


async def test_a_job_waits_until_it_may_be_done(engine: AsyncEngine, sessions: Sessions, recorded: Recorded):
    recorded.may.set()
    async with sessions.begin() as session:
        await queue.enqueue(session, "work", b"tomorrow", execute_after=timedelta(days=1))
        await queue.enqueue(session, "work", b"today")

    with anyio.fail_after(10):
        async with _worker(engine, recorded.do).running():
            await _until_left(sessions, 1)

    assert recorded.payloads == [b"today"]


async def test_what_is_to_be_done_later_comes_again(engine: AsyncEngine, sessions: Sessions):
    attempts: list[int] = []

    async def do(job: Job) -> None:
        attempts.append(job.attempts)
        if job.attempts < 2:
            raise Later(timedelta(0))

    await _enqueue(sessions, b"")
    with anyio.fail_after(10):
        async with _worker(engine, do, look_again_s=0.01).running():
            await _until_left(sessions, 0)

    assert attempts == [0, 1, 2]


async def test_a_job_that_a_bug_ends_is_kept(
    engine: AsyncEngine, sessions: Sessions, caplog: pytest.LogCaptureFixture
):
    async def do(_: Job) -> None:
        raise ZeroDivisionError

    await _enqueue(sessions, b"")
    with anyio.fail_after(10):
        async with _worker(engine, do).running():
            while await _left(sessions) != [("failed", 0)]:
                pass

    assert "ZeroDivisionError" in caplog.text


async def test_what_is_not_done_when_the_worker_stops_is_given_back(
    engine: AsyncEngine, sessions: Sessions, recorded: Recorded
):
    await _enqueue(sessions, b"one", b"two")

    with anyio.fail_after(10):
        async with _worker(engine, recorded.do).running(grace_s=0):
            await recorded.begun.wait()

    assert recorded.cancelled
    # The first may be taken once more before the worker has stopped, and is given back again.
    assert set(recorded.payloads) == {b"one"}
    assert [status for status, _ in await _left(sessions)] == ["queued", "queued"]


async def test_a_worker_that_stops_lets_its_job_end(
    engine: AsyncEngine, sessions: Sessions, recorded: Recorded
):
    await _enqueue(sessions, b"")

    with anyio.fail_after(10):
        async with _worker(engine, recorded.do).running(grace_s=1_000):
            await recorded.begun.wait()
            recorded.may.set()

    assert not recorded.cancelled
    assert await _left(sessions) == []


async def test_a_job_of_a_worker_that_is_silent_is_taken_over(
    engine: AsyncEngine, sessions: Sessions, recorded: Recorded
):
    recorded.may.set()
    await _enqueue(sessions, b"left behind")
    async with sessions.begin() as session:
        await session.execute(
            text(
                "UPDATE pgqueuer SET status = 'picked', queue_manager_id = gen_random_uuid(),"
                " heartbeat = now() - interval '31 s'"
            )
        )

    with anyio.fail_after(10):
        async with _worker(engine, recorded.do).running():
            await _until_left(sessions, 0)

    assert recorded.payloads == [b"left behind"]


async def test_a_worker_goes_on_when_the_database_is_back(
    database_url: str, sessions: Sessions, recorded: Recorded
):
    relay = Relay(database_url)
    with anyio.fail_after(20):
        async with relay.running():
            engine = create_engine(relay.url, DatabaseSettings(db_connect_timeout_s=2))
            async with _worker(engine, recorded.do, look_again_s=0.05).running():
                await _enqueue(sessions, b"before")
                await recorded.begun.wait()
                relay.cut()
                recorded.may.set()
                await _enqueue(sessions, b"after")
                await relay.refused.wait()
                relay.mend()
                await _until_left(sessions, 0)
            await engine.dispose()

    assert recorded.payloads == [b"before", b"after"]


async def test_a_worker_stops_while_the_database_is_away(
    database_url: str, sessions: Sessions, recorded: Recorded
):
    relay = Relay(database_url)
    with anyio.fail_after(20):
        async with relay.running():
            engine = create_engine(relay.url, DatabaseSettings(db_connect_timeout_s=2))
            async with _worker(engine, recorded.do, look_again_s=0.05).running(grace_s=0):
                await _enqueue(sessions, b"")
                await recorded.begun.wait()
                relay.cut()
                await relay.refused.wait()
            await engine.dispose()

    assert [status for status, _ in await _left(sessions)] == ["picked"]


async def test_the_names_of_the_tables_do_not_depend_on_the_environment(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    fields = queue.SETTINGS.model_dump()
    for name in fields:
        monkeypatch.setenv(name.upper(), "elsewhere")
        monkeypatch.setenv(f"PGQUEUER_{name.upper()}", "elsewhere")

    assert set(fields) == queue.SETTINGS.model_fields_set


async def test_what_the_queue_noted_of_jobs_long_over_is_forgotten(sessions: Sessions):
    await _enqueue(sessions, b"old", b"new")
    async with sessions.begin() as session:
        await session.execute(
            text(
                "UPDATE pgqueuer_log SET created = now() - interval '8 days'"
                " WHERE job_id = (SELECT min(id) FROM pgqueuer)"
            )
        )
        await queue.forget_what_is_old(session)
        log = (await session.execute(text("SELECT count(*) FROM pgqueuer_log"))).scalar_one()

    assert log == 1
