"""A run as an HTTP answer: its lines, written as they come, in the form that the client asked for."""

from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import anyio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import FreshetError
from app.events import HEARTBEAT_LINE, cut, sse_frame
from app.runs.log import Lines
from app.services.runs import Followed

Form = Literal["ndjson", "sse"]

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

_SSE_HEARTBEAT = b": heartbeat\n\n"

# Where in the scope the application leaves the stream that it has begun.
_HANDED_OVER = "freshet.handed_over"


class Wire(Protocol):
    """How the lines of a run are written to one client."""

    @property
    def content_type(self) -> str: ...

    def write(self, batch: Lines) -> bytes:
        """The lines, or a sign of life for none; nothing if the client has no use for them."""
        ...

    def cut(self, error: FreshetError, resume_after: int) -> bytes:
        """The end of a stream that ends before its answer."""
        ...


@dataclass(frozen=True, slots=True)
class Native:
    """The events themselves."""

    form: Form

    @property
    def content_type(self) -> str:
        return f"{SSE}; charset=utf-8" if self.form == "sse" else NDJSON

    def write(self, batch: Lines) -> bytes:
        return _as_sse(batch) if self.form == "sse" else _as_ndjson(batch)

    def cut(self, error: FreshetError, resume_after: int) -> bytes:
        line = cut(error, resume_after).line()
        return line if self.form == "ndjson" else sse_frame(line, None)


def native(accept: str | None) -> Native:
    return Native(form_of(accept))


def form_of(accept: str | None) -> Form:
    """SSE for those who ask for it; NDJSON for everybody else, `*/*` included."""
    return "sse" if accept is not None and SSE in accept.lower() else "ndjson"


class EventStream(Response):
    """The events of a run behind number `after`. When its reader leaves it stops reading the log; the run goes on.

    Inside the application it sends its head, with what the middlewares add to it, and hands itself over; its lines are sent by
    `send_handed_over`, outside. By then the two dozen coroutines of routing, dependencies and middlewares have returned, which
    would otherwise be held by each open stream and passed by each line.
    """

    def __init__(
        self, followed: Followed, wire: Wire, *, after: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        self._batches = followed.follow(after=after)
        self._reading = followed.reading
        self._after = after
        self._wire = wire
        self.status_code = 200
        self.background = None
        self.raw_headers = [
            (b"content-type", wire.content_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            (b"x-session-id", followed.session_id.encode()),
            (b"x-run-id", str(followed.run_id).encode()),
            *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # the framework's signature
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        scope[_HANDED_OVER].append(self)

    async def send_lines(self, receive: Receive, send: Send) -> None:
        """A reader that takes nothing for too long finds the end of his connection, and may resume."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            with self._reading.patience.limiting() as limit, suppress(TimeoutError):
                write = self._wire.write
                try:
                    async with aclosing(self._batches) as batches:
                        async for batch in batches:
                            if body := write(batch):
                                message = {"type": "http.response.body", "body": body, "more_body": True}
                                await limit.wait(send(message), self._reading.stall_s)
                            self._after = batch.first_seq + len(batch.lines) - 1
                    end = b""
                except FreshetError as error:
                    # The stream ends, and not the answer.
                    end = self._wire.cut(error, self._after)
                await limit.wait(send({"type": "http.response.body", "body": end}), self._reading.stall_s)
            tasks.cancel_scope.cancel()


async def send_handed_over(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the application answer; then send the lines of the stream that it has begun, if it has."""
    given = set(scope)
    streams: list[EventStream] = []
    scope[_HANDED_OVER] = streams
    await app(scope, receive, send)
    if streams:
        # What the application noted in the scope is as long-lived as the connection, and of no use to the stream.
        for noted in scope.keys() - given:
            del scope[noted]
        await streams.pop().send_lines(receive, send)


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _as_ndjson(batch: Lines) -> bytes:
    lines = batch.lines
    return b"".join(lines) if len(lines) > 1 else lines[0] if lines else HEARTBEAT_LINE


def _as_sse(batch: Lines) -> bytes:
    if not batch.lines:
        return _SSE_HEARTBEAT
    return b"".join(sse_frame(line, seq) for seq, line in enumerate(batch.lines, batch.first_seq))
