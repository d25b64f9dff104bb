"""What an assistant remembers of a long conversation, and that it remembers nothing that was forgotten or put aside."""

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import func, select

from app.db.engine import Sessions
from app.db.tables import Summary
from app.errors import ModelUnavailable
from app.llm.protocols import Prompt
from app.services.chat import Asked
from app.services.viewer import ANONYMOUS
from app.settings import ChatSettings, Settings
from tests.api.turns import answered, history, public, text_of
from tests.conftest import RunningServer, Serve
from tests.scripted_model import Act, ScriptedModel, says

# A turn of about 50 tokens: four of them are all that is remembered word for word.
SETTINGS = ChatSettings(query_rewrite="rules", history_tokens=200, summary_tokens=60)
FILLER = "and so on " * 8


@pytest.fixture
async def forgetful(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    async with serve(replace(settings, chat=SETTINGS)) as running:
        yield running


@pytest.fixture
async def visitor(forgetful: RunningServer) -> AsyncGenerator[httpx.AsyncClient]:
    async with forgetful.client() as http:
        yield http


def is_fold(prompt: Prompt) -> bool:
    return prompt.messages[0].content.startswith("You keep the memory")


def keeps_facts(model: ScriptedModel) -> None:
    """As the memory of a conversation, the model keeps what is written in capital letters."""

    def script(prompt: Prompt) -> list[Act]:
        if is_fold(prompt):
            facts = re.findall(r"\b[A-Z]{4,}\b", prompt.messages[1].content)
            return says(f"Known: {' '.join(dict.fromkeys(facts))}.")
        return says(f"Noted, {FILLER}")

    model.script = script


def told(prompt: Prompt) -> str:
    return "\n".join(message.content for message in prompt.messages)


async def summaries(sessions: Sessions) -> int:
    async with sessions.read() as session:
        return (await session.execute(select(func.count()).select_from(Summary))).scalar_one()


async def summed_up(sessions: Sessions, count: int = 1) -> None:
    """Waits until so many summaries are kept."""
    with anyio.fail_after(10):
        while await summaries(sessions) < count:  # noqa: ASYNC110  # nothing else tells
            await anyio.sleep(0.01)


async def talk(client: httpx.AsyncClient, slug: str, *facts: str, **body: Any) -> str:
    """The id of the session in which these were told, a turn each."""
    for fact in facts:
        events = await answered(client, slug, message=f"{fact} {FILLER}", **body)
        body["session_id"] = events[0]["session_id"]
    return body["session_id"]


async def test_a_fact_of_turn_3_is_in_the_prompt_of_turn_300(
    forgetful: RunningServer, model: ScriptedModel, sessions: Sessions
):
    keeps_facts(model)
    slug = await public(forgetful)
    resources = forgetful.resources
    session_id = "a-session-that-nobody-could-guess"
    sizes: list[int] = []
    for turn in range(1, 301):
        fact = "I live in VIENNA" if turn == 3 else f"Turn {turn}"
        asked = Asked(f"{fact} {FILLER}", slug, session_id=session_id)
        await resources.runs.finished(await resources.chat.begin(asked, ANONYMOUS))
        sizes.append(len(told(next(prompt for prompt in reversed(model.prompts) if not is_fold(prompt)))))
        if turn == 8:
            await summed_up(sessions)

    last = next(prompt for prompt in reversed(model.prompts) if not is_fold(prompt))
    assert "VIENNA" in last.messages[0].content
    assert [message.role for message in last.messages][:2] == ["system", "user"]
    assert max(sizes[100:]) <= 1.5 * max(sizes[5:20])
    assert len(model.prompts) < 300 * 1.6


async def test_what_is_summed_up_is_what_falls_out_and_nothing_is_missing_between(
    forgetful: RunningServer, visitor: httpx.AsyncClient, model: ScriptedModel, sessions: Sessions
):
    keeps_facts(model)
    slug = await public(forgetful)
    session_id = await talk(visitor, slug, "ALPHA", "BRAVO", "CHARLIE", "DELTA")
    await summed_up(sessions)
    await talk(visitor, slug, "Last", session_id=session_id)

    prompt = model.prompts[-1]
    remembered, *verbatim = prompt.messages[0].content, *(m.content for m in prompt.messages[1:])
    assert re.findall(r"[A-Z]{4,}", remembered + " ".join(verbatim)) == ["ALPHA", "BRAVO", "CHARLIE", "DELTA"]
    assert "ALPHA" in remembered
    assert any("DELTA" in text for text in verbatim)
    response = await visitor.post(f"/api/v1/chat/{session_id}/summary")
    assert response.status_code == 200
    assert {"ALPHA", "DELTA"} <= set(re.findall(r"[A-Z]{4,}", model.prompts[-1].messages[1].content))


async def test_a_branch_that_was_put_aside_is_not_remembered_until_it_is_chosen_again(
    forgetful: RunningServer, visitor: httpx.AsyncClient, model: ScriptedModel, sessions: Sessions
):
    keeps_facts(model)
    slug = await public(forgetful)
    session_id = await talk(visitor, slug, "ALPHA", "BRAVO", "CHARLIE", "DELTA")
    await summed_up(sessions)
    messages = await history(visitor, session_id)
    edited = await visitor.patch(
        f"/api/v1/chat/{session_id}/messages/{messages[2]['id']}", json={"message": f"ECHO {FILLER}"}
    )
    assert edited.status_code == 200
    await talk(visitor, slug, "What is known?", session_id=session_id)
    assert set(re.findall(r"[A-Z]{4,}", told(model.prompts[-1]))) == {"ALPHA", "ECHO"}

    chosen = await visitor.post(f"/api/v1/chat/{session_id}/messages/{messages[-1]['id']}/choose")
    assert chosen.status_code == 200
    await talk(visitor, slug, "And now?", session_id=session_id)
    assert set(re.findall(r"[A-Z]{4,}", told(model.prompts[-1]))) == {"ALPHA", "BRAVO", "CHARLIE", "DELTA"}


async def test_after_a_reset_nothing_is_remembered_and_after_a_purge_nothing_is_kept(
    forgetful: RunningServer, visitor: httpx.AsyncClient, model: ScriptedModel, sessions: Sessions
):
    keeps_facts(model)
    slug = await public(forgetful)
    session_id = await talk(visitor, slug, "ALPHA", "BRAVO", "CHARLIE", "DELTA")
    await summed_up(sessions)
    await visitor.delete(f"/api/v1/chat/{session_id}")
    await talk(visitor, slug, "What is known?", session_id=session_id)
    assert re.findall(r"[A-Z]{4,}", told(model.prompts[-1])) == []
    await visitor.delete(f"/api/v1/chat/{session_id}", params={"purge": "true"})
    assert await summaries(sessions) == 0


async def test_a_summary_that_is_being_written_for_what_is_forgotten_meanwhile_is_never_told(
    forgetful: RunningServer, visitor: httpx.AsyncClient, model: ScriptedModel, sessions: Sessions
):
    gate, waiting = anyio.Event(), anyio.Event()

    def script(prompt: Prompt) -> list[Act]:
        if not is_fold(prompt):
            return says(f"Noted, {FILLER}")
        waiting.set()
        return [gate, *says("Known: ALPHA.")]

    model.script = script
    slug = await public(forgetful)
    # The answers do not wait for it, and neither does the reset.
    session_id = await talk(visitor, slug, "ALPHA", "BRAVO", "CHARLIE", "DELTA")
    with anyio.fail_after(10):
        await waiting.wait()
    await visitor.delete(f"/api/v1/chat/{session_id}")
    gate.set()
    await summed_up(sessions)
    await talk(visitor, slug, "What is known?", session_id=session_id)
    assert re.findall(r"[A-Z]{4,}", told(model.prompts[-1])) == []


async def test_a_summary_that_fails_harms_no_answer_and_is_tried_again(
    forgetful: RunningServer, visitor: httpx.AsyncClient, model: ScriptedModel, sessions: Sessions
):
    failures = [ModelUnavailable("Too much to do."), ModelUnavailable("Still.")]

    def script(prompt: Prompt) -> list[Act]:
        if not is_fold(prompt):
            return says("Noted.", FILLER)
        return [failures.pop()] if failures else says(f"Known: ALPHA. {'x' * 2_000}")

    model.script = script
    slug = await public(forgetful)
    session_id = await talk(visitor, slug, "ALPHA", "BRAVO", "CHARLIE", "DELTA")
    for turn in range(4):
        events = await answered(visitor, slug, message=f"Turn {turn} {FILLER}", session_id=session_id)
        assert (events[-1]["status"], text_of(events)) == ("completed", f"Noted.{FILLER}")
    await summed_up(sessions)
    await talk(visitor, slug, "What is known?", session_id=session_id)
    assert "Known: ALPHA." in model.prompts[-1].messages[0].content
    # What it says beyond its budget is not kept.
    assert len(model.prompts[-1].messages[0].content) < 1_000


async def test_without_a_model_that_can_write_the_last_turns_are_all_that_is_remembered(
    serve: Serve, settings: Settings, model: ScriptedModel, sessions: Sessions
):
    model.can_write = False
    model.script = lambda prompt: says(f"Noted, {FILLER}")
    async with serve(replace(settings, chat=SETTINGS)) as running, running.client() as client:
        slug = await public(running)
        await talk(client, slug, "ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT")
    assert await summaries(sessions) == 0
    assert len(model.prompts) == 6
    assert "ALPHA" not in told(model.prompts[-1])
    assert "ECHO" in told(model.prompts[-1])
