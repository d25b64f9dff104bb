"""One streamed answer of the fake upstream: fast, paced or faulty, under the reader's flow control."""

import asyncio
import socket
import struct
from collections.abc import Callable

import msgspec

from bench import frames
from bench.behaviour import Behaviour
from bench.pacing import TimerWheel

_HALVES_APART_S = 0.002


class Stats(msgspec.Struct):
    requests: int = 0
    completions: int = 0
    embeddings: int = 0
    tokens: int = 0
    open: int = 0
    max_open: int = 0
    stalled: int = 0
    """Streams that are silent now and can be released."""
    finished: int = 0
    abandoned: int = 0
    """Answers whose client closed the connection before their end."""
    faults: int = 0


class Ledger:
    """What the upstream has done so far, the streams that wait for a release, and who waits for a number."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.stalled: list[AnswerStream] = []
        self.waiting: list[tuple[Callable[[Stats], bool], asyncio.Future[None]]] = []

    def changed(self) -> None:
        for condition, reached in self.waiting:
            if not reached.done() and condition(self.stats):
                reached.set_result(None)

    def note_fault(self) -> None:
        self.stats.faults += 1
        self.changed()


class AnswerStream:
    """Writes frames to one connection. Paced, token i leaves at start + i / rate; else one write each turn of the loop."""

    __slots__ = (
        "_behaviour",
        "_blocked",
        "_fault",
        "_frames",
        "_ledger",
        "_loop",
        "_model",
        "_sent",
        "_started_at",
        "_tokens",
        "_transport",
        "_wheel",
        "_with_usage",
        "ended",
        "paused",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        ledger: Ledger,
        wheel: TimerWheel,
        *,
        model: str,
        behaviour: Behaviour,
        with_usage: bool,
    ) -> None:
        self._transport = transport
        self._ledger = ledger
        self._wheel = wheel
        self._loop = wheel.loop
        self._model = model
        self._behaviour = behaviour
        self._with_usage = with_usage
        self._fault = behaviour.fault if behaviour.breaks_stream else None
        self._frames = frames.chunk_frames(model)
        self._tokens = None if behaviour.stamped else frames.token_frames(model, behaviour)
        self._sent = 0
        self._started_at = 0.0
        self._blocked = False
        self.paused = False
        self.ended = False
        stats = ledger.stats
        stats.open += 1
        stats.max_open = max(stats.max_open, stats.open)
        ledger.changed()

    def start(self) -> None:
        if self.ended:
            return
        self._started_at = self._loop.time()
        if self._behaviour.fault == "hanghdr":
            self._transport.write(frames.STREAM_HEAD)
            self._ledger.note_fault()
            return
        self._transport.write(frames.STREAM_HEAD + self._frames.head)
        if self._behaviour.per_second > 0:
            self._advance()
        else:
            self._loop.call_soon(self._advance)

    def abandon(self) -> None:
        self._end(abandoned=True)

    def resume(self) -> None:
        """Goes on once the reader has caught up."""
        self.paused = False
        if self._blocked:
            self._blocked = False
            self._advance()

    def release(self) -> None:
        """Ends the silence of a stalled stream, which then goes on without fault."""
        self._ledger.stats.stalled -= 1
        self._fault = None
        self._started_at = self._loop.time() - self._sent / (self._behaviour.per_second or 1)
        self._advance()

    def _advance(self) -> None:
        if self.ended:
            return
        if self.paused:
            self._blocked = True
            return
        rate = self._behaviour.per_second
        if rate > 0:
            due = int((self._loop.time() - self._started_at) * rate) + 1 - self._sent
            if due <= 0 or self._write(due):
                self._wheel.call_at(self._started_at + self._sent / rate, self._advance)
        elif self._write(self._behaviour.per_write):
            self._loop.call_soon(self._advance)

    def _write(self, count: int) -> bool:
        """Writes the next tokens at once; False when nothing more is to be written now."""
        first, end = self._sent, min(self._sent + count, self._behaviour.tokens)
        if self._fault is not None:
            return self._write_one_by_one(end)
        if end == first + 1:
            self._transport.write(self._token(first))
        else:
            self._transport.write(b"".join([self._token(i) for i in range(first, end)]))
        self._count(end - first)
        return self._goes_on()

    def _token(self, index: int) -> bytes:
        if self._tokens is not None:
            return self._tokens[index]
        return self._frames.token(frames.token_text(index, stamped=True, width=self._behaviour.width))

    def _count(self, tokens: int) -> None:
        self._sent += tokens
        self._ledger.stats.tokens += tokens

    def _goes_on(self) -> bool:
        if self._sent < self._behaviour.tokens:
            return True
        self._transport.write(self._frames.tail(self._sent, with_usage=self._with_usage))
        self._end()
        return False

    def _end(self, *, abandoned: bool = False) -> None:
        if self.ended:
            return
        self.ended = True
        stats = self._ledger.stats
        stats.open -= 1
        if self in self._ledger.stalled:
            self._ledger.stalled.remove(self)
            stats.stalled -= 1
        if abandoned:
            stats.abandoned += 1
        else:
            stats.finished += 1
        self._ledger.changed()

    def _write_one_by_one(self, end: int) -> bool:
        while self._sent < end:
            if self._fault == "drip":
                self._write_halves(self._token(self._sent))
                return False
            if self._fault == "long" and self._sent == 0:
                self._ledger.note_fault()
                text = frames.token_text(0, stamped=False, width=self._behaviour.fault_at * 1024)
                self._transport.write(self._frames.token(text))
                self._count(1)
                continue
            if (
                self._fault != "long"
                and self._sent == self._behaviour.fault_at
                and not self._survives_fault()
            ):
                return False
            self._transport.write(self._token(self._sent))
            self._count(1)
        return self._goes_on()

    def _survives_fault(self) -> bool:
        """Does what the fault says, and whether the stream goes on after it."""
        fault, self._fault = self._fault, None
        match fault:
            case "garb":
                self._transport.write(frames.GARBAGE)
                self._ledger.note_fault()
                return True
            case "stall":
                self._ledger.stalled.append(self)
                self._ledger.stats.stalled += 1
                self._ledger.note_fault()
                return False
            case "cut":
                self._transport.close()
            case "rst":
                raw: socket.socket = self._transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
            case "serr":
                self._transport.write(frames.STREAM_ERROR + frames.LAST_HTTP_CHUNK)
            case _:
                self._transport.write(frames.LAST_HTTP_CHUNK)
        self._ledger.note_fault()
        self._end()
        return False

    def _write_halves(self, frame: bytes) -> None:
        middle = len(frame) // 2
        self._transport.write(frame[:middle])
        self._loop.call_later(_HALVES_APART_S, self._write_rest, frame[middle:])

    def _write_rest(self, rest: bytes) -> None:
        if self.ended:
            return
        self._transport.write(rest)
        self._count(1)
        if self._goes_on():
            self._loop.call_later(_HALVES_APART_S, self._advance)
