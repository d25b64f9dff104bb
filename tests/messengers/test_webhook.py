"""The signed webhook, with the `standardwebhooks` package at the other end: what is posted is answered at the callback."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr
from standardwebhooks import Webhook

from app.errors import ModelIncomplete, StartupRefused
from app.messengers.channels import open_channels
from app.messengers.webhook import Signatures
from app.resources import open_resources
from app.settings import ConnectorSettings, MessengerSettings, Settings
from tests.conftest import RunningServer, Serve
from tests.messengers.memory import remembered
from tests.scripted_model import ScriptedModel
from tests.words_embedder import WordsEmbedder

PATH = "/messengers/webhook"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Callback:
    """Where answers are posted: kept once their signature has been verified. `faults` are statuses, taken by one request each."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: list[int] = []
        self.ids: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self._change = anyio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["Callback"]:
        app = web.Application()
        app.router.add_post("/answers", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/answers"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def until(self, count: int) -> None:
        with anyio.fail_after(15):
            while len(self.answers) < count:
                await self._change.wait()

    async def _handle(self, request: web.Request) -> web.Response:
        verified: Any = Webhook(SECRET).verify(await request.read(), dict(request.headers))
        self.ids.append(request.headers["webhook-id"])
        if self.faults:
            return web.Response(status=self.faults.pop(0), headers={"Retry-After": "0"})
        self.answers.append(verified)
        self._change.set()
        self._change = anyio.Event()
        return web.Response()


@pytest.fixture
async def callback() -> AsyncGenerator[Callback]:
    async with Callback().serving() as receiver:
        yield receiver


def with_callback(settings: Settings, url: str, *, allowed: tuple[str, ...] = ("127.0.0.1",)) -> Settings:
    messengers = MessengerSettings(
        webhook_assistant="waters", webhook_secret=SecretStr(SECRET), webhook_callback_url=url
    )
    connectors = ConnectorSettings(connector_allow_private=allowed)
    return replace(settings, messengers=messengers, connectors=connectors)


@pytest.fixture
async def connected(serve: Serve, settings: Settings, callback: Callback) -> AsyncGenerator[RunningServer]:
    async with serve(with_callback(settings, callback.url)) as server:
        await server.resources.assistants.create(name="Waters")
        yield server


def signed(identifier: str, body: Any, *, at: datetime | None = None) -> dict[str, Any]:
    content = json.dumps(body)
    stamp = at or datetime.now(UTC)
    headers = {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(stamp.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(identifier, stamp, content),
    }
    return {"content": content, "headers": headers}


async def test_what_is_posted_is_answered_at_the_callback_once_whatever_fails(
    connected: RunningServer, callback: Callback, model: ScriptedModel
) -> None:
    callback.faults = [500, 429, 302]
    async with httpx.AsyncClient(base_url=connected.url) as http:
        for identifier, text in (("m1", "One?"), ("m1", "One?"), ("m2", "Two?")):
            response = await http.post(PATH, **signed(identifier, {"user_id": "ada", "text": text}))
            assert response.json() == {"id": identifier}
        await callback.until(2)
        assert callback.answers[0] == {
            "type": "answer",
            "in_reply_to": "m1",
            "user_id": "ada",
            "text": "An answer to One?",
            "error": None,
            "sources": [],
            "citations": [],
        }
        assert callback.ids == ["answer-m1"] * 4 + ["answer-m2"]
        assert remembered(model) == [0, 2]
        callback.faults = [410]
        model.script = lambda prompt: [["Half"], ModelIncomplete("It broke off.")]
        for body in ({"text": "Gone"}, {"text": "Go"}, {"text": "See", "attachments": [1]}):
            await http.post(PATH, **signed(f"b{len(body)}{body['text']}", {"user_id": "bob", **body}))
        await callback.until(4)
    broken, files = callback.answers[2:]
    assert (broken["in_reply_to"], broken["text"], broken["error"]) == ("b1Go", "Half", "It broke off.")
    assert (files["text"], files["error"]) == ("", "Files are not read here. Please write your question.")


async def test_only_what_is_signed_now_is_taken(connected: RunningServer, model: ScriptedModel) -> None:
    body = {"user_id": "ada", "text": "One?"}
    now = datetime.now(UTC)
    cases: list[tuple[dict[str, Any], int]] = [
        ({"json": body}, 401),
        ({**signed("m1", body), "content": b"{}"}, 401),
        (signed("m1", body, at=now - timedelta(seconds=301)), 401),
        (signed("m1", body, at=now + timedelta(seconds=310)), 401),
        (signed("m" * 201, body), 422),
        (signed("m1", []), 422),
        (signed("m1", {"text": "Whose?"}), 422),
        (signed("m1", {"user_id": "", "text": "Whose?"}), 422),
    ]
    async with httpx.AsyncClient(base_url=connected.url) as http:
        for request, status in cases:
            assert (await http.post(PATH, **request)).status_code == status, request
    assert not model.prompts


@pytest.mark.parametrize(
    "secret", ["whsec_c2hvcnQ=", "whsec_\u00fc", ""], ids=["short", "no base64", "empty"]
)
def test_a_secret_that_could_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(StartupRefused, match="WEBHOOK_SECRET must be"):
        Signatures(SecretStr(secret))


async def test_an_address_that_is_not_public_is_refused_unless_it_is_allowed(
    settings: Settings, model: ScriptedModel
) -> None:
    refused = with_callback(settings, "http://10.0.0.1/answers", allowed=())
    async with open_resources(refused, model=model, embedder=WordsEmbedder()) as resources:
        with pytest.raises(StartupRefused, match=r"WEBHOOK_CALLBACK_URL: .* not one of the public internet"):
            async with open_channels(resources):
                raise AssertionError("it was opened")
