import asyncio
from collections.abc import Callable


class TimerWheel:
    """Calls back at a time, to the millisecond, with one timer for all calls that fall due in the same one.

    A timer for each token of each paced stream would cost several times as much, and the fake upstream would be
    what is measured.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[int, list[Callable[[], None]]] = {}
        self._next: int | None = None

    def call_at(self, when_s: float, call: Callable[[], None]) -> None:
        """`when_s` is of the loop's clock; the call comes within the millisecond after it, never before."""
        slot = int(when_s * 1000) + 1
        calls = self._due.get(slot)
        if calls is not None:
            calls.append(call)
            return
        self._due[slot] = [call]
        if self._next is None or slot < self._next:
            self._wake_at(slot)

    def _wake_at(self, slot: int) -> None:
        self._next = slot
        self.loop.call_at(slot / 1000, self._run, slot)

    def _run(self, slot: int) -> None:
        if slot != self._next:
            return  # An earlier slot came in after this timer was set, and has set the next one.
        now = max(slot, int(self.loop.time() * 1000))
        for past in sorted(due for due in self._due if due <= now):
            for call in self._due.pop(past):
                call()
        self._next = None
        if self._due:
            self._wake_at(min(self._due))
