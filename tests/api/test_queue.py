"""Two messages at once: the second is refused, waits, or takes the place of the first, through whichever process it comes."""

import asyncio
from uuid import uuid4

import anyio
import httpx
import pytest

from app.llm.protocols import Finish
from tests.api.turns import STREAM, asked, gated, history, public, text_of
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel


@pytest.fixture
def both(client: httpx.AsyncClient, elsewhere: httpx.AsyncClient) -> dict[str, httpx.AsyncClient]:
    return {"here": client, "elsewhere": elsewhere}


def echoing(model: ScriptedModel) -> anyio.Event:
    """Every answer repeats its question; that to "First" waits in its middle."""
    gate = anyio.Event()
    model.script = lambda prompt: [
        [f"<{prompt.question}"],
        *([gate] if prompt.question == "First" else []),
        [">"],
        Finish("stop", None),
    ]
    return gate


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_question_to_a_busy_session_is_refused(
    client: httpx.AsyncClient,
    both: dict[str, httpx.AsyncClient],
    server: RunningServer,
    model: ScriptedModel,
    where: str,
):
    gate = echoing(model)
    slug = await public(server)
    async with asked(client, slug, message="First") as stream:
        await stream.until("token")
        body = {"message": "Second", "assistant_id": slug, "session_id": stream.session_id}
        response = await both[where].post(STREAM, json=body)
        assert (response.status_code, response.json()["code"]) == (409, "session_busy")
        gate.set()
        await stream.rest()
    assert len(await history(client, stream.session_id)) == 2


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_queued_question_is_answered_after_the_one_before_it_and_knows_its_answer(
    client: httpx.AsyncClient,
    both: dict[str, httpx.AsyncClient],
    server: RunningServer,
    model: ScriptedModel,
    where: str,
):
    gate = echoing(model)
    slug = await public(server)
    async with asked(client, slug, message="First") as first:
        await first.until("token")
        rest = {"session_id": first.session_id, "on_busy": "queue"}
        async with asked(both[where], slug, message="Second", **rest) as second:
            start, status = await second.until("status")
            assert start["type"] == "start"
            assert status["message"]
            statuses = [message["status"] for message in await history(client, first.session_id)]
            assert statuses == ["completed", "running", "completed", "queued"]
            async with asked(client, slug, message="Third", **rest) as third:
                gate.set()
                assert text_of(await third.rest()) == "<Third>"
            assert text_of(await second.rest()) == "<Second>"
        await first.rest()
    asked_of_the_model = [prompt.question for prompt in model.prompts]
    assert asked_of_the_model == ["First", "Second", "Third"]
    assert [m.content for m in model.prompts[2].messages][-5:] == [
        "First",
        "<First>",
        "Second",
        "<Second>",
        "Third",
    ]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_question_that_replaces_stops_what_is_being_made_and_what_waits(
    client: httpx.AsyncClient,
    both: dict[str, httpx.AsyncClient],
    server: RunningServer,
    model: ScriptedModel,
    where: str,
):
    echoing(model)
    slug = await public(server)
    async with asked(client, slug, message="First") as first:
        await first.until("token")
        session = {"session_id": first.session_id}
        async with asked(client, slug, message="Second", on_busy="queue", **session) as second:
            await second.until("status")
            async with asked(both[where], slug, message="Third", on_busy="replace", **session) as third:
                assert text_of(await third.rest()) == "<Third>"
            for stopped in (first, second):
                assert (await stopped.rest())[-1]["status"] == "stopped"
    answers = [(m["status"], m["text"]) for m in (await history(client, first.session_id))[1::2]]
    assert answers == [("stopped", "<First"), ("stopped", ""), ("completed", "<Third>")]
    assert [prompt.question for prompt in model.prompts] == ["First", "Third"]


async def test_a_queued_answer_can_be_stopped_before_it_begins(
    client: httpx.AsyncClient, elsewhere: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    gate = echoing(model)
    slug = await public(server)
    async with asked(client, slug, message="First") as first:
        await first.until("token")
        rest = {"session_id": first.session_id, "on_busy": "queue"}
        async with asked(client, slug, message="Second", **rest) as second:
            await second.until("status")
            url = f"/api/v1/chat/{first.session_id}/stop"
            stopped = await elsewhere.post(url, json={"run_id": second.run_id})
            assert stopped.json()["status"] == "stopped"
            done = (await second.rest())[-1]
            assert (done["status"], done["usage"]["total_tokens"]) == ("stopped", 0)
        gate.set()
        assert (await first.rest())[-1]["status"] == "completed"
    assert [prompt.question for prompt in model.prompts] == ["First"]


async def test_no_more_than_a_few_questions_wait(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    gate = echoing(model)
    slug = await public(server)
    async with asked(client, slug, message="First") as first:
        await first.until("token")
        body = {"message": "More", "assistant_id": slug, "session_id": first.session_id, "on_busy": "queue"}
        async with anyio.create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(queue, client, body)
            with anyio.fail_after(10):
                while len(await history(client, first.session_id)) < 20:  # noqa: ASYNC110  # seen from outside
                    await anyio.sleep(0.01)
            refused = await client.post(STREAM, json=body)
            assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
            gate.set()
    statuses = {message["status"] for message in await history(client, first.session_id)}
    assert statuses == {"completed"}


async def queue(client: httpx.AsyncClient, body: dict[str, str]) -> None:
    assert (await client.post(STREAM, json=body)).status_code == 200


async def test_of_many_that_ask_at_once_one_is_answered_and_the_others_are_refused(
    both: dict[str, httpx.AsyncClient], server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    """Through two processes: the database holds the rule, and no lock of one of them."""
    (gate,) = gated(model, "One", " and only")
    body = {"message": "Go", "assistant_id": await public(server), "session_id": str(uuid4())}
    codes: list[int] = []

    async def ask(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", STREAM, json=body) as response:
            codes.append(response.status_code)
            if len(codes) == 10:
                gate.set()
            await response.aread()

    with anyio.fail_after(20):
        await asyncio.gather(*(ask(http) for http in both.values() for _ in range(5)))
    assert sorted(codes) == [200] + [409] * 9
    assert len(await history(client, body["session_id"])) == 2


async def test_of_many_that_replace_each_other_the_last_one_is_answered(
    both: dict[str, httpx.AsyncClient], server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    session_id = str(uuid4())
    slug = await public(server)
    ends: list[str] = []

    async def ask(http: httpx.AsyncClient, number: int) -> None:
        rest = {"session_id": session_id, "on_busy": "replace"}
        async with asked(http, slug, message=f"Question {number}", **rest) as stream:
            ends.append((await stream.rest())[-1]["status"])

    with anyio.fail_after(30):
        await asyncio.gather(*(ask(http, number) for number, http in enumerate([*both.values()] * 3)))
    answers = (await history(client, session_id))[1::2]
    assert answers[-1]["status"] == "completed"
    assert {answer["status"] for answer in answers} <= {"completed", "stopped"}
    assert len(ends) == len(answers) == 6


async def test_how_busy_sessions_are_met_is_one_of_three(client: httpx.AsyncClient, server: RunningServer):
    body = {"message": "Go", "assistant_id": await public(server), "on_busy": "wait"}
    response = await client.post(STREAM, json=body)
    assert response.status_code == 422
    assert "on_busy" in response.json()["message"]
