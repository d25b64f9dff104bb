"""`python -m bench.chaos_breaks RULE`: `freshet serve`, once for each line of the input, with one of its guards broken.

Each rule is a function that breaks a guard from outside, in the process that is started; `nothing` breaks none. On SIGUSR1
a server writes how many tasks its event loop has to `tasks-PID`, in its working directory.
"""
# ruff: noqa: SLF001  # what guards is private

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import anyio
import openai.resources.chat.completions
import uvloop
from sqlalchemy import text

import app.cli.serve
import app.llm.openai_embedder
from app.cli import main as freshet
from app.db import runs
from app.runs import mirrors
from app.runs.checkpoint import Checkpointer
from app.runs.log import Lines, RunLog
from app.runs.mirrors import Mirrors
from app.services import answering
from app.services.heartbeat import Heartbeat
from bench.chaos_nursery import await_birth

# What a server imports when it first needs it, once for all that are forked.
_IMPORTED = (openai.resources.chat.completions, uvloop, app.cli.serve, app.llm.openai_embedder)

DROPPED_INDEXES = {
    "unique-index": "runs_one_running_a_session_key",
    "key-index": "runs_idempotency_scope_idempotency_key_key",
}
"""Rules of the database: the index that is dropped."""


def shield() -> None:
    """The end of an answer is stored in a scope that a cancellation of the process goes through."""

    class Scopes:
        @staticmethod
        def CancelScope(*, shield: bool = False) -> anyio.CancelScope:  # noqa: ARG004, N802  # the name is anyio's
            return anyio.CancelScope()

        def __getattr__(self, name: str) -> Any:
            return getattr(anyio, name)

    cast("Any", answering).anyio = Scopes()


def listen_order() -> None:
    """A run of another process is read once before it is listened for, and not again when messages are heard again."""

    async def follow(self: Mirrors, run_id: UUID, process_id: UUID, *, after: int) -> AsyncGenerator[Lines]:
        own = cast("Any", self)
        first: list[runs.News] = []
        if run_id not in own._mirrors:
            async with own._sessions.read() as session:
                first = await runs.news(session, {run_id: 0})
        mirror = own._mirrors.get(run_id)
        if mirror is None:
            mirror = own._mirrors[run_id] = _Mirror(process_id, lambda: own._forget(run_id))
            for news in first:
                cast("Any", mirrors)._take(mirror.log, news)
        async with aclosing(mirror.log.follow(after=after, reading=own._reading)) as batches:
            async for batch in batches:
                yield batch

    def heard_nothing(self: Mirrors) -> None:
        pass

    class _Mirror:
        def __init__(self, process_id: UUID, left: Callable[[], None]) -> None:
            self.process_id = process_id
            self.log = RunLog(left)

    Mirrors.follow = follow
    Mirrors.heard_nothing = heard_nothing


def fence() -> None:
    """Whoever ends a run does so, also when another has ended it before."""
    own = cast("Any", runs)
    said = str(own._END.text).replace(f"WHERE id = :run_id AND {runs.OPEN}", "WHERE id = :run_id")
    own._END = text(said).bindparams(*own._END._bindparams.values())


def withdraw() -> None:
    """The end of a run is stored while lines of it may still be on their way."""

    async def withdraw(self: Checkpointer, run: object) -> None:
        pass

    Checkpointer.withdraw = withdraw


def takeover() -> None:
    """Nobody ends the runs of a process that is gone."""

    async def end_abandoned(self: Heartbeat) -> None:
        pass

    Heartbeat.end_abandoned = end_abandoned


def nothing() -> None:
    pass


RULES: dict[str, Callable[[], None]] = {
    "shield": shield,
    "listen-order": listen_order,
    "fence": fence,
    "withdraw": withdraw,
    "takeover": takeover,
    **dict.fromkeys(DROPPED_INDEXES, nothing),
}


def _tell_tasks(_number: int, _frame: object) -> None:
    Path(f"tasks-{os.getpid()}").write_text(str(len(asyncio.all_tasks())))


def main() -> None:
    rule = sys.argv[1]
    await_birth()
    {**RULES, "nothing": nothing}[rule]()
    signal.signal(signal.SIGUSR1, _tell_tasks)
    freshet(["serve"], prog_name="freshet")


if __name__ == "__main__":
    main()
