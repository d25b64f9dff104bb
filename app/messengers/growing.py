"""An answer in messages that are edited as it grows, at the pace that the channel bears."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol, TypeVar

import anyio

from app.messengers.transcript import Transcript, parts, utf16_units
from app.services.runs import Followed

T = TypeVar("T")

_BUSY_TRIES = 10


class NotNow(Exception):
    """The channel cannot be reached, or has no room: to be tried again after `wait_s`, or a wait that grows."""

    def __init__(self, wait_s: float | None = None) -> None:
        super().__init__("The channel cannot be reached at the moment.")
        self.wait_s = wait_s


class ChannelBusy(NotNow):
    """It has been asked too often, and says for how long to leave it alone."""


class ChannelRefused(Exception):
    """It takes no message here, now or later: the conversation is gone, or the bot was thrown out."""


class Poster(Protocol):
    """Both raise `NotNow`, `ChannelBusy` and `ChannelRefused`."""

    async def post(self, text: str) -> str:
        """The channel's name of the message that has been made."""
        ...

    async def edit(self, name: str, text: str) -> None: ...


class GrowingAnswer:
    """`posted` are the messages that an earlier try has left: the answer goes on in them. `note` is told of each new one."""

    def __init__(
        self,
        poster: Poster,
        posted: Sequence[str],
        note: Callable[[Sequence[str]], Awaitable[None]],
        *,
        limit: int,
        every_s: float,
        size: Callable[[str], int] = utf16_units,
    ) -> None:
        self._poster = poster
        self._posted = list(posted)
        self._shown: list[str | None] = [None] * len(self._posted)
        self._note = note
        self._limit = limit
        self._every_s = every_s
        self._size = size
        self._next_at = 0.0

    async def follow(self, followed: Followed) -> None:
        transcript = Transcript()
        shown = 0
        async with aclosing(followed.follow(after=0)) as batches:
            async for batch in batches:
                transcript.read(batch.lines)
                # While this waits for its turn the log fills, and what has come by then is shown at once.
                if len(transcript.text) > shown and not transcript.is_over:
                    await self.show(transcript.text)
                    shown = len(transcript.text)
        await self.show(transcript.whole)

    async def show(self, text: str) -> None:
        for number, part in enumerate(parts(text, self._limit, self._size)):
            if number == len(self._posted):
                self._posted.append(await self._in_turn(partial(self._poster.post, part)))
                self._shown.append(part)
                await self._note(self._posted)
            elif self._shown[number] != part:
                await self._in_turn(partial(self._poster.edit, self._posted[number], part))
                self._shown[number] = part

    async def _in_turn(self, call: Callable[[], Awaitable[T]]) -> T:
        for left in reversed(range(_BUSY_TRIES)):
            await anyio.sleep_until(self._next_at)
            try:
                answer = await call()
            except ChannelBusy as busy:
                if not left:
                    raise
                self._next_at = anyio.current_time() + (busy.wait_s or self._every_s)
            else:
                self._next_at = anyio.current_time() + self._every_s
                return answer
        raise AssertionError
