"""Runs: answers being made in this process, each a task of its own that no reader's leaving can end."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

import anyio

from app.errors import AtCapacity, FreshetError, ShuttingDown
from app.events import failure
from app.runs.log import Lines, Reading, RunLog

logger = logging.getLogger(__name__)

Ending = Literal["stopped", "unread", "interrupted", "lost"]
"""Why an answer is not made to its end: somebody asked to stop it, nobody reads it, the process stops, or it has been ended elsewhere."""

# Between the acceptance of a turn and its first reader lies the way of a response through the server.
_FIRST_READER_S = 2.0


class Run:
    """One answer. Its log may be followed for as long as somebody holds the run, also after its end.

    Whoever makes it does so within `making`, which `end` cancels; what is done outside of it, such as storing, is not disturbed.
    `unread_limit_s` is for how long it goes on without a reader; None: to its end. `hurried`: the process is about to stop.
    """

    __slots__ = (
        "ending",
        "hurried",
        "id",
        "log",
        "making",
        "message_id",
        "session_id",
        "unread_at",
        "unread_limit_s",
    )

    def __init__(
        self, run_id: UUID, session_id: str, message_id: UUID, *, unread_limit_s: float | None = None
    ) -> None:
        self.id = run_id
        self.session_id = session_id
        self.message_id = message_id
        self.log = RunLog()
        self.making = anyio.CancelScope()
        self.ending: Ending | None = None
        self.hurried = False
        self.unread_limit_s = unread_limit_s
        # The loop's time at which it was last known to be read.
        self.unread_at = 0.0

    def end(self, ending: Ending) -> None:
        """Make no more of it. The first reason counts."""
        self.hurried = self.hurried or ending == "interrupted"
        if self.ending is None:
            self.ending = ending
            self.making.cancel()


Make = Callable[[Run], Awaitable[None]]
"""Fills and closes the log of a run."""


class Place:
    """A reserved place among the runs: taken by `start`, or given back."""

    __slots__ = ("_runner", "taken")

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner
        self.taken = False

    def start(self, run: Run, make: Make) -> Run:
        self.taken = True
        self._runner.start(run, make)
        return run


class Runner:
    """The process's task group of runs: at most `limit` at once; entered and left by the same task. `ended` is called after each."""

    def __init__(self, *, limit: int, reading: Reading, ended: Callable[[], None] = lambda: None) -> None:
        self._limit = limit
        self._reading = reading
        self._ended = ended
        self._reserved = 0
        self._draining = False
        self._runs: dict[UUID, Run] = {}
        # Not asyncio's, whose cancellations go through shields: a run that is storing what was said would lose it to a second one.
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends what still runs, when it drains after the grace period, else now: each run stores what was said, and its
        readers get their terminal event."""
        if not self._draining:
            self.drain(0)
        await self._tasks.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # bounded by the grace period and by what a run may take to store

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def run_ids(self) -> tuple[UUID, ...]:
        return tuple(self._runs)

    def runs(self) -> tuple[Run, ...]:
        return tuple(self._runs.values())

    def get(self, run_id: UUID) -> Run | None:
        return self._runs.get(run_id)

    def end(self, run_ids: Iterable[UUID], ending: Ending) -> None:
        """Those of them that are made here."""
        for run_id in run_ids:
            if (run := self._runs.get(run_id)) is not None:
                run.end(ending)

    def drain(self, grace_s: float) -> None:
        """Take no new runs; end those that still run after `grace_s`."""
        self._draining = True
        asyncio.get_running_loop().call_later(grace_s, self._interrupt_all)

    @contextmanager
    def reserve(self) -> Generator[Place]:
        """A place for one run, held while the turn is accepted. Raises `AtCapacity` or `ShuttingDown`."""
        if self._draining:
            raise ShuttingDown("The server is about to stop. Ask again in a moment.", retry_after_s=2)
        if self._reserved >= self._limit:
            raise AtCapacity(
                "Too many answers are being made at the moment. Ask again in a moment.", retry_after_s=2
            )
        self._reserved += 1
        place = Place(self)
        try:
            yield place
        finally:
            if not place.taken:
                self._reserved -= 1

    def start(self, run: Run, make: Make) -> None:
        self._runs[run.id] = run
        if run.unread_limit_s is not None:
            run.log = RunLog(left=partial(self._left, run, run.unread_limit_s))
        self._tasks.start_soon(self._drive, run, make, name=f"run {run.id}")
        if run.unread_limit_s is not None:
            self._left(run, max(run.unread_limit_s, _FIRST_READER_S))

    def follow(self, run: Run, *, after: int) -> AsyncGenerator[Lines]:
        return run.log.follow(after=after, reading=self._reading)

    def read_elsewhere(self, run_id: UUID, *, for_s: float) -> None:
        """Another process has readers of this run, and says so again within `for_s`."""
        run = self._runs.get(run_id)
        if run is not None:
            run.unread_at = max(run.unread_at, asyncio.get_running_loop().time() + for_s)

    def _left(self, run: Run, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        run.unread_at = max(run.unread_at, loop.time())
        loop.call_at(run.unread_at + limit_s, self._end_if_unread, run, limit_s)

    def _end_if_unread(self, run: Run, limit_s: float) -> None:
        if run.log.readers or run.log.closed:
            return
        loop = asyncio.get_running_loop()
        if (due_at := run.unread_at + limit_s) > loop.time():
            loop.call_at(due_at, self._end_if_unread, run, limit_s)
        else:
            run.end("unread")

    def _interrupt_all(self) -> None:
        for run in self._runs.values():
            run.end("interrupted")

    async def _drive(self, run: Run, make: Make) -> None:
        try:
            await make(run)
            if not run.log.closed:
                raise RuntimeError("the log of a run ends with a terminal event")
        except Exception:  # the end of a stream: whatever happened, its readers are told that it is over
            logger.exception("run %s failed", run.id)
        finally:
            if not run.log.closed:
                run.log.append(
                    failure(FreshetError("The answer failed for a reason of our own. It has been noted."))
                )
            self._runs.pop(run.id, None)
            self._reserved -= 1
            self._ended()
