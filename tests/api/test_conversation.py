"""A question of a conversation: what is searched for, and what is not."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.llm.extractive import ExtractiveModel
from app.llm.protocols import Prompt, Usage
from app.settings import ChatSettings, Settings
from tests.api.test_chat import lines_of
from tests.conftest import RunningServer, Serve
from tests.scripted_model import Act, ScriptedModel, says

RIVERS = b"# Rivers\n\nThe Danube flows into the Black Sea. The Danube begins in Donaueschingen.\n"
TEA = b"# Tea\n\nGreen tea begins with a leaf, and where it begins to boil, it is spoilt.\n"
ASKED = {"role": "user", "content": "Into which sea does the Danube flow?"}
ANSWERED = {"role": "assistant", "content": "The Danube flows into the Black Sea."}


@pytest.fixture
async def guide(server: RunningServer) -> str:
    return await _guide(server)


async def _guide(server: RunningServer) -> str:
    for name, content in (("rivers.md", RIVERS), ("tea.md", TEA)):
        await server.resources.knowledge.ingest_now("things", name, content)
    assistant = await server.resources.assistants.create(
        name="Guide", collections=["things"], similarity_cutoff=-1, top_k=1
    )
    return assistant.slug


@pytest.fixture
async def with_language_model(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    async with serve(replace(settings, chat=ChatSettings(query_rewrite="model"))) as running:
        yield running


def steps_of(lines: list[dict[str, Any]], step_type: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == "step" and line["step_type"] == step_type]


def payload_of(lines: list[dict[str, Any]], step_type: str) -> dict[str, Any]:
    return steps_of(lines, step_type)[-1]["payload"]


def names_of(lines: list[dict[str, Any]]) -> list[str]:
    (sources,) = (line["data"] for line in lines if line["type"] == "sources")
    return [source["name"] for source in sources]


async def test_a_question_that_leans_on_the_conversation_is_searched_for_with_its_words(
    client: httpx.AsyncClient, model: ScriptedModel, guide: str
) -> None:
    question = "And where does it begin?"
    alone = await lines_of(client, assistant_id=guide, message=question)
    lines = await lines_of(client, assistant_id=guide, message=question, history=[ASKED, ANSWERED])

    assert (names_of(alone), names_of(lines)) == (["Tea"], ["Rivers"])
    assert payload_of(lines, "query_rewrite")["method"] == "rules"
    assert "Danube" in payload_of(lines, "query_rewrite")["question"]
    assert steps_of(alone, "query_rewrite") == []
    assert question in model.prompts[-1].messages[-1].content
    assert "Danube" in model.prompts[-1].question


async def test_what_the_model_takes_to_write_a_question_anew_is_part_of_the_usage(
    with_language_model: RunningServer, model: ScriptedModel
) -> None:
    guide = await _guide(with_language_model)

    def script(prompt: Prompt) -> list[Act]:
        if "last_message" in prompt.messages[-1].content:
            return says("Where does the Danube begin?", usage=Usage(40, 6))
        return says("In Donaueschingen.", usage=Usage(100, 4))

    model.script = script
    async with with_language_model.client() as client:
        lines = await lines_of(
            client, assistant_id=guide, message="Where does it begin?", history=[ASKED, ANSWERED]
        )

    rewriting = payload_of(lines, "query_rewrite")
    assert rewriting == {
        "question": "Where does the Danube begin?",
        "method": "model",
        "tokens": {"input": 40, "output": 6},
    }
    assert payload_of(lines, "synthesis")["tokens"] == {"input": 100, "output": 4}
    assert payload_of(lines, "completed")["tokens"] == {"input": 140, "output": 10}
    assert lines[-1]["usage"] == {"input_tokens": 140, "output_tokens": 10, "total_tokens": 150}
    assert model.prompts[-1].question == "Where does the Danube begin?"


async def test_small_talk_is_answered_without_a_search(
    client: httpx.AsyncClient, model: ScriptedModel, guide: str
) -> None:
    lines = await lines_of(client, assistant_id=guide, message="Thank you!")

    assert payload_of(lines, "router") == {"retrieval": False, "reason": "thanks"}
    assert steps_of(lines, "retrieval") == []
    assert [line for line in lines if line["type"] == "sources"] == []
    assert model.prompts[-1].messages[-1].content == "Thank you!"


async def test_a_wish_for_another_form_is_answered_from_the_history_alone(
    client: httpx.AsyncClient, model: ScriptedModel, guide: str
) -> None:
    lines = await lines_of(client, assistant_id=guide, message="Shorter, please.", history=[ASKED, ANSWERED])

    assert payload_of(lines, "router") == {"retrieval": False, "reason": "reformulation"}
    asked = model.prompts[-1].messages
    assert [message.content for message in asked][-3:] == [
        ASKED["content"],
        ANSWERED["content"],
        "Shorter, please.",
    ]
    assert "sources" not in "".join(message.content for message in asked)


async def test_the_answerer_that_quotes_has_a_word_for_small_talk() -> None:
    prompt = Prompt(messages=(), question="Hello", reply="Hello! Ask me about the documents.")

    pieces = [piece async for piece in ExtractiveModel().stream(prompt) if isinstance(piece, list)]

    assert "".join(text for piece in pieces for text in piece) == "Hello! Ask me about the documents."
