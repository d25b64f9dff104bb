from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest
from pydantic import SecretStr

from app.errors import ModelFailed, ModelIncomplete, ModelRejected, ModelSilent, ModelUnavailable
from app.llm.openai_model import OpenAIModel, create_client
from app.llm.protocols import ChatMessage, Finish, Prompt
from app.settings import ModelSettings
from bench.upstream import Upstream


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    async with Upstream.serve() as serving:
        yield serving


@pytest.fixture
async def model(upstream: Upstream) -> AsyncGenerator[OpenAIModel]:
    async with aclosing(model_of(upstream)) as opened:
        yield opened


def model_of(
    upstream: Upstream, *, first_token_s: float = 5, silence_s: float = 5, retries: int = 2
) -> OpenAIModel:
    settings = ModelSettings(
        openai_api_key=SecretStr("a key"),
        openai_base_url=upstream.url,
        chat_model="fake-n20",
        model_first_token_s=first_token_s,
        model_silence_s=silence_s,
        model_retries=retries,
    )
    return OpenAIModel(create_client(settings, connections=10), settings)


def prompt(model: str | None = None, **parameters: object) -> Prompt:
    return Prompt(
        messages=[ChatMessage("user", "Hello?")], question="Hello?", model=model, parameters=parameters
    )


async def said(model: OpenAIModel, asked: Prompt) -> tuple[str, Finish | None, ModelFailed | None]:
    """What it said before its end or its failure."""
    text, finish = "", None
    with anyio.fail_after(10):
        try:
            async with aclosing(model.stream(asked)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        finish = piece
                    else:
                        text += "".join(piece)
        except ModelFailed as failure:
            return text, None, failure
    return text, finish, None


def numbers(count: int) -> str:
    return "".join(f" {i}" for i in range(count))


async def test_an_answer_comes_whole_in_order_with_its_end_and_what_it_cost(model: OpenAIModel):
    text, finish, _ = await said(model, prompt())
    assert text == numbers(20)
    assert finish is not None
    assert finish.reason == "stop"
    assert finish.usage is not None
    assert finish.usage.output_tokens == 20


@pytest.mark.parametrize("behaviour", ["fake-n30-drip", "fake-n30-c7", "fake-n1-long64", "fake-n30-r2000"])
async def test_reads_may_end_anywhere(model: OpenAIModel, behaviour: str):
    text, finish, failure = await said(model, prompt(behaviour))
    assert failure is None
    assert finish is not None
    assert finish.usage is not None
    assert len(text.split()) == finish.usage.output_tokens


async def test_the_request_names_the_model_its_parameters_and_the_key(model: OpenAIModel, upstream: Upstream):
    await said(model, prompt("fake-n3", temperature=0.2, max_tokens=5))
    received = upstream.received[-1]
    assert received.authorization == "Bearer a key"
    assert received.body["model"] == "fake-n3"
    assert received.body["temperature"] == 0.2
    assert received.body["messages"] == [{"role": "user", "content": "Hello?"}]


@pytest.mark.parametrize("fault", ["cut5", "rst5", "fin5", "serr5", "garb5"])
async def test_an_answer_that_breaks_off_is_a_failure_and_what_was_said_before_is_given(
    model: OpenAIModel, fault: str
):
    text, _, failure = await said(model, prompt(f"fake-n20-{fault}"))
    assert isinstance(failure, ModelIncomplete)
    assert text == numbers(5)


@pytest.mark.parametrize("fault", ["cut0", "fin0", "serr0", "garb0", "e500", "e429", "e503"])
async def test_before_its_first_token_an_answer_is_asked_for_again(
    model: OpenAIModel, upstream: Upstream, fault: str
):
    text, _, failure = await said(model, prompt(f"fake-n20-{fault}-x1"))
    assert failure is None
    assert text == numbers(20)
    assert upstream.stats.completions == 2


async def test_after_its_first_token_an_answer_is_never_asked_for_again(
    model: OpenAIModel, upstream: Upstream
):
    await said(model, prompt("fake-n20-cut1-x1"))
    assert upstream.stats.completions == 1


async def test_retries_end(upstream: Upstream):
    async with aclosing(model_of(upstream, retries=1)) as model:
        _, _, failure = await said(model, prompt("fake-fin0"))
    assert isinstance(failure, ModelIncomplete)
    assert upstream.stats.completions == 2


@pytest.mark.parametrize("fault", ["hang", "hanghdr", "t60000"])
async def test_a_model_that_says_nothing_is_given_up_within_the_limit(upstream: Upstream, fault: str):
    async with aclosing(model_of(upstream, first_token_s=0.2)) as model:
        _, _, failure = await said(model, prompt(f"fake-{fault}"))
    assert isinstance(failure, ModelSilent)


async def test_a_model_that_falls_silent_is_given_up_and_its_request_closed(upstream: Upstream):
    async with aclosing(model_of(upstream, silence_s=0.2)) as model:
        text, _, failure = await said(model, prompt("fake-n20-stall5"))
        with anyio.fail_after(5):
            await upstream.until(lambda stats: stats.open == 0)
    assert isinstance(failure, ModelSilent)
    assert text == numbers(5)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ModelRejected), (404, ModelRejected), (400, ModelRejected), (500, ModelUnavailable)],
)
async def test_a_refusal_is_told_in_our_words(upstream: Upstream, status: int, kind: type[ModelFailed]):
    async with aclosing(model_of(upstream, retries=0)) as model:
        _, _, failure = await said(model, prompt(f"fake-e{status}"))
    assert type(failure) is kind


async def test_a_server_that_is_not_there_is_unavailable(upstream: Upstream):
    settings = ModelSettings(openai_base_url="http://127.0.0.1:9/v1", model_retries=0)
    async with aclosing(OpenAIModel(create_client(settings, connections=1), settings)) as model:
        _, _, failure = await said(model, prompt())
    assert isinstance(failure, ModelUnavailable)


async def test_whoever_stops_reading_ends_the_request(model: OpenAIModel, upstream: Upstream):
    async with aclosing(model.stream(prompt("fake-n20-stall5"))) as pieces:
        await anext(pieces)
    with anyio.fail_after(5):
        await upstream.until(lambda stats: stats.open == 0)


async def test_an_answer_of_nothing_is_a_failure(upstream: Upstream):
    async with aclosing(model_of(upstream, retries=0)) as model:
        _, _, failure = await said(model, prompt("fake-n0"))
    assert isinstance(failure, ModelIncomplete)


async def test_a_connection_is_used_again_after_an_answer(model: OpenAIModel, upstream: Upstream):
    for _ in range(3):
        await said(model, prompt())
    assert len(upstream.connections) == 1


async def test_more_answers_at_once_than_the_transport_holds_by_default(upstream: Upstream):
    settings = ModelSettings(openai_base_url=upstream.url, chat_model="fake-n2-stall1")
    async with (
        aclosing(OpenAIModel(create_client(settings, connections=300), settings)) as model,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(150):
            tasks.start_soon(said, model, prompt())
        with anyio.fail_after(10):
            await upstream.until(lambda stats: stats.stalled == 150)
        upstream.release()


async def test_a_schema_is_what_the_model_is_held_to(model: OpenAIModel, upstream: Upstream):
    schema = {"type": "object"}
    await said(model, replace(prompt("fake-n3", temperature=0.2), schema=schema, is_strict=True))
    assert upstream.received[-1].body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    await said(model, prompt("fake-n3"))
    assert "response_format" not in upstream.received[-1].body
