"""The least that the work can cost: bare ASGI servers that stream the same lines as the product.

`source` makes the tokens itself (`?n=500&r=25`: how many, and how many a second). `pass_through` asks the upstream
of `OPENAI_BASE_URL` with the body as it came, and writes one message for each read. For uvicorn, which does the HTTP.
"""

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import msgspec

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/x-ndjson")],
}
_END: Message = {"type": "http.response.body", "body": b""}
_HEADERS = {"authorization": "Bearer bench", "content-type": "application/json"}
_encode = msgspec.json.Encoder().encode


def _token_line(text: str) -> bytes:
    return b'{"type":"token","content":' + _encode(text) + b"}\n"


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


_LINES = [_token_line(f" {i}") for i in range(2000)]


async def source(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    asked = parse_qs(scope["query_string"].decode())
    tokens, per_second = int(asked.get("n", ["500"])[0]), float(asked.get("r", ["0"])[0])
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    await send(_START)
    for i, line in enumerate(_LINES[:tokens]):
        if per_second:
            await asyncio.sleep(max(0.0, started_at + i / per_second - loop.time()))
        await send(_part(line))
    await send(_END)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode


class PassThrough:
    """Keeps one client session from the server's start to its end."""

    def __init__(self) -> None:
        self._url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9001/v1") + "/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
                await _lifespan(receive, send)
            return
        body = await _whole_body(receive)
        await send(_START)
        async with aclosing(self._lines(body)) as pieces:
            async for lines in pieces:
                await send(_part(lines))
        await send(_END)

    async def _lines(self, body: bytes) -> AsyncGenerator[bytes]:
        """The token lines of each read from the upstream, together."""
        assert self._session is not None
        rest = b""
        async with self._session.post(self._url, data=body, headers=_HEADERS) as response:
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                texts = [_text(line) for line in lines if line.startswith(b"data: {")]
                if any(texts):
                    yield b"".join([_token_line(text) for text in texts if text])


def _text(line: bytes) -> str | None:
    choices = _decode(line[6:]).choices
    return choices[0].delta.content if choices else None


async def _whole_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _lifespan(receive: Receive, send: Send) -> None:
    gc.freeze()
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


pass_through = PassThrough()
