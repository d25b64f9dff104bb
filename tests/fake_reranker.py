"""A reranking server over loopback that speaks all three forms: a passage's score is how many of its words are the question's."""

import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from aiohttp import web


class FakeReranker:
    """Does as it should, until `fault` names what to do instead."""

    def __init__(self) -> None:
        self.url = ""
        self.fault: str | None = None
        self.forms: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.last: web.Request
        self._gone = anyio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Self]:
        app = web.Application()
        for path, form in (("/v2/rerank", "cohere"), ("/v1/rerank", "jina"), ("/rerank", "tei")):
            app.router.add_post(path, self._handler(form))
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self._gone.set()
            await runner.cleanup()

    def _handler(self, form: str) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            self.forms.append(form)
            self.bodies.append(body)
            self.last = request
            return await self._answer(form, request, body)

        return handle

    async def _answer(self, form: str, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.fault == "slow":
            await self._gone.wait()
        if self.fault in {"overloaded", "refused"}:
            return web.json_response({"error": self.fault}, status=503 if self.fault == "overloaded" else 401)
        if self.fault == "cut off":
            assert request.transport is not None
            request.transport.abort()
        if self.fault == "no JSON":
            return web.Response(text="<html>")
        name = "score" if form == "tei" else "relevance_score"
        texts = body["texts"] if form == "tei" else body["documents"]
        asked = set(body["query"].lower().split())
        rows: list[dict[str, Any]] = [
            {"index": index, name: float(sum(word.strip(".") in asked for word in text.lower().split()))}
            for index, text in enumerate(texts)
        ]
        rows.sort(key=lambda row: -row[name])
        if self.fault == "too few":
            rows.pop()
        if self.fault == "one twice":
            rows[-1]["index"] = rows[0]["index"]
        if self.fault in {"not a number", "too large"}:
            rows[0][name] = math.nan if self.fault == "not a number" else 1e39
        if self.fault == "no score":
            del rows[0][name]
        answer = rows if form == "tei" else {"results": rows}
        return web.Response(text=json.dumps({} if self.fault == "no list" else answer))
