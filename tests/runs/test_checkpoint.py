"""What the running answers have said is kept by one writer, and what could not be kept is kept later."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
import pytest
from sqlalchemy import select, text

from app.db import runs
from app.db.conversations import NewRun, add_turn
from app.db.engine import Sessions
from app.db.sessions import erase, open_session
from app.db.tables import RunLines
from app.events import Tokens
from app.patience import Patience
from app.resources import AssistantService
from app.runs.checkpoint import Checkpointer
from app.runs.log import Reading
from app.runs.runner import Run, Runner


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpointer over runs that say what the test has them say."""

    sessions: Sessions
    runner: Runner
    checkpointer: Checkpointer
    process_id: UUID
    over: anyio.Event

    async def new_run(self) -> Run:
        assistant = await AssistantService(self.sessions).create(name="Public")
        session_id = str(uuid4())
        row = NewRun(uuid4(), self.process_id, session_id, assistant.id, uuid4(), uuid4(), None, "running")
        async with self.sessions.begin() as session:
            await open_session(session, session_id, user_id=None, assistant_id=assistant.id)
            await add_turn(session, row, "Go")
        with self.runner.reserve() as place:
            return place.start(Run(row.id, session_id, row.answer_id), self._make)

    async def _make(self, run: Run) -> None:
        await self.over.wait()
        with run.making:
            pass
        run.log.settle([])

    async def lines(self, run: Run) -> bytes:
        async with self.sessions.read() as session:
            return b"".join((await runs.lines_of(session, [run.id]))[run.id])

    async def rows(self) -> int:
        async with self.sessions.read() as session:
            return len((await session.execute(select(RunLines.run_id))).all())


@pytest.fixture
async def kept(sessions: Sessions) -> AsyncGenerator[Kept]:
    reading = Reading(Patience(), 30, max_behind_bytes=10**6, stall_s=30)
    process_id, over = uuid4(), anyio.Event()
    async with Runner(limit=10, reading=reading) as runner:
        yield Kept(
            sessions, runner, Checkpointer(sessions, runner, process_id, every_s=0.01), process_id, over
        )
        over.set()


async def test_the_new_lines_of_all_runs_are_kept_together_and_once(kept: Kept):
    one, other = await kept.new_run(), await kept.new_run()
    one.log.append(Tokens(["a", "b"]))
    other.log.append(Tokens(["c"]))
    for _ in range(2):
        await kept.checkpointer.write()
        assert await kept.rows() == 2
    one.log.append(Tokens(["d"]))
    await kept.checkpointer.write()
    assert await kept.rows() == 3
    for run in (one, other):
        assert await kept.lines(run) == b"".join(run.log.lines_after(0))


async def test_what_was_refused_is_kept_with_what_came_since(kept: Kept):
    """The disk is full, as far as the database tells."""
    run = await kept.new_run()
    run.log.append(Tokens(["a"]))
    async with kept.sessions.begin() as session:
        await session.execute(text(_FULL))
        await session.execute(
            text("CREATE TRIGGER no_space BEFORE INSERT ON run_lines EXECUTE FUNCTION full_disk()")
        )
    await kept.checkpointer.write()
    assert await kept.rows() == 0
    run.log.append(Tokens(["b"]))
    async with kept.sessions.begin() as session:
        await session.execute(text("DROP TRIGGER no_space ON run_lines"))
    await kept.checkpointer.write()
    assert await kept.lines(run) == b"".join(run.log.lines_after(0))


_FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$
"""


async def test_a_run_whose_end_is_being_stored_is_not_written_any_more(kept: Kept):
    ending, other = await kept.new_run(), await kept.new_run()
    for run in (ending, other):
        run.log.append(Tokens(["a"]))
    await kept.checkpointer.withdraw(ending)
    await kept.checkpointer.write()
    assert await kept.lines(ending) == b""
    assert await kept.lines(other)


async def test_who_stores_the_end_of_a_run_waits_for_what_is_being_written_of_it(kept: Kept):
    run = await kept.new_run()
    run.log.append(Tokens(["a"]))
    withdrawn = anyio.Event()

    async def withdraw() -> None:
        await kept.checkpointer.withdraw(run)
        withdrawn.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            async with kept.sessions.begin() as session:
                # The writer comes no further than its sign of life.
                await session.execute(text("LOCK TABLE processes"))
                tasks.start_soon(kept.checkpointer.write)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(withdraw)
                await anyio.wait_all_tasks_blocked()
                assert not withdrawn.is_set()
            await withdrawn.wait()
    assert await kept.lines(run)


async def test_a_run_that_was_erased_is_not_made_any_more(kept: Kept):
    run, other = await kept.new_run(), await kept.new_run()
    for each in (run, other):
        each.log.append(Tokens(["a"]))
    await kept.checkpointer.write()
    async with kept.sessions.begin() as session:
        await erase(session, run.session_id, user_id=None)
    for each in (run, other):
        each.log.append(Tokens(["b"]))
    await kept.checkpointer.write()
    assert (run.ending, other.ending) == ("lost", None)
    assert await kept.lines(other) == b"".join(other.log.lines_after(0))
