"""The signs of life of a process, and what becomes of the runs of one that shows none any more."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import msgspec

from app.db import processes, runs
from app.db.engine import Sessions
from app.db.runs import Abandoned, AnswerEnd
from app.errors import DatabaseUnavailable, Interrupted
from app.events import PROTOCOL_VERSION, Start, failure
from app.runs.mirrors import Mirrors
from app.runs.runner import Runner
from app.services.draft import Draft
from app.services.expenses import Prices, of_interrupted
from app.services.runs import RunService

logger = logging.getLogger(__name__)

# After so many missed signs of life in a row a process counts as gone.
_MISSED_BEATS = 4
_ABANDONED_AT_ONCE = 50


class Heartbeat:
    def __init__(
        self,
        database: Sessions,
        runner: Runner,
        mirrors: Mirrors,
        runs_of_all: RunService,
        process_id: UUID,
        *,
        prices: Prices,
        beat_s: float,
    ) -> None:
        self._database = database
        self._runner = runner
        self._mirrors = mirrors
        self._runs = runs_of_all
        self._process_id = process_id
        self._prices = prices
        self._beat_s = beat_s
        self._silence = timedelta(seconds=_MISSED_BEATS * beat_s)

    async def keep_alive(self) -> None:
        """For as long as the process serves: beat, see what others want of the runs here, and end the runs of processes that are gone.

        Whether another process is silent can be told only by one that has not been away from the database itself.
        """
        clock = asyncio.get_running_loop().time
        steady_since = beaten_at = clock()
        while True:
            try:
                await self._beat()
                if clock() - beaten_at > 2 * self._beat_s:
                    steady_since = clock()
                beaten_at = clock()
                await self._mirrors.tell_of_readers()
                if beaten_at - steady_since >= self._silence.total_seconds():
                    await self.end_abandoned()
            except DatabaseUnavailable:
                logger.warning("the database cannot be reached; trying again in %g s", self._beat_s)
            except Exception:  # a bug, or processes in each other's way, must cost a beat, not the process
                logger.exception("the heartbeat failed; trying again in %g s", self._beat_s)
            self._runs.something_happened()
            await asyncio.sleep(self._beat_s)

    async def _beat(self) -> None:
        running = self._runner.run_ids
        async with self._database.begin() as session:
            await processes.beat(session, self._process_id)
            called_off = await runs.called_off(session, running)
            followed = self._mirrors.process_ids
            silent = (
                await processes.silent_among(session, followed, silence=self._silence) if followed else ()
            )
        for run_id, asked_to_stop in called_off.items():
            self._runner.end([run_id], "stopped" if asked_to_stop else "lost")
        for process_id in silent:
            # It may have stored the end of a run and died before it told.
            self._mirrors.heard_of(process_id)

    async def end_abandoned(self) -> None:
        """End, as interrupted and with what was kept of their text, the runs of processes that have been silent for too long."""
        while True:
            async with self._database.begin() as session:
                silent = await processes.hold_silent(session, self._process_id, silence=self._silence)
                left = await runs.abandoned(
                    session,
                    self._process_id,
                    silent=silent,
                    running=self._runner.run_ids,
                    silence=self._silence,
                    limit=_ABANDONED_AT_ONCE,
                )
                if not left:
                    return
                lines = await runs.lines_of(session, [one.run_id for one in left])
                for one in left:
                    await runs.end(
                        session, one.run_id, await _interrupted(one, lines[one.run_id], self._prices)
                    )
                await processes.tell(session, "ended", list({one.process_id for one in left}))
            logger.warning(
                "%d answers that nobody was making any more have been ended as interrupted", len(left)
            )


async def _interrupted(run: Abandoned, lines: Sequence[bytes], prices: Prices) -> AnswerEnd:
    if not lines:
        start = Start(
            run_id=str(run.run_id),
            session_id=run.session_id,
            message_id=str(run.message_id),
            user_message_id=str(run.user_message_id),
            protocol=PROTOCOL_VERSION,
        )
        lines = start.lines(1)
    draft = Draft.of_lines(lines)
    expense = of_interrupted(prices, msgspec.json.decode(lines[0]), draft)
    for step in draft.steps.values():
        if step["status"] == "running":
            step["status"] = "failed"
    error = Interrupted()
    log = [*lines, *failure(error).lines(len(lines) + 1)]
    return await draft.end("failed", log=log, error_code=error.code, expense=expense, was_abandoned=True)
