"""Limits around single waits, cheap enough to stand around each token.

A timeout context costs about 13 µs to enter and leave, mostly for a timer of its own. Here a wait costs a stamp, and one timer
for all of them looks every `tick_s` who has waited too long; so a limit is kept to within one tick.
"""

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from math import inf
from typing import TypeVar

T = TypeVar("T")


class Limit:
    """Limits the waits of one task, one after the other."""

    __slots__ = ("_loop", "_task", "deadline", "expired")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task
        self._loop = task.get_loop()
        self.deadline = inf
        self.expired = False

    async def wait(self, awaitable: Awaitable[T], limit_s: float) -> T:
        """What the awaitable gives; raises `TimeoutError`, the awaitable having been cancelled, when it takes longer."""
        self.deadline = self._loop.time() + limit_s
        try:
            return await awaitable
        except asyncio.CancelledError:
            # Ours, and nobody else has cancelled the task meanwhile: the same rule as in asyncio.timeout.
            if self.expired and self._task.uncancel() == 0:
                raise TimeoutError from None  # noqa: ASYNC104  # in its place
            raise
        finally:
            self.deadline = inf
            self.expired = False

    def look(self, now: float) -> None:
        if self.deadline <= now and not self.expired:
            self.expired = True
            self._task.cancel()


class Patience:
    """Belongs to the event loop it is first used in."""

    def __init__(self, *, tick_s: float = 0.1) -> None:
        self._tick_s = tick_s
        self._limits: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def limiting(self) -> Generator[Limit]:
        """A limit on waits of the task that is running now."""
        task = asyncio.current_task()
        assert task is not None
        limit = Limit(task)
        self._limits.add(limit)
        if self._timer is None:
            self._timer = task.get_loop().call_later(self._tick_s, self._look)
        try:
            yield limit
        finally:
            self._limits.discard(limit)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for limit in self._limits:
            limit.look(now)
        self._timer = loop.call_later(self._tick_s, self._look) if self._limits else None
