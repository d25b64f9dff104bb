"""The first of the two seams: what the rest of Freshet asks of a language model and of its tools, of an embedder and of a reranker."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""One embedding: shape (dimensions,), unit length."""

Matrix = NDArray[np.float32]
"""One embedding a row: shape (texts, dimensions), rows of unit length."""


@dataclass(frozen=True, slots=True)
class Tool:
    """What a model may ask to be called, by a `name` of at most 64 letters, digits, `_` and `-`; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` as the model wrote them, which should be a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """`calls` are what the assistant asked for; a message of a `tool` is the result of the call that `answers` names."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    calls: tuple[ToolCall, ...] = ()
    answers: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """What a source says, as the model is given it; `number` is the n of its `[n]` mark, from 1. The rest tells where it stands."""

    number: int
    text: str
    score: float
    name: str = ""
    page_label: str | None = None
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One turn, ready to be asked.

    `messages` is the whole of it for a language model. `question` and `passages` are the same turn unformatted, for an
    answerer that quotes instead of writing; `reply` is what such a one says where nothing is to be quoted. With a `schema` the
    answer is to be JSON that fits it, which the messages say as well: not every server can hold its model to that. `is_strict`:
    each of its objects names all its fields. `calls_are_over`: none of the `tools` may be called any more.
    """

    messages: Sequence[ChatMessage]
    question: str
    passages: Sequence[Passage] = ()
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    language: str | None = None
    reply: str | None = None
    schema: Mapping[str, Any] | None = None
    is_strict: bool = False
    tools: Sequence[Tool] = ()
    calls_are_over: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer: why it ended, as the model says it (`stop`, `length`, …), and what it cost, if it says so. With
    `calls`, the answer waits for their results."""

    reason: str
    usage: Usage | None
    calls: tuple[ToolCall, ...] = ()


class ChatModel(Protocol):
    @property
    def name(self) -> str:
        """The model that answers when a prompt names none."""
        ...

    @property
    def provider(self) -> str: ...

    @property
    def can_write(self) -> bool:
        """Whether it is a language model, which can be asked for more than quotations."""
        ...

    @property
    def notice(self) -> str | None:
        """What a reader must know of answers of this model, if anything."""
        ...

    def stream(self, prompt: Prompt) -> AsyncGenerator[list[str] | Finish]:
        """The pieces of text of the answer, all that arrived together in one list, then one `Finish`, last.

        Raises `ModelFailed`. Whoever iterates closes it (`aclosing`), which ends the request.
        """
        ...

    async def aclose(self) -> None: ...


class Embedder(Protocol):
    @property
    def name(self) -> str:
        """What tells its vectors from those of another; stored beside them."""
        ...

    @property
    def dimensions(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The longest passage that it reads whole, in its own tokens."""
        ...

    def count_tokens(self, text: str) -> int: ...

    async def embed_question(self, question: str) -> Vector:
        """Raises `ModelFailed`."""
        ...

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        """In order. Raises `ModelFailed`."""
        ...

    async def aclose(self) -> None: ...


class Reranker(Protocol):
    """Reads question and passage together, which tells more than comparing what each means by itself, and takes longer."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float:
        """What its scores count in the new order, above 0 and at most 1; the search's own count the rest."""
        ...

    async def scores(self, question: str, passages: Sequence[str]) -> Vector:
        """One for each passage, in order, higher for the more relevant; of shape (passages,), not of unit length.

        Raises `ModelFailed`, also where it takes longer than it may.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServedTool:
    """A tool of a server, which gives these names and words."""

    server: str
    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def path(self) -> str:
        return f"{self.server}/{self.name}"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """`error` is a stable word where the call failed; the text says why then."""

    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """`missing` are servers whose tools could not be listed, and why, in a stable word."""

    tools: Sequence[ServedTool]
    missing: Mapping[str, str]


class Toolbox(Protocol):
    @property
    def rounds(self) -> int:
        """How often a model may ask for calls in one answer."""
        ...

    async def offered(self, paths: Sequence[str]) -> Offer:
        """Those of `server/tool` that there are."""
        ...

    async def call(self, tool: ServedTool, arguments: Mapping[str, Any]) -> ToolResult:
        """Within limits of time and size. Whatever goes wrong is a result."""
        ...
