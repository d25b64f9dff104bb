"""A server of Telegram's Bot API over loopback: it keeps chats and updates, refuses what Telegram refuses, and fails on demand."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from aiohttp import web

TOKEN = "17:token-of-the-tests"


class BotApi:
    """`chats` are the texts of the bot's messages, by chat and id. `faults` are taken by the calls of a method, one each: a number is
    a status, `close` ends the connection unanswered. `calls` are all that came: when, which method, what."""

    def __init__(self) -> None:
        self.url = ""
        self.chats: dict[int, dict[int, str]] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.calls: list[tuple[float, str, dict[str, Any]]] = []
        self.webhook: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.pollers = 0
        self.most_pollers = 0
        self._updates: list[dict[str, Any]] = []
        self._ids = 100
        self._change = anyio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Self]:
        app = web.Application()
        app.router.add_post(f"/bot{TOKEN}/{{method}}", self._handle)
        app.router.add_get(f"/file/bot{TOKEN}/documents/{{name}}", self._download)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def says(self, text: str | None, *, chat: int = 7, **fields: Any) -> dict[str, Any]:
        """The update that tells it; it waits for whoever asks."""
        self._ids += 1
        message = {"message_id": self._ids, "date": 0, "chat": {"id": chat, "type": "private"}, **fields}
        message["from"] = {"id": chat, "is_bot": False, "first_name": "Ada"}
        if text is not None:
            message["text"] = text
        update = {"update_id": self._ids, "message": message}
        self._updates.append(update)
        self._changed()
        return update

    def repeats(self, update: dict[str, Any]) -> None:
        self._updates.append(update)
        self._changed()

    @property
    def waiting(self) -> int:
        """How many updates it has not been told to forget."""
        return len(self._updates)

    def texts(self, chat: int = 7) -> list[str]:
        return list(self.chats.get(chat, {}).values())

    async def until(self, seen: Callable[[], bool]) -> None:
        with anyio.fail_after(15):
            while not seen():
                await self._change.wait()

    def _changed(self) -> None:
        self._change.set()
        self._change = anyio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method, body = request.match_info["method"], await request.json()
        self.calls.append((time.monotonic(), method, body))
        faults = self.faults.get(method, [])
        fault = faults.pop(0) if faults else None
        if fault == "close":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(fault, int):
            self._changed()
            return _failed(fault)
        response = await getattr(self, f"_{method}")(body)
        self._changed()
        return response

    async def _getUpdates(self, body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        self.pollers += 1
        self.most_pollers = max(self.most_pollers, self.pollers)
        self._changed()
        try:
            self._updates = [one for one in self._updates if one["update_id"] >= body.get("offset", 0)]
            while not self._updates:
                await self._change.wait()
            return _done(self._updates)
        finally:
            self.pollers -= 1

    async def _getFile(self, body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        if body["file_id"] not in self.files:
            return _failed(400, "Bad Request: file is too big")
        return _done({"file_id": body["file_id"], "file_path": f"documents/{body['file_id']}"})

    async def _download(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["name"]])

    async def _sendMessage(self, body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        if not 0 < len(body["text"].encode("utf-16-le")) // 2 <= 4096:
            return _failed(400, "Bad Request: message is too long")
        self._ids += 1
        self.chats.setdefault(body["chat_id"], {})[self._ids] = body["text"]
        return _done({"message_id": self._ids})

    async def _editMessageText(self, body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        texts = self.chats[body["chat_id"]]
        if texts[body["message_id"]] == body["text"]:
            return _failed(400, "Bad Request: message is not modified")
        texts[body["message_id"]] = body["text"]
        return _done({"message_id": body["message_id"]})

    async def _setWebhook(self, body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        self.webhook = body
        return _done(True)

    async def _deleteWebhook(self, _body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        self.webhook = {}
        return _done(True)

    async def _getMe(self, _body: dict[str, Any]) -> web.Response:  # noqa: N802  # its name there
        return _done({"id": 17, "username": "freshet_bot"})


def _done(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _failed(status: int, words: str = "No") -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": words}
    if status == 429:
        body["parameters"] = {"retry_after": 1}
    return web.json_response(body, status=status)
