"""What an answer is made of and with: the turn, the parts of the pipeline, and what has been spent."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from app.db.assistants import AssistantForTurn
from app.events import TokenUsage
from app.llm.protocols import ChatMessage, ChatModel, Finish, Prompt, Toolbox
from app.rag import memory
from app.rag.answerability import Calibration
from app.rag.cache import Cache
from app.rag.memory import Memory
from app.rag.retrieval import Hit, Prepared, Query
from app.rag.rewrite import Rewriting


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that has been accepted and stored. `given_history`, `instructions` and `parameters` are what the client sent
    along, for this turn only. `opening` is what the assistant has said first, where the conversation begins with this turn.

    `attachments` are the documents that it waits for; `has_attachments`: its session has some, within the assistant's reach.

    `user_id` is who asks, `accounts` what it is charged to. `is_queued`: it waits for its session's other answers first. `is_again`: it has had an answer.
    `is_kept`: else it is erased with its end.
    """

    run_id: UUID
    session_id: str
    question_id: UUID
    answer_id: UUID
    assistant: AssistantForTurn
    question: str
    language: str | None
    given_history: tuple[ChatMessage, ...] | None
    session_is_new: bool
    user_id: UUID | None = None
    accounts: tuple[str, ...] = ()
    is_queued: bool = False
    is_again: bool = False
    is_kept: bool = True
    instructions: str = ""
    opening: str = ""
    attachments: tuple[UUID, ...] = ()
    has_attachments: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def signed_in(self) -> bool:
        return self.user_id is not None


class Knowledge(Protocol):
    async def prepare(self, query: Query) -> Prepared: ...

    async def retrieve(self, prepared: Prepared, query: Query) -> list[Hit]: ...

    @property
    def reranker_name(self) -> str | None: ...

    @property
    def way(self) -> str:
        """What else than the question and the assistant decides which passages are found."""
        ...

    async def rerank(self, query: Query, hits: Sequence[Hit]) -> list[Hit]: ...

    async def choose(self, query: Query, hits: Sequence[Hit]) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the pipeline works with, besides the turn."""

    model: ChatModel
    knowledge: Knowledge
    embedder_name: str
    read_attachments: Callable[[Turn], Awaitable[Sequence[str]]]
    load_history: Callable[[Turn], Awaitable[Memory]]
    rewriting: Rewriting
    calibration: Calibration | None
    cache: Cache
    history_tokens: int
    context_tokens: int
    toolbox: Toolbox | None = None


@dataclass(slots=True)
class Spent:
    """What the model has read and said so far, for an answer that is not made to its end. `before` is what it has taken to make
    the question ready, and `rounds` what it has taken of this answer to ask for calls of tools."""

    before: TokenUsage | None = None
    rounds: TokenUsage | None = None
    asked: Prompt | None = None
    said_characters: int = 0
    said_pieces: int = 0

    def usage(self) -> TokenUsage | None:
        """Of all that was asked; None if nothing was."""
        answer = self.of_answer()
        return self.before if answer is None else self.whole(answer)

    def whole(self, answer: TokenUsage) -> TokenUsage:
        """The answer's own usage, and what was taken before it."""
        return answer if self.before is None else self.before.plus(answer)

    def of_answer(self) -> TokenUsage | None:
        """With all its rounds, the last of them estimated; None if the model was not asked."""
        return self.with_rounds(self.of_round(None)) if self.asked is not None else self.rounds

    def with_rounds(self, last: TokenUsage) -> TokenUsage:
        return last if self.rounds is None else self.rounds.plus(last)

    def end_round(self, finish: Finish) -> None:
        """Until the model is asked again, nothing more is taken."""
        self.rounds = self.with_rounds(self.of_round(finish))
        self.asked, self.said_characters, self.said_pieces = None, 0, 0

    def of_round(self, finish: Finish | None) -> TokenUsage:
        """Estimated where the model does not tell. A model says a token a piece, or several: hence the larger of the two estimates."""
        if finish is not None and finish.usage is not None:
            read, said = finish.usage.input_tokens, finish.usage.output_tokens
            return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said)
        assert self.asked is not None, "a model that has ended has been asked"
        read = sum(memory.estimated_tokens(message.content) for message in self.asked.messages)
        said = max(self.said_pieces, self.said_characters // 4)
        return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said, estimated=True)


@dataclass(frozen=True, slots=True)
class Answered:
    """The model has ended its answer; the last thing the pipeline yields."""

    finish_reason: str
    usage: TokenUsage
