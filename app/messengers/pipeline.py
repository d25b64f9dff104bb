"""The pipeline behind the channels: a turn of theirs is a run of an assistant, like everybody's."""

import base64
import hashlib
import hmac
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import msgspec

from app.errors import InvalidInput, Unauthenticated
from app.messengers.interface import Context
from app.messengers.message import Message
from app.resources import Resources, secret_key
from app.services.attachments import NewAttachment
from app.services.chat import Asked
from app.services.runs import Followed
from app.services.viewer import ANONYMOUS, Viewer

Heard = Callable[[dict[str, Any]], None]
"""Is told each event of an answer, as it is made."""

_LONGEST_TEXT = 50_000


class AssistantPipeline:
    """Answers over one channel by one assistant, as the user with this email address, or anonymously without one.

    The session of a conversation follows from its id by way of the server's secret: nobody else can name it.
    """

    def __init__(
        self, resources: Resources, channel: str, assistant: str, *, email: str | None = None
    ) -> None:
        self._resources = resources
        self._secret = secret_key(resources.settings).get_secret_value().encode()
        self.channel = channel
        self.assistant = assistant
        self._email = email

    async def __call__(
        self,
        message: Message,
        ctx_id: Hashable | None = None,
        update_ctx_misc: dict[str, Any] | None = None,
        *,
        heard: Heard | None = None,
    ) -> Context:
        ctx_id = str(uuid4()) if ctx_id is None else ctx_id
        followed = await self.begin(message, ctx_id)
        if heard is not None:
            async with aclosing(events(followed)) as told:
                async for event in told:
                    heard(event)
        await self._resources.runs.finished(followed)
        answer = await self._resources.sessions.message(followed.message_id)
        misc = {
            "message_id": str(answer.id),
            "status": answer.status,
            "sources": answer.sources,
            "citations": answer.citations,
        }
        return Context(ctx_id, message, Message(text=answer.text, misc=misc), dict(update_ctx_misc or {}))

    async def begin(
        self,
        message: Message,
        ctx_id: Hashable,
        *,
        key: str | None = None,
        files: Sequence[NewAttachment] = (),
    ) -> Followed:
        """`files` become documents of the conversation. `key` is the channel's id of the message: what comes twice is asked once. Raises what cannot be answered."""
        asked = Asked(
            message=_question(message),
            assistant=self.assistant,
            session_id=self.session_id(ctx_id),
            attachments=tuple(files),
            on_busy="queue",
            idempotency_key=None if key is None else self.derived("key", key),
        )
        return await self._resources.chat.begin(asked, await self.viewer())

    async def stop(self, ctx_id: Hashable) -> None:
        await self._resources.runs.stop(self.session_id(ctx_id), await self.viewer(), run_id=None)

    async def forget(self, ctx_id: Hashable) -> None:
        await self._resources.sessions.forget(self.session_id(ctx_id), await self.viewer())

    async def first_message(self) -> str:
        """What the assistant says before it is asked anything; raises `NotFound` if the channel may not ask it."""
        viewer = await self.viewer()
        await self._resources.assistants.usable(self.assistant, viewer)
        return (await self._resources.assistants.get(self.assistant, viewer)).first_message

    def session_id(self, ctx_id: Hashable) -> str:
        return self.derived("session", str(ctx_id))

    async def viewer(self) -> Viewer:
        if self._email is None:
            return ANONYMOUS
        user = await self._resources.accounts.find_user(self._email)
        if not user.is_active:
            raise Unauthenticated("The user that this channel asks as is no longer active.")
        return Viewer(user)

    def derived(self, what: str, identifier: str) -> str:
        """43 characters that say nothing of what they are derived from."""
        named = f"messenger\0{what}\0{self.channel}\0{identifier}".encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(hmac.digest(self._secret, named, hashlib.sha256)).decode().rstrip("=")


async def events(followed: Followed) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(followed.follow(after=0)) as batches:
        async for batch in batches:
            for line in batch.lines:
                yield msgspec.json.decode(line)


def _question(message: Message) -> str:
    # Neither a NUL nor half of a surrogate pair can be stored.
    text = (message.text or "").replace("\0", "").encode("utf-8", "replace").decode().strip()
    if not text:
        raise InvalidInput(
            "Files are not read here. Please write your question."
            if message.attachments
            else "There was no text in this message. Please write your question."
        )
    if len(text) > _LONGEST_TEXT:
        raise InvalidInput(f"This message is longer than {_LONGEST_TEXT:,} characters.")
    return text
