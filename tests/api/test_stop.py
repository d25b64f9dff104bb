"""An answer is stopped: from here, from another process, before it began, and after it has ended."""

import asyncio
from uuid import uuid4

import anyio
import httpx
import pytest

from app.settings import Settings
from tests.api.turns import answered, asked, gated, history, opened, public, resumed
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_stopped_answer_keeps_what_was_said_and_what_it_cost(
    client: httpx.AsyncClient,
    elsewhere: httpx.AsyncClient,
    server: RunningServer,
    model: ScriptedModel,
    where: str,
):
    gated(model, "The first", " and the last.")
    async with asked(client, await public(server)) as stream:
        seen = await stream.until("token")
        with anyio.fail_after(5):
            http = client if where == "here" else elsewhere
            response = await http.post(f"/api/v1/chat/{stream.session_id}/stop")
        rest = await stream.rest()
    assert response.json() == {
        "run_id": stream.run_id,
        "message_id": seen[0]["message_id"],
        "status": "stopped",
    }
    assert model.closed == 1
    *_, summary, done = rest
    assert (done["type"], done["status"], done["finish_reason"]) == ("done", "stopped", "stopped")
    assert summary["step_type"] == "completed"
    closed = [event["status"] for event in rest if event.get("step_type") == "synthesis"]
    assert closed == ["completed"]
    question, answer = await history(client, stream.session_id)
    assert (answer["status"], answer["text"]) == ("stopped", "The first")
    assert answer["usage"] == done["usage"]
    assert answer["usage"]["estimated"] is True
    assert answer["usage"]["input_tokens"] > 0
    assert answer["usage"]["output_tokens"] > 0
    assert question["status"] == "completed"
    assert await resumed(client, stream.session_id) == [*seen, *rest]


async def test_stopping_what_has_ended_changes_nothing(client: httpx.AsyncClient, server: RunningServer):
    events = await answered(client, await public(server))
    url = f"/api/v1/chat/{events[0]['session_id']}/stop"
    before = await history(client, events[0]["session_id"])
    for body in (None, {}, {"run_id": events[0]["run_id"]}):
        response = await client.post(url, json=body)
        assert response.status_code == 200
        assert response.json()["status"] == "completed"
    assert await history(client, events[0]["session_id"]) == before
    assert await resumed(client, events[0]["session_id"]) == events


async def test_where_nothing_was_ever_asked_there_is_nothing_to_stop(client: httpx.AsyncClient):
    url = f"/api/v1/chat/{uuid4()}/stop"
    response = await client.post(url)
    assert response.json() == {"run_id": None, "message_id": None, "status": None}
    assert (await client.post(url, json={"run_id": str(uuid4())})).status_code == 404
    assert (await client.post(url, json={"run_id": "x"})).status_code == 422


async def test_leaving_is_no_stop(client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel):
    (gate,) = gated(model, "The first", " and the last.")
    async with asked(client, await public(server)) as stream:
        await stream.until("token")
    gate.set()
    assert (await resumed(client, stream.session_id))[-1]["status"] == "completed"


async def test_an_assistant_may_have_its_answers_stopped_when_nobody_reads_them(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    gated(model, "The first", " and the last.")
    async with asked(client, await public(server, unread_limit_s=0.0)) as stream:
        await stream.until("token")
    events = await resumed(client, stream.session_id)
    assert (events[-1]["status"], events[-1]["finish_reason"]) == ("stopped", "unread")
    assert model.closed == 1


async def test_an_answer_that_is_read_in_another_process_is_read(
    client: httpx.AsyncClient,
    server: RunningServer,
    serve: Serve,
    settings: Settings,
    model: ScriptedModel,
):
    """The process that makes it is told of the readers elsewhere when they come, and with each sign of life."""
    (gate,) = gated(model, "The first", " and the last.")
    slug = await public(server, unread_limit_s=0.05)
    clock = asyncio.get_running_loop().time
    async with (
        serve(settings) as another,
        another.client() as elsewhere,
        asked(client, slug) as stream,
    ):
        await stream.until("token")
        (run,) = server.resources.runner.runs()
        url = f"/api/v1/chat/{stream.session_id}/stream"
        async with opened(elsewhere, "GET", url) as other:
            await other.until("token")
            with anyio.fail_after(5):
                while run.unread_at <= clock():  # noqa: ASYNC110  # it tells nobody
                    await anyio.sleep(0.005)
            await stream.response.aclose()
            with anyio.fail_after(5):
                while run.log.readers:  # noqa: ASYNC110  # it tells nobody
                    await anyio.sleep(0.005)
            await anyio.sleep(0.1)
            gate.set()
            assert (await other.rest())[-1]["status"] == "completed"


async def test_forgetting_the_conversation_stops_its_answer(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    gated(model, "The first", " and the last.")
    async with asked(client, await public(server)) as stream:
        await stream.until("token")
        await client.delete(f"/api/v1/chat/{stream.session_id}")
        assert (await stream.rest())[-1]["status"] == "stopped"
    assert await history(client, stream.session_id) == []
