"""Telegram: private chats and groups, by polling or by a webhook."""

import hmac
import logging
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import aiohttp
import anyio
import msgspec

from app.db.channels import Letter
from app.errors import DatabaseUnavailable, Unauthenticated
from app.messengers.conversing import converse
from app.messengers.delivery import Delivery, Note
from app.messengers.growing import ChannelBusy, ChannelRefused, GrowingAnswer, NotNow
from app.messengers.inbound import decoded
from app.messengers.pipeline import AssistantPipeline
from app.services.attachments import NewAttachment
from app.services.letters import LEASE_S
from app.settings import MessengerSettings

logger = logging.getLogger(__name__)

PATH = "/messengers/telegram"

_LONGEST_MESSAGE = 4096
# Shorter than the lease, so that who polls is still the one who may when the answer comes.
_POLL_S = 20
_CALL_S = 30.0
_LAST_WORDS_S = 2.0
_FILE_S = 60.0
# Of its files, Telegram hands over no larger ones.
_LARGEST_FILE_BYTES = 20 * 2**20
_NOT_FETCHED = "This file could not be fetched: Telegram hands over 20 MB at most."
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_TOO_MANY, _REFUSALS = 429, (400, 403)
_UPDATES = ["message"]
_COMMANDS = {"/start": "start", "/reset": "reset"}
# An edit that changes nothing, and one of a message that its reader has deleted: neither is worth another try.
_EDITED_ALREADY = ("message is not modified", "message to edit not found", "message can't be edited")


class _Chat(msgspec.Struct):
    id: int


class _Sender(msgspec.Struct):
    is_bot: bool = False


class _File(msgspec.Struct, omit_defaults=True):
    file_id: str
    file_name: str | None = None
    mime_type: str | None = None


class _Said(msgspec.Struct, rename={"sender": "from"}):
    chat: _Chat
    sender: _Sender | None = None
    message_thread_id: int | None = None
    is_topic_message: bool = False
    text: str | None = None
    caption: str | None = None
    document: _File | None = None
    photo: Any = None
    audio: Any = None
    video: Any = None
    animation: Any = None
    voice: Any = None
    video_note: Any = None
    sticker: Any = None
    location: Any = None
    contact: Any = None
    poll: Any = None
    dice: Any = None

    @property
    def has_files(self) -> bool:
        files = (
            self.document,
            self.photo,
            self.audio,
            self.video,
            self.animation,
            self.voice,
            self.video_note,
        )
        return any(file is not None for file in files)

    @property
    def is_said(self) -> bool:
        """Not one of the notes that a chat makes of itself, such as that somebody has joined it."""
        others = (self.text, self.sticker, self.location, self.contact, self.poll, self.dice)
        return self.has_files or any(one is not None for one in others)


class _Update(msgspec.Struct):
    update_id: int
    message: _Said | None = None


def letter_of(update: _Update) -> Letter | None:
    """None for what nobody has said."""
    said = update.message
    if said is None or not said.is_said or (said.sender is not None and said.sender.is_bot):
        return None
    topic = said.message_thread_id if said.is_topic_message else None
    text = said.text or said.caption or ""
    word = text.split(maxsplit=1)[0].partition("@")[0] if text.strip() else ""
    content: dict[str, Any] = {"chat": said.chat.id, "text": text}
    if topic is not None:
        content["topic"] = topic
    if said.document is not None and said.animation is None and text.strip():
        content["file"] = msgspec.to_builtins(said.document)
    elif said.has_files:
        content["has_files"] = True
    if word in _COMMANDS:
        content["command"] = _COMMANDS[word]
    conversation = f"{said.chat.id}" if topic is None else f"{said.chat.id}/{topic}"
    return Letter("telegram", str(update.update_id), conversation, content)


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float = 1.0


class _Told(msgspec.Struct):
    ok: bool
    result: Any = None
    error_code: int = 0
    description: str = ""
    parameters: _Parameters = _Parameters()


