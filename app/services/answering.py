"""The making of an answer that has been accepted: its events into the log of its run, and its end into the database."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio
import msgspec

from app.db import runs, sessions
from app.db import usage as expenses
from app.db.engine import Sessions
from app.db.runs import AnswerEnd
from app.db.usage import Expense
from app.errors import AnswerNotStored, DatabaseUnavailable, FreshetError, Interrupted, SessionErased
from app.events import Conversation, Done, Event, Status, TokenUsage, failure
from app.llm.protocols import ChatMessage, ChatModel, Toolbox
from app.rag import memory, pipeline
from app.rag.answerability import CALIBRATIONS
from app.rag.memory import Memory
from app.rag.rewrite import Mode, Rewriting
from app.rag.steps import OpenStep
from app.rag.turn import Answered, Knowledge, Parts, Spent, Turn
from app.rag.verification import verify
from app.runs.checkpoint import Checkpointer
from app.runs.log import unpack
from app.runs.runner import Run
from app.services.answer_cache import AnswerCacheService
from app.services.attachments import AttachmentService
from app.services.draft import Draft
from app.services.expenses import Prices, embedded_in, priced
from app.services.remembering import Remembering
from app.services.runs import RunService
from app.settings import ChatSettings

logger = logging.getLogger(__name__)

# When the process is about to stop, the end of an answer is stored within this time, in seconds.
_HURRIED_S = 5.0
# The reader has the answer, and waits for its end.
_VERIFICATION_S = 15.0
_WAITING = "This answer begins when the one before it has ended."


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an answer has ended: its status, and its last event."""

    status: str
    last: Event
    usage: TokenUsage | None
    finish_reason: str | None = None
    error_code: str | None = None


