"""The messages of OpenAI's wire, as a turn."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.text import Text
from app.errors import InvalidInput
from app.llm.protocols import ChatMessage

_LONGEST = 50_000
_MOST_REMEMBERED = 100

FreeChoice = Annotated[
    Literal["none", "auto"] | None,
    Field(description="No tool of a client is called, so none can be required."),
]


class PlainText(BaseModel):
    """The form of an answer. An assistant says text, and promises no JSON."""

    type: Literal["text"] = "text"


class Part(BaseModel):
    """Of a content in parts. Those that are no text are refused where they would be answered, and left out of the history."""

    type: Annotated[str, Field(max_length=50)]
    text: Text | None = None


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)

    @property
    def other_parts(self) -> list[str]:
        parts = self.content if isinstance(self.content, list) else []
        return [part.type for part in parts if part.text is None]


class Conversation(BaseModel):
    """The last message is the question; those of the system are instructions; the rest is the history."""

    question: str
    instructions: str
    history: tuple[ChatMessage, ...]

    @classmethod
    def of(cls, messages: list[Message], field: str = "messages") -> "Conversation":
        """`field` is that of the request in which they came. Raises `InvalidInput`."""
        rules = [message.text() for message in messages if message.role in ("system", "developer")]
        said = [message for message in messages if message.role not in ("system", "developer")]
        if not said or said[-1].role != "user":
            raise InvalidInput("The last of the messages must be the user's.", detail=at(field))
        *earlier, last = said
        if last.other_parts:
            raise InvalidInput(
                f"Only text can be read here, and the last message has a part of type {last.other_parts[0]}.",
                detail=at(field),
            )
        question = last.text()
        if not question.strip():
            raise InvalidInput("The last message holds no text.", detail=at(field))
        if len(question) > _LONGEST:
            raise InvalidInput(f"The last message is longer than {_LONGEST:,} characters.", detail=at(field))
        history = tuple(
            ChatMessage("user" if message.role == "user" else "assistant", text)
            for message in earlier[-_MOST_REMEMBERED:]
            if message.role in ("user", "assistant") and (text := message.text())
        )
        return cls(question=question, instructions="\n\n".join(rules), history=history)


def at(field: str) -> list[dict[str, Any]]:
    """For the `detail` of an error: the field of the body that it is about."""
    return [{"loc": ["body", field]}]
