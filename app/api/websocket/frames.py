"""What a socket is sent: an answer as one frame, or its events as they come, one a frame; and why something was not answered."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

from app import json_text
from app.errors import FreshetError, Unavailable, of_code
from app.events import HEARTBEAT_LINE
from app.services.runs import Followed, RunService
from app.services.sessions import SessionService

Send = Callable[[Sequence[str]], Awaitable[None]]
"""Sends frames. Raises `TimeoutError` when the other side takes nothing for too long."""

HEARTBEAT = HEARTBEAT_LINE.decode().rstrip("\n")


class Voice(Protocol):
    @property
    def heartbeat(self) -> str | None:
        """Said when there is nothing else to say for a while."""
        ...

    async def answer(self, followed: Followed, send: Send) -> None:
        """Returns when the answer has ended."""
        ...

    def refusal(self, error: FreshetError) -> str:
        """Of a question of which no answer was begun."""
        ...


class Replies:
    """`{id, msg, timestamp}`; with `error` beside them where there is no answer, which `msg` then tells in words."""

    heartbeat = None

    def __init__(self, runs: RunService, sessions: SessionService) -> None:
        self._runs = runs
        self._sessions = sessions

    async def answer(self, followed: Followed, send: Send) -> None:
        end = await self._runs.last_event(followed)
        if end.code is not None:
            frame = _failure(of_code(end.code, end.message), followed.message_id)
        else:
            message = await self._sessions.message(followed.message_id)
            frame = _frame(message.id, message.text, message.created_at)
        await send([frame])

    def refusal(self, error: FreshetError) -> str:
        return _failure(error, uuid4())


class Events:
    """The lines of the run's log, without their ends."""

    heartbeat = HEARTBEAT

    async def answer(self, followed: Followed, send: Send) -> None:
        async with aclosing(followed.follow(after=0)) as batches:
            async for batch in batches:
                await send([line[:-1].decode() for line in batch.lines] or [HEARTBEAT])

    def refusal(self, error: FreshetError) -> str:
        """As the event `error`, but without a `seq`, as it is of no answer."""
        told = {"type": "error", **_told(error), "error": error.message}
        return json_text.encode(told).decode()


def _frame(message_id: UUID, text: str, at: datetime, **more: Any) -> str:
    return json_text.encode({"id": message_id, "msg": text, "timestamp": at, **more}).decode()


def _failure(error: FreshetError, message_id: UUID) -> str:
    return _frame(message_id, error.message, datetime.now(UTC), error=_told(error))


def _told(error: FreshetError) -> dict[str, Any]:
    told: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if isinstance(error, Unavailable):
        told["retry_after_s"] = error.retry_after_s
    return told
