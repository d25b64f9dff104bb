"""One turn of a conversation, from the question's acceptance to the stored answer."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import msgspec

from app.db import conversations
from app.db.conversations import AnswerEnd
from app.db.engine import Sessions
from app.errors import (
    AnswerNotStored,
    DatabaseUnavailable,
    FreshetError,
    InvalidInput,
)
from app.events import Done, Event, Sources, Step, Tokens
from app.llm.protocols import ChatMessage, ChatModel
from app.rag import pipeline
from app.rag.pipeline import Answered, Knowledge, Parts, Turn
from app.rag.steps import OpenStep
from app.runs.log import Lines
from app.runs.runner import Run, Runner
from app.services.assistants import usable_in
from app.services.viewer import Viewer
from app.settings import ChatSettings

logger = logging.getLogger(__name__)

# A turn that is being cancelled stores what was said within this time, in seconds.
_SAVE_GRACE_S = 5.0
_HISTORY_MESSAGES = 100
_SESSION_ID = re.compile(r"[A-Za-z0-9._:~@+=-]{1,100}")
# The length of 128 random bits in base64: what an id needs so that nobody guesses it.
_UNGUESSABLE_CHARACTERS = 22


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client sends. `assistant` is a slug or an id; `history` counts for this turn only."""

    message: str
    assistant: str
    session_id: str | None = None
    language: str | None = None
    history: tuple[ChatMessage, ...] | None = None


@dataclass(slots=True)
class _Draft:
    """The answer so far, as it will be stored."""

    texts: list[str] = field(default_factory=list[str])
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    steps: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self.texts += event.contents
        elif isinstance(event, Step):
            self.steps[event.step_id] = msgspec.to_builtins(event)
        elif isinstance(event, Sources):
            self.sources = msgspec.to_builtins(event.data)

    def end(self, status: str, **rest: Any) -> AnswerEnd:
        return AnswerEnd(
            status=status,
            # A model may say NUL, which PostgreSQL does not take in a text.
            text="".join(self.texts).replace("\0", ""),
            sources=self.sources,
            steps=list(self.steps.values()),
            **rest,
        )


