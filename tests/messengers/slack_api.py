"""A server of Slack's Web API over loopback: it keeps messages, and fails on demand. And events, signed as Slack signs them."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from aiohttp import web
from slack_sdk.signature import SignatureVerifier

TOKEN = "xoxb-token-of-the-tests"
SIGNING_SECRET = "the signing secret of the tests"


class SlackApi:
    """`posts` are the bot's messages: channel, thread and text, by their time stamp. `faults` are taken by one call each."""

    def __init__(self) -> None:
        self.url = ""
        self.posts: dict[str, dict[str, Any]] = {}
        self.faults: list[int | str] = []
        self._ids = 0
        self._change = anyio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Self]:
        app = web.Application()
        app.router.add_post("/api/{method}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
        try:
            yield self
        finally:
            await runner.cleanup()

    @property
    def texts(self) -> list[str]:
        return [post["text"] for post in self.posts.values()]

    async def until(self, seen: Callable[[], bool]) -> None:
        with anyio.fail_after(15):
            while not seen():
                await self._change.wait()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = self.faults.pop(0) if self.faults else None
        if fault == "close":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(fault, int):
            return web.json_response({"ok": False}, status=fault, headers={"Retry-After": "1"})
        if request.headers["authorization"] != f"Bearer {TOKEN}" or fault is not None:
            return web.json_response({"ok": False, "error": fault or "not_authed"})
        if request.match_info["method"] == "chat.postMessage":
            self._ids += 1
            stamp = f"{self._ids}.0"
            self.posts[stamp] = {"channel": body["channel"], "thread": body.get("thread_ts")}
        else:
            stamp = body["ts"]
        self.posts[stamp]["text"] = body["text"]
        self._change.set()
        self._change = anyio.Event()
        return web.json_response({"ok": True, "ts": stamp})


def signed(body: dict[str, Any], *, at: float | None = None) -> dict[str, Any]:
    """The request that brings it, for a client."""
    content = json.dumps(body).encode()
    stamp = str(int(time.time() if at is None else at))
    signature = SignatureVerifier(SIGNING_SECRET).generate_signature(timestamp=stamp, body=content)
    headers = {"x-slack-request-timestamp": stamp, "x-slack-signature": signature}
    return {"content": content, "headers": headers}


def event(identifier: str, text: str, **fields: Any) -> dict[str, Any]:
    """A direct message, unless the fields say otherwise."""
    said = {"type": "message", "channel_type": "im", "channel": "D1", "user": "U1", "ts": "5.1", "text": text}
    return {"type": "event_callback", "event_id": identifier, "event": {**said, **fields}}
