"""Runs wherever they are made: following, stopping and queueing them, and ending those that nobody makes any more."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import msgspec
from anyio import to_thread
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import processes, runs
from app.db.engine import Sessions
from app.db.runs import RunRow
from app.errors import DatabaseUnavailable, NotFound, of_code
from app.runs.log import Lines, Reading, RunLog, unpack
from app.runs.mirrors import Mirrors
from app.runs.runner import Run, Runner
from app.services.ownership import require_visible
from app.services.viewer import Viewer

logger = logging.getLogger(__name__)

# Ahead of every log: who follows from here gets the last event, when it comes.
_END_OF_ALL = 2**31 - 1
# How long a request to stop waits for the answer to have been stored, in seconds.
_STOPPING_S = 10.0


@dataclass(frozen=True, slots=True)
class Followed:
    """A run that can be followed from here, wherever it is made or was made. `request` is as in `RunRow`."""

    run_id: UUID
    session_id: str
    message_id: UUID
    reading: Reading
    follow: Callable[..., AsyncGenerator[Lines]]
    """Takes `after`, the number of the last line that is not wanted."""
    request: dict[str, Any] | None = None


class LastEvent(msgspec.Struct):
    """The terminal one: `status` of a `done`, `code` and `message` of an `error`."""

    status: str = "failed"
    code: str | None = None
    message: str = ""


class _Changes:
    """Wakes all that wait for something to have changed. To miss none, take the `next` one before looking."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        return self._next

    def happened(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


class RunService:
    def __init__(
        self,
        database: Sessions,
        runner: Runner,
        mirrors: Mirrors,
        reading: Reading,
        *,
        beat_s: float,
    ) -> None:
        self._database = database
        self._runner = runner
        self._mirrors = mirrors
        self.reading = reading
        self._beat_s = beat_s
        self._changes = _Changes()

    def made_here(self, run: Run, request: dict[str, Any] | None = None) -> Followed:
        follow = partial(self._runner.follow, run)
        return Followed(run.id, run.session_id, run.message_id, self.reading, follow, request)

    def followed(self, row: RunRow) -> Followed:
        run = self._runner.get(row.id)
        if run is not None:
            return self.made_here(run, row.request)
        if row.is_open:
            follow = partial(self._mirrors.follow, row.id, row.process_id)
        else:
            follow = partial(self._replay, row.id)
        return Followed(row.id, row.session_id, row.message_id, self.reading, follow, row.request)

    async def resume(
        self, session_id: str, viewer: Viewer, *, run_id: UUID | None, after: int
    ) -> tuple[Followed, int] | None:
        """The run, or the newest of the session, and behind which of its lines it is to be followed; None if there is nothing behind
        `after` and never will be. Raises `NotFound`.

        The last event of a run that was abandoned is always there again: the one that its reader has by that number may be another,
        which its process had sent and not stored.
        """
        async with self._database.read() as session:
            await require_visible(session, session_id, viewer)
            row = await runs.find(session, session_id, run_id)
        if row is None and run_id is not None:
            raise NotFound("run", run_id)
        if row is None:
            return None
        if row.was_abandoned and row.last_seq == after:
            after -= 1
        if row.last_seq == after or (not row.is_open and row.last_seq is None):
            return None
        return self.followed(row), after

    async def open_in(self, session_id: str, viewer: Viewer) -> Sequence[UUID]:
        """The runs of the session that have not ended. Raises `NotFound`."""
        async with self._database.read() as session:
            await require_visible(session, session_id, viewer)
            return await runs.open_of_session(session, session_id)

    async def being_made(self, session_id: str, viewer: Viewer) -> Followed | None:
        """The newest run of the session, if it has not ended. Raises `NotFound`."""
        async with self._database.read() as session:
            await require_visible(session, session_id, viewer)
            row = await runs.find(session, session_id, None)
        return self.followed(row) if row is not None and row.is_open else None

    async def last_event(self, followed: Followed) -> LastEvent:
        """Waits for the end of the run."""
        last = b"{}"
        async with aclosing(followed.follow(after=_END_OF_ALL)) as batches:
            async for batch in batches:
                last = batch.lines[-1] if batch.lines else last
        return msgspec.json.decode(last, type=LastEvent)

    async def finished(self, followed: Followed) -> None:
        """Waits for the end of the run. Raises why it failed, if it did."""
        end = await self.last_event(followed)
        if end.code is not None:
            raise of_code(end.code, end.message)

    async def _replay(self, run_id: UUID, *, after: int) -> AsyncGenerator[Lines]:
        async with self._database.read() as session:
            packed = await runs.packed_log(session, run_id)
        if packed is None:
            raise NotFound("run", run_id)
        log = RunLog()
        log.settle(await to_thread.run_sync(unpack, packed))
        async with aclosing(log.follow(after=after, reading=self.reading)) as batches:
            async for batch in batches:
                yield batch

    async def stop(
        self, session_id: str, viewer: Viewer, *, run_id: UUID | None
    ) -> tuple[RunRow, str] | None:
        """End the run, or the one that is running in the session, and wait until it is stored; a run that has ended stays as it is.

        The run and its status; None if the session has none. Raises `NotFound`.
        """
        async with self._database.begin() as session:
            await require_visible(session, session_id, viewer)
            row = await runs.running(session, session_id) if run_id is None else None
            row = row or await runs.find(session, session_id, run_id)
            if row is None and run_id is not None:
                raise NotFound("run", run_id)
            if row is not None and row.is_open:
                await self.ask_to_stop(session, [row.id])
        if row is None or not row.is_open:
            return (row, row.status) if row is not None else None
        self.stop_here([row.id])
        status = row.status
        with anyio.move_on_after(_STOPPING_S):
            status = (await self.last_event(self.followed(row))).status
        return row, status

    async def ask_to_stop(self, session: AsyncSession, run_ids: Sequence[UUID]) -> None:
        """In a transaction; when it has been committed, `stop_here` stops those of this process at once."""
        await runs.request_stop(session, run_ids)
        await processes.tell(session, "stop", run_ids)

    def stop_here(self, run_ids: Iterable[UUID]) -> None:
        self._runner.end(run_ids, "stopped")

    async def turn_comes(self, run: Run) -> None:
        """Waits until no other run of the session is running or queued before this one; from then on it is the one that is running."""
        while True:
            change = self._changes.next()
            try:
                async with self._database.begin() as session:
                    if await runs.promote(session, run.id):
                        return
            except DatabaseUnavailable:
                logger.debug("run %s goes on waiting for its turn: the database is away", run.id)
            await change.wait()

    def something_happened(self) -> None:
        """It may be somebody's turn."""
        self._changes.happened()

    def heard(self, message: str) -> None:
        """What no version of this program says is passed over."""
        try:
            what, *ids = message.split(" ")
            identifiers = [UUID(word) for word in ids]
        except ValueError:
            return
        if what in ("lines", "ended"):
            for process_id in identifiers:
                self._mirrors.heard_of(process_id)
        if what == "ended":
            self._changes.happened()
        elif what == "stop":
            self.stop_here(identifiers)
        elif what == "read":
            for run_id in identifiers:
                self._runner.read_elsewhere(run_id, for_s=2 * self._beat_s)

    def connected(self) -> None:
        """Messages are heard again: what was told before may have been missed."""
        self._mirrors.heard_nothing()
        self._changes.happened()
