"""What stands around every request, as pure ASGI: a middleware of the framework's own kind costs a task and a queue per response."""

import logging
import re
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem

logger = logging.getLogger(__name__)


class RequestId:
    """Gives each request an id, and tells it in each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["request_id"] = uuid4().hex
        header = (b"x-request-id", request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._app(scope, receive, send_with_id)


class RequestGuard:
    """Answers what nothing else has answered: an unexpected error, with one line that tells nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["request_id"]
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting_start)
        except Exception:  # the end of a stream or of a request: nothing of it may reach the client
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise
            response = problem(
                500,
                "internal_error",
                "Something went wrong on our side. It has been noted.",
                scope=scope,
            )
            await response(scope, receive, send)


class BodyLimit:
    """Refuses a body that is larger than the limit, by what it declares or by what it turns out to be.

    The framework's own limit answers in plain text where the length was declared, and every error here is one line of JSON.

    The paths that `uploads` matches take files, and have a limit of their own.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, uploads: re.Pattern[str], max_upload_bytes: int
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._uploads = uploads
        # A multipart body is a little more than its file.
        self._max_upload_bytes = max_upload_bytes + 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_upload_bytes if self._uploads.fullmatch(scope["path"]) else self._max_bytes
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > limit:
            await _refuse(scope, receive, send, limit)
            return
        received = 0
        started = False
        refused = False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received, refused
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit and not started:
                    refused = True
                    await _refuse(scope, receive, send, limit)
                    return {"type": "http.disconnect"}
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if not refused:
                started = True
                await send(message)

        await self._app(scope, counted, send_unless_refused)


async def _refuse(scope: Scope, receive: Receive, send: Send, limit: int) -> None:
    # The connection stays open: uvicorn reads the rest of the body away, so that the client gets to reading this.
    message = f"The request's body is too large: at most {limit} bytes are taken."
    response = problem(413, "too_large", message, scope=scope)
    await response(scope, receive, send)
