"""A conversation afterwards: its history, and its being forgotten."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import conversations
from app.db.conversations import StoredMessage
from app.db.engine import Sessions
from app.errors import NotFound
from app.services.viewer import Viewer


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages in time order. `next_before` is what to ask for the page before this one with; None: there is none."""

    messages: list[StoredMessage]
    next_before: int | None


class SessionService:
    """For everybody but its owner, a user's session does not exist; an anonymous one is whose who knows its id."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def history(
        self, session_id: str, viewer: Viewer, *, before: int | None, limit: int
    ) -> HistoryPage:
        """Raises `NotFound` for another user's session. One that nobody has opened yet has an empty history."""
        async with self._sessions.read() as session:
            await _require_visible(session, session_id, viewer)
            messages = await conversations.page_of_messages(
                session, session_id, user_id=viewer.user_id, before=before, limit=limit + 1
            )
        if len(messages) <= limit:
            return HistoryPage(messages, None)
        messages = messages[1:]
        return HistoryPage(messages, messages[0].position)

    async def message(self, message_id: UUID) -> StoredMessage:
        async with self._sessions.read() as session:
            message = await conversations.get_message(session, message_id)
        if message is None:
            raise NotFound("message", message_id)
        return message

    async def forget(self, session_id: str, viewer: Viewer) -> None:
        """Later answers know nothing of what was said, and the history is empty. Raises `NotFound` for another user's session."""
        async with self._sessions.begin() as session:
            await _require_visible(session, session_id, viewer)
            await conversations.forget(session, session_id, user_id=viewer.user_id)


async def _require_visible(session: AsyncSession, session_id: str, viewer: Viewer) -> None:
    owner = await conversations.owner_of(session, session_id)
    if owner is not None and owner[0] is not None and owner[0] != viewer.user_id:
        raise NotFound("session", session_id)


def step_tree(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps of an answer as the history shows them: only roots at the top, each with its `sub_steps`, in the order they began."""
    by_id: dict[str, dict[str, Any]] = {}
    roots: list[dict[str, Any]] = []
    for sequence, step in enumerate(steps, 1):
        payload: dict[str, Any] = step.get("payload") or {}
        shown: dict[str, Any] = {
            "step_id": step["step_id"],
            "parent_id": step["parent_id"],
            "step_type": step["step_type"],
            "status": step["status"],
            "duration": step.get("duration"),
            "tokens": payload.get("tokens"),
            "metadata": payload,
            "sequence": sequence,
            "sub_steps": [],
        }
        by_id[step["step_id"]] = shown
        parent = by_id.get(step["parent_id"])
        (parent["sub_steps"] if parent is not None else roots).append(shown)
    return roots
