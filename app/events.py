"""The lines of a streamed answer, as types. `docs/protocol.md` is the contract; names here only grow.

An event is encoded once, with the sequence number that its run's log gives it, and every reader gets the same bytes.
"""

from typing import Any, ClassVar, Literal

import msgspec

from app.errors import FreshetError

PROTOCOL_VERSION = 1

StepType = Literal[
    "history_loading",
    "attachment_reading",
    "router",
    "cache_lookup",
    "query_rewrite",
    "vectorization",
    "retrieval",
    "reranking",
    "synthesis",
    "tool_call",
    "cache_update",
    "completed",
]

_encode = msgspec.json.Encoder().encode

HEARTBEAT_LINE = b'{"type":"heartbeat"}\n'


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `type_name` is its `type`; the fields follow `seq`, those at their default left out."""

    type_name: ClassVar[str]
    terminal: ClassVar[bool] = False

    def lines(self, first_seq: int) -> list[bytes]:
        """The NDJSON lines, numbered from `first_seq`."""
        return [b'{"type":"%b","seq":%d,%b\n' % (self.type_name.encode(), first_seq, _encode(self)[1:])]


class Start(Event, frozen=True):
    """`model` is not told of an answer that was interrupted before anything of it had been stored."""

    type_name = "start"

    run_id: str
    session_id: str
    message_id: str
    user_message_id: str
    protocol: int
    model: "ModelOfAnswer | None" = None


class ModelOfAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`notice` is what a reader must know of answers of this model, such as that it is no language model."""

    name: str
    provider: str
    notice: str | None = None


class Tokens(Event, frozen=True):
    """The pieces of text that came together: a `token` line each."""

    type_name = "token"

    contents: list[str]

    def lines(self, first_seq: int) -> list[bytes]:
        return [
            b'{"type":"token","seq":%d,"content":%b}\n' % (seq, _encode(content))
            for seq, content in enumerate(self.contents, first_seq)
        ]


class Step(Event, frozen=True):
    """`duration` is in seconds, on the closing event, which repeats what the opening one said."""

    type_name = "step"

    step_type: StepType
    status: Literal["running", "completed", "failed"]
    step_id: str
    parent_id: str | None
    label: str | None = None
    duration: float | None = None
    payload: dict[str, Any] | None = None


class Status(Event, frozen=True):
    """What to show until the first token."""

    type_name = "status"

    message: str


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """A passage that the answer was given; `id` is the n of its `[n]` mark, `content` the same as `text`."""

    id: str
    text: str
    score: float
    name: str
    type: Literal["pdf", "docx", "txt", "web", "audio"]
    content: str
    metadata: dict[str, Any]
    url: str | None = None


class Sources(Event, frozen=True):
    type_name = "sources"

    data: list[Source]


class Citation(Event, frozen=True):
    """A claim of the answer and what bears it out: `start` to `end` is the claim with its mark, in the answer's characters.

    `quote` is the source's text from `quote_start` to `quote_end`, and its document's from `document_start` to `document_end`.
    `verified`: it has the content words and the numbers of the claim.
    """

    type_name = "citation"

    index: int
    source_id: str
    start: int
    end: int
    quote: str
    quote_start: int
    quote_end: int
    verified: bool
    document_id: str
    document_start: int
    document_end: int
    page_label: str | None = None


class Conversation(Event, frozen=True):
    """Behind the answer of an assistant with a goal: whether the conversation has reached it, and whether it has ended."""

    type_name = "conversation"

    goal_reached: bool
    ended: bool
    reason: str


class TokenUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """`estimated` where the model did not say what it counted. `cost` where the price of its tokens is known."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    estimated: bool = False
    cost: float | None = None

    def plus(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            estimated=self.estimated or other.estimated,
        )


class Done(Event, frozen=True):
    type_name = "done"
    terminal = True

    status: Literal["completed", "stopped"]
    message_id: str
    finish_reason: str
    usage: TokenUsage


class Error(Event, frozen=True):
    type_name = "error"
    terminal = True

    code: str
    message: str
    error: str
    retryable: bool


def failure(error: FreshetError) -> Error:
    return Error(code=error.code, message=error.message, error=error.message, retryable=error.retryable)


class _Head(msgspec.Struct):
    type: str


class _Token(msgspec.Struct):
    content: str


def decode(line: bytes) -> Event:
    """The event of a line of this version; of a `token` line, the piece of text that it holds."""
    kind = msgspec.json.decode(line, type=_Head).type
    if kind == Tokens.type_name:
        return Tokens(contents=[msgspec.json.decode(line, type=_Token).content])
    return msgspec.json.decode(
        line, type=next(one for one in Event.__subclasses__() if one.type_name == kind)
    )


class Cut(msgspec.Struct, frozen=True):
    """The last line of a stream that ends while its answer goes on: an `error` that is no event of the run, and so has no `seq`."""

    code: str
    message: str
    error: str
    retryable: bool
    resume_after: int

    def line(self) -> bytes:
        return b'{"type":"error",%b\n' % _encode(self)[1:]


def cut(error: FreshetError, resume_after: int) -> Cut:
    return Cut(
        code=error.code,
        message=error.message,
        error=error.message,
        retryable=error.retryable,
        resume_after=resume_after,
    )


def sse_frame(line: bytes, seq: int | None) -> bytes:
    """The same event as a server-sent event; a token's text is given under both of its names. What has no `seq` has no `id`."""
    data = line[:-1]
    kind = data[9 : data.index(b'"', 9)]
    if kind == b"token":
        content = data[data.index(b'"content":') + 10 : -1]
        data = b'%b,"text":%b}' % (data[:-1], content)
    if seq is None:
        return b"event: %b\ndata: %b\n\n" % (kind, data)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, kind, data)
