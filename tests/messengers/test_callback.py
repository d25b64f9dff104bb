"""`POST /chat?user_id=`, as a bot of one's own asks, and as a pipeline of the `chatsky` package does."""

import json
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from pydantic import SecretStr

from app.errors import ModelIncomplete
from app.settings import MessengerSettings, Settings
from tests.conftest import RunningServer, Serve
from tests.messengers.memory import remembered
from tests.scripted_model import ScriptedModel

BOT = Path(__file__).parent / "chatsky_bot.py"
SHARED = {"authorization": "Bearer the secret of the bot"}


@pytest.fixture
async def called(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    """With the callback on, and a secret."""
    messengers = MessengerSettings(
        callback_assistant="waters", callback_secret=SecretStr("the secret of the bot")
    )
    async with serve(replace(settings, messengers=messengers)) as running:
        await running.resources.assistants.create(name="Waters")
        yield running


async def chat(server: RunningServer, body: Any, user_id: str = "ada", **request: Any) -> httpx.Response:
    request = {"headers": SHARED, "params": {"user_id": user_id}, **request}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(base_url=server.url) as http:
        return await http.post("/chat", content=content, **request)


async def test_a_message_is_answered_with_a_message_and_each_user_has_a_conversation(
    called: RunningServer, model: ScriptedModel
) -> None:
    answer = (await chat(called, {"text": "One?"})).raise_for_status().json()
    assert answer["text"] == "An answer to One?"
    assert answer["misc"]["status"] == "completed"
    await chat(called, {"text": "Two?", "attachments": None, "misc": {"a": 1}, "unknown": []})
    await chat(called, {"text": "Three?"}, user_id="bob")
    assert remembered(model) == [0, 2, 0]


async def test_what_is_not_as_it_should_be_is_refused_and_leaves_nothing(
    called: RunningServer, model: ScriptedModel
) -> None:
    text = {"text": "One?"}
    cases: list[tuple[int, Any, dict[str, Any]]] = [
        (401, text, {"headers": {}}),
        (401, text, {"headers": {"authorization": "Bearer wrong"}}),
        (401, text, {"headers": {"authorization": "Bearer schlüssel".encode()}}),
        (422, text, {"user_id": ""}),
        (422, text, {"user_id": "a" * 201}),
        (422, b"{", {}),
        (422, b"\xff", {}),
        (422, [], {}),
        (422, {"text": 7}, {}),
        (422, {}, {}),
        (422, {"text": "a" * 2**20}, {}),
        (422, {"attachments": [{"chatsky_attachment_type": "document", "id": "7"}]}, {}),
        (422, {"attachments": [{"chatsky_attachment_type": "unheard of"}]}, {}),
        (413, b"a" * (8 * 2**20 + 1), {}),
    ]
    for status, body, request in cases:
        response = await chat(called, body, **request)
        assert response.status_code == status, response.text
        assert response.json()["type"] == "error"
    assert not model.prompts


async def test_an_answer_that_fails_is_an_error_and_no_message(
    called: RunningServer, model: ScriptedModel
) -> None:
    model.script = lambda prompt: [["Half an"], ModelIncomplete("The language model broke off.")]
    response = await chat(called, {"text": "One?"})
    assert (response.status_code, response.json()["code"]) == (502, "model_incomplete")


async def test_without_a_secret_the_user_is_one_that_nobody_guesses(serve: Serve, settings: Settings) -> None:
    messengers = MessengerSettings(callback_assistant="waters")
    async with serve(replace(settings, messengers=messengers)) as server:
        await server.resources.assistants.create(name="Waters")
        assert (await chat(server, {"text": "One?"})).status_code == 422
        assert (await chat(server, {"text": "One?"}, user_id=str(uuid4()))).status_code == 200


async def test_the_callback_is_off_unless_it_is_configured(server: RunningServer) -> None:
    assert (await chat(server, {"text": "One?"})).status_code == 404


async def test_a_chatsky_pipeline_runs_over_us(
    serve: Serve, settings: Settings, model: ScriptedModel
) -> None:
    messengers = MessengerSettings(callback_assistant="waters")
    async with serve(replace(settings, messengers=messengers)) as server:
        await server.resources.assistants.create(name="Waters")
        with anyio.fail_after(60):
            ended = await anyio.run_process(
                [sys.executable, str(BOT), server.url, "waters", "One?", "Two?"], check=False
            )
    assert ended.returncode == 0, ended.stderr.decode()
    assert json.loads(ended.stdout) == [["An answer to One?", "An answer to Two?"]] * 2
    assert remembered(model) == [0, 2, 0, 2]
