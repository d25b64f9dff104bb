"""The channels that the settings name, each connected to its assistant for as long as the process serves."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from app.messengers import callback, telegram
from app.messengers.callback import HttpCallback
from app.messengers.delivery import Channel, Delivery
from app.messengers.inbound import Inbound
from app.messengers.pipeline import AssistantPipeline
from app.messengers.telegram import BotApi, TelegramChannel
from app.resources import Resources
from app.services.letters import LetterService
from app.settings import MessengerSettings


def paths(settings: MessengerSettings) -> Iterator[str]:
    """Where what comes over HTTP is sent."""
    if settings.callback_assistant is not None:
        yield callback.PATH
    if settings.telegram_bot_token is not None and settings.telegram_webhook_url is not None:
        yield telegram.PATH


class _Opened:
    """What the settings name: by path what is spoken to over HTTP, by name what answers letters, and what goes on beside."""

    def __init__(self, resources: Resources, http: aiohttp.ClientSession, delivery: Delivery) -> None:
        self._resources = resources
        self._settings = resources.settings.messengers
        self._http = http
        self._delivery = delivery
        self.inbound: dict[str, Inbound] = {}
        self.channels: dict[str, Channel] = {}
        self.tasks: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def _pipeline(self, channel: str, assistant: str) -> AssistantPipeline:
        return AssistantPipeline(self._resources, channel, assistant, email=self._settings.messenger_user)

    async def callback(self) -> None:
        if self._settings.callback_assistant is not None:
            called = HttpCallback(self._settings.callback_secret)
            await called.connect(self._pipeline("callback", self._settings.callback_assistant))
            self.inbound[callback.PATH] = called

    def telegram(self) -> None:
        settings = self._settings
        if settings.telegram_assistant is None or settings.telegram_bot_token is None:
            return
        api = BotApi(self._http, settings.telegram_api_url, settings.telegram_bot_token.get_secret_value())
        pipeline = self._pipeline("telegram", settings.telegram_assistant)
        channel = TelegramChannel(api, pipeline, self._delivery, settings)
        self.channels[channel.name] = channel
        self.tasks.append(channel.run)
        self.inbound[telegram.PATH] = channel


@asynccontextmanager
async def open_channels(resources: Resources) -> AsyncGenerator[Mapping[str, Inbound]]:
    """Those that are spoken to over HTTP, by their path."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        delivery = Delivery(LetterService(resources.database))
        opened = _Opened(resources, http, delivery)
        await opened.callback()
        opened.telegram()
        if opened.channels:
            tasks = await stack.enter_async_context(delivery.running(opened.channels))
            for task in opened.tasks:
                tasks.start_soon(task)
        yield opened.inbound
