"""Telegram, against a Bot API server of ours: what is said is asked once and answered, whatever fails on the way."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.errors import ModelIncomplete
from app.settings import MessengerSettings, Settings
from tests.api.turns import gated
from tests.conftest import RunningServer, Serve, ingesting
from tests.messengers.bot_api import TOKEN, BotApi
from tests.messengers.memory import remembered
from tests.scripted_model import ScriptedModel, says

Connected = Callable[..., AbstractAsyncContextManager[RunningServer]]


@pytest.fixture
async def bot() -> AsyncGenerator[BotApi]:
    async with BotApi().serving() as api:
        yield api


@pytest.fixture
def connected(serve: Serve, settings: Settings, bot: BotApi) -> Connected:
    """A server that the bot belongs to."""

    @asynccontextmanager
    async def run(of: Settings = settings, **fields: Any) -> AsyncGenerator[RunningServer]:
        messengers = MessengerSettings(
            telegram_assistant="waters",
            telegram_bot_token=SecretStr(TOKEN),
            telegram_api_url=bot.url,
            messenger_edit_every_s=0.001,
        )
        async with serve(replace(of, messengers=messengers.model_copy(update=fields))) as server:
            yield server

    return run


async def assistant(server: RunningServer, **fields: Any) -> None:
    await server.resources.assistants.create(name="Waters", **fields)


async def test_a_conversation_over_polling(connected: Connected, bot: BotApi, model: ScriptedModel) -> None:
    async with connected() as server:
        await assistant(server, first_message="Ask me about waters.")
        bot.says("/start")
        first = bot.says("One?")
        bot.says("Two?")
        bot.says("Three?", chat=8)
        await bot.until(lambda: len(bot.texts()) == 3 and len(bot.texts(8)) == 1)
        assert bot.texts() == ["Ask me about waters.", "An answer to One?", "An answer to Two?"]
        bot.repeats(first)
        bot.says("/reset@freshet_bot")
        bot.says("Four?")
        await bot.until(lambda: "An answer to Four?" in bot.texts())
        assert bot.texts()[3:] == ["This conversation begins anew.", "An answer to Four?"]
        await bot.until(lambda: not bot.waiting)
    asked = {prompt.question: told for prompt, told in zip(model.prompts, remembered(model), strict=True)}
    assert asked["Two?"] == asked["One?"] + 2
    assert (asked["Three?"], asked["Four?"]) == (asked["One?"], 0)
    assert len(model.prompts) == 4


async def test_what_is_no_question_gets_a_word_and_what_is_nobodys_gets_none(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    async with connected() as server:
        await assistant(server)
        bot.says(None, new_chat_members=[{"id": 9}])
        bot.says("I am a bot", chat=9)["message"]["from"]["is_bot"] = True
        bot.says(None, voice={"file_id": "f"}, caption="Hear this")
        bot.says(None, sticker={"file_id": "s"})
        bot.says("Topic?", message_thread_id=3, is_topic_message=True)
        await bot.until(lambda: len(bot.texts()) == 3)
        assert bot.texts(9) == []
        assert set(bot.texts()) == {
            "Files are not read here. Please write your question.",
            "There was no text in this message. Please write your question.",
            "An answer to Topic?",
        }
    sent = [body for _, method, body in bot.calls if method == "sendMessage"]
    assert [body.get("message_thread_id") for body in sent if "Topic" in body["text"]] == [3]


async def test_an_answer_grows_is_continued_and_ends_with_what_it_cites(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    long = "water " * 1_000
    (gate, second) = gated(model, "It is long [1]. ", long, "The end.")
    async with connected() as server:
        await server.resources.knowledge.ingest_now("w", "w.md", b"# Waters\n\nIt is long.\n")
        await assistant(server, collections=["w"], similarity_cutoff=-1)
        bot.says("Go")
        await bot.until(lambda: bot.texts() == ["It is long [1]."])
        gate.set()
        await bot.until(lambda: len(bot.texts()) == 2)
        second.set()
        await bot.until(lambda: bot.texts()[-1].endswith("The end.\n\n[1] Waters"))
        assert " ".join(bot.texts()).split() == f"It is long [1]. {long} The end. [1] Waters".split()


async def test_a_file_with_a_question_is_a_document_of_its_conversation(
    connected: Connected, bot: BotApi, model: ScriptedModel, settings: Settings
) -> None:
    bot.files["f1"] = b"The Danube is long.\n"
    document = {"file_id": "f1", "file_name": "waters.txt", "mime_type": "text/plain"}
    async with connected(ingesting(settings)) as server:
        await assistant(server, similarity_cutoff=-1)
        model.script = lambda prompt: says(f"Read {len(prompt.passages)}.")
        bot.says(None, document=document, caption="How long?")
        bot.says(None, document={"file_id": "large"}, caption="How large?")
        bot.says("And elsewhere?", chat=8)
        await bot.until(lambda: len(bot.texts()) == 2 and len(bot.texts(8)) == 1)
    assert bot.texts()[0] == "Read 1."
    assert bot.texts()[1].startswith("This file could not be fetched")
    assert bot.texts(8) == ["Read 0."]


async def test_a_failure_is_told_after_what_was_said(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    model.script = lambda prompt: [["Half an"], ModelIncomplete("The language model broke off.")]
    async with connected() as server:
        bot.says("Nobody there?")
        await bot.until(lambda: bot.texts() == ["There is no assistant waters."])
        await assistant(server)
        bot.says("Go")
        await bot.until(lambda: bot.texts()[1:] == ["Half an\n\nThe language model broke off."])


async def test_a_server_that_fails_or_is_busy_gets_everything_in_the_end(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    model.script = lambda prompt: says("Here.")
    bot.faults = {
        "deleteWebhook": [500],
        "getUpdates": ["close"],
        "sendMessage": [429, "close", 500],
        "editMessageText": ["close"],
    }
    async with connected() as server:
        await assistant(server)
        bot.says("Go")
        bot.says("Blocked", chat=8)
        await bot.until(lambda: bot.texts() == ["Here."] and bot.texts(8) == ["Here."])
        bot.faults = {"sendMessage": [403]}
        bot.says("Gone")
        bot.says("Back")
        await bot.until(lambda: len(bot.texts()) == 2)
    sent = [(at, body["chat_id"]) for at, method, body in bot.calls if method == "sendMessage"]
    (began, busy), *others = sent
    assert next(at for at, chat in others if chat == busy) >= began + 0.95
    assert len(model.prompts) == 4


async def test_what_was_asked_before_a_restart_is_answered_after_it_and_asked_once(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    (gate,) = gated(model, "Begun, ", "and done.")
    async with connected() as server:
        await assistant(server)
        bot.faults = {"editMessageText": [500] * 50}
        bot.says("Go")
        await bot.until(lambda: bot.texts() == ["Begun,"])
        gate.set()
        await bot.until(lambda: len(bot.faults["editMessageText"]) < 50)
    bot.faults = {}
    async with connected():
        await bot.until(lambda: bot.texts() == ["Begun, and done."])
    assert len(model.prompts) == 1


async def test_of_two_processes_one_polls_and_the_other_takes_over(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    async with connected() as server:
        await assistant(server)
        await bot.until(lambda: bot.pollers == 1)
        async with connected():
            bot.says("One?")
            await bot.until(lambda: bot.texts() == ["An answer to One?"])
    async with connected():
        bot.says("Two?")
        await bot.until(lambda: len(bot.texts()) == 2)
    assert bot.most_pollers == 1
    assert len(model.prompts) == 2


async def test_a_webhook_is_set_and_takes_what_telegram_sends_alone(
    connected: Connected, bot: BotApi, model: ScriptedModel
) -> None:
    async with connected(telegram_webhook_url="https://bot.example.com/messengers/telegram") as server:
        await assistant(server)
        await bot.until(lambda: bool(bot.webhook))
        assert bot.webhook["url"] == "https://bot.example.com/messengers/telegram"
        headers = {"x-telegram-bot-api-secret-token": bot.webhook["secret_token"]}
        update = bot.says("One?")
        cases: list[tuple[dict[str, str], Any, int]] = [
            ({}, update, 401),
            ({"x-telegram-bot-api-secret-token": "guess"}, update, 401),
            (headers, [], 422),
            (headers, {"update_id": "one"}, 422),
            (headers, {"update_id": 1, "edited_message": {}}, 200),
            (headers, update, 200),
            (headers, update, 200),
        ]
        async with httpx.AsyncClient(base_url=server.url) as http:
            for sent, body, status in cases:
                response = await http.post("/messengers/telegram", json=body, headers=sent)
                assert response.status_code == status
        await bot.until(lambda: bot.texts() == ["An answer to One?"])
    assert len(model.prompts) == 1
    assert not [method for _, method, _ in bot.calls if method == "getUpdates"]
