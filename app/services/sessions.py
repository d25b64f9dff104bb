"""A conversation afterwards: its history and its branches, its being renamed, claimed, forgotten and erased."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import collections, conversations, feedback, runs, sessions
from app.db.conversations import StoredMessage
from app.db.engine import Sessions
from app.db.feedback import Feedback
from app.db.sessions import SessionRow
from app.errors import DatabaseUnavailable, NotFound, SessionBusy
from app.services.ownership import require_visible
from app.services.runs import RunService
from app.services.viewer import Account, Viewer

logger = logging.getLogger(__name__)

_PAGE = 200
_RETENTION_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """`siblings` are the ids of the alternatives to it, itself included, in the order they were made; empty where there is none."""

    message: StoredMessage
    siblings: list[UUID]
    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages in time order. `next_before` is what to ask for the page before this one with; None: there is none."""

    messages: list[ShownMessage]
    next_before: int | None


class SessionService:
    """For everybody but its owner, a user's session does not exist; an anonymous one is whose who knows its id."""

    def __init__(
        self, database: Sessions, runs_of_all: RunService, *, readers_open_documents: bool = True
    ) -> None:
        self._database = database
        self._runs = runs_of_all
        self._readers_open_documents = readers_open_documents

    async def history(
        self, session_id: str, viewer: Viewer, *, before: int | None, limit: int
    ) -> HistoryPage:
        """Of the branch that is shown. Raises `NotFound` for another user's session. One that nobody has opened yet has an empty history."""
        async with self._database.read() as session:
            await require_visible(session, session_id, viewer)
            messages = await conversations.page_of_messages(
                session, session_id, user_id=viewer.user_id, before=before, limit=limit + 1
            )
            families = await conversations.siblings(session, session_id, messages)
            said = await feedback.of_messages(session, _answers_among(messages))
        shown = [ShownMessage(m, families.get(m.id, []), said.get(m.id)) for m in messages]
        if len(shown) <= limit:
            return HistoryPage(shown, None)
        shown = shown[1:]
        return HistoryPage(shown, shown[0].message.position)

    async def message(self, message_id: UUID) -> StoredMessage:
        async with self._database.read() as session:
            message = await conversations.get_message(session, message_id)
        if message is None:
            raise NotFound("message", message_id)
        return message

    async def require_given(self, session_id: str, viewer: Viewer, document_id: UUID) -> None:
        """Raises `NotFound` unless an answer in this session, which is the viewer's, was given a passage of the document."""
        if self._readers_open_documents:
            async with self._database.read() as session:
                await require_visible(session, session_id, viewer)
                if await conversations.has_source(session, session_id, document_id):
                    return
        raise NotFound("document", document_id)

    async def choose(self, session_id: str, viewer: Viewer, message_id: UUID) -> None:
        """Show the branch of this message. Raises `NotFound`, and `SessionBusy` while an answer is being made."""
        async with self._database.begin() as session:
            await require_visible(session, session_id, viewer)
            if not await sessions.hold(session, session_id):
                raise NotFound("session", session_id)
            if await conversations.get_in_session(session, session_id, message_id) is None:
                raise NotFound("message", message_id)
            if await runs.open_of_session(session, session_id):
                raise SessionBusy
            await conversations.show_branch(session, session_id, message_id)

    async def forget(self, session_id: str, viewer: Viewer, *, erase: bool = False) -> None:
        """Later answers know nothing of what was said, and the history is empty; what is being made is stopped. With `erase`
        the rows are deleted as well. Raises `NotFound` for another user's session."""
        async with self._database.begin() as session:
            await require_visible(session, session_id, viewer)
            # Before its runs, as a new turn does: two that take them in opposite order would wait for each other.
            await sessions.hold(session, session_id)
            made = await runs.open_of_session(session, session_id)
            if made:
                await self._runs.ask_to_stop(session, list(made))
            if erase:
                await sessions.erase(session, session_id, user_id=viewer.user_id)
            else:
                await sessions.forget(session, session_id, user_id=viewer.user_id)
                await collections.remove_of_session(session, session_id)
        self._runs.stop_here(made)

    async def page(
        self, user_id: UUID, *, before: tuple[datetime, str] | None, limit: int
    ) -> list[SessionRow]:
        """The user's sessions, the last active first; `before` is when the last one of the page before was active, and its id."""
        async with self._database.read() as session:
            return await sessions.page(session, user_id, before=before, limit=limit)

    async def rename(self, session_id: str, user_id: UUID, title: str | None) -> SessionRow:
        """Raises `NotFound` unless it is the user's own. Without a title it is called by its first question again."""
        async with self._database.begin() as session:
            renamed = await sessions.rename(session, session_id, user_id=user_id, title=title)
            return await _own(session, session_id, renamed)

    async def claim(self, session_id: str, user_id: UUID) -> SessionRow:
        """Make an anonymous session the user's, as after a login. Raises `NotFound` if there is none, or it is another's."""
        async with self._database.begin() as session:
            claimed = await sessions.claim(session, session_id, user_id=user_id)
            return await _own(session, session_id, claimed)

    async def export(self, account: Account) -> AsyncGenerator[dict[str, Any]]:
        """All that is kept of what a user has asked and been answered, as one record each: the user, then each session before its
        messages, of every branch and also the forgotten ones. No connection is held between two pages."""
        user = {"id": account.id, "email": account.email, "name": account.name, "role": account.role}
        yield {"type": "user", **user}
        before: tuple[datetime, str] | None = None
        while rows := await self.page(account.id, before=before, limit=_PAGE):
            for row in rows:
                yield {"type": "session", **_plain(row)}
                position = 0
                while messages := await self._all_messages(row.id, position):
                    for message, is_shown, said in messages:
                        yield {
                            "type": "message",
                            "session_id": row.id,
                            "is_shown": is_shown,
                            **_plain(message),
                            "feedback": said,
                        }
                        position = message.position
            before = (rows[-1].last_active_at, rows[-1].id)

    async def _all_messages(
        self, session_id: str, after: int
    ) -> list[tuple[StoredMessage, bool, Feedback | None]]:
        async with self._database.read() as session:
            messages = await conversations.all_messages(session, session_id, after=after, limit=_PAGE)
            said = await feedback.of_messages(session, _answers_among([message for message, _ in messages]))
        return [(message, is_shown, said.get(message.id)) for message, is_shown in messages]

    async def erase_older_than(self, days: float) -> None:
        """For as long as the process serves: erase the sessions in which nothing has happened for so many days."""
        while True:
            try:
                erased = -1
                while erased:
                    async with self._database.begin() as session:
                        erased = await sessions.erase_older_than(session, timedelta(days=days))
                    if erased:
                        logger.info("%d sessions older than %g days have been erased", erased, days)
            except DatabaseUnavailable:
                logger.info("the database cannot be reached; old sessions are erased later")
            await asyncio.sleep(_RETENTION_EVERY_S)


def _answers_among(messages: Sequence[StoredMessage]) -> list[UUID]:
    return [message.id for message in messages if message.role == "assistant"]


async def _own(session: AsyncSession, session_id: str, found: bool) -> SessionRow:
    row = await sessions.get(session, session_id) if found else None
    if row is None:
        raise NotFound("session", session_id)
    return row


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


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