class BotApi:
    """Neither its errors nor what is logged of them hold the address that is asked, as that holds the token."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._base = f"{url.rstrip('/')}/bot{token}"
        self._files = f"{url.rstrip('/')}/file/bot{token}"

    async def call(self, method: str, **parameters: Any) -> Any:
        """Raises `NotNow`, `ChannelBusy`, and `ChannelRefused` with what the server says."""
        limit = aiohttp.ClientTimeout(total=_CALL_S)
        try:
            async with self._http.post(f"{self._base}/{method}", json=parameters, timeout=limit) as response:
                told = msgspec.json.decode(await response.read(), type=_Told)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
            raise NotNow from error
        if told.ok:
            return told.result
        if told.error_code == _TOO_MANY:
            raise ChannelBusy(told.parameters.retry_after)
        if told.error_code in _REFUSALS:
            raise ChannelRefused(told.description[:200])
        raise NotNow

    async def file(self, about: Mapping[str, str]) -> NewAttachment:
        """What a person has sent, by what the update tells of it. Raises as `call` does."""
        path: str = (await self.call("getFile", file_id=about["file_id"])).get("file_path", "")
        limit = aiohttp.ClientTimeout(total=_FILE_S)
        try:
            async with self._http.get(f"{self._files}/{path}", timeout=limit) as response:
                if response.status != HTTPStatus.OK:
                    raise NotNow
                if (response.content_length or 0) > _LARGEST_FILE_BYTES:
                    raise ChannelRefused("the file is too large")
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotNow from error
        return NewAttachment(
            about.get("file_name") or path.rpartition("/")[2], content, about.get("mime_type")
        )


class TelegramChannel:
    name = "telegram"

    def __init__(
        self, api: BotApi, pipeline: AssistantPipeline, delivery: Delivery, settings: MessengerSettings
    ) -> None:
        self._api = api
        self._pipeline = pipeline
        self._delivery = delivery
        self._webhook_url = settings.telegram_webhook_url
        self._every_s = settings.messenger_edit_every_s

    @property
    def _webhook_secret(self) -> str:
        return self._pipeline.derived("webhook", "")

    async def receive(self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Any:  # noqa: ARG002  # as all channels are called
        given = headers.get("x-telegram-bot-api-secret-token", "")
        if not hmac.compare_digest(given.encode(), self._webhook_secret.encode()):
            raise Unauthenticated("This is for Telegram alone.")
        if (letter := letter_of(decoded(body, _Update))) is not None:
            await self._delivery.receive(letter)
        return {}

    async def answer(self, letter: Letter, note: Note) -> None:
        chat = _ChatPoster(self._api, letter.content)
        growing = GrowingAnswer(chat, letter.posted, note, limit=_LONGEST_MESSAGE, every_s=self._every_s)
        try:
            files = [await self._api.file(letter.content["file"])] if "file" in letter.content else []
        except ChannelRefused:
            await growing.show(_NOT_FETCHED)
        else:
            await converse(self._pipeline, letter, growing, files)

    async def run(self) -> None:
        """For as long as the process serves: hear of what is said, as the one process that polls, or over the webhook."""
        try:
            await self._hear()
        finally:
            # Shielded: what is not left is for nobody else until the lease has ended.
            with anyio.move_on_after(_LAST_WORDS_S, shield=True), suppress(DatabaseUnavailable):
                await self._delivery.letters.leave_polling(self.name)

    async def _hear(self) -> None:
        offset: int | None = None
        prepared = False
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                if not await self._delivery.letters.hold_polling(self.name):
                    offset, prepared = None, False
                    await anyio.sleep(LEASE_S / 3)
                    continue
                if not prepared:
                    await self._prepare()
                    prepared = True
                if self._webhook_url is not None:
                    await anyio.sleep(LEASE_S / 3)
                else:
                    offset = await self._poll(offset)
                wait_s = _FIRST_WAIT_S
            except (NotNow, ChannelRefused, DatabaseUnavailable) as error:
                logger.warning("Telegram cannot be heard and is asked again in %g s: %r", wait_s, error)
                await anyio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _prepare(self) -> None:
        if self._webhook_url is None:
            await self._api.call("deleteWebhook")
        else:
            await self._api.call(
                "setWebhook",
                url=self._webhook_url,
                secret_token=self._webhook_secret,
                allowed_updates=_UPDATES,
            )

    async def _poll(self, offset: int | None) -> int | None:
        """The next offset: it tells Telegram to forget what came before it, which by then is stored."""
        asked = {"timeout": _POLL_S, "allowed_updates": _UPDATES}
        if offset is not None:
            asked["offset"] = offset
        updates: list[Any] = await self._api.call("getUpdates", **asked) or []
        letters: list[Letter] = []
        for one in updates:
            try:
                letter = letter_of(msgspec.convert(one, _Update))
            except msgspec.ValidationError as error:
                logger.warning("an update of Telegram is not as it should be: %s", error)
                continue
            if letter is not None:
                letters.append(letter)
        await self._delivery.receive(*letters)
        return updates[-1]["update_id"] + 1 if updates else offset


class _ChatPoster:
    def __init__(self, api: BotApi, content: Mapping[str, Any]) -> None:
        self._api = api
        self._chat = content["chat"]
        self._where = {"chat_id": self._chat}
        if "topic" in content:
            self._where["message_thread_id"] = content["topic"]

    async def post(self, text: str) -> str:
        quiet = {"link_preview_options": {"is_disabled": True}}
        return str((await self._api.call("sendMessage", **self._where, text=text, **quiet))["message_id"])

    async def edit(self, name: str, text: str) -> None:
        try:
            await self._api.call(
                "editMessageText",
                chat_id=self._chat,
                message_id=int(name),
                text=text,
                link_preview_options={"is_disabled": True},
            )
        except ChannelRefused as error:
            if not any(words in str(error) for words in _EDITED_ALREADY):
                raise
