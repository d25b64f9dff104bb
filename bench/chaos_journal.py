"""The journal of a programme: all that its clients asked, saw and did."""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from app.events import HEARTBEAT_LINE
from bench.chaos_plan import Turn

Ended = Literal["open", "whole", "broken", "left", "impatient", "given up"]

_SSE_HEARTBEAT = b": heartbeat\n\n"


def now() -> float:
    return time.monotonic()


@dataclass(slots=True)
class Reading:
    """One response: its events as they came, NDJSON lines or frames of server-sent events, each with when. No heartbeats."""

    server: int
    sse: bool
    after: int
    status: int = 200
    ended: Ended = "open"
    events: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])
    heartbeats: int = 0
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        at, end = now(), b"\n\n" if self.sse else b"\n"
        parts = (self._rest + data).split(end)
        self._rest = parts.pop()
        for part in parts:
            event = part + end
            if event == (_SSE_HEARTBEAT if self.sse else HEARTBEAT_LINE):
                self.heartbeats += 1
            else:
                self.events.append((at, event))

    @property
    def rest(self) -> bytes:
        """What came behind the last whole event."""
        return self._rest

    @property
    def last(self) -> dict[str, Any]:
        """The last event; empty if there is none."""
        return decoded(self.events[-1][1], sse=self.sse) if self.events else {}

    @property
    def is_cut(self) -> bool:
        """Its last line says where to resume, and is no event of the run."""
        return "resume_after" in self.last

    @property
    def is_over(self) -> bool:
        return self.last.get("type") in ("done", "error") and not self.is_cut

    @property
    def last_seq(self) -> int:
        """Of the events that have one; `after` before the first."""
        seqs = [int(decoded(event, sse=self.sse).get("seq", 0)) for _, event in self.events[-2:]]
        return max([self.after, *seqs])


def decoded(event: bytes, *, sse: bool) -> dict[str, Any]:
    if sse:
        event = event[event.index(b"data: ") + 6 :] if b"data: " in event else b"{}"
    try:
        return json.loads(event)
    except ValueError:
        return {}


@dataclass(slots=True)
class Follower:
    """One client that follows a run, over one response after the other. `gave_up`: it has waited too long for the end."""

    run_id: str
    session_id: str
    readings: list[Reading]
    gave_up: bool = False

    @property
    def is_over(self) -> bool:
        return bool(self.readings) and self.readings[-1].is_over


@dataclass(slots=True)
class Request:
    """One attempt to ask. `status` None: nothing is known of it."""

    server: int
    life: int
    at: float
    status: int | None = None
    code: str = ""
    run_id: str | None = None
    answer: dict[str, Any] | None = None


@dataclass(slots=True)
class Question:
    """A turn that was asked, once or twice at once, each with its attempts."""

    turn: Turn
    marker: str
    session_id: str
    requests: list[Request] = field(default_factory=list[Request])

    @property
    def accepted(self) -> bool:
        return any(request.status == 200 for request in self.requests)


@dataclass(slots=True)
class Stopping:
    run_id: str | None
    session_id: str
    server: int
    status: int | None = None
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    took_s: float = 0.0


@dataclass(slots=True)
class Journal:
    questions: list[Question] = field(default_factory=list[Question])
    followers: list[Follower] = field(default_factory=list[Follower])
    stops: list[Stopping] = field(default_factory=list[Stopping])
    removals: list[tuple[str, bool, int | None]] = field(default_factory=list[tuple[str, bool, int | None]])
    """Sessions that were deleted: whether for good, and the status of the answer."""

    def removed(self, session_id: str, *, purged: bool = False) -> bool:
        """Whether somebody has tried to delete the session; for good, if `purged`."""
        return any(one == session_id and (for_good or not purged) for one, for_good, _ in self.removals)
