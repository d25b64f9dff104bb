"""What is remembered of a conversation: loaded for each turn, and kept from growing by a summary that is written between turns."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
from anyio.abc import TaskGroup

from app.db import memory as stored
from app.db.engine import Sessions
from app.db.memory import Said
from app.errors import FreshetError
from app.llm.protocols import ChatMessage, ChatModel
from app.rag import memory, summary
from app.rag.memory import MOST_MESSAGES, Memory
from app.rag.turn import Turn
from app.settings import ChatSettings

logger = logging.getLogger(__name__)

# How long a summary may take, in seconds, and how many are written at once. The next turn of a session tries again.
_LIMIT_S = 60.0
_MOST_AT_ONCE = 64


class Remembering:
    """Summaries are written in the background: no answer waits for one, and none fails with it."""

    def __init__(self, database: Sessions, model: ChatModel, settings: ChatSettings) -> None:
        self._database = database
        self._model = model
        self._history_tokens = settings.history_tokens
        self._summary_tokens = settings.summary_tokens
        self._sums_up = model.can_write and settings.summary_tokens > 0 and settings.history_tokens > 0
        self._at_work: set[str] = set()
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """In the block, summaries are written; at its end, those that are not done are given up."""
        async with anyio.create_task_group() as self._tasks:
            try:
                yield
            finally:
                self._tasks.cancel_scope.cancel()
                self._tasks = None

    async def load(self, turn: Turn) -> Memory:
        async with self._database.read() as session:
            found = await stored.newest(
                session, turn.session_id, before_message=turn.question_id, limit=MOST_MESSAGES
            )
        return Memory(spoken(found.messages), found.summary)

    def turn_ended(self, turn: Turn, remembered: Memory, answer: str) -> None:
        """What falls out of memory with this turn is folded into the summary, now or with a later turn."""
        said = [
            *remembered.messages,
            ChatMessage("user", turn.question),
            ChatMessage("assistant", answer),
        ]
        if not (self._sums_up and turn.is_kept and memory.falling_out(said, self._history_tokens)):
            return
        busy = turn.session_id in self._at_work or len(self._at_work) >= _MOST_AT_ONCE
        if self._tasks is not None and not busy:
            self._at_work.add(turn.session_id)
            self._tasks.start_soon(self._fold, turn.session_id, turn.assistant.model)

    async def _fold(self, session_id: str, named_model: str | None) -> None:
        try:
            with anyio.move_on_after(_LIMIT_S):
                await self._fold_once(session_id, named_model)
        except FreshetError as error:
            logger.info("session %s is summed up later: %s", session_id, error.message)
        except Exception:  # the summaries of other sessions go on
            logger.exception("session %s could not be summed up", session_id)
        finally:
            self._at_work.discard(session_id)

    async def _fold_once(self, session_id: str, named_model: str | None) -> None:
        async with self._database.read() as session:
            found = await stored.oldest(session, session_id, limit=MOST_MESSAGES)
        messages = spoken(found.messages)
        count = memory.falling_out(messages, self._history_tokens)
        if not count:
            return
        folded = await summary.fold(
            self._model,
            found.summary,
            messages[:count],
            budget_tokens=self._summary_tokens,
            named_model=named_model,
        )
        async with self._database.begin() as session:
            await stored.keep(
                session,
                folded.written.text,
                up_to_message=found.messages[folded.count - 1].id,
                usage=msgspec.to_builtins(folded.written.usage),
            )


def spoken(messages: Sequence[Said]) -> list[ChatMessage]:
    return [ChatMessage("user" if m.role == "user" else "assistant", m.text) for m in messages]
