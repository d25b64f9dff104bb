"""`python -m bench.doors`: what a token costs through each door, all of them in turn in one run, beside the native stream.

The server is Freshet as its users start it, in front of the fake upstream. Counted is the processor time of its processes, without
PostgreSQL's; what the clients spend is not. Exit code 1 if an answer was not whole.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import aiohttp
from mcp import Client

from bench import content, servers
from bench.machine import cpu_s
from bench.product import database_url, product
from bench.report import machine

_QUESTION = "How is a stream resumed after a lost connection?"
# Some doors go on with a conversation, which would cost them what they remember of it.
_ENVIRONMENT = {"HISTORY_TOKENS": "0"}
_LIMIT = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True, slots=True)
class Load:
    title: str
    behaviour: str
    tokens: int
    clients: int
    requests: int


LOADS = (
    Load("20 clients, 500 tokens at full speed", "fake-n500-r0-ts", 500, 20, 4),
    Load("40 clients, 150 tokens at 25 a second", "fake-n150-r25-ts", 150, 40, 1),
)

Ask = Callable[[], Awaitable[str | bytes]]
"""Asks once more, and gives all that was answered."""

Door = Callable[[aiohttp.ClientSession, str], AbstractAsyncContextManager[Ask]]
"""Of one client at the server with that address: what it does once, and then its questions."""


def _posted(path: str, body: Callable[[], Mapping[str, Any]], accept: str = "*/*") -> Door:
    @asynccontextmanager
    async def opened(http: aiohttp.ClientSession, url: str) -> AsyncGenerator[Ask]:
        async def ask() -> bytes:
            async with http.post(url + path, json=body(), headers={"accept": accept}) as response:
                return await response.read()

        yield ask

    return opened


def _of_ui() -> Mapping[str, Any]:
    question = {"id": uuid4().hex, "role": "user", "parts": [{"type": "text", "text": _QUESTION}]}
    return {"id": str(uuid4()), "messages": [question], "assistant_id": content.PLAIN}


def _by_socket(*, stream: bool) -> Door:
    @asynccontextmanager
    async def opened(http: aiohttp.ClientSession, url: str) -> AsyncGenerator[Ask]:
        params = {"name": "bench", "assistant_id": content.PLAIN}
        async with http.post(url + "/token", params=params) as response:
            token = (await response.json())["token"]
        async with http.ws_connect(f"{url}/chat?token={token}&stream={int(stream)}") as socket:

            async def ask() -> str:
                await socket.send_str(_QUESTION)
                frames: list[str] = []
                while not frames or (stream and '"type":"done"' not in frames[-1]):
                    frames.append(await socket.receive_str())
                return "\n".join(frames)

            yield ask

    return opened


@asynccontextmanager
async def _as_agent(http: aiohttp.ClientSession, url: str) -> AsyncGenerator[Ask]:
    async def ask() -> bytes:
        async with http.post(
            url + "/agents/create-conversation", json={"agent_id": content.PLAIN}
        ) as opening:
            conversation_id = (await opening.json())["id"]
        said = {"conversation_id": conversation_id, "message": _QUESTION}
        async with http.post(url + "/agents/chat-agent", json=said) as response:
            return await response.read()

    yield ask


@asynccontextmanager
async def _by_mcp(_: aiohttp.ClientSession, url: str) -> AsyncGenerator[Ask]:
    async with Client(f"{url}/mcp", cache=None) as client:

        async def ask() -> str:
            result = await client.call_tool("ask", {"question": _QUESTION, "assistant": content.PLAIN})
            return json.dumps(result.structured_content)

        yield ask


def _native(path: str, accept: str = "*/*") -> Door:
    return _posted(path, lambda: {"message": _QUESTION, "assistant_id": content.PLAIN}, accept)


def _completions(*, stream: bool) -> Door:
    messages = [{"role": "user", "content": _QUESTION}]
    body = {"model": content.PLAIN, "messages": messages, "stream": stream}
    return _posted("/v1/chat/completions", lambda: body)


def _responses(*, stream: bool) -> Door:
    body = {"model": content.PLAIN, "input": _QUESTION, "stream": stream}
    return _posted("/v1/responses", lambda: body)


_REFERENCE = "native stream, NDJSON"
DOORS: dict[str, Door] = {
    _REFERENCE: _native("/api/v1/chat/stream"),
    "native stream, SSE": _native("/api/v1/chat/stream", "text/event-stream"),
    "UI message stream": _posted("/api/v1/chat/ui", _of_ui),
    "chat completions, streamed": _completions(stream=True),
    "Responses, streamed": _responses(stream=True),
    "socket, events": _by_socket(stream=True),
    "native, one JSON": _native("/api/v1/chat"),
    "chat completions, one JSON": _completions(stream=False),
    "Responses, one JSON": _responses(stream=False),
    "socket, one frame": _by_socket(stream=False),
    "agents": _as_agent,
    "MCP": _by_mcp,
}


async def measured(url: str, pid: int, load: Load, door: Door) -> float:
    """µs of processor a token, once all clients are there. Raises `ValueError` if an answer was not whole."""
    last = f"{load.tokens - 1}@"

    async def converse(ask: Ask) -> None:
        for _ in range(load.requests):
            answer = await ask()
            if last not in (answer if isinstance(answer, str) else answer.decode()):
                raise ValueError(f"an answer ends with {answer[-300:]!r}")

    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=_LIMIT, connector=connector))
        asking = [await stack.enter_async_context(door(http, url)) for _ in range(load.clients)]
        before = cpu_s([pid])
        async with asyncio.TaskGroup() as clients:
            for ask in asking:
                clients.create_task(converse(ask))
        spent_s = cpu_s([pid]) - before
    return 1e6 * spent_s / (load.tokens * load.clients * load.requests)


async def measure(url: str, pid: int, load: Load, rounds: int) -> Mapping[str, Sequence[float]]:
    """µs a token by the door, one of each round, after a round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in DOORS}
    for number in range(rounds + 1):
        for name in DOORS if number % 2 else reversed(DOORS):
            spent = await measured(url, pid, load, DOORS[name])
            if number:
                found[name].append(spent)
                print(f"{load.title}: {name:28} {spent:6.1f} µs a token", file=sys.stderr, flush=True)
    return found


def table(load: Load, found: Mapping[str, Sequence[float]]) -> str:
    """The ratios are of a door to the native stream in the same round."""
    rows = [
        f"**{load.title}**",
        "",
        "| door | CPU µs/token | of the native stream | lowest to highest |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, spent in found.items():
        ratios = [mine / native for mine, native in zip(spent, found[_REFERENCE], strict=True)]
        between = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append(f"| {name} | {median(spent):.1f} | {median(ratios):.2f} | {between} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.doors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"Measured {machine()}. Medians over {rounds} rounds.")
    with tempfile.TemporaryDirectory(prefix="freshet-bench-") as name:
        directory = Path(name)
        data = directory / "data"
        data.mkdir()
        with (
            servers.upstream(directory / "upstream.log") as upstream,
            product(upstream, data, directory / "freshet.log", _ENVIRONMENT) as server,
        ):
            asyncio.run(content.prepare(database_url(data, _ENVIRONMENT), None))
            for load in LOADS:
                servers.set_behaviour(upstream, load.behaviour)
                print("\n" + table(load, asyncio.run(measure(server.url, server.pid, load, rounds))))


if __name__ == "__main__":
    main()
