"""Agents: assistants as their door shows them. An agent is an assistant, a conversation a session, and each message a turn."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from app.db import conversations, memory, sessions
from app.db.assistants import AssistantView
from app.db.engine import Sessions
from app.db.memory import Said
from app.db.sessions import Conversation
from app.errors import Forbidden, NotFound, Unauthenticated
from app.services.assistants import AssistantService, usable_in
from app.services.viewer import Viewer

_NAME = "Agent"
_MADE_HERE = re.compile(r"agent-[0-9a-f]{32}")
_PAGE = 200
_MOST_CONVERSATIONS = 1_000
_MOST_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class Agent:
    """What steers it is its administrators' alone, unless `is_open`."""

    assistant: AssistantView
    is_open: bool
    conversations: list[Conversation]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer. What opened the conversation answers no question."""

    id: UUID
    asked: str
    answered: str
    created_at: datetime


class AgentService:
    """With `is_open`, whoever comes may make agents, and sees those that were made here with their anonymous conversations."""

    def __init__(self, database: Sessions, assistants: AssistantService, *, is_open: bool) -> None:
        self._database = database
        self._assistants = assistants
        self._is_open = is_open

    async def create(
        self,
        viewer: Viewer,
        *,
        context: str,
        first_message: str,
        response_shape: dict[str, Any] | None,
        instructions: str,
    ) -> Agent:
        """Raises `Unauthenticated` or `Forbidden` for who may make none."""
        if not self._is_open and viewer.account is None:
            raise Unauthenticated(viewer.refusal or "Agents are made by administrators: send a bearer.")
        if not self._is_open and not _is_admin(viewer):
            raise Forbidden("Agents are made by administrators.")
        assistant = await self._assistants.create(
            name=_NAME,
            slug=f"agent-{uuid4().hex}",
            context=context,
            first_message=first_message,
            response_shape=response_shape,
            instructions=instructions,
        )
        return Agent(assistant, is_open=True, conversations=[])

    async def all(self, viewer: Viewer) -> list[Agent]:
        """In the order of their slugs."""
        found: list[AssistantView] = []
        after: str | None = None
        while page := await self._assistants.page(viewer, after=after, limit=_PAGE):
            found += [assistant for assistant in page if assistant.is_enabled]
            after = page[-1].slug
        theirs: dict[UUID, list[Conversation]] = {assistant.id: [] for assistant in found}
        for conversation in await self._conversations(found, viewer):
            if conversation.assistant_id is not None:
                theirs[conversation.assistant_id].append(conversation)
        return [
            Agent(
                assistant,
                is_open=_is_admin(viewer) or self._is_open_to_all(assistant),
                conversations=theirs[assistant.id],
            )
            for assistant in found
        ]

    async def open_conversation(self, agent: str, viewer: Viewer) -> Conversation:
        """Raises `NotFound`, and `Unauthenticated` for an agent that wants a user."""
        session_id = str(uuid4())
        async with self._database.begin() as session:
            assistant = await usable_in(session, agent, viewer)
            await sessions.open_session(
                session, session_id, user_id=viewer.user_id, assistant_id=assistant.id
            )
            if assistant.first_message:
                await conversations.add_opening(session, session_id, assistant.first_message)
            opened = await sessions.conversation(session, session_id, user_id=viewer.user_id)
        assert opened is not None
        return opened

    async def conversations(self, agent: str, viewer: Viewer) -> list[Conversation]:
        """The viewer's own, the newest 1,000, in time order. Raises `NotFound`."""
        return await self._conversations([await self._assistants.get(agent, viewer)], viewer)

    async def conversation(self, conversation_id: str, viewer: Viewer) -> Conversation:
        """Raises `NotFound`, also for another user's."""
        async with self._database.read() as session:
            found = await sessions.conversation(session, conversation_id, user_id=viewer.user_id)
        if found is None:
            raise NotFound("conversation", conversation_id)
        return found

    async def exchanges(self, conversation_id: str, viewer: Viewer) -> list[Exchange]:
        """Of the branch that is shown, in time order. Raises `NotFound`."""
        await self.conversation(conversation_id, viewer)
        async with self._database.read() as session:
            return _exchanges(await memory.said(session, conversation_id, limit=_MOST_MESSAGES))

    async def _conversations(self, assistants: Sequence[AssistantView], viewer: Viewer) -> list[Conversation]:
        opened_to_all = [assistant.id for assistant in assistants if self._is_open_to_all(assistant)]
        async with self._database.read() as session:
            return await sessions.with_assistants(
                session,
                [assistant.id for assistant in assistants],
                user_id=viewer.user_id,
                anonymous_of=opened_to_all,
                limit=_MOST_CONVERSATIONS,
            )

    def _is_open_to_all(self, assistant: AssistantView) -> bool:
        return self._is_open and _MADE_HERE.fullmatch(assistant.slug) is not None


def _exchanges(messages: Sequence[Said]) -> list[Exchange]:
    found: list[Exchange] = []
    asked: Said | None = None
    for message in messages:
        if message.role == "user":
            asked = message
        else:
            question, began = (
                (asked.text, asked.created_at) if asked is not None else ("", message.created_at)
            )
            found.append(Exchange(message.id, question, message.text, began))
            asked = None
    return found


def _is_admin(viewer: Viewer) -> bool:
    return viewer.account is not None and viewer.account.is_admin
