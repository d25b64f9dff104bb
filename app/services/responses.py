"""Answers by their own ids, as clients of OpenAI's Responses name them: only those of which the request is told again."""

from collections.abc import Sequence
from uuid import UUID

from app.db import items, runs, sessions
from app.db.conversations import StoredMessage
from app.db.engine import Sessions
from app.db.runs import RunRow
from app.errors import NotFound
from app.services.runs import RunService
from app.services.viewer import Viewer

_MOST_REMEMBERED = 100


class ResponseService:
    """Whose the session is, is whose the answer is: for everybody else it does not exist."""

    def __init__(self, database: Sessions, runs_of_all: RunService) -> None:
        self._database = database
        self._runs = runs_of_all

    async def find(self, answer_id: UUID, viewer: Viewer) -> RunRow | None:
        async with self._database.read() as session:
            row = await runs.of_answer(session, answer_id, user_id=viewer.user_id)
        return row if row is not None and row.request else None

    async def newest_of(self, session_id: str) -> RunRow | None:
        async with self._database.read() as session:
            return await runs.find(session, session_id, None)

    async def stop(self, row: RunRow, viewer: Viewer) -> RunRow | None:
        """As it is when it has ended; one that has ended stays as it is. None if it is gone by then."""
        await self._runs.stop(row.session_id, viewer, run_id=row.id)
        return await self.find(row.message_id, viewer)

    async def delete(self, row: RunRow, viewer: Viewer, *, with_session: bool) -> None:
        """It cannot be read by its id any more, and is stopped. `with_session` erases its session when that has nothing else."""
        if row.is_open:
            await self._runs.stop(row.session_id, viewer, run_id=row.id)
        async with self._database.begin() as session:
            await sessions.hold(session, row.session_id)
            others = await runs.drop_request(session, row.id)
            if with_session and not others:
                await sessions.erase(session, row.session_id, user_id=viewer.user_id)

    async def input_of(self, row: RunRow) -> list[StoredMessage]:
        """In time order."""
        async with self._database.read() as session:
            return await items.input_of(session, row.message_id)

    async def conversation_up_to(self, row: RunRow) -> list[StoredMessage]:
        """What was said up to this answer and in it, in time order."""
        async with self._database.read() as session:
            return await items.up_to(session, row.message_id, limit=_MOST_REMEMBERED)

    async def messages(self, ids: Sequence[UUID], viewer: Viewer) -> dict[UUID, StoredMessage]:
        """Raises `NotFound` if there is one that the viewer may not see."""
        if not ids:
            return {}
        async with self._database.read() as session:
            found = await items.visible(session, ids, user_id=viewer.user_id)
        for identifier in ids:
            if identifier not in found:
                raise NotFound("item", f"msg_{identifier.hex}")
        return found