class ChatService:
    def __init__(
        self,
        sessions: Sessions,
        knowledge: Knowledge,
        model: ChatModel,
        runner: Runner,
        settings: ChatSettings,
        *,
        embedder_name: str,
    ) -> None:
        self._sessions = sessions
        self._runner = runner
        self._settings = settings
        self._process_id = uuid4()
        self._parts = Parts(
            model=model,
            knowledge=knowledge,
            embedder_name=embedder_name,
            load_history=self._load_history,
            history_tokens=settings.history_tokens,
            context_tokens=settings.context_tokens,
        )

    async def begin(self, asked: Asked, viewer: Viewer) -> Run:
        """Accept the turn and start its run. All that can be refused is refused here, before anything is sent."""
        session_id = _session_id(asked.session_id, viewer)
        with self._runner.reserve() as place:
            turn = await self._accept(asked, session_id, viewer)
            return place.start(Run(turn.run_id, session_id, turn.answer_id), self._answer(turn))

    def follow(self, run: Run, *, after: int = 0) -> AsyncGenerator[Lines]:
        return self._runner.follow(run, after=after)

    async def finished(self, run: Run) -> None:
        """Wait for the end of the run. Raises why it failed, if it did."""
        async with aclosing(self.follow(run)) as batches:
            async for _ in batches:
                pass
        if run.failure is not None:
            raise run.failure

    async def _accept(self, asked: Asked, session_id: str, viewer: Viewer) -> Turn:
        run_id, question_id, answer_id = uuid4(), uuid4(), uuid4()
        async with self._sessions.begin() as session:
            assistant = await usable_in(session, asked.assistant, viewer)
            was_there = await conversations.open_session(
                session, session_id, user_id=viewer.user_id, assistant_id=assistant.id
            )
            await conversations.add_turn(
                session,
                run_id=run_id,
                process_id=self._process_id,
                session_id=session_id,
                assistant_id=assistant.id,
                question_id=question_id,
                question=asked.message,
                answer_id=answer_id,
            )
        return Turn(
            run_id=run_id,
            session_id=session_id,
            question_id=question_id,
            answer_id=answer_id,
            assistant=assistant,
            question=asked.message,
            language=asked.language,
            given_history=asked.history,
            session_is_new=not was_there,
        )

    async def _load_history(self, turn: Turn) -> Sequence[ChatMessage]:
        async with self._sessions.read() as session:
            messages = await conversations.recent_messages(
                session, turn.session_id, before_message=turn.question_id, limit=_HISTORY_MESSAGES
            )
        return [ChatMessage("user" if m.role == "user" else "assistant", m.text) for m in messages]

    async def _answer(self, turn: Turn) -> AsyncGenerator[Event]:
        """The events of the run. However it ends, what was said is stored first."""
        draft = _Draft()
        whole = OpenStep("completed")
        answered: Answered | None = None
        try:
            async with aclosing(pipeline.answer(turn, self._parts)) as events:
                async for event in events:
                    if isinstance(event, Answered):
                        answered = event
                    else:
                        draft.add(event)
                        yield event
            assert answered is not None, "the pipeline ends with Answered, or raises"
        except (asyncio.CancelledError, GeneratorExit):
            await self._store_failed(turn, draft, "interrupted")  # noqa: ASYNC102  # shields itself when it is cancelled
            raise
        except Exception as error:  # noted that the turn failed, then raised again
            await self._store_failed(
                turn, draft, error.code if isinstance(error, FreshetError) else "internal_error"
            )
            raise
        usage = msgspec.to_builtins(answered.usage)
        await self._store(turn, draft.end("completed", finish_reason=answered.finish_reason, usage=usage))
        tokens = {"input": answered.usage.input_tokens, "output": answered.usage.output_tokens}
        yield whole.completed(tokens=tokens)
        yield Done(
            status="completed",
            message_id=str(turn.answer_id),
            finish_reason=answered.finish_reason,
            usage=answered.usage,
        )

    async def _store_failed(self, turn: Turn, draft: _Draft, code: str) -> None:
        # Its reader is told why the answer failed; that it could not be stored either is nothing that they could act on.
        with suppress(AnswerNotStored):
            await self._store(turn, draft.end("failed", error_code=code))

    async def _store(self, turn: Turn, end: AnswerEnd) -> None:
        """Store the end of the turn, also when the turn is cancelled before or meanwhile. Raises `AnswerNotStored`."""
        try:
            await self._store_patiently(turn, end)
        except asyncio.CancelledError:
            # Shielded: every await of a turn that is being cancelled is cancelled again.
            with anyio.move_on_after(_SAVE_GRACE_S, shield=True):
                await self._store_patiently(turn, end)
            raise

    async def _store_patiently(self, turn: Turn, end: AnswerEnd) -> None:
        """When the database is away, wait for it for `store_retry_s`. Raises `AnswerNotStored`."""
        give_up_at = asyncio.get_running_loop().time() + self._settings.store_retry_s
        wait_s = 0.1
        while True:
            try:
                async with self._sessions.begin() as session:
                    await conversations.end_turn(session, run_id=turn.run_id, end=end)
                return
            except DatabaseUnavailable as error:
                if asyncio.get_running_loop().time() + wait_s > give_up_at:
                    logger.warning("the end of run %s could not be stored", turn.run_id)
                    raise AnswerNotStored(
                        "The answer was complete, but the database could not be reached to keep it."
                    ) from error
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)

    async def keep_alive(self) -> None:
        """Beat for as long as the process serves, and end the runs of processes that no longer do."""
        every_s = self._settings.process_heartbeat_s
        while True:
            try:
                async with self._sessions.begin() as session:
                    await conversations.beat(session, self._process_id)
                    ended = await conversations.end_abandoned_runs(
                        session,
                        self._process_id,
                        running=self._runner.running_ids,
                        silence=timedelta(seconds=4 * every_s),
                    )
                if ended:
                    logger.warning(
                        "%d runs that nobody was running any more have been ended as interrupted", ended
                    )
            except DatabaseUnavailable:
                logger.warning("the database cannot be reached; trying again in %g s", every_s)
            except Exception:  # a bug, or processes in each other's way, must cost a beat, not the process
                logger.exception("the heartbeat failed; trying again in %g s", every_s)
            await asyncio.sleep(every_s)


def _session_id(given: str | None, viewer: Viewer) -> str:
    """Raises `InvalidInput` for an id that cannot be one, or that a stranger could guess."""
    if given is None:
        return str(uuid4())
    if not _SESSION_ID.fullmatch(given):
        raise InvalidInput("session_id must be 1 to 100 characters of letters, digits and . _ : ~ @ + = -")
    if viewer.account is None and not _is_unguessable(given):
        raise InvalidInput(
            "An anonymous session is addressed by its id alone, so session_id must be a UUID or at least "
            f"{_UNGUESSABLE_CHARACTERS} characters that nobody can guess. Leave it out to be given one."
        )
    return given


def _is_unguessable(session_id: str) -> bool:
    if len(session_id) >= _UNGUESSABLE_CHARACTERS:
        return True
    try:
        UUID(session_id)
    except ValueError:
        return False
    return True
