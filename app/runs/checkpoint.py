"""The one writer of a process: the new lines of all its runs go into the database together, a few times a second."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

import anyio

from app.db import processes, runs
from app.db.engine import Sessions
from app.db.runs import NewLines
from app.errors import DatabaseUnavailable
from app.runs.runner import Run, Runner

logger = logging.getLogger(__name__)

_MOST_BYTES = 8 * 2**20
# Between two attempts while the database takes nothing.
_LONGEST_WAIT_S = 1.0
_LAST_WORDS_S = 5.0


class Checkpointer:
    """Writes every `every_s` what there is, and tells the other processes once. What could not be written is written with the next."""

    def __init__(self, sessions: Sessions, runner: Runner, process_id: UUID, *, every_s: float) -> None:
        self._sessions = sessions
        self._runner = runner
        self._process_id = process_id
        self._every_s = every_s
        self._written: dict[UUID, int] = {}
        self._withdrawn: set[UUID] = set()
        self._writing: frozenset[UUID] = frozenset()
        self._settled = asyncio.Event()
        self._ended = False
        self._failures = 0

    async def run(self) -> None:
        """For as long as the process serves."""
        while True:
            await asyncio.sleep(min(self._every_s * 2**self._failures, max(self._every_s, _LONGEST_WAIT_S)))
            await self.write()

    async def say_last_words(self) -> None:
        """When the runs have ended: those elsewhere that follow them are told by nobody else."""
        with anyio.move_on_after(_LAST_WORDS_S, shield=True):
            await self.write()

    async def withdraw(self, run: Run) -> None:
        """Write no more of this run, and wait for what is being written of it: its end is to be stored."""
        self._withdrawn.add(run.id)
        while run.id in self._writing:
            await self._settled.wait()

    def forget(self, run: Run) -> None:
        """The run has ended: those elsewhere that follow it, or wait for it, are told with the next lines."""
        self._withdrawn.discard(run.id)
        self._written.pop(run.id, None)
        self._ended = True

    async def write(self) -> None:
        batches = self._batches()
        ended, self._ended = self._ended, False
        if not batches and not ended:
            return
        self._writing = frozenset(batch.run_id for batch in batches)
        failures, self._failures = self._failures, self._failures + 1
        try:
            await self._store(batches, "ended" if ended else "lines")
            self._failures = 0
        except DatabaseUnavailable as error:
            if not failures:
                logger.warning("lines of %d runs are kept later: %s", len(batches), error.message)
        except Exception:  # a bug must cost an attempt, not the process
            logger.exception("lines of %d runs could not be kept, and are tried again", len(batches))
        finally:
            self._ended = self._ended or (ended and self._failures > 0)
            self._writing = frozenset()
            self._settled.set()
            self._settled = asyncio.Event()

    def _batches(self) -> list[NewLines]:
        batches: list[NewLines] = []
        size = 0
        for run in self._runner.runs():
            after = self._written.get(run.id, 0)
            if run.log.last_seq > after and run.id not in self._withdrawn and size < _MOST_BYTES:
                lines = run.log.lines_after(after)
                batches.append(NewLines(run.id, after + 1, after + len(lines), b"".join(lines)))
                size += len(batches[-1].lines)
        return batches

    async def _store(self, batches: Sequence[NewLines], what: str) -> None:
        async with self._sessions.begin() as session:
            await processes.beat(session, self._process_id)
            taken = await runs.add_lines(session, batches) if batches else set[UUID]()
            await processes.tell(session, what, [self._process_id])
        for batch in batches:
            if batch.run_id in taken:
                self._written[batch.run_id] = batch.last_seq
            else:
                # It has been ended by another process, which took this one for dead, or deleted with its session.
                self._written.pop(batch.run_id, None)
                self._runner.end([batch.run_id], "lost")
