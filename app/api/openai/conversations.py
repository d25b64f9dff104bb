"""`/v1/conversations`: sessions, as clients of OpenAI's Responses make and read them."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from app.api.contract import OPTIONAL_USER, openai_problems
from app.api.deps import Conversations, Responses, SessionHistory, ViewerDep
from app.api.openai import items
from app.api.openai.items import InputItem, Order
from app.api.openai.messages import at
from app.api.openai.response_requests import Metadata
from app.api.text import Text
from app.db.items import NewItem
from app.db.sessions import Described
from app.errors import InvalidInput
from app.services.responses import ResponseService
from app.services.viewer import Viewer

router = APIRouter(prefix="/conversations", tags=["openai"])

_LONGEST = 50_000

Id = Annotated[Text, Path(max_length=100)]
Items = Annotated[list[InputItem], Field(max_length=20)]


class NewConversation(BaseModel):
    metadata: Metadata | None = None
    items: Items | None = None


class Change(BaseModel):
    metadata: Metadata


class NewItems(BaseModel):
    items: Annotated[Items, Field(min_length=1)]


@router.post("", responses=openai_problems(401, 404, 413), openapi_extra=OPTIONAL_USER)
async def make_conversation(
    body: NewConversation, viewer: ViewerDep, conversations: Conversations, responses: Responses
) -> dict[str, Any]:
    said = await _said(body.items or [], viewer, responses)
    return _view(await conversations.make(viewer, dict(body.metadata or {}), said))


@router.get("/{conversation_id}", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def get_conversation(
    conversation_id: Id, viewer: ViewerDep, conversations: Conversations
) -> dict[str, Any]:
    return _view(await conversations.get(conversation_id, viewer))


@router.post("/{conversation_id}", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def change_conversation(
    conversation_id: Id, body: Change, viewer: ViewerDep, conversations: Conversations
) -> dict[str, Any]:
    return _view(await conversations.describe(conversation_id, viewer, dict(body.metadata)))


@router.delete("/{conversation_id}", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def delete_conversation(
    conversation_id: Id, viewer: ViewerDep, conversations: Conversations, sessions: SessionHistory
) -> dict[str, Any]:
    """Erase it, with all that was said in it."""
    await conversations.get(conversation_id, viewer)
    await sessions.forget(conversation_id, viewer, erase=True)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.get("/{conversation_id}/items", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def list_items(
    conversation_id: Id, viewer: ViewerDep, conversations: Conversations, wanted: Annotated[Order, Query()]
) -> dict[str, Any]:
    """What was said in it, on the branch that is shown."""
    messages = await conversations.items(
        conversation_id,
        viewer,
        after=items.message_id(wanted.after) if wanted.after is not None else None,
        limit=wanted.limit + 1,
        newest_first=wanted.order == "desc",
    )
    return items.listed(messages, wanted.limit)


@router.post(
    "/{conversation_id}/items", responses=openai_problems(404, 409, 413), openapi_extra=OPTIONAL_USER
)
async def add_items(
    conversation_id: Id,
    body: NewItems,
    viewer: ViewerDep,
    conversations: Conversations,
    responses: Responses,
) -> dict[str, Any]:
    """Put messages behind what was said, without an answer to them."""
    said = await _said(body.items, viewer, responses)
    added = await conversations.add(conversation_id, viewer, said)
    return items.listed(added, len(added))


async def _said(given: list[Any], viewer: Viewer, responses: ResponseService) -> list[NewItem]:
    """Raises `InvalidInput`: what is kept of a conversation is what its two sides said, as text."""
    known = await responses.messages(items.references(given), viewer)
    said: list[NewItem] = []
    for message in items.messages_of(given, known, "items"):
        text = message.text()
        if message.role not in ("user", "assistant") or message.other_parts or not text.strip():
            raise InvalidInput("A conversation is made of texts of user and assistant.", detail=at("items"))
        if len(text) > _LONGEST:
            raise InvalidInput(f"An item is longer than {_LONGEST:,} characters.", detail=at("items"))
        said.append(NewItem(uuid4(), message.role, text))
    return said


def _view(conversation: Described) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.client_metadata or {},
    }