class Answering:
    def __init__(
        self,
        database: Sessions,
        model: ChatModel,
        knowledge: Knowledge,
        runs_of_all: RunService,
        checkpointer: Checkpointer,
        attachments: AttachmentService,
        remembering: Remembering,
        settings: ChatSettings,
        *,
        prices: Prices,
        embedder_name: str,
        toolbox: Toolbox | None = None,
    ) -> None:
        self._database = database
        self._attachments = attachments
        self._runs = runs_of_all
        self._checkpointer = checkpointer
        self._remembering = remembering
        self._prices = prices
        self._store_retry_s = settings.store_retry_s
        self._parts = Parts(
            model=model,
            knowledge=knowledge,
            embedder_name=embedder_name,
            read_attachments=self._read_attachments,
            load_history=remembering.load,
            rewriting=Rewriting(
                _rewriting_mode(settings, can_write=model.can_write), settings.query_rewrite_s
            ),
            calibration=CALIBRATIONS.get(embedder_name),
            cache=AnswerCacheService(database),
            history_tokens=settings.history_tokens,
            context_tokens=settings.context_tokens,
            toolbox=toolbox if model.can_write else None,
        )

    async def _read_attachments(self, turn: Turn) -> Sequence[str]:
        return await self._attachments.ready(turn.session_id, turn.attachments)

    async def make(self, turn: Turn, run: Run) -> None:
        """Fill the log of the run. However the answer ends, what was said is stored before its last event is sent."""
        draft, spent = Draft(), Spent()
        whole = OpenStep("completed")
        answered: Answered | None = None
        error: FreshetError = Interrupted()
        remembered: list[Memory] = []

        async def load(turn: Turn) -> Memory:
            remembered.append(await self._remembering.load(turn))
            return remembered[0]

        def say(event: Event) -> None:
            draft.add(event)
            run.log.append(event)

        parts = replace(self._parts, load_history=load)
        try:
            with run.making:
                say(pipeline.start(turn, self._parts.model))
                if turn.is_queued:
                    say(Status(message=_WAITING))
                    await self._runs.turn_comes(run)
                async with aclosing(pipeline.answer(turn, parts, spent)) as events:
                    async for event in events:
                        if isinstance(event, Answered):
                            answered = event
                        else:
                            say(event)
                if answered is not None and turn.assistant.goal:
                    answered = await self._verified(turn, remembered, answered, "".join(draft.texts), say)
        except FreshetError as refusal:
            cause = refusal.__cause__
            logger.warning("run %s ended with %s: %s", run.id, refusal.code, refusal.message, exc_info=cause)
            error = refusal
        except Exception:  # noted that the turn failed; its readers are told by its last event
            logger.exception("run %s failed", run.id)
            error = FreshetError("The answer failed for a reason of our own. It has been noted.")
        finally:
            usage = answered.usage if answered is not None else spent.usage()
            model = turn.assistant.model or self._parts.model.name
            expense = self._prices.expense(model, usage, embedded_in(draft, turn.question))
            outcome = _outcome(turn, run, answered, error, priced(usage, expense))
            # Shielded: when the process is stopped in earnest, every await here is cancelled.
            with anyio.CancelScope(shield=True):
                await self._finish(turn, run, draft, whole, outcome, expense)
        if answered is not None and remembered:
            self._remembering.turn_ended(turn, remembered[0], "".join(draft.texts))

    async def _verified(
        self,
        turn: Turn,
        remembered: Sequence[Memory],
        answered: Answered,
        text: str,
        say: Callable[[Event], None],
    ) -> Answered:
        """Says whether the conversation has reached its goal or its end; nothing where that cannot be told. With what it has taken."""
        if not self._parts.model.can_write:
            return answered
        before = remembered[0] if remembered else Memory(turn.given_history or ())
        said = [*before.messages, ChatMessage("user", turn.question), ChatMessage("assistant", text)]
        told = memory.transcript(memory.within_budget(said, self._parts.context_tokens), before.summary)
        try:
            with anyio.fail_after(_VERIFICATION_S):
                verdict = await verify(
                    self._parts.model, told, turn.assistant.goal, named_model=turn.assistant.model
                )
        except (FreshetError, TimeoutError) as error:
            logger.info("run %s: whether the goal is reached cannot be told: %s", turn.run_id, error)
            return answered
        goal, end = verdict.goal, verdict.end
        assert goal is not None, "a goal is judged where there is one"
        say(
            Conversation(
                goal_reached=goal.reached, ended=end.reached, reason=f"{goal.reason} {end.reason}".strip()
            )
        )
        return replace(answered, usage=answered.usage.plus(verdict.usage))

    async def _finish(
        self, turn: Turn, run: Run, draft: Draft, whole: OpenStep, outcome: _Outcome, expense: Expense
    ) -> None:
        last: list[Event] = [*draft.closings("failed" if outcome.status == "failed" else "completed")]
        for closing in last:
            draft.add(closing)
        if outcome.status != "failed":
            usage = outcome.usage
            tokens = {"input": usage.input_tokens, "output": usage.output_tokens} if usage is not None else {}
            last.append(whole.completed(tokens=tokens) if tokens else whole.completed())
        lines = _encoded([*last, outcome.last], after=run.log.last_seq)
        end = await draft.end(
            outcome.status,
            log=[*run.log.lines_after(0), *lines],
            finish_reason=outcome.finish_reason,
            error_code=outcome.error_code,
            usage=msgspec.to_builtins(outcome.usage),
            expense=expense,
        )
        await self._checkpointer.withdraw(run)
        try:
            if await self._store(run, end, is_kept=turn.is_kept):
                run.log.extend(lines, closed=True)
            else:
                await self._settle(turn, run, end)
        except AnswerNotStored as error:
            if outcome.status != "failed":
                # Else its readers are told why it failed: that this could not be stored is nothing that they could act on.
                lines = _encoded([*last, failure(error)], after=run.log.last_seq)
            run.log.extend(lines, closed=True)
        finally:
            self._checkpointer.forget(run)

    async def _store(self, run: Run, end: AnswerEnd, *, is_kept: bool) -> bool:
        """False if the run has been ended by another process, or deleted. When the database is away, waits for it. Raises `AnswerNotStored`."""
        clock = asyncio.get_running_loop().time
        begun, wait_s = clock(), 0.1
        while True:
            try:
                async with self._database.begin() as session:
                    is_stored = await runs.end(session, run.id, end)
                    if not is_kept:
                        await sessions.discard(session, run.session_id)
                    return is_stored
            except DatabaseUnavailable as error:
                patience_s = min(self._store_retry_s, _HURRIED_S) if run.hurried else self._store_retry_s
                if clock() + wait_s > begun + patience_s:
                    logger.warning("the end of run %s could not be stored", run.id)
                    raise AnswerNotStored(
                        "The answer ended, but the database could not be reached to keep it."
                    ) from error
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)

    async def _settle(self, turn: Turn, run: Run, end: AnswerEnd) -> None:
        """What has been stored of it counts, whoever did it. Raises `AnswerNotStored` if that cannot be read."""
        try:
            async with self._database.begin() as session:
                stored = await runs.packed_log(session, run.id)
                if stored is None:
                    await expenses.add_of_erased(
                        session,
                        run.id,
                        end.expense,
                        user_id=turn.user_id,
                        assistant_id=turn.assistant.id,
                        status=end.status,
                        accounts=turn.accounts,
                    )
        except DatabaseUnavailable as error:
            raise AnswerNotStored("The answer was ended by another process.") from error
        if stored is None:
            run.log.append(failure(SessionErased()))
        else:
            run.log.settle(unpack(stored))


def _rewriting_mode(settings: ChatSettings, *, can_write: bool) -> Mode:
    if settings.query_rewrite == "auto":
        return "model_if_needed" if can_write else "rules"
    return settings.query_rewrite


def _outcome(
    turn: Turn, run: Run, answered: Answered | None, error: FreshetError, usage: TokenUsage | None
) -> _Outcome:
    if answered is not None:
        status, reason = "completed", answered.finish_reason
    elif run.ending in ("stopped", "unread"):
        status, reason = "stopped", run.ending
    else:
        return _Outcome("failed", failure(error), usage, error_code=error.code)
    usage = usage or TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0)
    done = Done(status=status, message_id=str(turn.answer_id), finish_reason=reason, usage=usage)
    return _Outcome(status, done, usage, finish_reason=reason)


def _encoded(events: Sequence[Event], *, after: int) -> list[bytes]:
    lines: list[bytes] = []
    for event in events:
        lines += event.lines(after + len(lines) + 1)
    return lines
