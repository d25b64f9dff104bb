"""`/v1/conversations` through OpenAI's own client."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.api.turns import gated, history, public
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel


@pytest.fixture
async def openai_client(server: RunningServer) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def texts(page: Any) -> list[str]:
    return [item.content[0].text for item in page.data]


async def test_a_conversation_is_a_session_that_responses_go_on_in(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    made = await openai_client.conversations.create(
        metadata={"of": "tests"},
        items=[{"role": "user", "content": "Zero"}, {"role": "assistant", "content": "Nil"}],
    )
    assert made.metadata == {"of": "tests"}
    await openai_client.conversations.items.create(made.id, items=[{"role": "user", "content": "Half"}])
    first = await openai_client.responses.create(model=slug, input="One", conversation=made.id)
    assert first.conversation is not None
    assert first.conversation.id == made.id
    assert [message.content for message in model.prompts[-1].messages] == ["Zero", "Nil", "Half", "One"]
    unstored = await openai_client.responses.create(
        model=slug, input="Two", conversation={"id": made.id}, store=False
    )
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.retrieve(unstored.id)

    said = ["Zero", "Nil", "Half", "One", "An answer to One", "Two", "An answer to Two"]
    assert [message["text"] for message in await history(client, made.id)] == said
    page = await openai_client.conversations.items.list(made.id, order="asc", limit=3)
    assert (texts(page), page.has_more) == (said[:3], True)
    assert [item.model_dump()["content"][0]["text"] async for item in page] == said
    assert texts(await openai_client.conversations.items.list(made.id)) == said[::-1]

    changed = await openai_client.conversations.update(made.id, metadata={"of": "others"})
    assert changed == await openai_client.conversations.retrieve(made.id)
    assert changed.metadata == {"of": "others"}
    await openai_client.responses.delete(first.id)
    assert len(await history(client, made.id)) == len(said)
    assert (await openai_client.conversations.delete(made.id)).deleted
    for call in (
        openai_client.conversations.retrieve(made.id),
        openai_client.conversations.items.list(made.id),
        openai_client.responses.create(model=slug, input="Three", conversation=made.id),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            await call
        assert refused.value.code == "conversation_not_found"


async def test_a_conversation_takes_nothing_while_it_is_answered(
    openai_client: AsyncOpenAI, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    (gate,) = gated(model, "One", " two")
    made = await openai_client.conversations.create()
    begun = await openai_client.responses.create(
        model=slug, input="Go", conversation=made.id, background=True
    )
    for call in (
        openai_client.responses.create(model=slug, input="Go", conversation=made.id),
        openai_client.responses.create(model=slug, input="Go", previous_response_id=begun.id),
        openai_client.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(openai.ConflictError) as refused:
            await call
        assert refused.value.code == "session_busy"
    gate.set()


async def test_what_is_no_conversation_is_refused(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, server: RunningServer
):
    with pytest.raises(openai.AuthenticationError):
        await openai_client.conversations.create()
    await public(server)
    item = {"role": "user", "content": "x"}
    for body, param in (
        ({"items": [{"role": "system", "content": "x"}]}, "items"),
        ({"items": [{"role": "user", "content": " "}]}, "items"),
        ({"items": [{"role": "user", "content": "x" * 50_001}]}, "items"),
        ({"items": [{"role": "user", "content": [{"type": "input_image"}]}]}, "items"),
        ({"items": [{"type": "function_call"}]}, "items"),
        ({"items": [item] * 21}, "items"),
        ({"metadata": {"x": "y" * 513}}, "metadata"),
    ):
        response = await client.post("/v1/conversations", json=body)
        assert response.status_code == 400, body
        assert response.json()["error"]["param"].startswith(param)
