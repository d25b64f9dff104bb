"""Logs of runs that other processes make, kept up with what those have stored, for the readers here."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from uuid import UUID

from app.db import processes, runs
from app.db.engine import Sessions
from app.db.runs import News
from app.errors import DatabaseUnavailable, FreshetError, SessionErased, ShuttingDown
from app.events import failure
from app.runs.log import Lines, Reading, RunLog, split, unpack

logger = logging.getLogger(__name__)

_RETRY_S = 0.5


class _Mirror:
    __slots__ = ("log", "process_id")

    def __init__(self, process_id: UUID, left: Callable[[], None]) -> None:
        self.process_id = process_id
        self.log = RunLog(left)


class Mirrors:
    """One log for each run that is followed here and made elsewhere, however many follow it, for as long as somebody does."""

    def __init__(self, sessions: Sessions, reading: Reading) -> None:
        self._sessions = sessions
        self._reading = reading
        self._mirrors: dict[UUID, _Mirror] = {}
        self._behind: set[UUID] = set()
        self._something_behind = asyncio.Event()
        self._is_new = False
        self._draining = False

    @property
    def process_ids(self) -> set[UUID]:
        """Those that make, or made, what is followed here."""
        return {mirror.process_id for mirror in self._mirrors.values() if not mirror.log.closed}

    @property
    def run_ids(self) -> tuple[UUID, ...]:
        return tuple(self._mirrors)

    async def follow(self, run_id: UUID, process_id: UUID, *, after: int) -> AsyncGenerator[Lines]:
        """Raises `ShuttingDown` when this process stops while the run goes on."""
        # Known before it is first read: what is told meanwhile makes it be read once more.
        mirror = self._mirrors.get(run_id)
        if mirror is None:
            mirror = self._mirrors[run_id] = _Mirror(process_id, partial(self._forget, run_id))
            self._is_new = True
        if self._draining:
            mirror.log.break_off(_stopping())
        self._is_behind([run_id])
        async with aclosing(mirror.log.follow(after=after, reading=self._reading)) as batches:
            async for batch in batches:
                yield batch

    def _forget(self, run_id: UUID) -> None:
        self._mirrors.pop(run_id, None)

    def heard_of(self, process_id: UUID) -> None:
        """The process has stored more of its runs."""
        self._is_behind(
            [run_id for run_id, mirror in self._mirrors.items() if mirror.process_id == process_id]
        )

    def heard_nothing(self) -> None:
        """Anything may have been stored unheard."""
        self._is_behind(self.run_ids)

    async def keep_up(self) -> None:
        """For as long as the process serves: reads what is behind, for all readers together."""
        while True:
            await self._something_behind.wait()
            self._something_behind.clear()
            wanted = {
                run_id: mirror
                for run_id in self._behind
                if (mirror := self._mirrors.get(run_id)) is not None and not mirror.log.closed
            }
            self._behind.clear()
            if not wanted:
                continue
            after = {run_id: mirror.log.last_seq for run_id, mirror in wanted.items()}
            try:
                async with self._sessions.read() as session:
                    news = await runs.news(session, after)
                if self._is_new:
                    self._is_new = False
                    await self.tell_of_readers()
                for one in news:
                    # Not that of readers who have come since, which is empty and behind by itself.
                    _take(wanted[one.run_id].log, one)
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_S)
                self._is_behind(list(wanted))
            except Exception:  # a bug must cost these readers, not the process
                logger.exception("%d runs could not be followed", len(wanted))
                for mirror in wanted.values():
                    mirror.log.break_off(_failed())

    async def tell_of_readers(self) -> None:
        """The processes that make the runs which are followed here."""
        followed = [run_id for run_id, mirror in self._mirrors.items() if not mirror.log.closed]
        if followed:
            async with self._sessions.begin() as session:
                await processes.tell(session, "read", followed)

    def drain(self) -> None:
        """End all readers of runs that go on elsewhere: they resume there."""
        self._draining = True
        for mirror in self._mirrors.values():
            mirror.log.break_off(_stopping())

    def _is_behind(self, run_ids: Sequence[UUID]) -> None:
        self._behind.update(run_ids)
        if run_ids:
            self._something_behind.set()


def _failed() -> FreshetError:
    return FreshetError("The answer could not be followed any further. It has been noted.")


def _stopping() -> ShuttingDown:
    return ShuttingDown(
        "This server is about to stop. Resume the answer behind the last event that came.", retry_after_s=1
    )


def _take(log: RunLog, news: News) -> None:
    if log.closed:
        return
    if not news.exists:
        log.append(failure(SessionErased()))
    elif news.log is not None:
        log.settle(unpack(news.log))
    elif news.lines is not None and news.first_seq is not None:
        # Lines are stored in their order: none is missing between those that are here and these.
        assert news.first_seq <= log.last_seq + 1
        log.extend(split(news.lines)[log.last_seq + 1 - news.first_seq :])
