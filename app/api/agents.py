"""Agents with memory: assistants and their sessions, under the calls of clients that know them as agents and conversations."""

import json
from datetime import datetime
from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, JsonValue, field_validator

from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Agents, Chat, Runs, SessionHistory, ViewerDep
from app.api.text import Text
from app.api.v1.assistants import keepable
from app.db.sessions import Conversation
from app.errors import NotFound
from app.services import agents as of_service
from app.services.chat import Asked

router = APIRouter(tags=["agents"])

_MAX_MESSAGE = 50_000

AgentId = Annotated[Text, Field(min_length=1, max_length=100, description="An agent's id, or its slug.")]
ConversationId = Annotated[Text, Field(min_length=1, max_length=100)]


class NewAgent(BaseModel):
    context: Annotated[Text, Field(min_length=1, max_length=100_000)]
    first_message: Annotated[Text, Field(max_length=10_000)] = ""
    response_shape: Annotated[
        dict[str, JsonValue] | Annotated[Text, Field(max_length=65_536)] | None,
        Field(description="An object, or the same as text; other text is the description of an answer."),
    ] = None
    instructions: Annotated[Text, Field(max_length=50_000)] = ""

    @field_validator("response_shape")
    @classmethod
    def _as_object(cls, shape: dict[str, JsonValue] | str | None) -> dict[str, JsonValue] | None:
        if isinstance(shape, str):
            shape = _read(shape)
        return keepable(shape) if shape is not None else None


def _read(text: str) -> dict[str, JsonValue] | None:
    if not text.strip():
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        read = None
    return cast("dict[str, JsonValue]", read) if isinstance(read, dict) else {"answer": text}


class NewConversation(BaseModel):
    agent_id: AgentId


class NewMessage(BaseModel):
    conversation_id: ConversationId
    message: Annotated[Text, Field(min_length=1, max_length=_MAX_MESSAGE, pattern=r"\S")]


class ConversationView(BaseModel):
    id: str
    agent_id: UUID | None
    timestamp: datetime


class AgentView(BaseModel):
    """`context`, `response_shape` and `instructions` are empty for who may not see them."""

    id: UUID
    context: str
    first_message: str
    response_shape: dict[str, Any] | None
    instructions: str
    timestamp: datetime
    conversations: list[ConversationView]


class ExchangeView(BaseModel):
    id: UUID
    user_message: str
    agent_message: str
    timestamp: datetime
    conversation_id: str


class AgentAnswer(BaseModel):
    conversation_id: str
    response: str


@router.post("/create-agent", responses=problems(401, 403, 413, 422), openapi_extra=OPTIONAL_USER)
async def create_agent(body: NewAgent, agents: Agents, viewer: ViewerDep) -> AgentView:
    """Make an agent: for administrators, and with `AGENTS_OPEN` for everybody."""
    return _agent(await agents.create(viewer, **body.model_dump()))


@router.post("/create-conversation", responses=problems(401, 404, 413, 422), openapi_extra=OPTIONAL_USER)
async def create_conversation(body: NewConversation, agents: Agents, viewer: ViewerDep) -> ConversationView:
    """Begin a conversation; its id is the session's. The agent's first message opens it."""
    return _conversation(await agents.open_conversation(body.agent_id, viewer))


@router.post(
    "/chat-agent", responses=problems(401, 404, 409, 413, 422, 502, 504), openapi_extra=OPTIONAL_USER
)
async def chat_agent(
    body: NewMessage, agents: Agents, viewer: ViewerDep, chat: Chat, runs: Runs, sessions: SessionHistory
) -> AgentAnswer:
    """Say something in a conversation, and get the whole answer."""
    conversation = await agents.conversation(body.conversation_id, viewer)
    if conversation.assistant_id is None:
        raise NotFound("agent", "in this conversation any more")
    asked = Asked(message=body.message, assistant=str(conversation.assistant_id), session_id=conversation.id)
    followed = await chat.begin(asked, viewer)
    await runs.finished(followed)
    answer = await sessions.message(followed.message_id)
    return AgentAnswer(conversation_id=conversation.id, response=answer.text)


@router.get("/get-agents", responses=problems(), openapi_extra=OPTIONAL_USER)
async def get_agents(agents: Agents, viewer: ViewerDep) -> list[AgentView]:
    """The agents that are enabled, each with the conversations that one may see."""
    return [_agent(agent) for agent in await agents.all(viewer)]


@router.get("/get-conversations", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def get_conversations(
    agent_id: Annotated[AgentId, Query()], agents: Agents, viewer: ViewerDep
) -> list[ConversationView]:
    """One's own with this agent, in time order."""
    return [_conversation(found) for found in await agents.conversations(agent_id, viewer)]


@router.get("/get-messages", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def get_messages(
    conversation_id: Annotated[ConversationId, Query()], agents: Agents, viewer: ViewerDep
) -> list[ExchangeView]:
    """What was said, in time order: each message and its answer. The first message of an agent answers nothing."""
    return [
        ExchangeView(
            id=exchange.id,
            user_message=exchange.asked,
            agent_message=exchange.answered,
            timestamp=exchange.created_at,
            conversation_id=conversation_id,
        )
        for exchange in await agents.exchanges(conversation_id, viewer)
    ]


def _agent(agent: of_service.Agent) -> AgentView:
    assistant = agent.assistant
    return AgentView(
        id=assistant.id,
        context=assistant.context if agent.is_open else "",
        first_message=assistant.first_message,
        response_shape=assistant.response_shape if agent.is_open else None,
        instructions=assistant.instructions if agent.is_open else "",
        timestamp=assistant.created_at,
        conversations=[_conversation(conversation) for conversation in agent.conversations],
    )


def _conversation(conversation: Conversation) -> ConversationView:
    return ConversationView(
        id=conversation.id, agent_id=conversation.assistant_id, timestamp=conversation.created_at
    )
