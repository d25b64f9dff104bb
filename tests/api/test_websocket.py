"""The chat socket through the `websockets` client, and the calls around it."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import text
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.db.engine import Sessions
from app.errors import ModelUnavailable
from app.llm.protocols import Finish, Usage
from app.services.accounts import AccountService
from app.settings import Settings
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel, says


@pytest.fixture
async def assistant(server: RunningServer) -> str:
    return (await server.resources.assistants.create(name="Public")).slug


@asynccontextmanager
async def socket(server: RunningServer, token: str, more: str = "") -> AsyncGenerator[ClientConnection]:
    url = f"{server.url.replace('http', 'ws')}/chat?token={token}{more}"
    with anyio.fail_after(20):
        async with connect(url) as opened:
            yield opened


async def a_token(client: httpx.AsyncClient, **params: str) -> str:
    return (await client.post("/token", params={"name": "Ada", **params})).raise_for_status().json()["token"]


async def reply(opened: ClientConnection) -> dict[str, Any]:
    return json.loads(await opened.recv())


async def events_of_answer(opened: ClientConnection) -> list[dict[str, Any]]:
    """To the last one."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in {"done", "error"}:
        events.append(await reply(opened))
    return events


async def to_its_end(opened: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """The frames that still come, and the code that the server closes with."""
    frames: list[dict[str, Any]] = []
    with suppress(ConnectionClosed):
        while True:
            frames.append(await reply(opened))
    return frames, opened.close_code


async def closed_with(opened: ClientConnection) -> int | None:
    return (await to_its_end(opened))[1]


async def said(client: httpx.AsyncClient, token: str) -> list[str]:
    found = (await client.get("/refresh_token", params={"token": token})).raise_for_status().json()
    return [message["msg"] for message in found["messages"]]


@pytest.mark.parametrize(
    ("calls", "path"), [("", "/chat"), ("/api/v1", "/api/v1/chat/ws")], ids=["as known", "of the API"]
)
async def test_a_question_gets_one_frame_and_both_are_kept(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, calls: str, path: str
):
    given = (await client.post(f"{calls}/token", params={"name": "Ada"})).json()
    assert given | {"token": "", "session_start": ""} == {
        "name": "Ada",
        "token": "",
        "session_start": "",
        "messages": [],
    }
    with anyio.fail_after(20):
        async with connect(f"{server.url.replace('http', 'ws')}{path}?token={given['token']}") as opened:
            await opened.send("Why is it so?")
            first = await reply(opened)
            await opened.send("And then?")
            second = await reply(opened)
    assert first.keys() == {"id", "msg", "timestamp"}
    assert (first["msg"], second["msg"]) == ("An answer to Why is it so?", "An answer to And then?")
    for method in ("GET", "POST"):
        found = await client.request(method, f"{calls}/refresh_token", params={"token": given["token"]})
        kept = found.json()
        assert kept | {"messages": []} == given
        assert [message["msg"] for message in kept["messages"]] == [
            "Human: Why is it so?",
            f"Bot: {first['msg']}",
            "Human: And then?",
            f"Bot: {second['msg']}",
        ]
        assert kept["messages"][1] | {"msg": first["msg"]} == first


async def test_in_a_stream_each_event_is_a_frame(
    server: RunningServer, client: httpx.AsyncClient, assistant: str
):
    async with socket(server, await a_token(client), "&stream=1") as opened:
        await opened.send("Why?")
        events = await events_of_answer(opened)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "start"
    assert "".join(event["content"] for event in events if event["type"] == "token") == "An answer to Why?"
    assert events[-1]["status"] == "completed"


async def test_a_token_that_does_not_count_closes_the_socket(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, sessions: Sessions
):
    token = await a_token(client)
    for other in ("", "nobody's", "x" * 5_000, "%00%ff"):
        async with socket(server, other) as opened:
            assert await closed_with(opened) == 1008
    async with connect(f"{server.url.replace('http', 'ws')}/api/v1/chat/ws") as opened:
        assert await closed_with(opened) == 1008
    async with socket(server, token) as opened:
        async with sessions.begin() as session:
            await session.execute(text("UPDATE chat_tokens SET expires_at = now()"))
        await opened.send("Still there?")
        assert await closed_with(opened) == 1008
    assert (await client.get("/refresh_token", params={"token": token})).status_code == 400
    assert (await client.get("/refresh_token", params={"token": "nobody's"})).status_code == 400


async def test_a_socket_ends_with_its_token(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, sessions: Sessions
):
    token = await a_token(client)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE chat_tokens SET expires_at = now() + interval '0.5 s'"))
    async with socket(server, token) as opened:
        assert await closed_with(opened) == 1008


async def test_a_revoked_token_closes_its_sockets_in_every_process(
    server: RunningServer,
    client: httpx.AsyncClient,
    elsewhere: httpx.AsyncClient,
    assistant: str,
    sessions: Sessions,
):
    token, other = await a_token(client), await a_token(client)
    async with sessions.read() as session:
        stored = (await session.execute(text("SELECT token_hash FROM chat_tokens"))).scalars().all()
    assert token.encode() not in stored
    async with socket(server, token) as opened, socket(server, other) as untouched:
        assert (await elsewhere.delete("/api/v1/token", params={"token": token})).status_code == 200
        assert await closed_with(opened) == 1008
        await untouched.send("And I?")
        assert (await reply(untouched))["msg"] == "An answer to And I?"
    assert (await client.delete("/token", params={"token": token})).status_code == 200


async def test_what_a_token_needs_is_refused_with_400(client: httpx.AsyncClient, assistant: str):
    for params in (
        {},
        {"name": ""},
        {"name": " "},
        {"name": "x" * 201},
        {"name": "Ada", "session_id": "guessable"},
    ):
        refused = await client.post("/token", params=params)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
    assert (await client.get("/refresh_token")).status_code == 400
    assert (await client.post("/token", params={"name": "Ada", "assistant_id": "nobody"})).status_code == 404


async def test_a_token_acts_as_the_user_who_got_it(
    server: RunningServer, client: httpx.AsyncClient, accounts: AccountService
):
    await server.resources.assistants.create(
        name="Private", user_authentication=True, first_message="Welcome."
    )
    assert (await client.post("/token", params={"name": "Ada"})).status_code == 400
    private = {"name": "Ada", "assistant_id": "private"}
    assert (await client.post("/token", params=private)).status_code == 401
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    bearer = {"authorization": f"Bearer {(await accounts.create_api_key(user.id, 'tests'))[1]}"}
    given = await client.post("/token", params=private, headers=bearer)
    token, session_id = given.json()["token"], given.headers["x-session-id"]
    assert [message["msg"] for message in given.json()["messages"]] == ["Bot: Welcome."]
    async with socket(server, token) as opened:
        await opened.send("Hello?")
        assert (await reply(opened))["msg"] == "An answer to Hello?"
        assert (await client.get(f"/api/v1/chat/{session_id}/history")).status_code == 404
        history = await client.get(f"/api/v1/chat/{session_id}/history", headers=bearer)
        assert len(history.json()["messages"]) == 3
        again = await client.post("/token", params={**private, "session_id": session_id}, headers=bearer)
        assert again.json()["messages"][1]["msg"] == "Human: Hello?"
        await accounts.change_user(user.id, is_active=False)
        await opened.send("And now?")
        assert await closed_with(opened) == 1008


async def test_every_socket_of_a_session_gets_each_answer_from_every_process(
    serve: Serve,
    settings: Settings,
    server: RunningServer,
    client: httpx.AsyncClient,
    assistant: str,
    model: ScriptedModel,
):
    gate = anyio.Event()
    model.script = lambda prompt: [["Wait"], gate, *says(" for it.")]
    token = await a_token(client)
    async with serve(settings) as second, socket(server, token) as asking, socket(second, token) as listening:
        await listening.ping()
        await asking.send("Why?")
        with anyio.fail_after(10):
            await model.asked.wait()
        async with socket(second, token, "&stream=1") as late:
            assert (await reply(late))["type"] == "start"
            await asking.send("Why not?")
            gate.set()
            assert (await events_of_answer(late))[-1]["status"] == "completed"
            answers = [[await reply(one), await reply(one)] for one in (asking, listening)]
            await events_of_answer(late)
    assert [answer["msg"] for answer in answers[0]] == ["Wait for it.", "Wait for it."]
    assert answers[0] == answers[1]


async def test_who_dies_in_the_middle_finds_the_answer(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["The "], gate, *says("end.")]
    token = await a_token(client)
    async with socket(server, token) as opened:
        await opened.send("How does it end?")
        with anyio.fail_after(10):
            await model.asked.wait()
        opened.transport.abort()
    async with socket(server, token, "&stream=1") as again:
        assert (await reply(again))["type"] == "start"
        gate.set()
        assert (await events_of_answer(again))[-1]["status"] == "completed"
    assert await said(client, token) == ["Human: How does it end?", "Bot: The end."]


async def test_an_answer_that_fails_is_told_in_the_form_of_the_socket(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: [ModelUnavailable("The language model did not answer.")]
    token = await a_token(client)
    async with socket(server, token) as opened:
        await opened.send("Why?")
        frame = await reply(opened)
    assert frame["msg"] == "The language model did not answer."
    assert frame["error"] == {
        "code": "model_unavailable",
        "message": "The language model did not answer.",
        "retryable": True,
    }
    async with socket(server, token, "&stream=true") as opened:
        await opened.send("Why?")
        assert (await events_of_answer(opened))[-1]["code"] == "model_unavailable"


async def test_a_message_that_cannot_be_meant_is_refused_and_the_socket_stays(
    server: RunningServer, client: httpx.AsyncClient, assistant: str
):
    token = await a_token(client)
    bad = {"": "invalid_input", " \n": "invalid_input", "a\0b": "invalid_input", "x" * 50_001: "too_large"}
    async with socket(server, token) as opened, socket(server, token, "&stream=1") as streaming:
        for message, code in bad.items():
            await opened.send(message)
            assert (await reply(opened))["error"]["code"] == code
            await streaming.send(message)
            told = await reply(streaming)
            assert (told["type"], told["code"], told["error"]) == ("error", code, told["message"])
        await opened.send("ä€🙂" * 16_666)
        assert (await reply(opened))["msg"].startswith("An answer to ä€🙂")
    assert len(await said(client, token)) == 2


@pytest.mark.parametrize(("message", "code"), [("x" * 2**20, 1009), (b"bytes", 1003)], ids=["large", "bytes"])
async def test_a_frame_that_is_none_of_ours_closes_the_socket_and_leaves_the_answer(
    server: RunningServer,
    client: httpx.AsyncClient,
    assistant: str,
    model: ScriptedModel,
    message: str | bytes,
    code: int,
):
    gate = anyio.Event()
    model.script = lambda prompt: [gate, *says("Whole.")]
    token = await a_token(client)
    async with socket(server, token, "&stream=1") as opened, socket(server, token) as other:
        await opened.send("Why?")
        with anyio.fail_after(10):
            await model.asked.wait()
        await opened.send(message)
        assert await closed_with(opened) == code
        gate.set()
        assert (await reply(other))["msg"] == "Whole."


async def test_who_floods_is_told_when_to_go_on_and_then_closed(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    chat = settings.chat.model_copy(update={"socket_messages_per_minute": 2})
    async with serve(replace(settings, chat=chat)) as server, server.client() as client:
        await server.resources.assistants.create(name="Public")
        token, other = await a_token(client), await a_token(client)
        async with socket(server, token) as flooding, socket(server, other) as calm:
            for _ in range(5):
                await flooding.send("More!")
            frames, code = await to_its_end(flooding)
            refused = [frame["error"] for frame in frames if "error" in frame]
            assert [error["code"] for error in refused] == ["too_many_requests"] * 2
            assert all(0 < error["retry_after_s"] <= 61 for error in refused)
            assert code == 1008
            await calm.send("And I?")
            assert (await reply(calm))["msg"] == "An answer to And I?"


async def test_silence_is_broken_by_heartbeats_in_a_stream(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [gate, *says("Now.")]
    chat = settings.chat.model_copy(update={"heartbeat_s": 0.2})
    async with serve(replace(settings, chat=chat)) as server, server.client() as client:
        await server.resources.assistants.create(name="Public")
        async with socket(server, await a_token(client), "&stream=1") as opened:
            assert await reply(opened) == {"type": "heartbeat"}
            await opened.send("Why?")
            await model.asked.wait()
            while (await reply(opened))["type"] != "heartbeat":
                pass
            gate.set()
            assert (await events_of_answer(opened))[-1]["type"] == "done"


async def test_a_server_that_stops_closes_its_sockets_and_keeps_the_answer(
    serve: Serve, settings: Settings, server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["Half."], gate, ["Never"], Finish("stop", Usage(1, 1))]
    short = settings.server.model_copy(update={"shutdown_grace_s": 0.2})
    async with serve(replace(settings, server=short)) as stopping, stopping.client() as other:
        await stopping.resources.assistants.create(name="Public")
        token = await a_token(other)
        async with socket(stopping, token, "&stream=1") as opened:
            await opened.send("Why?")
            while (await reply(opened))["type"] != "token":
                pass
            stopping.stop()
            assert await closed_with(opened) in {1001, 1012}
    assert await said(client, token) == ["Human: Why?", "Bot: Half."]


async def test_no_connection_of_the_database_is_held_by_an_open_socket(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    pool: Any = server.resources.engine.pool
    gate = anyio.Event()
    model.script = lambda prompt: [gate, *says("Now.")]
    token = await a_token(client)
    async with socket(server, token, "&stream=1") as opened:
        await opened.send("Why?")
        await model.asked.wait()
        with anyio.fail_after(5):
            while pool.checkedout():  # noqa: ASYNC110  # it tells nobody
                await anyio.sleep(0.01)
        gate.set()
        await events_of_answer(opened)


async def test_a_token_is_not_written_to_the_log(
    server: RunningServer, client: httpx.AsyncClient, assistant: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    token = await a_token(client)
    async with socket(server, token) as opened:
        await opened.send("Why?")
        await reply(opened)
    assert not [
        record
        for record in caplog.records
        if token in record.getMessage() and record.name != "websockets.client"
    ]


async def test_the_example_of_its_page_runs(server: RunningServer, assistant: str):
    page = await anyio.Path(__file__).parent.parent.parent.joinpath("docs/doors/websocket.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    example = example.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
    with anyio.fail_after(20):
        done = await anyio.run_process([sys.executable, "-c", example])
    assert done.stdout.decode() == "An answer to What is Freshet?\n"
