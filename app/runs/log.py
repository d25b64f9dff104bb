"""The log of one run: what was said, encoded once, in order, and followed by any number of readers."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from app.events import Event
from app.patience import Patience


class Lines(NamedTuple):
    """Consecutive lines of a log, the first of which is number `first_seq`. No lines at all: there was nothing to say for a while."""

    first_seq: int
    lines: list[bytes]


class RunLog:
    """Belongs to one event loop. Closed by its terminal event, after which it takes nothing more."""

    __slots__ = ("_lines", "_waiters", "closed")

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._waiters: list[asyncio.Future[None]] = []
        self.closed = False

    def append(self, event: Event) -> None:
        if self.closed:
            raise RuntimeError("nothing follows the terminal event of a run")
        self._lines += event.lines(len(self._lines) + 1)
        self.closed = event.terminal
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def follow(self, *, after: int, patience: Patience, silence_s: float) -> AsyncGenerator[Lines]:
        """All lines behind number `after`, to the end; those that are there together at once. Empty `Lines` after each `silence_s` without any."""
        loop = asyncio.get_running_loop()
        with patience.limiting() as limit:
            while True:
                if len(self._lines) > after:
                    lines = self._lines[after:]
                    yield Lines(after + 1, lines)
                    after += len(lines)
                elif self.closed:
                    return
                else:
                    waiter = loop.create_future()
                    self._waiters.append(waiter)
                    try:
                        await limit.wait(waiter, silence_s)
                    except TimeoutError:
                        # A line may have come in the same moment, and `append` has taken the waiter.
                        if waiter in self._waiters:
                            self._waiters.remove(waiter)
                            yield Lines(after + 1, [])
