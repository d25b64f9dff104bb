"""Runs: answers being made in this process, each a task of its own that no reader's leaving can end."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Self
from uuid import UUID

import anyio

from app.errors import AtCapacity, FreshetError, Interrupted, ShuttingDown
from app.events import Error, Event
from app.patience import Patience
from app.runs.log import Lines, RunLog

logger = logging.getLogger(__name__)


class Run:
    """One answer: its log may be followed for as long as somebody holds the run, also after its end; `failure` is why it failed."""

    __slots__ = ("failure", "id", "log", "message_id", "session_id", "task")

    def __init__(self, run_id: UUID, session_id: str, message_id: UUID) -> None:
        self.id = run_id
        self.session_id = session_id
        self.message_id = message_id
        self.log = RunLog()
        self.task: anyio.TaskHandle[None] | None = None
        self.failure: FreshetError | None = None


class Place:
    """A reserved place among the running runs: taken by `start`, or given back."""

    __slots__ = ("_runner", "taken")

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner
        self.taken = False

    def start(self, run: Run, events: AsyncGenerator[Event]) -> Run:
        self.taken = True
        self._runner.start(run, events)
        return run


class Runner:
    """The process's task group of runs: at most `limit` at once; entered and left by the same task."""

    def __init__(self, *, limit: int, silence_s: float) -> None:
        self._limit = limit
        self._silence_s = silence_s
        self._patience = Patience()
        self._reserved = 0
        self._draining = False
        self._running: dict[UUID, Run] = {}
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
    def running_ids(self) -> tuple[UUID, ...]:
        return tuple(self._running)

    def drain(self, grace_s: float) -> None:
        """Take no new runs; end those that still run after `grace_s`."""
        self._draining = True
        asyncio.get_running_loop().call_later(grace_s, self._end_all)

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

    def start(self, run: Run, events: AsyncGenerator[Event]) -> None:
        self._running[run.id] = run
        run.task = self._tasks.create_task(self._drive(run, events), name=f"run {run.id}")

    def follow(self, run: Run, *, after: int) -> AsyncGenerator[Lines]:
        return run.log.follow(after=after, patience=self._patience, silence_s=self._silence_s)

    def _end_all(self) -> None:
        for run in self._running.values():
            if run.task is not None:
                run.task.cancel()

    async def _drive(self, run: Run, events: AsyncGenerator[Event]) -> None:
        log = run.log
        try:
            async with aclosing(events):
                async for event in events:
                    log.append(event)
            if not log.closed:
                raise RuntimeError("the events of a run end with a terminal one")
        except asyncio.CancelledError:
            _fail(run, Interrupted())
            raise
        except FreshetError as error:
            logger.warning(
                "run %s ended with %s: %s", run.id, error.code, error.message, exc_info=error.__cause__
            )
            _fail(run, error)
        except Exception:  # the end of a stream: whatever happened, its readers are told that it is over
            logger.exception("run %s failed", run.id)
            _fail(run, FreshetError("The answer failed for a reason of our own. It has been noted."))
        finally:
            self._running.pop(run.id, None)
            self._reserved -= 1


def _fail(run: Run, failure: FreshetError) -> None:
    if not run.log.closed:
        run.failure = failure
        message = failure.message
        run.log.append(Error(code=failure.code, message=message, error=message, retryable=failure.retryable))
