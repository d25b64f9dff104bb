"""The chat socket: each text frame is a question, and all sockets of a session get each answer that was asked for through one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter, ValidationError

from app.api.deps import ResourcesDep
from app.api.errors import close_code_of
from app.api.text import Text
from app.api.websocket.frames import Events, Replies, Send, Voice
from app.errors import FreshetError, InvalidInput, TooLarge, TooManyRequests, Unauthenticated
from app.patience import Limit
from app.resources import Resources
from app.services.chat import Asked
from app.services.chat_tokens import Holder
from app.services.rooms import Listener

logger = logging.getLogger(__name__)

router = APIRouter()
router_of_api = APIRouter()

_LONGEST = 50_000
_text = TypeAdapter[str](Text)
_MINUTE_S = 60.0


@router.websocket("/chat")
@router_of_api.websocket("/chat/ws")
async def converse(websocket: WebSocket, resources: ResourcesDep) -> None:
    """`token` and `stream` are read here: who sends wrong ones is told by a code, and only a socket that was accepted has one."""
    await websocket.accept()
    token = websocket.query_params.get("token", "")
    streams = websocket.query_params.get("stream", "").lower() in {"1", "true"}
    # Who has left needs to be told nothing.
    with suppress(WebSocketDisconnect):
        try:
            holder = await resources.chat_tokens.holder(token)
            voice = Events() if streams else Replies(resources.runs, resources.sessions)
            await Conversation(websocket, resources, token, holder, voice).hold()
        except FreshetError as error:
            await _close(websocket, error)
        except Exception:  # the end of a socket: nothing of it may reach the client
            logger.exception("a socket failed")
            await _close(websocket, FreshetError("Something went wrong on our side. It has been noted."))


async def _close(websocket: WebSocket, why: FreshetError) -> None:
    # What a frame of control may hold, less the code.
    reason = why.message.encode()[:123].decode(errors="ignore")
    await websocket.close(close_code_of(why), reason)


class Allowance:
    """How many messages are taken in a minute, from the first one on."""

    def __init__(self, a_minute: int) -> None:
        self._a_minute = a_minute
        self._began_at = -_MINUTE_S
        self._taken = 0

    @property
    def is_far_exceeded(self) -> bool:
        return self._taken > 2 * self._a_minute

    def take(self, now: float) -> None:
        """`now` is in seconds. Raises `TooManyRequests`."""
        if now - self._began_at >= _MINUTE_S:
            self._began_at, self._taken = now, 0
        self._taken += 1
        if self._taken > self._a_minute:
            wait_s = int(self._began_at + _MINUTE_S - now) + 1
            raise TooManyRequests(
                f"This socket takes {self._a_minute} messages a minute. Go on in {wait_s} seconds.",
                retry_after_s=wait_s,
            )


class Conversation:
    def __init__(
        self, websocket: WebSocket, resources: Resources, token: str, holder: Holder, voice: Voice
    ) -> None:
        self._websocket = websocket
        self._tokens = resources.chat_tokens
        self._chat = resources.chat
        self._runs = resources.runs
        self._rooms = resources.rooms
        self._reading = resources.runs.reading
        self._token = token
        self._holder = holder
        self._voice = voice
        self._clock = asyncio.get_running_loop().time
        self._allowance = Allowance(resources.settings.chat.socket_messages_per_minute)
        self._expires_at = self._clock() + holder.left_s
        self._why: FreshetError | None = None

    async def hold(self) -> None:
        """Until the other side leaves, or takes nothing any more. Raises why else it ends."""
        with self._rooms.entered(self._holder.session_id, self._holder.token_id) as listener:
            async with anyio.create_task_group() as tasks:
                for part in (self._listen, partial(self._speak, listener)):
                    tasks.start_soon(self._to_the_end_of_both, part, tasks.cancel_scope)
        if self._why is not None:
            raise self._why

    async def _to_the_end_of_both(
        self, part: Callable[[Send, Limit], Awaitable[None]], both: anyio.CancelScope
    ) -> None:
        with self._reading.patience.limiting() as limit:
            try:
                await part(partial(self._send, limit), limit)
            except FreshetError as error:
                self._why = error
            except (WebSocketDisconnect, TimeoutError):
                logger.debug("a socket has left, or takes nothing")
        both.cancel()

    async def _send(self, limit: Limit, frames: Sequence[str]) -> None:
        await limit.wait(self._send_each(frames), self._reading.stall_s)

    async def _send_each(self, frames: Sequence[str]) -> None:
        for frame in frames:
            await self._websocket.send({"type": "websocket.send", "text": frame})

    async def _listen(self, send: Send, _limit: Limit) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                raise InvalidInput("Only text is read here.")
            try:
                self._allowance.take(self._clock())
                await self._ask(text)
            except Unauthenticated:
                raise
            except FreshetError as error:
                if self._allowance.is_far_exceeded:
                    raise
                await send([self._voice.refusal(error)])

    async def _ask(self, text: str) -> None:
        question = _question(text)
        # Anew, as it may have been revoked or expired, or its user be no longer active.
        holder = await self._tokens.holder(self._token)
        asked = Asked(
            message=question,
            assistant=str(holder.assistant_id),
            session_id=holder.session_id,
            on_busy="queue",
        )
        client = self._websocket.client
        viewer = replace(holder.viewer, address=client.host if client is not None else "unknown")
        await self._rooms.tell(await self._chat.begin(asked, viewer))

    async def _speak(self, listener: Listener, send: Send, limit: Limit) -> None:
        """One answer after the other, as they were begun."""
        while True:
            left_s = self._expires_at - self._clock()
            try:
                run_id = await limit.wait(listener.next(), min(self._reading.silence_s, max(left_s, 0)))
            except TimeoutError:
                if self._clock() >= self._expires_at:
                    raise Unauthenticated("The token has expired.") from None
                if self._voice.heartbeat is not None:
                    await send([self._voice.heartbeat])
                continue
            if run_id is None:
                await self._look(listener)
                continue
            resumed = await self._runs.resume(
                self._holder.session_id, self._holder.viewer, run_id=run_id, after=0
            )
            if resumed is not None:
                await self._voice.answer(resumed[0], send)

    async def _look(self, listener: Listener) -> None:
        holder = await self._tokens.holder(self._token)
        for run_id in await self._runs.open_in(holder.session_id, holder.viewer):
            listener.hear(run_id)


def _question(text: str) -> str:
    """Raises `InvalidInput` and `TooLarge`."""
    if not text.strip():
        raise InvalidInput("The message is empty.")
    if len(text) > _LONGEST:
        raise TooLarge(f"The message is longer than {_LONGEST:,} characters.")
    try:
        return _text.validate_python(text)
    except ValidationError as error:
        raise InvalidInput("The message must not hold NUL characters.") from error
