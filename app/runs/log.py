"""The log of one run: what was said, encoded once, in order, and followed by any number of readers."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from anyio import to_thread

from app.errors import FreshetError, ReaderTooSlow
from app.events import Event
from app.patience import Limit, Patience

# What a reader who is behind is given at once, at the most; but always a line.
_MOST_LINES = 512
_MOST_BYTES = 256 * 2**10
# Compressing takes about 1 ms for each 100 kB, for which the loop may be kept.
_PACKED_IN_PLACE_BYTES = 200_000


class Lines(NamedTuple):
    """Consecutive lines of a log, the first of which is number `first_seq`. No lines at all: there was nothing to say for a while."""

    first_seq: int
    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Reading:
    """How logs are followed: empty `Lines` come after each `silence_s` without any. Whoever falls further behind than
    `max_behind_bytes`, beyond what there was when he came, is cut off, and so is who takes nothing for `stall_s`."""

    patience: Patience
    silence_s: float
    max_behind_bytes: int
    stall_s: float


class RunLog:
    """Belongs to one event loop. Closed by its terminal event, after which it takes nothing more.

    The log of a run that another process makes is filled with `extend`; what that process, or whoever ended the run in its
    place, has stored counts: `settle`.
    """

    __slots__ = ("_broken_off", "_left", "_lines", "_size_bytes", "_waiters", "closed", "readers")

    def __init__(self, left: Callable[[], None] | None = None) -> None:
        """`left` is called when the last of the readers has gone."""
        self._left = left
        self.readers = 0
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._broken_off: FreshetError | None = None
        self.closed = False

    @property
    def last_seq(self) -> int:
        return len(self._lines)

    def lines_after(self, seq: int) -> list[bytes]:
        return self._lines[seq:]

    def append(self, event: Event) -> None:
        self.extend(event.lines(len(self._lines) + 1), closed=event.terminal)

    def extend(self, lines: Sequence[bytes], *, closed: bool = False) -> None:
        """Lines that are encoded already, numbered on from the last one."""
        if self.closed:
            raise RuntimeError("nothing follows the terminal event of a run")
        self._lines += lines
        self._size_bytes += sum(map(len, lines))
        self.closed = closed
        self._wake()

    def settle(self, lines: Sequence[bytes]) -> None:
        """The whole log, closed; readers that are ahead of it get its last line."""
        self._lines = list(lines)
        self._size_bytes = sum(map(len, lines))
        self.closed = True
        self._wake()

    def break_off(self, why: FreshetError) -> None:
        """End its readers with this error, and not the log."""
        self._broken_off = why
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def follow(self, *, after: int, reading: Reading) -> AsyncGenerator[Lines]:
        """The lines behind number `after`, to the end; those that are there together at once, if they are not very many.

        Whoever was not given the last line of a closed log as such gets it, however many lines he has: when a process was killed
        it may have sent more than it had stored. Raises `ReaderTooSlow`, and what the log is broken off with.
        """
        has_end = self.closed and after == len(self._lines)
        # The size of the log at which he has fallen too far behind. It grows with what he is sent, and counts from his first line:
        # a log that is filled from elsewhere is empty when he comes.
        too_far_bytes: int | None = None
        self.readers += 1
        try:
            with reading.patience.limiting() as limit:
                while True:
                    if len(self._lines) > after:
                        lines = _at_once(self._lines[after : after + _MOST_LINES])
                        has_end = self.closed and after + len(lines) == len(self._lines)
                        if too_far_bytes is None:
                            too_far_bytes = self._size_bytes + reading.max_behind_bytes
                        yield Lines(after + 1, lines)
                        after += len(lines)
                        too_far_bytes += sum(map(len, lines))
                        if self._size_bytes > too_far_bytes and not has_end:
                            raise ReaderTooSlow
                    elif self.closed:
                        if not has_end:
                            yield Lines(len(self._lines), self._lines[-1:])
                        return
                    elif self._broken_off is not None:
                        raise self._broken_off
                    elif not await self._changed(limit, reading.silence_s):
                        yield Lines(after + 1, ())
        finally:
            self.readers -= 1
            if not self.readers and self._left is not None:
                self._left()

    async def _changed(self, limit: Limit, silence_s: float) -> bool:
        """Waits for lines or the end; False after `silence_s` without either."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await limit.wait(waiter, silence_s)
        except TimeoutError:
            # A line may have come in the same moment, and `_wake` has taken the waiter.
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return False
        return True


def _at_once(lines: list[bytes]) -> list[bytes]:
    if len(lines) == 1 or sum(map(len, lines)) <= _MOST_BYTES:
        return lines
    sizes = accumulate(map(len, lines))
    return lines[: max(1, sum(size <= _MOST_BYTES for size in sizes))]


async def pack(lines: Sequence[bytes]) -> bytes:
    """A whole log as one compressed value."""
    text = b"".join(lines)
    if len(text) > _PACKED_IN_PLACE_BYTES:
        return await to_thread.run_sync(zlib.compress, text)
    return zlib.compress(text)


def unpack(packed: bytes) -> list[bytes]:
    return split(zlib.decompress(packed))


def split(text: bytes) -> list[bytes]:
    """The lines of a text, each with its end."""
    return [line + b"\n" for line in text.split(b"\n")[:-1]]
