"""The channels that the settings name, each connected to its assistant for as long as the process serves."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from app.ingest.connectors.addresses import Guard, GuardedResolver
from app.messengers import callback, telegram
from app.messengers.callback import HttpCallback
from app.messengers.delivery import Channel, Delivery
from app.messengers.inbound import Inbound
from app.messengers.pipeline import AssistantPipeline
from app.messengers.telegram import BotApi, TelegramChannel
from app.messengers.webhook import WebhookChannel
from app.resources import Resources
from app.services.letters import LetterService
from app.settings import MessengerSettings

_SLACK = "/messengers/slack"
_WEBHOOK = "/messengers/webhook"


def paths(settings: MessengerSettings) -> Iterator[str]:
    """Where what comes over HTTP is sent."""
    if settings.callback_assistant is not None:
        yield callback.PATH
    if settings.telegram_bot_token is not None and settings.telegram_webhook_url is not None:
        yield telegram.PATH
    if settings.slack_assistant is not None:
        yield _SLACK
    if settings.webhook_assistant is not None:
        yield _WEBHOOK


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

    def slack(self) -> None:
        settings = self._settings
        token, secret = settings.slack_bot_token, settings.slack_signing_secret
        if settings.slack_assistant is None or token is None or secret is None:
            return
        # Imported where it is used, as it is large.
        from app.messengers.slack import SlackChannel

        channel = SlackChannel(
            self._http,
            settings.slack_api_url,
            token.get_secret_value(),
            secret.get_secret_value(),
            self._pipeline("slack", settings.slack_assistant),
            self._delivery,
            every_s=settings.messenger_edit_every_s,
        )
        self.channels[channel.name] = channel
        self.inbound[_SLACK] = channel

    def webhook(self, guarded: aiohttp.ClientSession, guard: Guard) -> None:
        """Raises `StartupRefused`."""
        settings = self._settings
        url, secret = settings.webhook_callback_url, settings.webhook_secret
        if settings.webhook_assistant is None or url is None or secret is None:
            return
        pipeline = self._pipeline("webhook", settings.webhook_assistant)
        channel = WebhookChannel(guarded, guard, url, secret, pipeline, self._delivery)
        self.channels[channel.name] = channel
        self.inbound[_WEBHOOK] = channel


@asynccontextmanager
async def open_channels(resources: Resources) -> AsyncGenerator[Mapping[str, Inbound]]:
    """Those that are spoken to over HTTP, by their path."""
    async with AsyncExitStack() as stack:
        guard = Guard.allowing(resources.settings.connectors.connector_allow_private)
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(guard), use_dns_cache=False)
        guarded = await stack.enter_async_context(_client(connector))
        http = await stack.enter_async_context(_client())
        delivery = Delivery(LetterService(resources.database))
        opened = _Opened(resources, http, delivery)
        await opened.callback()
        opened.telegram()
        opened.slack()
        opened.webhook(guarded, guard)
        if opened.channels:
            tasks = await stack.enter_async_context(delivery.running(opened.channels))
            for task in opened.tasks:
                tasks.start_soon(task)
        yield opened.inbound


def _client(connector: aiohttp.TCPConnector | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
