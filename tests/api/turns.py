"""Turns whose answers wait where the test wants them to, and streams read line by line."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio
import httpx

from app.llm.protocols import Finish, Usage
from tests.conftest import RunningServer
from tests.scripted_model import Act, ScriptedModel

STREAM = "/api/v1/chat/stream"


async def public(server: RunningServer, **fields: Any) -> str:
    """The slug of an assistant that anybody may ask."""
    assistant = await server.resources.assistants.create(
        name="Public", slug=f"public-{uuid4().hex}", **fields
    )
    return assistant.slug


def gated(model: ScriptedModel, *parts: str) -> list[anyio.Event]:
    """Between each two parts of every answer of the model it waits for an event: these, in their order."""
    gates = [anyio.Event() for _ in parts[1:]]
    acts: list[Act] = [[parts[0]]]
    for gate, part in zip(gates, parts[1:], strict=True):
        acts += [gate, [part]]
    model.script = lambda prompt: [*acts, Finish("stop", Usage(1, 2))]
    return gates


@dataclass(frozen=True, slots=True)
class OpenStream:
    response: httpx.Response
    events: AsyncIterator[dict[str, Any]]

    @property
    def session_id(self) -> str:
        return self.response.headers["x-session-id"]

    @property
    def run_id(self) -> str:
        return self.response.headers["x-run-id"]

    async def until(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The events up to the first one of this type that has these fields."""
        seen: list[dict[str, Any]] = []
        with anyio.fail_after(10):
            async for event in self.events:
                seen.append(event)
                if event["type"] == kind and fields.items() <= event.items():
                    return seen
        raise AssertionError(f"no {kind} with {fields} among {seen}")

    async def rest(self) -> list[dict[str, Any]]:
        with anyio.fail_after(10):
            return [event async for event in self.events]


@asynccontextmanager
async def opened(
    client: httpx.AsyncClient, method: str, url: str, **request: Any
) -> AsyncGenerator[OpenStream]:
    async with client.stream(method, url, **request) as response:
        if response.status_code != 200:
            raise AssertionError((response.status_code, await response.aread()))
        yield OpenStream(response, _events(response))


@asynccontextmanager
async def asked(client: httpx.AsyncClient, assistant: str, **body: Any) -> AsyncGenerator[OpenStream]:
    question = {"message": "Go", "assistant_id": assistant, **body}
    async with opened(client, "POST", STREAM, json=question) as stream:
        yield stream


async def answered(client: httpx.AsyncClient, assistant: str, **body: Any) -> list[dict[str, Any]]:
    """All events of an answer."""
    async with asked(client, assistant, **body) as stream:
        return await stream.rest()


async def resumed(client: httpx.AsyncClient, session_id: str, **query: Any) -> list[dict[str, Any]]:
    async with opened(client, "GET", f"/api/v1/chat/{session_id}/stream", params=query) as stream:
        return await stream.rest()


async def history(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    response = await client.get(f"/api/v1/chat/{session_id}/history")
    assert response.status_code == 200, response.text
    return response.json()["messages"]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["content"] for event in events if event["type"] == "token")


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any]]:
    async for line in response.aiter_lines():
        event = json.loads(line)
        if event["type"] != "heartbeat":
            yield event
