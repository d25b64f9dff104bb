"""What is asked for by `POST /v1/responses`, as a turn; and what is told again of it, with every response."""

import time
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from app.api.model_parameters import Sampling, TokenCount
from app.api.openai.items import InputItem
from app.api.openai.messages import Conversation, FreeChoice, Message, PlainText, at
from app.api.openai.response_events import response_id
from app.api.text import Text
from app.db.runs import RunRow
from app.errors import InvalidInput
from app.llm.protocols import ChatMessage
from app.services.chat import Asked

Identifier = Annotated[Text, Field(min_length=1, max_length=100)]
Metadata = Annotated[
    dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]],
    Field(max_length=16),
]


class Form(BaseModel):
    format: PlainText | None = None


class Named(BaseModel):
    id: Identifier


@dataclass(frozen=True, slots=True)
class Before:
    """What a new response goes on with: the session, the answer that it follows, what it was told to heed there, and what was said,
    where that is not in its session."""

    session_id: str | None = None
    answer_id: UUID | None = None
    rules: str = ""
    said: tuple[ChatMessage, ...] = ()
    is_own: bool = True

    @classmethod
    def of(cls, row: RunRow, said: tuple[ChatMessage, ...] = ()) -> "Before":
        request = row.request or {}
        return cls(
            row.session_id, row.message_id, request.get("rules", ""), said, request.get("is_own", False)
        )


class NewResponse(Sampling):
    """What is not named here is taken and ignored: what else there is to an answer is the assistant's."""

    model: Annotated[Text, Field(min_length=1, max_length=100, description="An assistant's slug or id.")]
    input: Text | Annotated[list[InputItem], Field(min_length=1, max_length=10_000)]
    instructions: Annotated[Text | None, Field(max_length=50_000)] = None
    previous_response_id: Identifier | None = None
    conversation: Identifier | Named | None = None
    store: bool | None = True
    background: bool | None = False
    stream: bool | None = False
    metadata: Metadata | None = None
    max_output_tokens: TokenCount | None = None
    text: Form | None = None
    tool_choice: FreeChoice = None

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def session_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, Named) else self.conversation

    @property
    def items(self) -> list[Any]:
        return [Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    def check(self) -> None:
        """Raises `InvalidInput` for what cannot be meant together."""
        if self.previous_response_id is not None and self.conversation is not None:
            raise InvalidInput(
                "A conversation goes on behind its newest answer: send conversation or previous_response_id, not both.",
                detail=at("previous_response_id"),
            )
        if self.background and not self.is_stored:
            raise InvalidInput(
                "What is made in the background is read later, and so has to be stored.", detail=at("store")
            )

    def asked(self, messages: list[Message], before: Before, told: dict[str, Any], key: str | None) -> Asked:
        """Raises `InvalidInput`."""
        conversation = Conversation.of(messages, "input")
        rules = conversation.instructions or before.rules
        request = {
            "told": told,
            "rules": rules,
            "is_own": before.is_own and self.conversation is None,
        }
        is_kept = self.is_stored or self.conversation is not None
        said = conversation.history
        return Asked(
            message=conversation.question,
            assistant=self.model,
            session_id=before.session_id if is_kept else None,
            follows=before.answer_id if is_kept else None,
            earlier=said if is_kept else (),
            history=None if is_kept else (*before.said, *said),
            instructions="\n\n".join(filter(None, (self.instructions, rules))),
            parameters={**self.sampling(), **self._length()},
            request=request if self.is_stored else None,
            is_kept=is_kept,
            goes_on_unread=bool(self.background),
            idempotency_key=key,
        )

    def _length(self) -> dict[str, int]:
        return {"max_tokens": self.max_output_tokens} if self.max_output_tokens is not None else {}

    def told(self) -> dict[str, Any]:
        """What a response repeats of its request."""
        return {
            "created_at": int(time.time()),
            "model": self.model,
            "instructions": self.instructions,
            "previous_response_id": self.previous_response_id,
            "conversation": self.session_id,
            "store": self.is_stored,
            "background": bool(self.background),
            "metadata": self.metadata or {},
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }


def begun(message_id: UUID, session_id: str, told: dict[str, Any]) -> dict[str, Any]:
    """A response of which nothing has been said yet."""
    is_in_a_conversation = told["store"] or told["conversation"] is not None
    return {
        "id": response_id(message_id),
        "object": "response",
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": [],
        **told,
        "conversation": {"id": session_id} if is_in_a_conversation else None,
        "parallel_tool_calls": False,
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "auto",
        "usage": None,
        "user": None,
    }
