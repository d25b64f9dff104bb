"""Every door against who asks for what: whoever is let in, told or turned away by one is so by all, each in its own words."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.services.accounts import AccountService
from app.services.tokens import AccessTokens
from tests.conftest import SECRET, RunningServer
from tests.scripted_model import ScriptedModel, says

SAID = "The Danube flows into the Black Sea."


@dataclass(frozen=True, slots=True)
class Asking:
    """`more` stands beside the rest in the body; `body` in its place."""

    assistant: str
    bearer: str | None = None
    session_id: str | None = None
    text: str = "Where does the Danube flow?"
    more: Mapping[str, Any] | None = None
    body: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        bearer = {"authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        return {"content-type": "application/json", **bearer}


Door = Callable[[RunningServer, Asking], Awaitable[str]]
"""Asks, and tells `answered`, or the code of the error."""


def posted(
    path: str,
    body: Callable[[Asking], dict[str, Any]],
    error_of: Callable[[Any], Any] = lambda told: told,
    accept: str = "*/*",
) -> Door:
    async def ask(server: RunningServer, asking: Asking) -> str:
        content = asking.body or json.dumps({**body(asking), **(asking.more or {})}).encode()
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
            response = await http.post(path, content=content, headers=asking.headers | {"accept": accept})
        if response.status_code == 200:
            assert SAID in response.text
            return "answered"
        error = error_of(response.json())
        assert error["message"]
        assert "Traceback" not in response.text
        return error["code"] or error["type"]

    return ask


def native(asking: Asking) -> dict[str, Any]:
    session = {"session_id": asking.session_id} if asking.session_id else {}
    return {"message": asking.text, "assistant_id": asking.assistant, **session}


def of_ui(asking: Asking) -> dict[str, Any]:
    question = {"id": uuid4().hex, "role": "user", "parts": [{"type": "text", "text": asking.text}]}
    session_id = asking.session_id or str(uuid4())
    return {"id": session_id, "messages": [question], "assistant_id": asking.assistant}


def of_completions(*, stream: bool) -> Callable[[Asking], dict[str, Any]]:
    return lambda asking: {
        "model": asking.assistant,
        "messages": [{"role": "user", "content": asking.text}],
        "stream": stream,
    }


def of_responses(*, stream: bool) -> Callable[[Asking], dict[str, Any]]:
    return lambda asking: {
        "model": asking.assistant,
        "input": asking.text,
        "stream": stream,
        **({"conversation": asking.session_id} if asking.session_id else {}),
    }


async def as_agent(server: RunningServer, asking: Asking) -> str:
    conversation_id = asking.session_id
    async with httpx.AsyncClient(base_url=server.url, headers=asking.headers, timeout=20) as http:
        if conversation_id is None:
            body = {"agent_id": asking.assistant, **(asking.more or {})}
            opened = await http.post("/agents/create-conversation", json=body)
            if opened.status_code != 200:
                return opened.json()["code"]
            conversation_id = opened.json()["id"]
        said = {"conversation_id": conversation_id, "message": asking.text, **(asking.more or {})}
        content = asking.body or json.dumps(said).encode()
        answer = await http.post("/agents/chat-agent", content=content)
    if answer.status_code != 200:
        return answer.json()["code"]
    assert answer.json()["response"] == SAID
    return "answered"


async def by_socket(server: RunningServer, asking: Asking) -> str:
    params = {"name": "Ada", "assistant_id": asking.assistant, **(asking.more or {})}
    if asking.session_id:
        params["session_id"] = asking.session_id
    async with httpx.AsyncClient(base_url=server.url, headers=asking.headers, timeout=20) as http:
        given = await http.post("/token", params=params)
    if given.status_code != 200:
        return given.json()["code"]
    url = f"{server.url.replace('http', 'ws')}/chat?token={given.json()['token']}"
    try:
        async with connect(url) as socket:
            await socket.send(asking.text)
            told = json.loads(await socket.recv())
    except ConnectionClosed as closed:
        return {1009: "too_large"}[closed.rcvd.code if closed.rcvd else 0]
    if "error" in told:
        return told["error"]["code"]
    assert told["msg"] == SAID
    return "answered"


async def by_mcp(server: RunningServer, asking: Asking) -> str:
    arguments = {"question": asking.text, "assistant": asking.assistant, **(asking.more or {})}
    if asking.session_id:
        arguments["session_id"] = asking.session_id
    async with httpx2.AsyncClient(headers=asking.headers, timeout=20) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with Client(transport, cache=None) as client:
            result = await client.call_tool("ask", arguments)
    if result.is_error:
        assert result.meta is not None
        return result.meta["code"]
    assert result.structured_content["text"] == SAID
    return "answered"


def _of_openai(told: Any) -> Any:
    return told["error"]


DOORS: dict[str, Door] = {
    "chat": posted("/api/v1/chat", native),
    "stream": posted("/api/v1/chat/stream", native),
    "sse": posted("/api/v1/chat/stream", native, accept="text/event-stream"),
    "ui": posted("/api/v1/chat/ui", of_ui),
    "completions": posted("/v1/chat/completions", of_completions(stream=False), _of_openai),
    "completions, streamed": posted("/v1/chat/completions", of_completions(stream=True), _of_openai),
    "responses": posted("/v1/responses", of_responses(stream=False), _of_openai),
    "responses, streamed": posted("/v1/responses", of_responses(stream=True), _of_openai),
    "agents": as_agent,
    "socket": by_socket,
    "mcp": by_mcp,
}


@dataclass(frozen=True, slots=True)
class World:
    key: str
    revoked: str
    expired: str
    session_of_another: str


@asynccontextmanager
async def world(server: RunningServer, accounts: AccountService) -> AsyncGenerator[World]:
    assistants = server.resources.assistants
    await assistants.create(name="Public", slug="public")
    await assistants.create(name="Private", slug="private", user_authentication=True)
    await assistants.create(name="Disabled", slug="disabled", is_enabled=False)
    ada = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    bob = await accounts.create_user("bob@example.com", "a password of the tests", "user")
    _, key = await accounts.create_api_key(ada.id, "counts")
    record, revoked = await accounts.create_api_key(ada.id, "revoked")
    await accounts.revoke_api_key(await accounts.authenticate(key), record.id)
    _, bobs = await accounts.create_api_key(bob.id, "another's")
    expired = AccessTokens(SecretStr(SECRET), lifetime=timedelta(minutes=-1)).issue(ada.id)
    of_another = str(uuid4())
    assert await DOORS["chat"](server, Asking("public", bobs, session_id=of_another)) == "answered"
    yield World(key, revoked, expired, of_another)


# What a case is by no door: a completion has no session of ours, and what is no body of HTTP is no JSON either.
_HAS_SESSIONS = DOORS.keys() - {"completions", "completions, streamed"}
_HAS_BODIES = DOORS.keys() - {"socket", "mcp"}
_UNAUTHENTICATED = {"unauthenticated", "invalid_api_key"}
_NOT_FOUND = {"not_found", "model_not_found", "conversation_not_found"}
_INVALID = {"invalid_input", "invalid_request_error", "malformed_json", "too_large"}


async def test_every_door_lets_in_and_turns_away_the_same(
    server: RunningServer, accounts: AccountService, model: ScriptedModel
):
    model.script = lambda prompt: says(SAID)
    async with world(server, accounts) as known:
        public, private = Asking("public"), Asking("private")
        cases: dict[str, tuple[Asking, set[str], set[str]]] = {
            "public": (public, {"answered"}, {*DOORS}),
            "public, with a key": (replace(public, bearer=known.key), {"answered"}, {*DOORS}),
            "public, with a revoked key": (replace(public, bearer=known.revoked), {"answered"}, {*DOORS}),
            "private": (private, _UNAUTHENTICATED, {*DOORS}),
            "private, with a key": (replace(private, bearer=known.key), {"answered"}, {*DOORS}),
            "private, with a revoked key": (
                replace(private, bearer=known.revoked),
                _UNAUTHENTICATED,
                {*DOORS},
            ),
            "private, with an expired token": (
                replace(private, bearer=known.expired),
                _UNAUTHENTICATED,
                {*DOORS},
            ),
            "disabled": (Asking("disabled"), _NOT_FOUND, {*DOORS}),
            "unknown": (Asking("nobody"), _NOT_FOUND, {*DOORS}),
            "another's session": (
                replace(public, bearer=known.key, session_id=known.session_of_another),
                _NOT_FOUND,
                {*_HAS_SESSIONS},
            ),
            "another's session, anonymous": (
                replace(public, session_id=known.session_of_another),
                _NOT_FOUND,
                {*_HAS_SESSIONS},
            ),
            "no text": (replace(public, text=""), _INVALID, {*DOORS}),
            "a megabyte of text": (replace(public, text="a" * 2**20), _INVALID, {*DOORS}),
            "no JSON": (replace(public, body=b'{"message": '), _INVALID, {*_HAS_BODIES}),
            "a list": (replace(public, body=b"[1]"), _INVALID, {*_HAS_BODIES}),
            "unknown fields": (replace(public, more={"colour": "blue"}), {"answered"}, {*DOORS} - {"mcp"}),
            "unknown arguments": (replace(public, more={"colour": "blue"}), _INVALID, {"mcp"}),
        }
        wrong: list[str] = []
        for name, (asking, expected, doors) in cases.items():
            for door in sorted(doors):
                with anyio.fail_after(20):
                    try:
                        told = await DOORS[door](server, asking)
                    except Exception as error:  # noqa: BLE001  # all that differ are told together
                        told = repr(error)
                if told not in expected:
                    wrong.append(f"{name}: {door} tells {told}")
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)
