"""The channels that the settings name, each connected to its assistant for as long as the process serves."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager

from app.messengers import callback
from app.messengers.callback import HttpCallback
from app.messengers.inbound import Inbound
from app.messengers.pipeline import AssistantPipeline
from app.resources import Resources
from app.settings import MessengerSettings


def paths(settings: MessengerSettings) -> Iterator[str]:
    """Where what comes over HTTP is sent."""
    if settings.callback_assistant is not None:
        yield callback.PATH


@asynccontextmanager
async def open_channels(resources: Resources) -> AsyncGenerator[Mapping[str, Inbound]]:
    """Those that are spoken to over HTTP, by their path."""
    settings = resources.settings.messengers
    inbound: dict[str, Inbound] = {}

    def pipeline(channel: str, assistant: str) -> AssistantPipeline:
        return AssistantPipeline(resources, channel, assistant, email=settings.messenger_user)

    if settings.callback_assistant is not None:
        called = HttpCallback(settings.callback_secret)
        await called.connect(pipeline("callback", settings.callback_assistant))
        inbound[callback.PATH] = called
    yield inbound
