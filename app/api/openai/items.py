"""The items of OpenAI's Responses and conversations: what clients send as input, and what they are shown of what was said."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Discriminator, Field, Tag

from app.api.openai.messages import Message, at
from app.api.openai.response_events import annotation, file_names, item_id
from app.api.text import Text
from app.db.conversations import StoredMessage
from app.errors import InvalidInput

_ITEM_ID = re.compile(r"msg_([0-9a-f]{32})")
# What a model thought is of no use to another, and leaves nothing out of what was said.
_PASSED_OVER = {"reasoning"}


class Reference(BaseModel):
    """An item that is there already."""

    type: Literal["item_reference"]
    id: Annotated[Text, Field(max_length=100)]


class OtherItem(BaseModel):
    type: Annotated[str, Field(max_length=100)]


def _kind(item: Any) -> str:
    kind = cast("dict[str, Any]", item).get("type") if isinstance(item, dict) else None
    return "message" if kind is None else kind if kind in ("message", "item_reference") else "other"


InputItem = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[Reference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_kind),
]


class Order(BaseModel):
    """Which items of a list are asked for."""

    after: Annotated[str | None, Query(max_length=100)] = None
    limit: Annotated[int, Query(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


def message_id(item: str) -> UUID | None:
    named = _ITEM_ID.fullmatch(item)
    return UUID(named[1]) if named is not None else None


def references(items: Iterable[Any]) -> list[UUID]:
    """The ids of the messages that are referred to. Raises `InvalidInput` for what cannot be one's id."""
    found: list[UUID] = []
    for item in items:
        if isinstance(item, Reference):
            identifier = message_id(item.id)
            if identifier is None:
                raise InvalidInput(f"There is no item {item.id:.100}.", detail=at("input"))
            found.append(identifier)
    return found


def messages_of(items: Iterable[Any], known: dict[UUID, StoredMessage], field: str) -> list[Message]:
    """`known` are the messages that are referred to. Raises `InvalidInput` for items that are neither messages nor may be left out."""
    messages: list[Message] = []
    for item in items:
        if isinstance(item, Message):
            messages.append(item)
        elif isinstance(item, Reference):
            message = known[references([item])[0]]
            messages.append(
                Message(role="user" if message.role == "user" else "assistant", content=message.text)
            )
        elif item.type not in _PASSED_OVER:
            raise InvalidInput(
                f"Only messages can be read here, and one of the items is of type {item.type}.",
                detail=at(field),
            )
    return messages


def shown(message: StoredMessage) -> dict[str, Any]:
    """A message as an item of a list."""
    if message.role == "user":
        part: dict[str, Any] = {"type": "input_text", "text": message.text}
    else:
        names = file_names(message.sources)
        annotations = [annotation(citation, names) for citation in message.citations]
        part = {"type": "output_text", "text": message.text, "annotations": annotations, "logprobs": []}
    is_open = message.status in ("queued", "running")
    status = "in_progress" if is_open else "completed" if message.status == "completed" else "incomplete"
    return {
        "id": item_id(message.id),
        "type": "message",
        "role": message.role,
        "status": status,
        "content": [part],
    }


def listed(messages: list[StoredMessage], limit: int) -> dict[str, Any]:
    """A page of `limit` items, from them and one more if there are more."""
    page = [shown(message) for message in messages[:limit]]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(messages) > limit,
    }
