"""An answer is taken up again: by the one who left, by somebody else, from another process, after its end."""

import asyncio
import json
import socket
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import httpx
import pytest

from app.llm.protocols import Finish
from app.services.accounts import AccountService
from app.settings import Settings
from tests.api.test_chat import signed_in
from tests.api.turns import (
    STREAM,
    answered,
    asked,
    gated,
    history,
    opened,
    public,
    resumed,
    text_of,
)
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel


async def test_who_left_takes_up_the_answer_where_it_was_and_misses_nothing(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    gate, last = gated(model, "One", " two", " three")
    async with asked(client, await public(server)) as stream:
        seen = await stream.until("token")
    gate.set()
    url = f"/api/v1/chat/{stream.session_id}/stream"
    async with opened(client, "GET", url, params={"after": seen[-1]["seq"]}) as again:
        middle = await again.until("token")
        last.set()
        rest = await again.rest()
    assert again.run_id == stream.run_id
    whole = [*seen, *middle, *rest]
    assert [event["seq"] for event in whole] == list(range(1, len(whole) + 1))
    assert text_of(whole) == "One two three"
    assert len(model.prompts) == 1


async def test_another_process_serves_the_same_lines_while_the_answer_is_made_and_after_it(
    client: httpx.AsyncClient, server: RunningServer, elsewhere: httpx.AsyncClient, model: ScriptedModel
):
    gate, last = gated(model, "One", " two", " three")
    async with asked(client, await public(server)) as stream:
        seen = await stream.until("token")
        url = f"/api/v1/chat/{stream.session_id}/stream"
        async with opened(elsewhere, "GET", url) as other, opened(elsewhere, "GET", url) as third:
            assert await other.until("token") == seen
            gate.set()
            middle = await stream.until("token", content=" two")
            assert await other.until("token", content=" two") == middle
            last.set()
            rest = await stream.rest()
            assert await other.rest() == rest
            assert await third.rest() == [*seen, *middle, *rest]
    whole = [*seen, *middle, *rest]
    for after in (0, 3, len(whole) - 1):
        for http in (client, elsewhere):
            assert await resumed(http, stream.session_id, after=after, run_id=stream.run_id) == whole[after:]


async def test_an_answer_is_replayed_byte_for_byte_by_a_server_that_was_started_after_it(
    serve: Serve, settings: Settings
):
    async with serve(settings) as server, server.client() as http:
        slug = await public(server)
        first = await http.post(STREAM, json={"message": "Go", "assistant_id": slug})
        session_id = first.headers["x-session-id"]
    async with serve(settings) as server, server.client() as http:
        again = await http.get(f"/api/v1/chat/{session_id}/stream")
        as_sse = await http.get(
            f"/api/v1/chat/{session_id}/stream",
            headers={"accept": "text/event-stream", "last-event-id": "2"},
        )
    assert again.content == first.content
    assert again.headers["x-run-id"] == first.headers["x-run-id"]
    assert as_sse.text.startswith("id: 3\nevent: ")
    assert as_sse.text.count("\n\n") == len(first.content.splitlines()) - 2


async def test_where_there_is_nothing_to_resume_nothing_is_said(
    client: httpx.AsyncClient, server: RunningServer
):
    unopened = await client.get(f"/api/v1/chat/{uuid4()}/stream")
    assert (unopened.status_code, unopened.content) == (204, b"")
    events = await answered(client, await public(server))
    url = f"/api/v1/chat/{events[0]['session_id']}/stream"
    read_to_its_end = await client.get(url, params={"after": len(events)})
    assert read_to_its_end.status_code == 204
    await client.delete(f"/api/v1/chat/{events[0]['session_id']}")
    assert (await client.get(url)).status_code == 204


async def test_who_is_ahead_of_what_was_kept_is_told_how_the_answer_ended(
    client: httpx.AsyncClient, server: RunningServer
):
    events = await answered(client, await public(server))
    ahead = await client.get(
        f"/api/v1/chat/{events[0]['session_id']}/stream", params={"after": len(events) + 5}
    )
    assert [json.loads(line) for line in ahead.text.splitlines()] == events[-1:]


@pytest.mark.parametrize("query", [{"after": -1}, {"after": "x"}, {"after": 2**31}, {"run_id": "x"}])
async def test_what_cannot_be_resumed_from_is_refused(client: httpx.AsyncClient, query: dict[str, Any]):
    response = await client.get(f"/api/v1/chat/{uuid4()}/stream", params=query)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")
    assert next(iter(query)) in response.json()["message"]


async def test_the_run_of_another_session_is_none_of_this_one(
    client: httpx.AsyncClient, server: RunningServer
):
    slug = await public(server)
    one, other = await answered(client, slug), await answered(client, slug)
    url = f"/api/v1/chat/{one[0]['session_id']}/stream"
    for run_id in (other[0]["run_id"], str(uuid4())):
        response = await client.get(url, params={"run_id": run_id})
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_answer_of_a_user_is_resumed_by_nobody_else(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService, model: ScriptedModel
):
    (gate,) = gated(model, "One", " two")
    slug = await public(server)
    async with (
        signed_in(server, accounts, "ada@example.com") as ada,
        signed_in(server, accounts, "bob@example.com") as bob,
        asked(ada, slug, session_id="ours") as stream,
    ):
        await stream.until("token")
        for stranger in (client, bob):
            for path in ("stream", "stop"):
                url = f"/api/v1/chat/ours/{path}"
                response = await (stranger.get(url) if path == "stream" else stranger.post(url))
                assert (response.status_code, response.json()["code"]) == (404, "not_found")
        gate.set()
        assert (await stream.rest())[-1]["status"] == "completed"
        assert len(await resumed(ada, "ours", run_id=stream.run_id)) > 3


async def test_a_session_that_was_erased_while_it_is_followed_elsewhere_ends_with_the_reason(
    client: httpx.AsyncClient, server: RunningServer, elsewhere: httpx.AsyncClient, model: ScriptedModel
):
    gated(model, "One", " two")
    async with asked(client, await public(server)) as stream:
        await stream.until("token")
        url = f"/api/v1/chat/{stream.session_id}"
        async with opened(elsewhere, "GET", f"{url}/stream") as other:
            await other.until("token")
            assert (await elsewhere.delete(f"{url}?purge=true")).status_code == 200
            for reader in (stream, other):
                assert (await reader.rest())[-1]["code"] == "session_erased"
        assert (await client.get(f"{url}/stream")).status_code == 204
        assert (await client.get(f"{url}/stream", params={"run_id": stream.run_id})).status_code == 404
    assert await history(client, stream.session_id) == []
    with anyio.fail_after(5):
        while not model.closed:  # noqa: ASYNC110  # it tells nobody
            await anyio.sleep(0.01)


async def test_who_falls_too_far_behind_is_cut_off_with_the_place_to_resume_from(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    chat = settings.chat.model_copy(update={"reader_max_behind_bytes": 200_000})
    # More than the sockets' buffers take.
    text, gate = "x" * 60_000, anyio.Event()
    model.script = lambda prompt: [["Begin"], gate, *([text] for _ in range(200)), Finish("stop", None)]
    async with serve(replace(settings, chat=chat)) as server, server.client() as client:
        body = json.dumps({"message": "Go", "assistant_id": await public(server), "session_id": str(uuid4())})
        address = urlsplit(server.url)
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        narrow.connect((address.hostname, address.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=2**14)
        head = f"POST {STREAM} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(f"{head}{body}".encode())
        with anyio.fail_after(20):
            await reader.readuntil(b"Begin")
            gate.set()
            session_id = json.loads(body)["session_id"]
            while (await history(client, session_id))[1]["status"] == "running":  # noqa: ASYNC110  # seen from outside
                await anyio.sleep(0.02)
            received = b""
            while part := await reader.read(2**16):
                received += part
                if b'"resume_after"' in received:
                    break
            writer.close()
            last = json.loads(next(line for line in received.splitlines() if b'"resume_after"' in line))
            assert (last["type"], last["code"], last["retryable"]) == ("error", "reader_too_slow", True)
            assert "seq" not in last
            rest = await resumed(client, session_id, after=last["resume_after"])
    assert rest[0]["seq"] == last["resume_after"] + 1
    assert rest[-1]["type"] == "done"


async def test_who_follows_another_process_is_sent_away_when_this_one_stops(
    client: httpx.AsyncClient, server: RunningServer, serve: Serve, settings: Settings, model: ScriptedModel
):
    (gate,) = gated(model, "One", " two")
    async with (
        serve(settings) as another,
        another.client() as elsewhere,
        asked(client, await public(server)) as stream,
    ):
        await stream.until("token")
        async with opened(elsewhere, "GET", f"/api/v1/chat/{stream.session_id}/stream") as other:
            seen = await other.until("token")
            another.stop()
            (last,) = await other.rest()
        assert (last["code"], last["resume_after"]) == ("shutting_down", seen[-1]["seq"])
        gate.set()
        rest = await stream.rest()
        assert await resumed(client, stream.session_id, after=last["resume_after"]) == rest
