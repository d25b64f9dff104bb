"""Slack, against a Web API of ours: events that are signed, sent again, and answered in their threads."""

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.settings import MessengerSettings, Settings
from tests.conftest import RunningServer, Serve
from tests.messengers.memory import remembered
from tests.messengers.slack_api import SIGNING_SECRET, TOKEN, SlackApi, event, signed
from tests.scripted_model import ScriptedModel, says

PATH = "/messengers/slack"


@pytest.fixture
async def slack() -> AsyncGenerator[SlackApi]:
    async with SlackApi().serving() as api:
        yield api


@pytest.fixture
async def connected(serve: Serve, settings: Settings, slack: SlackApi) -> AsyncGenerator[RunningServer]:
    messengers = MessengerSettings(
        slack_assistant="waters",
        slack_bot_token=SecretStr(TOKEN),
        slack_signing_secret=SecretStr(SIGNING_SECRET),
        slack_api_url=slack.url,
        messenger_edit_every_s=0.001,
    )
    async with serve(replace(settings, messengers=messengers)) as server:
        await server.resources.assistants.create(name="Waters")
        yield server


@pytest.fixture
async def events(connected: RunningServer) -> AsyncGenerator[httpx.AsyncClient]:
    """Sends events to the server."""
    async with httpx.AsyncClient(base_url=connected.url) as http:
        yield http


async def test_only_what_slack_signs_now_is_taken(
    events: httpx.AsyncClient, slack: SlackApi, model: ScriptedModel
) -> None:
    challenge = {"type": "url_verification", "challenge": "c"}
    assert (await events.post(PATH, **signed(challenge))).json() == {"challenge": "c"}
    forged = signed(event("E1", "One?"))
    forged["headers"]["x-slack-signature"] = "v0=ä".encode()
    cases: list[tuple[dict[str, Any], int]] = [
        ({"content": b"{}"}, 401),
        (forged, 401),
        ({**signed(event("E1", "One?")), "content": b"{}"}, 401),
        (signed(event("E1", "One?"), at=time.time() - 301), 401),
        ({"headers": {"x-slack-request-timestamp": "now", "x-slack-signature": "v0=1"}}, 401),
        (signed({"event": 7}), 422),
        (signed({"type": "event_callback"}), 200),
    ]
    for request, status in cases:
        assert (await events.post(PATH, **request)).status_code == status, request
    assert not model.prompts


async def test_a_thread_is_a_conversation_and_what_is_sent_again_is_asked_once(
    events: httpx.AsyncClient, slack: SlackApi, model: ScriptedModel
) -> None:
    mention = {"type": "app_mention", "channel": "C1", "channel_type": "channel"}
    sent = [
        event("E1", "<@U0BOT> One &amp; only?", **mention, ts="7.1"),
        event("E1", "<@U0BOT> One &amp; only?", **mention, ts="7.1"),
        event("E2", "<@U0BOT> Two?", **mention, ts="7.2", thread_ts="7.1"),
        event("E3", "Three?"),
        event("E4", "reset"),
        event("E5", "Four?"),
        event("E6", "read it", files=[{"id": "F1"}], subtype="file_share"),
        event("E7", "I am a bot", bot_id="B1"),
        event("E8", "changed", subtype="message_changed"),
        event("E9", "Not for the bot", channel="C1", channel_type="channel"),
    ]
    for one in sent:
        response = await events.post(PATH, **signed(one))
        assert response.status_code == 200
    await slack.until(lambda: len(slack.posts) == 6)
    told = {(post["channel"], post["thread"], post["text"]) for post in slack.posts.values()}
    assert told == {
        ("C1", "7.1", "An answer to One &amp; only?"),
        ("C1", "7.1", "An answer to Two?"),
        ("D1", None, "An answer to Three?"),
        ("D1", None, "This conversation begins anew."),
        ("D1", None, "An answer to Four?"),
        ("D1", None, "Files are not read here. Please write your question."),
    }
    asked = {prompt.question: known for prompt, known in zip(model.prompts, remembered(model), strict=True)}
    assert asked == {"One & only?": 0, "Two?": 2, "Three?": 0, "Four?": 0}


async def test_a_server_that_fails_or_is_busy_gets_everything_in_the_end(
    events: httpx.AsyncClient, slack: SlackApi, model: ScriptedModel
) -> None:
    model.script = lambda prompt: says("<b> " * 1_500)
    slack.faults = [429, "close", 500, "internal_error"]
    await events.post(PATH, **signed(event("E1", "Go")))
    await slack.until(lambda: len(slack.posts) == 4)
    assert " ".join(slack.texts).split() == ["&lt;b&gt;"] * 1_500
    assert all(len(text) <= 4_000 for text in slack.texts)
    slack.faults = ["channel_not_found"]
    model.script = lambda prompt: says("Back.")
    await events.post(PATH, **signed(event("E2", "Gone")))
    await events.post(PATH, **signed(event("E3", "Back")))
    await slack.until(lambda: slack.texts[4:] == ["Back."])
    # What was said before is so long that it is summed up as well, which is no question.
    asked = [prompt.question for prompt in model.prompts if prompt.question]
    assert asked == ["Go", "Gone", "Back"]
