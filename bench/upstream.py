"""A fake OpenAI-compatible server that costs little, for load and for tests.

Chat completions (streamed or whole), embeddings and models, below `/v1` or not. How it answers is told by the model
name. `GET /stats` counts, `GET /reset` counts anew, `GET /set/<behaviour>` sets what other model names do.
"""

import argparse
import asyncio
import gc
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import httptools
import msgspec

from bench import frames
from bench.answers import AnswerStream, Ledger, Stats
from bench.behaviour import SYNTAX, Behaviour, behaviour_of
from bench.embedding import embeddings
from bench.machine import run_until_stopped
from bench.pacing import TimerWheel

_REMEMBERED_REQUESTS = 64
_DECODE_BODY = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    authorization: str
    body: Mapping[str, Any]


class Upstream:
    """One fake server. `received` holds the newest requests, oldest first."""

    def __init__(self, *, behaviour: str = "fake", models: Sequence[str] = ("fake",)) -> None:
        self.url = ""
        """The base URL, with `/v1`, once it serves."""
        self.received: deque[Received] = deque(maxlen=_REMEMBERED_REQUESTS)
        self.models = models
        self.ledger = Ledger()
        self.wheel = TimerWheel(asyncio.get_running_loop())
        self.connections: set[_Connection] = set()
        self.idle = asyncio.Event()
        self._others = behaviour_of(behaviour)
        self._met_fault: Counter[str] = Counter()

    @classmethod
    @asynccontextmanager
    async def serve(
        cls, *, port: int = 0, behaviour: str = "fake", models: Sequence[str] = ("fake",)
    ) -> "AsyncGenerator[Upstream]":
        """Serves in the running event loop, on a free port if it is 0; closes every connection at the end."""
        upstream = cls(behaviour=behaviour, models=models)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(upstream), "127.0.0.1", port, backlog=4096)
        upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield upstream
        finally:
            server.close()
            for connection in list(upstream.connections):
                connection.transport.abort()
            if upstream.connections:
                await upstream.idle.wait()
            await server.wait_closed()

    @property
    def stats(self) -> Stats:
        return self.ledger.stats

    def set(self, behaviour: str) -> None:
        """What the models do whose names do not begin with "fake". Requests that met a fault are counted anew."""
        self._others = behaviour_of(behaviour)
        self._met_fault.clear()

    def reset(self) -> None:
        stats = self.stats
        self.ledger.stats = Stats(open=stats.open, stalled=stats.stalled)
        self._met_fault.clear()
        self.received.clear()

    def release(self) -> None:
        """Lets every stalled stream go on."""
        stalled, self.ledger.stalled = self.ledger.stalled, []
        for stream in stalled:
            stream.release()

    async def until(self, condition: Callable[[Stats], bool]) -> None:
        """Waits until the counters satisfy the condition; it is asked when a stream opens, ends, or meets its fault."""
        if condition(self.stats):
            return
        entry = (condition, asyncio.get_running_loop().create_future())
        self.ledger.waiting.append(entry)
        try:
            await entry[1]
        finally:
            self.ledger.waiting.remove(entry)

    def behaviour_for(self, model: str) -> Behaviour:
        """The behaviour of one more request for this model. Raises ValueError for a name that is none."""
        behaviour = behaviour_of(model) if model.startswith("fake") else self._others
        if behaviour.fault is None or not behaviour.fault_requests:
            return behaviour
        self._met_fault[model] += 1
        if self._met_fault[model] <= behaviour.fault_requests:
            return behaviour
        return replace(behaviour, fault=None)


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive, with one request at a time."""

    __slots__ = ("_body", "_headers", "_parser", "_paused", "_stream", "_upstream", "_url", "transport")

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._stream: AnswerStream | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._upstream.connections.add(self)
        self._upstream.idle.clear()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the name is asyncio's
        self._upstream.connections.discard(self)
        if not self._upstream.connections:
            self._upstream.idle.set()
        if self._stream is not None:
            self._stream.abandon()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def pause_writing(self) -> None:
        self._paused = True
        if self._stream is not None:
            self._stream.paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._stream is not None:
            self._stream.resume()

    def on_message_begin(self) -> None:
        self._url = b""
        self._body = b""
        self._headers: dict[bytes, bytes] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if b"expect" in self._headers:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        upstream = self._upstream
        upstream.stats.requests += 1
        path = self._url.split(b"?")[0].decode("latin-1").removeprefix("/v1")
        try:
            body = _DECODE_BODY(self._body) if self._body else {}
            upstream.received.append(
                Received(path, self._headers.get(b"authorization", b"").decode("latin-1"), body)
            )
            self._route(path, body)
        except ValueError as error:
            self._reply(400, frames.error_body(str(error), "invalid_request_error"))

    def _route(self, path: str, body: Mapping[str, Any]) -> None:
        upstream = self._upstream
        match path.strip("/").split("/"):
            case ["chat", "completions"]:
                upstream.stats.completions += 1
                self._complete(body)
            case ["embeddings"]:
                upstream.stats.embeddings += 1
                self._reply(200, embeddings(body))
            case ["models", *_]:
                self._reply(200, frames.models(upstream.models))
            case ["stats"]:
                self._reply(200, frames.encode(upstream.stats))
            case ["reset"]:
                upstream.reset()
                self._reply(200, frames.encode(upstream.stats))
            case ["set", behaviour]:
                upstream.set(behaviour)
                self._reply(200, frames.encode({"behaviour": behaviour}))
            case _:
                self._reply(404, frames.error_body("There is nothing here.", "invalid_request_error"))

    def _complete(self, body: Mapping[str, Any]) -> None:
        model = str(body.get("model", ""))
        behaviour = self._upstream.behaviour_for(model)
        if behaviour.fault == "status":
            self._refuse(behaviour.fault_at)
        elif behaviour.fault == "hang" or body.get("stream"):
            self._stream_answer(model, behaviour, body)
        else:
            self._answer_whole(model, behaviour)

    def _refuse(self, status: int) -> None:
        self._upstream.ledger.note_fault()
        kind = "rate_limit_error" if status == 429 else "server_error"
        self._reply(
            status,
            frames.error_body(f"Refused with {status}.", kind),
            retry_after_s=1 if status == 429 else None,
        )

    def _stream_answer(self, model: str, behaviour: Behaviour, body: Mapping[str, Any]) -> None:
        options: Mapping[str, Any] = body.get("stream_options") or {}
        stream = self._stream = AnswerStream(
            self.transport,
            self._upstream.ledger,
            self._upstream.wheel,
            model=model,
            behaviour=behaviour,
            with_usage=bool(options.get("include_usage")),
        )
        stream.paused = self._paused
        if behaviour.fault == "hang":
            self._upstream.ledger.note_fault()
        elif behaviour.first_after_ms > 0:
            self._upstream.wheel.loop.call_later(behaviour.first_after_ms / 1000, stream.start)
        else:
            stream.start()

    def _answer_whole(self, model: str, behaviour: Behaviour) -> None:
        self._upstream.stats.tokens += behaviour.tokens
        speaking_s = behaviour.tokens / behaviour.per_second if behaviour.per_second else 0.0
        wait_s = behaviour.first_after_ms / 1000 + speaking_s
        self._upstream.wheel.loop.call_later(
            wait_s, self._reply, 200, frames.whole_completion(model, behaviour)
        )

    def _reply(self, status: int, body: bytes, *, retry_after_s: int | None = None) -> None:
        if not self.transport.is_closing():
            self.transport.write(frames.response(status, body, retry_after_s=retry_after_s))


async def _serve_until_cancelled(arguments: argparse.Namespace) -> None:
    async with Upstream.serve(port=arguments.port, behaviour=arguments.behaviour) as upstream:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        print(upstream.url, flush=True)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.upstream",
        description=f"{__doc__}\n{SYNTAX}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=9001, help="0 takes a free one; the base URL is printed")
    parser.add_argument("--behaviour", default="fake", help="of model names that do not begin with 'fake'")
    run_until_stopped(_serve_until_cancelled(parser.parse_args()))


if __name__ == "__main__":
    main()
