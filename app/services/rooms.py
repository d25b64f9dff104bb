"""Who listens to which session in this process, and what there is to be heard there: each answer that is begun in it."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from uuid import UUID

from app.db import processes
from app.db.engine import Sessions
from app.errors import DatabaseUnavailable
from app.services.runs import Followed

logger = logging.getLogger(__name__)


class Listener:
    """One socket. Belongs to one event loop."""

    def __init__(self, token_id: UUID) -> None:
        self.token_id = token_id
        self._run_ids: asyncio.Queue[UUID | None] = asyncio.Queue()
        self._known: set[UUID] = set()

    async def next(self) -> UUID | None:
        """The next run that was not heard of before; None: look whether the token still counts, and what is being answered."""
        return await self._run_ids.get()

    def hear(self, run_id: UUID) -> None:
        if run_id not in self._known:
            self._known.add(run_id)
            self._run_ids.put_nowait(run_id)

    def look(self) -> None:
        self._run_ids.put_nowait(None)


class Rooms:
    """A room is a session's, and known to other processes by a hash of the session's id, which may be a secret."""

    def __init__(self, database: Sessions) -> None:
        self._database = database
        self._rooms: dict[UUID, set[Listener]] = {}

    @contextmanager
    def entered(self, session_id: str, token_id: UUID) -> Generator[Listener]:
        """Listens from now on; what is being answered already is to be looked for."""
        room_id = _room_id(session_id)
        listener = Listener(token_id)
        listener.look()
        room = self._rooms.setdefault(room_id, set())
        room.add(listener)
        try:
            yield listener
        finally:
            room.discard(listener)
            if not room:
                self._rooms.pop(room_id, None)

    async def tell(self, begun: Followed) -> None:
        """All that listen to its session, wherever they do, of an answer that has begun."""
        room_id = _room_id(begun.session_id)
        self._told(room_id, begun.run_id)
        try:
            async with self._database.begin() as session:
                await processes.tell(session, "asked", [room_id, begun.run_id])
        except DatabaseUnavailable:
            logger.info("other processes are not told of run %s: the database is away", begun.run_id)

    def heard(self, message: str) -> None:
        """What no version of this program says is passed over."""
        try:
            match message.split(" "):
                case ["asked", room_id, run_id]:
                    self._told(UUID(room_id), UUID(run_id))
                case ["revoked", token_id]:
                    self._revoke(UUID(token_id))
                case _:
                    pass
        except ValueError:
            return

    def connected(self) -> None:
        """Messages are heard again: what was told before may have been missed."""
        for room in self._rooms.values():
            for listener in room:
                listener.look()

    def _told(self, room_id: UUID, run_id: UUID) -> None:
        for listener in self._rooms.get(room_id, ()):
            listener.hear(run_id)

    def _revoke(self, token_id: UUID) -> None:
        for room in self._rooms.values():
            for listener in room:
                if listener.token_id == token_id:
                    listener.look()


def _room_id(session_id: str) -> UUID:
    return UUID(bytes=sha256(session_id.encode()).digest()[:16])
