"""Slack, over its Events API: direct messages, and what the bot is mentioned in; a thread is a conversation."""

import html
import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.web.async_client import AsyncWebClient

from app.db.channels import Letter
from app.errors import Unauthenticated
from app.messengers.conversing import converse
from app.messengers.delivery import Delivery, Note
from app.messengers.growing import ChannelBusy, ChannelRefused, GrowingAnswer, NotNow
from app.messengers.inbound import decoded
from app.messengers.pipeline import AssistantPipeline

# What an edit may hold; a new message may hold ten times as much.
_LONGEST_MESSAGE = 4000
_TOO_MANY, _SERVER_FAILED = 429, 500
_MAY_PASS = {
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_added_to_org",
    "invalid_auth",
    "token_revoked",
    "token_expired",
}
_EDITED_ALREADY = {"message_not_found", "cant_update_message", "edit_window_closed"}
_MENTION = re.compile(r"<@[A-Z0-9]+(\|[^>]*)?>")
_RESET = {"reset", "/reset"}


class _Event(msgspec.Struct):
    type: str = ""
    channel: str = ""
    channel_type: str = ""
    subtype: str | None = None
    bot_id: str | None = None
    text: str = ""
    ts: str = ""
    thread_ts: str | None = None
    files: list[Any] = []

    @property
    def is_for_the_bot(self) -> bool:
        """What a person says to it. What bots say, itself included, and what is edited, deleted or noted is not."""
        spoken = self.bot_id is None and self.subtype in {None, "file_share", "thread_broadcast"}
        to_it = self.type == "app_mention" or (self.type == "message" and self.channel_type == "im")
        return spoken and to_it and bool(self.channel and self.ts)


class _Sent(msgspec.Struct):
    type: str
    challenge: str = ""
    event_id: str = ""
    event: _Event | None = None


def letter_of(sent: _Sent) -> Letter | None:
    """None for what nobody has said to the bot. What is sent again has the same id."""
    event = sent.event
    if sent.type != "event_callback" or event is None or not sent.event_id or not event.is_for_the_bot:
        return None
    # A direct conversation goes on without threads; in a channel, the answer begins one.
    thread = event.thread_ts or (None if event.channel_type == "im" else event.ts)
    text = html.unescape(_MENTION.sub("", event.text)).strip()
    content: dict[str, Any] = {"channel": event.channel, "text": text}
    if thread is not None:
        content["thread"] = thread
    if event.files:
        content["has_files"] = True
    if text.lower() in _RESET:
        content["command"] = "reset"
    conversation = event.channel if thread is None else f"{event.channel}/{thread}"
    return Letter("slack", sent.event_id, conversation, content)


class SlackChannel:
    name = "slack"

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        token: str,
        signing_secret: str,
        pipeline: AssistantPipeline,
        delivery: Delivery,
        *,
        every_s: float,
    ) -> None:
        base = url.rstrip("/") + "/"
        # Its failures are tried again by whoever delivers, with waits and across restarts.
        self._client = AsyncWebClient(token, base_url=base, session=http, retry_handlers=[])
        self._signatures = SignatureVerifier(signing_secret)
        self._pipeline = pipeline
        self._delivery = delivery
        self._every_s = every_s

    async def receive(self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Any:  # noqa: ARG002  # as all channels are called
        stamp = headers.get("x-slack-request-timestamp", "")
        signature = headers.get("x-slack-signature", "")
        is_stamp = stamp.isascii() and stamp.isdecimal() and signature.isascii()
        if not is_stamp or not self._signatures.is_valid(body, stamp, signature):
            raise Unauthenticated("This is for Slack alone: the signature does not fit, or is old.")
        sent = decoded(body, _Sent)
        if sent.type == "url_verification":
            return {"challenge": sent.challenge}
        if (letter := letter_of(sent)) is not None:
            await self._delivery.receive(letter)
        return {}

    async def answer(self, letter: Letter, note: Note) -> None:
        thread = _ThreadPoster(self._client, letter.content)
        growing = GrowingAnswer(
            thread,
            letter.posted,
            note,
            limit=_LONGEST_MESSAGE,
            every_s=self._every_s,
            size=lambda text: len(_escaped(text)),
        )
        await converse(self._pipeline, letter, growing)


class _ThreadPoster:
    def __init__(self, client: AsyncWebClient, content: Mapping[str, Any]) -> None:
        self._client: Any = client
        self._channel: str = content["channel"]
        self._thread: str | None = content.get("thread")

    async def post(self, text: str) -> str:
        told = await self._call(
            "chat.postMessage", text=_escaped(text), thread_ts=self._thread, unfurl_links=False
        )
        return str(told["ts"])

    async def edit(self, name: str, text: str) -> None:
        try:
            await self._call("chat.update", ts=name, text=_escaped(text))
        except ChannelRefused as error:
            if str(error) not in _EDITED_ALREADY:
                raise

    async def _call(self, method: str, **parameters: Any) -> Any:
        """Raises `NotNow`, `ChannelBusy`, and `ChannelRefused` with Slack's word for why."""
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            return await self._client.api_call(method, json={"channel": self._channel, **given})
        except SlackApiError as error:
            raise _failure(error.response) from error
        except (SlackClientError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotNow from error


def _failure(response: Any) -> Exception:
    status = getattr(response, "status_code", None) or getattr(response, "status", 0)
    if status == _TOO_MANY:
        return ChannelBusy(float(response.headers.get("Retry-After", 1)))
    word = str(response.get("error", "")) if hasattr(response, "get") else ""
    if status >= _SERVER_FAILED or not word or word in _MAY_PASS:
        return NotNow()
    return ChannelRefused(word)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
