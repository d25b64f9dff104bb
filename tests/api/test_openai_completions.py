"""`/v1/models` and `/v1/chat/completions` through OpenAI's own client, and what it never sends."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx
import openai
import pytest
from openai import AsyncOpenAI

from app.errors import ModelIncomplete
from app.services.accounts import AccountService
from tests.api.turns import public
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n\nLake Constance lies in three countries.\n"
QUESTION: Any = [{"role": "user", "content": "Where does the Danube flow?"}]


@pytest.fixture
async def assistant(server: RunningServer) -> str:
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    made = await server.resources.assistants.create(
        name="Waters", instructions="Be brief.", collections=["waters"], similarity_cutoff=0
    )
    return made.slug


@pytest.fixture
async def private(server: RunningServer) -> str:
    return (await server.resources.assistants.create(name="Private", user_authentication=True)).slug


def opened(server: RunningServer, key: str = "no key of ours") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def openai_client(server: RunningServer) -> AsyncGenerator[AsyncOpenAI]:
    async with opened(server) as client:
        yield client


@pytest.fixture
async def browser(server: RunningServer) -> AsyncGenerator[httpx.AsyncClient]:
    """Whose streams are not held against our own protocol."""
    async with httpx.AsyncClient(base_url=server.url) as http:
        yield http


@pytest.fixture
async def key(accounts: AccountService) -> str:
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    return (await accounts.create_api_key(user.id, "tests"))[1]


async def test_assistants_are_listed_as_models(openai_client: AsyncOpenAI, assistant: str, private: str):
    models = [model async for model in await openai_client.models.list()]
    assert assistant in [model.id for model in models]
    assert (await openai_client.models.retrieve(assistant)).owned_by == "freshet"
    with pytest.raises(openai.NotFoundError) as refused:
        await openai_client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


async def test_an_answer_comes_whole(openai_client: AsyncOpenAI, assistant: str, model: ScriptedModel):
    model.script = lambda prompt: says("The Danube flows into", " the Black Sea [1].")
    answer = await openai_client.chat.completions.create(model=assistant, messages=QUESTION)
    (choice,) = answer.choices
    assert choice.message.content == "The Danube flows into the Black Sea [1]."
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 2)
    (annotation,) = choice.message.annotations or []
    assert annotation.url_citation.title == "Waters"
    told: Any = annotation.model_dump()
    assert told["file_citation"]["quote"] == "The Danube flows into the Black Sea."
    assert told["file_citation"]["verified"]


async def test_the_place_that_a_citation_names_opens(
    openai_client: AsyncOpenAI, browser: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: says("The Danube flows into the Black Sea [1].")
    answer = await openai_client.chat.completions.create(model=assistant, messages=QUESTION)
    (annotation,) = answer.choices[0].message.annotations or []
    assert (await browser.get(annotation.url_citation.url)).content == WATERS


async def test_an_answer_streams_in_chunks_of_one_id(
    openai_client: AsyncOpenAI, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: says('The "Danube" ', "flows [1]", ".\n")
    stream = await openai_client.chat.completions.create(
        model=assistant, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    *rest, usage = chunks
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 14
    assert rest[0].choices[0].delta.role == "assistant"
    assert rest[-1].choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in rest) == 'The "Danube" flows [1].\n'
    annotations = [a for chunk in rest for a in chunk.choices[0].delta.model_dump().get("annotations", [])]
    assert [annotation["url_citation"]["title"] for annotation in annotations] == ["Waters"]


async def test_without_usage_asked_for_no_chunk_has_it(openai_client: AsyncOpenAI, assistant: str):
    stream = await openai_client.chat.completions.create(model=assistant, messages=QUESTION, stream=True)
    assert {(len(chunk.choices), chunk.usage) async for chunk in stream} == {(1, None)}


async def test_the_end_of_a_stream_is_said(browser: httpx.AsyncClient, assistant: str):
    body = {"model": assistant, "messages": QUESTION, "stream": True}
    response = await browser.post("/v1/chat/completions", json=body, headers={"accept": "application/json"})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = response.text.strip().split("\n\n")
    assert frames[-1] == "data: [DONE]"
    assert all("error" not in json.loads(frame.removeprefix("data: ")) for frame in frames[:-1])


async def test_what_the_request_holds_reaches_the_model(
    openai_client: AsyncOpenAI, assistant: str, model: ScriptedModel
):
    messages: Any = [
        {"role": "system", "content": "Answer in verse."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Where is"}, {"type": "text", "text": "the lake?"}],
        },
        {"role": "assistant", "content": "Here.", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "And the Danube?"}]},
    ]
    await openai_client.chat.completions.create(
        model=assistant, messages=messages, temperature=0.1, extra_body={"anything": {"of": "theirs"}}
    )
    asked = model.prompts[-1].messages
    assert asked[0].content.startswith("Be brief.\n\nAnswer in verse.")
    assert [message.content for message in asked[1:3]] == ["Where is\nthe lake?", "Here."]
    assert asked[-1].content.endswith("And the Danube?")


PARAMETERS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {"temperature": 0.1, "stop": "."}, {"temperature": 0.1, "stop": "."}),
    ({"temperature": 0.9, "seed": 7}, {"temperature": 0}, {"temperature": 0, "seed": 7}),
    ({"seed": 7}, {"temperature": None, "n": 1, "tool_choice": "auto"}, {"seed": 7}),
    ({}, {"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 9}, {"max_completion_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 9}, {"max_tokens": 50}, {"max_completion_tokens": 50}),
]


async def test_what_is_asked_of_the_model_counts_before_what_the_assistant_asks(
    openai_client: AsyncOpenAI, server: RunningServer, model: ScriptedModel
):
    for own, given, expected in PARAMETERS:
        slug = await public(server, model_parameters=own)
        await openai_client.chat.completions.create(model=slug, messages=QUESTION, **given)
        assert model.prompts[-1].parameters == expected


async def test_an_answer_to_other_parameters_is_not_given_again(
    openai_client: AsyncOpenAI, server: RunningServer, assistant: str, model: ScriptedModel
):
    await server.resources.assistants.change(assistant, answer_cache_s=60)
    model.script = lambda prompt: says("The Danube flows into the Black Sea [1].")
    for temperature in (0.1, 0.1, 0.2):
        await openai_client.chat.completions.create(
            model=assistant, messages=QUESTION, temperature=temperature
        )
    assert [prompt.parameters for prompt in model.prompts] == [{"temperature": 0.1}, {"temperature": 0.2}]


async def test_a_request_knows_nothing_of_another(
    openai_client: AsyncOpenAI, assistant: str, model: ScriptedModel
):
    await openai_client.chat.completions.create(model=assistant, messages=QUESTION)
    await openai_client.chat.completions.create(model=assistant, messages=QUESTION)
    assert [message.role for message in model.prompts[-1].messages] == ["system", "user"]


async def test_an_answer_is_kept_like_any_other(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, assistant: str
):
    response = await openai_client.chat.completions.with_raw_response.create(
        model=assistant, messages=QUESTION
    )
    history = (await client.get(f"/api/v1/chat/{response.headers['x-session-id']}/history")).json()[
        "messages"
    ]
    assert [message["sender"] for message in history] == ["user", "bot"]


async def test_a_private_assistant_wants_a_key_that_counts(server: RunningServer, private: str, key: str):
    async with opened(server) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.chat.completions.create(model=private, messages=QUESTION)
    assert refused.value.code == "invalid_api_key"
    async with opened(server, key) as user:
        answer = await user.chat.completions.create(model=private, messages=QUESTION)
    assert answer.choices[0].message.content


async def test_a_model_that_is_not_there_is_not_found(openai_client: AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as refused:
        await openai_client.chat.completions.create(model="nobody", messages=QUESTION)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 50_001}]}, "messages"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": True}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": "many"}, "max_completion_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ["1", "2", "3", "4", "5"]}, "stop"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"n": 2}, "n"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"tool_choice": "required"}, "tool_choice"),
]


async def test_what_cannot_be_meant_is_refused_in_the_form_of_these_clients(
    client: httpx.AsyncClient, model: ScriptedModel
):
    for change, param in MALFORMED:
        body = {"model": "m", "messages": QUESTION, **change}
        response = await client.post("/v1/chat/completions", json=body)
        error = response.json()["error"]
        assert response.status_code == 400, change
        assert error["type"] == "invalid_request_error"
        assert error["param"].startswith(param)
        assert error["message"]
    assert model.prompts == []


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"x" * (8 * 2**20 + 1), 413),
        ("GET", "/v1/chat/completions", None, 405),
        ("GET", "/v1/nothing", None, 404),
    ],
)
async def test_every_failure_under_v1_has_their_form(
    client: httpx.AsyncClient, method: str, path: str, content: bytes | None, status: int
):
    response = await client.request(
        method, path, content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_model_that_breaks_off_is_an_error_and_no_end(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: [["The Danube"], ModelIncomplete("It broke off.")]
    stream = await openai_client.chat.completions.create(model=assistant, messages=QUESTION, stream=True)
    said: list[str] = []

    async def read() -> None:
        said.extend([chunk.choices[0].delta.content or "" async for chunk in stream])

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert failed.value.code == "model_incomplete"
    response = await client.post("/v1/chat/completions", json={"model": assistant, "messages": QUESTION})
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "server_error"


async def test_who_leaves_does_not_end_the_answer(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["The "], gate, *says("Danube")]
    stream = await openai_client.chat.completions.create(model=assistant, messages=QUESTION, stream=True)
    session_id = stream.response.headers["x-session-id"]
    await stream.close()
    gate.set()
    with anyio.fail_after(10):
        resumed = await client.get(f"/api/v1/chat/{session_id}/stream")
    assert json.loads(resumed.text.splitlines()[-1])["status"] == "completed"
