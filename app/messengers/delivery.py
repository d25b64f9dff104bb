"""The answering of letters: each is asked once, and its answer brought, in whichever process and after however many failures."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from app.db.channels import Letter
from app.errors import DatabaseUnavailable, FreshetError
from app.messengers.growing import ChannelRefused, NotNow
from app.services.letters import LEASE_S, LetterService

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 200
_LOOK_EVERY_S = 1.0
_FORGET_EVERY_S = 3600.0
_LAST_WORDS_S = 2.0
# With the waits between them, most of a day.
_MOST_TRIES = 100
_LONGEST_WAIT_S = 900.0


Note = Callable[[Sequence[str]], Awaitable[None]]
"""Is told the messages that the answer stands in, each time that there is one more."""


class Channel(Protocol):
    @property
    def name(self) -> str: ...

    async def answer(self, letter: Letter, note: Note) -> None:
        """Ask what the letter asks, unless that has been done, and bring the answer. Raises `NotNow`, `ChannelRefused` and `FreshetError`."""
        ...


class Delivery:
    def __init__(self, letters: LetterService) -> None:
        self.letters = letters
        self._channels: dict[str, Channel] = {}
        self._held: dict[tuple[str, str], Letter] = {}
        self._change = asyncio.Event()

    async def receive(self, *letters: Letter) -> None:
        """When this returns they are stored, and will be answered."""
        await self.letters.add(letters)
        self._change.set()

    @asynccontextmanager
    async def running(self, channels: Mapping[str, Channel]) -> AsyncGenerator[TaskGroup]:
        """Answers the letters of these channels for the length of the block. What is not brought by its end is left to others."""
        self._channels = dict(channels)
        async with anyio.create_task_group() as tasks:
            try:
                tasks.start_soon(self._keep)
                tasks.start_soon(self._forget)
                tasks.start_soon(self._claim, tasks)
                yield tasks
            finally:
                tasks.cancel_scope.cancel()

    async def _claim(self, tasks: TaskGroup) -> None:
        while True:
            self._change.clear()
            claimed: list[Letter] = []
            with suppress(DatabaseUnavailable):
                if (room := _MOST_AT_ONCE - len(self._held)) > 0:
                    claimed = await self.letters.claim(list(self._channels), most=room)
            for letter in claimed:
                self._held[letter.channel, letter.key] = letter
                tasks.start_soon(self._answer, letter)
            if not claimed:
                with anyio.move_on_after(_LOOK_EVERY_S):
                    await self._change.wait()

    async def _answer(self, letter: Letter) -> None:
        left_for_s: float | None = 0.0
        try:
            left_for_s = await self._answered(letter)
        finally:
            self._held.pop((letter.channel, letter.key), None)
            # Shielded: what cannot be noted because the process stops would wait for the end of the lease.
            with anyio.move_on_after(_LAST_WORDS_S, shield=True), suppress(DatabaseUnavailable):
                if left_for_s is None:
                    await self.letters.answered(letter)
                else:
                    await self.letters.put_off([letter], left_for_s)
            self._change.set()

    async def _answered(self, letter: Letter) -> float | None:
        """None if it is done with; otherwise how long to wait before the next try, in seconds."""
        try:
            await self._channels[letter.channel].answer(letter, partial(self.letters.note_posted, letter))
        except ChannelRefused as error:
            logger.warning("%s takes no answer to %s: %s", letter.channel, letter.key, error)
        except (NotNow, FreshetError) as error:
            may_pass = isinstance(error, NotNow) or error.retryable
            if may_pass and letter.tries < _MOST_TRIES:
                asked_for_s = error.wait_s if isinstance(error, NotNow) else None
                logger.info("the answer to %s over %s has to wait: %s", letter.key, letter.channel, error)
                return asked_for_s or min(2.0 ** min(letter.tries, 10) / 4, _LONGEST_WAIT_S)
            logger.error(
                "the answer to %s over %s could not be brought: %s", letter.key, letter.channel, error
            )
        except Exception:  # one letter that cannot be answered costs neither the others nor the process
            logger.exception("the answer to %s over %s failed", letter.key, letter.channel)
        return None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(DatabaseUnavailable):
                await self.letters.keep(list(self._held.values()))

    async def _forget(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                await self.letters.forget_old()
            await asyncio.sleep(_FORGET_EVERY_S)
