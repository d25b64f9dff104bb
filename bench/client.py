"""A connection of the load generator, and what it noted of one streamed answer."""

import asyncio
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import httptools
import msgspec

Format = Literal["ndjson", "sse", "openai"]
"""`sse` carries the same objects as `ndjson`; `openai` is a chat completion's chunks."""

_MAX_ERROR_BYTES = 300


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Line(msgspec.Struct):
    """Of every format, what the load generator looks at."""

    type: str = ""
    seq: int | None = None
    content: str | None = None
    text: str | None = None
    choices: list[_Choice] = []
    error: object = None
    step_type: str = ""
    status: str = ""
    duration: float | None = None

    def token(self) -> str | None:
        if self.choices:
            return self.choices[0].delta.content
        return (self.content or self.text) if self.type == "token" else None


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(slots=True)
class Answer:
    """Times are of `time.perf_counter`, 0 if it did not come to that; `asked_at` is before the request is written."""

    asked_at: float
    headers_at: float = 0.0
    first_token_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    size_bytes: int = 0
    events: int = 0
    texts: list[str] = field(default_factory=list[str])
    step_s: dict[str, float] = field(default_factory=dict[str, float])
    terminal: str = ""
    wants_terminal: bool = False
    failure: str = ""
    error_line: str = ""

    def indexes(self) -> Sequence[str]:
        """The tokens' numbers as the upstream wrote them, without their stamps."""
        return [token.partition("@")[0] for token in "".join(self.texts).split()]

    def fault(self, expected_tokens: int | None) -> str:
        """Why this is not the whole answer in its order; empty if it is."""
        if self.failure:
            return self.failure
        if self.status != 200:
            return f"HTTP {self.status}"
        if self.error_line:
            return "error in the stream"
        if self.wants_terminal and self.terminal != "done":
            return "no end"
        indexes = self.indexes()
        if expected_tokens is not None and len(indexes) != expected_tokens:
            return "incomplete"
        if expected_tokens is not None and any(index != str(i) for i, index in enumerate(indexes)):
            return "out of order"
        return ""


@dataclass(slots=True)
class Timings:
    """What all answers of a load share, in seconds, without a list for each."""

    gaps_s: "array[float]" = field(default_factory=lambda: array("d"))
    one_way_s: "array[float]" = field(default_factory=lambda: array("d"))
    started: int = 0

    def clear(self) -> None:
        del self.gaps_s[:], self.one_way_s[:]
        self.started = 0


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection. Sends a request, reads its answer to the end, may then send the next."""

    transport: asyncio.Transport

    def __init__(self, stream_format: Format, timings: Timings) -> None:
        self._prefix = b"" if stream_format == "ndjson" else b"data:"
        self._timings = timings
        self._answer = Answer(0.0)
        self._done: asyncio.Future[None] | None = None
        self._rest = b""
        self._now = 0.0
        self._token_at = 0.0
        self._seq = 0
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes, *, limit_s: float | None) -> Answer:
        """The answer, also when it failed: then it says how, and the connection is not usable any more."""
        answer = self._answer = Answer(time.perf_counter())
        self._done = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._seq = 0
        self.transport.write(request)
        try:
            async with asyncio.timeout(limit_s):
                await self._done
        except TimeoutError:
            answer.ended_at, answer.failure = time.perf_counter(), "no end within the limit"
        finally:
            if not answer.ended_at or answer.failure:
                self.usable = False
                self.transport.abort()
        return answer

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the name is asyncio's
        self.usable = False
        self._finish("connection closed before the end")

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        self._answer.size_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"bad HTTP: {error}")

    def on_headers_complete(self) -> None:
        self._answer.headers_at = self._now
        self._answer.status = self._parser.get_status_code()
        self.usable = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._answer.status != 200:
            self._answer.error_line = (self._answer.error_line + body.decode(errors="replace"))[
                :_MAX_ERROR_BYTES
            ]
            return
        lines = (self._rest + body if self._rest else body).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._read(line)

    def on_message_complete(self) -> None:
        self._finish("")

    def _finish(self, failure: str) -> None:
        if self._done is not None and not self._done.done():
            self._answer.ended_at = time.perf_counter()
            self._answer.failure = self._answer.failure or failure
            self._done.set_result(None)

    def _read(self, raw: bytes) -> None:
        payload = raw[len(self._prefix) :]
        if not payload or not raw.startswith(self._prefix) or payload.endswith(b"[DONE]"):
            return
        try:
            line = _decode(payload)
        except msgspec.MsgspecError as error:
            self._answer.failure = f"bad line: {error}"
            return
        if (text := line.token()) is not None:
            if text:
                self._note_token(text)
        elif line.error is not None or line.type == "error":
            self._answer.error_line = payload[:_MAX_ERROR_BYTES].decode(errors="replace")
        else:
            self._note_event(line)
        if line.seq is not None:
            if line.seq != self._seq + 1:
                self._answer.failure = f"seq {line.seq} after {self._seq}"
            self._seq = line.seq

    def _note_token(self, text: str) -> None:
        answer, timings = self._answer, self._timings
        answer.texts.append(text)
        answer.events += 1
        if answer.first_token_at:
            timings.gaps_s.append(self._now - self._token_at)
        else:
            answer.first_token_at = self._now
            timings.started += 1
        self._token_at = self._now
        if "@" in text:
            now_ns = time.monotonic_ns()
            for token in text.split():
                timings.one_way_s.append((now_ns - int(token.partition("@")[2])) / 1e9)

    def _note_event(self, line: _Line) -> None:
        answer = self._answer
        if line.type == "start":
            answer.wants_terminal = True
        elif line.type == "done":
            answer.terminal = "done"
        elif line.type == "step" and line.duration is not None:
            answer.step_s[line.step_type] = answer.step_s.get(line.step_type, 0.0) + line.duration
