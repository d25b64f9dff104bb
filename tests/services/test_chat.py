"""The whole turn over the real client of a language model, whose server fails in every way it can."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from app.db.conversations import StoredMessage
from app.llm.protocols import Finish
from app.resources import Resources, open_resources
from app.services.chat import Asked
from app.services.runs import Followed
from app.services.viewer import ANONYMOUS
from app.settings import ModelSettings, Settings
from bench.upstream import Upstream
from tests.scripted_model import ScriptedModel
from tests.words_embedder import WordsEmbedder


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    async with Upstream.serve() as serving:
        yield serving


@pytest.fixture
async def resources(settings: Settings, upstream: Upstream) -> AsyncGenerator[Resources]:
    model = ModelSettings(
        openai_api_key=SecretStr("a key"),
        openai_base_url=upstream.url,
        chat_model="gpt-of-the-tests",
        model_first_token_s=1,
        model_silence_s=0.5,
        model_retries=0,
    )
    async with open_resources(replace(settings, model=model), embedder=WordsEmbedder()) as opened:
        yield opened


async def ask(resources: Resources) -> Followed:
    assistant = await resources.assistants.create(name="Public")
    return await resources.chat.begin(Asked("Go", assistant.slug), ANONYMOUS)


async def lines_of(resources: Resources, run: Followed) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with anyio.fail_after(15):
        async with aclosing(run.follow(after=0)) as batches:
            async for batch in batches:
                lines += [json.loads(line) for line in batch.lines]
    return lines


async def answer_of(resources: Resources, run: Followed) -> StoredMessage:
    return await resources.sessions.message(run.message_id)


def numbers(count: int) -> str:
    return "".join(f" {i}" for i in range(count))


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        ("fake-n20-cut5", "model_incomplete", numbers(5)),
        ("fake-n20-rst5", "model_incomplete", None),
        ("fake-n20-fin5", "model_incomplete", numbers(5)),
        ("fake-n20-garb5", "model_incomplete", numbers(5)),
        ("fake-n20-serr5", "model_incomplete", numbers(5)),
        ("fake-n20-stall5", "model_timeout", numbers(5)),
        ("fake-cut0", "model_incomplete", ""),
        ("fake-fin0", "model_incomplete", ""),
        ("fake-hang", "model_timeout", ""),
        ("fake-hanghdr", "model_timeout", ""),
        ("fake-e500", "model_unavailable", ""),
        ("fake-e429", "model_unavailable", ""),
        ("fake-e401", "model_rejected", ""),
        ("fake-e404", "model_rejected", ""),
    ],
)
async def test_a_model_that_fails_is_one_last_line_and_what_it_said_is_kept(
    resources: Resources, upstream: Upstream, behaviour: str, code: str, said: str | None
):
    upstream.set(behaviour)
    run = await ask(resources)
    lines = await lines_of(resources, run)
    assert [line["type"] for line in lines if line["type"] in {"done", "error"}] == ["error"]
    assert (lines[-1]["type"], lines[-1]["code"]) == ("error", code)
    assert lines[-1]["retryable"] is (code != "model_rejected")
    streamed = "".join(line["content"] for line in lines if line["type"] == "token")
    stored = await answer_of(resources, run)
    assert (stored.status, stored.error_code, stored.text) == ("failed", code, streamed)
    # A reset may overtake what was sent before it.
    assert streamed == said if said is not None else numbers(5).startswith(streamed)
    synthesis = [step for step in stored.steps if step["step_type"] == "synthesis"]
    assert [step["status"] for step in synthesis] == ["failed"]


async def test_a_reader_that_leaves_does_not_end_the_request_to_the_model(
    resources: Resources, upstream: Upstream
):
    upstream.set("fake-n20-stall5")
    run = await ask(resources)
    with anyio.fail_after(10):
        async with aclosing(run.follow(after=0)) as batches:
            async for batch in batches:
                if any(b'"token"' in line for line in batch.lines):
                    break
        await upstream.until(lambda stats: stats.stalled == 1)
        upstream.release()
        await resources.runs.finished(run)
    assert upstream.stats.abandoned == 0
    stored = await answer_of(resources, run)
    assert (stored.status, stored.text) == ("completed", numbers(20))


async def test_a_server_that_ends_its_runs_ends_the_requests_to_the_model(
    settings: Settings, upstream: Upstream
):
    upstream.set("fake-n20-stall5")
    model = ModelSettings(openai_api_key=SecretStr("a key"), openai_base_url=upstream.url, model_retries=0)
    with anyio.fail_after(15):
        async with open_resources(replace(settings, model=model), embedder=WordsEmbedder()) as resources:
            run = await ask(resources)
            await upstream.until(lambda stats: stats.stalled == 1)
        await upstream.until(lambda stats: stats.open == 0)
    assert (await lines_of(resources, run))[-1]["code"] == "interrupted"
    assert upstream.stats.abandoned == 1


async def test_a_character_that_the_database_cannot_keep_costs_no_answer(settings: Settings):
    model = ScriptedModel()
    model.script = lambda prompt: [["before", "\0", "after"], Finish("stop", None)]
    async with open_resources(settings, model=model, embedder=WordsEmbedder()) as resources:
        run = await ask(resources)
        assert (await lines_of(resources, run))[-1]["type"] == "done"
        stored = await answer_of(resources, run)
    assert (stored.status, stored.text) == ("completed", "beforeafter")
