"""Limits around single waits, cheap enough to stand around each token.

A timeout context costs about 13 µs to enter and leave, mostly for a timer of its own. Here a wait costs a stamp, and one timer
for all of them looks every `tick_s` who has waited too long; so a limit is kept to within one tick.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class _Wait:
    __slots__ = ("cancelling", "deadline", "expired", "task")

    def __init__(self, task: asyncio.Task[object], deadline: float) -> None:
        self.task = task
        self.deadline = deadline
        self.expired = False
        self.cancelling = task.cancelling()


class Patience:
    """Belongs to the event loop it is first used in."""

    def __init__(self, *, tick_s: float = 0.1) -> None:
        self._tick_s = tick_s
        self._waits: set[_Wait] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, awaitable: Awaitable[T], limit_s: float) -> T:
        """What the awaitable gives; raises `TimeoutError`, the awaitable having been cancelled, when it takes longer."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        wait = _Wait(task, loop.time() + limit_s)
        self._waits.add(wait)
        if self._timer is None:
            self._timer = loop.call_later(self._tick_s, self._look, loop)
        try:
            return await awaitable
        except asyncio.CancelledError:
            # Ours, and nobody else has cancelled this task meanwhile: the same rule as in asyncio.timeout.
            if wait.expired and task.uncancel() <= wait.cancelling:
                raise TimeoutError from None
            raise
        finally:
            self._waits.discard(wait)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for wait in self._waits:
            if wait.deadline <= now and not wait.expired:
                wait.expired = True
                wait.task.cancel()
        self._timer = loop.call_later(self._tick_s, self._look, loop) if self._waits else None
