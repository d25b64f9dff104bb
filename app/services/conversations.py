"""Sessions that a client makes before anything is asked in them, and what is said there, item by item."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from app.db import assistants, items, runs, sessions
from app.db.conversations import StoredMessage
from app.db.engine import Sessions
from app.db.items import NewItem
from app.db.sessions import Described
from app.errors import NotFound, SessionBusy, Unauthenticated
from app.services.viewer import Viewer


class ConversationService:
    def __init__(self, database: Sessions) -> None:
        self._database = database

    async def make(
        self, viewer: Viewer, client_metadata: dict[str, Any], said: Sequence[NewItem]
    ) -> Described:
        """Raises `Unauthenticated` for who has nobody to talk to."""
        session_id = f"conv_{uuid4().hex}"
        async with self._database.begin() as session:
            if viewer.account is None and not await assistants.any_for_strangers(session):
                raise Unauthenticated(
                    viewer.refusal or "This needs a user: send an access token or an API key as a bearer."
                )
            made = await sessions.add(
                session, session_id, user_id=viewer.user_id, client_metadata=client_metadata
            )
            await items.add(session, session_id, said)
        return made

    async def get(self, session_id: str, viewer: Viewer) -> Described:
        """Raises `NotFound`, as all that follow."""
        async with self._database.read() as session:
            return _there(session_id, await sessions.described(session, session_id, user_id=viewer.user_id))

    async def describe(self, session_id: str, viewer: Viewer, client_metadata: dict[str, Any]) -> Described:
        async with self._database.begin() as session:
            changed = await sessions.describe(
                session, session_id, user_id=viewer.user_id, client_metadata=client_metadata
            )
        return _there(session_id, changed)

    async def items(
        self, session_id: str, viewer: Viewer, *, after: UUID | None, limit: int, newest_first: bool
    ) -> list[StoredMessage]:
        async with self._database.read() as session:
            _there(session_id, await sessions.described(session, session_id, user_id=viewer.user_id))
            return await items.page(session, session_id, after=after, limit=limit, newest_first=newest_first)

    async def add(self, session_id: str, viewer: Viewer, said: Sequence[NewItem]) -> list[StoredMessage]:
        """As they are stored. Raises `SessionBusy` while an answer is being made."""
        async with self._database.begin() as session:
            # First, so that it is not erased meanwhile.
            await sessions.hold(session, session_id)
            _there(session_id, await sessions.described(session, session_id, user_id=viewer.user_id))
            if await runs.open_of_session(session, session_id):
                raise SessionBusy
            await items.add(session, session_id, said)
            return await items.up_to(session, said[-1].id, limit=len(said))


def _there(session_id: str, found: Described | None) -> Described:
    if found is None:
        raise NotFound("conversation", session_id)
    return found
