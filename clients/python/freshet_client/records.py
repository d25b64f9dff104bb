"""What the server tells, as dataclasses. Fields that are not known here are left out, so that a newer server does no harm."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelOfAnswer:
    """`notice` is what a reader must know of answers of this model, such as that it is no language model."""

    name: str
    provider: str
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that was found; `id` is the n of its `[n]` marks in the answer."""

    id: str
    text: str
    score: float
    name: str
    type: str
    metadata: dict[str, Any]
    url: str | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """`estimated` where the model did not say what it counted. `cost` where the price of its tokens is known."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    estimated: bool = False
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Cited:
    """A claim of the answer with its `[index]` mark, at `start` to `end` of the text, and the words of the source that bear it out.

    The quote stands at `quote_start` to `quote_end` of the source's text, and at `document_start` to `document_end` of its
    document's. `verified`: it has the content words and the numbers of the claim.
    """

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


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `status` is `completed`, `stopped`, or `failed` for what had been said of one that failed."""

    text: str
    status: Literal["completed", "stopped", "failed"]
    session_id: str
    run_id: str
    message_id: str
    user_message_id: str
    sources: list[Source]
    model: ModelOfAnswer | None = None
    finish_reason: str | None = None
    usage: TokenUsage | None = None
    citations: list[Cited] = field(default_factory=list[Cited])


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the history; `siblings` are the ids of the alternatives in order, itself included, if there are any."""

    id: str
    text: str
    sender: Literal["user", "bot"]
    status: str
    created_at: str
    sources: list[Source] = field(default_factory=list[Source])
    citations: list[Cited] = field(default_factory=list[Cited])
    steps: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    usage: TokenUsage | None = None
    error_code: str | None = None
    parent_id: str | None = None
    siblings: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class History:
    """Messages in time order; `next` is what to give as `before` for the page before this one."""

    messages: list[Message]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    id: str
    title: str | None
    assistant_id: str | None
    created_at: str
    last_active_at: str


@dataclass(frozen=True, slots=True)
class Sessions:
    """The most recent first; `next` is what to give as `cursor` for the page after this one."""

    items: list[Session]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """`status` is the answer's: `stopped`, or what it had become before; all are None if there was nothing to stop."""

    run_id: str | None = None
    message_id: str | None = None
    status: str | None = None


def read(kind: type[T], data: Any) -> T:
    """`data` as a dataclass of that kind. `ValueError` for what is none."""
    try:
        return kind(
            **{
                name: data[name] if convert is None else convert(data[name])
                for name, convert in _plan(kind)
                if name in data
            }
        )
    except TypeError as error:
        raise ValueError(f"this is no {kind.__name__}: {error}") from error


@cache
def _plan(kind: type[Any]) -> list[tuple[str, Callable[[Any], Any] | None]]:
    hints = get_type_hints(kind)
    return [(each.name, _converter(hints[each.name])) for each in fields(kind)]


def _converter(hint: Any) -> Callable[[Any], Any] | None:
    """None where the value is taken as it is."""
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: read(hint, value)
    if get_origin(hint) is list and (convert := _converter(get_args(hint)[0])) is not None:
        return lambda values: [convert(value) for value in values]
    if get_origin(hint) in {Union, UnionType}:
        for choice in get_args(hint):
            if (convert := _converter(choice)) is not None:
                return lambda value: None if value is None else convert(value)
    return None
