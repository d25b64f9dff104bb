"""The events of an answer, as docs/protocol.md has them."""

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from .records import Cited, ModelOfAnswer, Source, TokenUsage, read


@dataclass(frozen=True, slots=True)
class Start:
    """The first of each answer. `message_id` is the id that the answer has in the history.

    `model` is not told of an answer that was interrupted before anything of it had been stored.
    """

    type: ClassVar[str] = "start"

    seq: int
    run_id: str
    session_id: str
    message_id: str
    user_message_id: str
    protocol: int
    model: ModelOfAnswer | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the work. The closing event repeats what the opening one said; `duration` is in seconds."""

    type: ClassVar[str] = "step"

    seq: int
    step_type: str
    status: Literal["running", "completed", "failed"]
    step_id: str
    parent_id: str | None
    label: str | None = None
    duration: float | None = None
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What to show until the first token, such as that the question waits for its turn."""

    type: ClassVar[str] = "status"

    seq: int
    message: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The passages that the answer is drawn from, best first; before the first token."""

    type: ClassVar[str] = "sources"

    seq: int
    data: list[Source]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer's text."""

    type: ClassVar[str] = "token"

    seq: int
    content: str


@dataclass(frozen=True, slots=True)
class Citation(Cited):
    """A claim that has just been made, and what bears it out; behind the token with its mark."""

    type: ClassVar[str] = "citation"

    seq: int = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Behind the answer of an assistant with a goal: whether the conversation has reached it, and whether it has ended."""

    type: ClassVar[str] = "conversation"

    seq: int
    goal_reached: bool
    ended: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last of an answer that is complete, or was stopped; it is in the history by now."""

    type: ClassVar[str] = "done"

    seq: int
    status: Literal["completed", "stopped"]
    message_id: str
    finish_reason: str
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Error:
    """The last of an answer that failed; what had been said is in the history."""

    type: ClassVar[str] = "error"

    seq: int
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event that came after this client was written: pass over it, or look at its `fields`."""

    seq: int
    type: str
    fields: dict[str, Any]


Event = Start | Step | Status | Sources | Token | Citation | Conversation | Done | Error | Unknown

_KINDS = {
    kind.type: kind for kind in (Start, Step, Status, Sources, Token, Citation, Conversation, Done, Error)
}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer is still being made, and nothing else."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The server ends this stream while the answer goes on."""

    code: str
    message: str


def decode(line: bytes) -> Event | Heartbeat | Cut:
    """`ValueError` for a line that is no event."""
    data: Any = json.loads(line)
    try:
        kind = data["type"]
        if kind == "heartbeat":
            return Heartbeat()
        if kind == "error" and "seq" not in data:
            return Cut(data["code"], data["message"])
        if kind in _KINDS:
            return read(_KINDS[kind], data)
        return Unknown(data.pop("seq"), data.pop("type"), data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this line is no event: {line[:200]!r}") from error
