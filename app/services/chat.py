"""The acceptance of a turn: all that can be refused is refused here, before anything is sent; then its run is started."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import conversations, items, runs, sessions
from app.db.assistants import AssistantForTurn
from app.db.conversations import IdempotencyKey, KeyTaken, NewRun, StoredMessage
from app.db.documents import NewFile
from app.db.engine import Sessions
from app.db.items import NewItem
from app.errors import IdempotencyMismatch, InvalidInput, NotFound, SessionBusy
from app.llm.protocols import ChatMessage
from app.rag.turn import Turn
from app.runs.runner import Run, Runner
from app.services import attachments
from app.services.answering import Answering
from app.services.assistants import usable_in
from app.services.attachments import AttachmentService, NewAttachment
from app.services.limits import Limits
from app.services.ownership import require_visible
from app.services.runs import Followed, RunService
from app.services.session_ids import UNGUESSABLE_CHARACTERS, checked_session_id, is_unguessable
from app.services.viewer import Viewer

OnBusy = Literal["reject", "queue", "replace"]
"""What becomes of a question to a session that is still answering: it is refused, or waits, or what is being made is stopped for it."""

_MOST_OPEN = 10
# Whoever finds the session busy at the last moment, or the key taken, looks again.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client sends. `assistant` is a slug or an id; `history`, `instructions`, which follow the assistant's own, and
    `parameters` of the model, which go before the assistant's, count for this turn only.

    `attachments` are such as the session has, by their ids, and new ones; the answer waits for all of them.

    The question follows the message `follows`, else the newest, and what was said `earlier`, which is stored before it. `request` is
    what is told of the request by who tells it again. `is_kept`: else nothing of the turn can be read again, and with its end it is
    erased; it has a session of its own then. `goes_on_unread`: whatever the assistant says of answers that nobody reads.
    """

    message: str
    assistant: str
    session_id: str | None = None
    language: str | None = None
    history: tuple[ChatMessage, ...] | None = None
    attachments: tuple[UUID | NewAttachment, ...] = ()
    instructions: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    follows: UUID | None = None
    earlier: tuple[ChatMessage, ...] = ()
    request: dict[str, Any] | None = None
    is_kept: bool = True
    goes_on_unread: bool = False
    on_busy: OnBusy = "reject"
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """Another answer to a question of the session: to another wording of it, where there is a `message`.

    `message_id` is the question's, or that of an answer to it; None: the newest question. Without an assistant, the one that answered it.
    """

    session_id: str
    message_id: UUID | None = None
    message: str | None = None
    assistant: str | None = None
    language: str | None = None
    on_busy: OnBusy = "reject"
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A turn that has been stored, and the runs that have been asked to stop for it."""

    turn: Turn
    stopped: tuple[UUID, ...]


class ChatService:
    def __init__(
        self,
        database: Sessions,
        runner: Runner,
        runs_of_all: RunService,
        answering: Answering,
        attachments: AttachmentService,
        limits: Limits,
        process_id: UUID,
    ) -> None:
        self._database = database
        self._runner = runner
        self._runs = runs_of_all
        self._answering = answering
        self._attachments = attachments
        self._limits = limits
        self._process_id = process_id

    async def begin(self, asked: Asked, viewer: Viewer) -> Followed:
        """Accept the question and start its run; a request that has come before takes up the run that it started then."""
        session_id = checked_session_id(asked.session_id, viewer)
        key = _key(asked, asked.session_id, viewer)
        files = await self._attachments.checked(asked.attachments)
        return await self._started(partial(self._accept, asked, files, session_id, viewer, key), asked, key)

    async def begin_again(self, asked: AskedAgain, viewer: Viewer) -> Followed:
        """As `begin`, on a branch of its own: what followed the question, or the question itself, is put aside."""
        key = _key(asked, asked.session_id, viewer)
        return await self._started(partial(self._accept_again, asked, viewer, key), asked, key)

    async def question(
        self, session_id: str, viewer: Viewer, *, message_id: UUID | None, key: str
    ) -> StoredMessage | None:
        """The question of the session with this id, or else that which was asked with this idempotency key; None if there is none in
        sight. Raises `NotFound`."""
        async with self._database.read() as session:
            await require_visible(session, session_id, viewer)
            message = (
                await conversations.get_in_session(session, session_id, message_id) if message_id else None
            )
            found = await runs.with_key(session, _scope(viewer, session_id), key) if message is None else None
            if found is not None:
                message = await conversations.question_of(session, session_id, found[0].message_id)
        return message if message is not None and message.role == "user" else None

    async def _started(
        self,
        accept: Callable[[], Awaitable[_Accepted]],
        asked: Asked | AskedAgain,
        key: IdempotencyKey | None,
    ) -> Followed:
        for _ in range(_TRIES):
            if key is not None and (again := await self._taken_up(key)) is not None:
                return again
            with self._runner.reserve() as place:
                try:
                    accepted = await accept()
                except KeyTaken:
                    continue
                except SessionBusy:
                    # It may be busy with the same request, which has come twice at once.
                    if key is not None and (again := await self._taken_up(key)) is not None:
                        return again
                    if asked.on_busy == "reject":
                        raise
                    continue
                turn = accepted.turn
                run = Run(
                    turn.run_id,
                    turn.session_id,
                    turn.answer_id,
                    unread_limit_s=turn.assistant.unread_limit_s,
                )
                place.start(run, partial(self._answering.make, turn))
            self._runs.stop_here(accepted.stopped)
            request = asked.request if isinstance(asked, Asked) else None
            return self._runs.made_here(run, request)
        raise SessionBusy

    async def _taken_up(self, key: IdempotencyKey) -> Followed | None:
        """The run that a request with this key has started. Raises `IdempotencyMismatch` if that was another request."""
        async with self._database.read() as session:
            found = await runs.with_key(session, key.scope, key.key)
        if found is None:
            return None
        row, request_sha256 = found
        if request_sha256 != key.request_sha256:
            raise IdempotencyMismatch
        return self._runs.followed(row)

    async def _accept(
        self,
        asked: Asked,
        files: Sequence[UUID | NewFile],
        session_id: str,
        viewer: Viewer,
        key: IdempotencyKey | None,
    ) -> _Accepted:
        async with self._database.begin() as session:
            assistant = await usable_in(session, asked.assistant, viewer)
            accounts = await self._limits.admit(session, viewer, assistant)
            opened = await sessions.open_session(
                session, session_id, user_id=viewer.user_id, assistant_id=assistant.id
            )
            attached = await self._attachments.attach(session, session_id, files)
            has_attachments = bool(attached) or opened.has_attachments
            if has_attachments:
                assistant = await attachments.within_reach(session, session_id, assistant)
            opening = "" if opened.has_messages or asked.history or asked.earlier else assistant.first_message
            if opening:
                await conversations.add_opening(session, session_id, opening)
            stopped = await self._make_room(session, session_id, asked.on_busy) if opened.is_busy else None
            run = self._new_run(session_id, assistant, asked.language, key, is_queued=stopped is not None)
            run = replace(run, user_id=viewer.user_id, accounts=accounts, request=asked.request)
            if asked.follows is not None:
                await _put_aside_behind(session, session_id, asked.follows)
            await items.add(session, session_id, [_item(message) for message in asked.earlier])
            await conversations.add_turn(session, run, asked.message)
            if not asked.is_kept:
                await sessions.forget(session, session_id, user_id=viewer.user_id)
        if asked.goes_on_unread:
            assistant = replace(assistant, unread_limit_s=None)
        turn = _turn(
            run,
            assistant,
            asked.message,
            asked.history,
            instructions=asked.instructions,
            opening=opening,
            parameters=asked.parameters,
            attachments=attached,
            has_attachments=has_attachments,
            session_is_new=not opened.has_messages and not asked.earlier,
            is_kept=asked.is_kept,
        )
        return _Accepted(turn, stopped or ())

    async def _accept_again(self, asked: AskedAgain, viewer: Viewer, key: IdempotencyKey | None) -> _Accepted:
        session_id = asked.session_id
        async with self._database.begin() as session:
            await require_visible(session, session_id, viewer)
            if not await sessions.hold(session, session_id):
                raise NotFound("session", session_id)
            question = await _question(session, asked)
            before = await conversations.run_behind(session, question.id)
            assistant_id, language = before if before is not None else (None, None)
            if asked.assistant is None and assistant_id is None:
                raise InvalidInput(
                    "The assistant that answered this question is gone: name another as assistant_id."
                )
            assistant = await usable_in(session, asked.assistant or str(assistant_id), viewer)
            accounts = await self._limits.admit(session, viewer, assistant)
            assistant = await attachments.within_reach(session, session_id, assistant)
            stopped = await self._make_room(session, session_id, asked.on_busy)
            run = self._new_run(
                session_id, assistant, asked.language or language, key, is_queued=stopped is not None
            )
            run = replace(run, user_id=viewer.user_id, accounts=accounts)
            await conversations.show_branch(session, session_id, question.id)
            if asked.message is None:
                run = replace(run, question_id=question.id)
                await conversations.hide_from(session, session_id, question.position + 1)
                await conversations.add_answer(session, run)
            else:
                await conversations.hide_from(session, session_id, question.position)
                await conversations.add_turn(session, run, asked.message)
        turn = _turn(
            run,
            assistant,
            asked.message or question.text,
            None,
            session_is_new=False,
            is_again=True,
        )
        return _Accepted(turn, stopped or ())

    async def _make_room(
        self, session: AsyncSession, session_id: str, on_busy: OnBusy
    ) -> tuple[UUID, ...] | None:
        """The runs that have been asked to stop, if any; None if no answer is being made, and so nothing to be waited for. Raises `SessionBusy`."""
        made = await runs.open_of_session(session, session_id)
        if not made:
            return None
        if on_busy == "replace":
            await self._runs.ask_to_stop(session, made)
            return made
        if on_busy == "reject" or len(made) >= _MOST_OPEN:
            raise SessionBusy
        return ()

    def _new_run(
        self,
        session_id: str,
        assistant: AssistantForTurn,
        language: str | None,
        key: IdempotencyKey | None,
        *,
        is_queued: bool,
    ) -> NewRun:
        return NewRun(
            id=uuid4(),
            process_id=self._process_id,
            session_id=session_id,
            assistant_id=assistant.id,
            question_id=uuid4(),
            answer_id=uuid4(),
            language=language,
            status="queued" if is_queued else "running",
            idempotency_key=key,
        )


def _turn(
    run: NewRun,
    assistant: AssistantForTurn,
    question: str,
    history: tuple[ChatMessage, ...] | None,
    *,
    instructions: str = "",
    opening: str = "",
    parameters: Mapping[str, Any] | None = None,
    attachments: tuple[UUID, ...] = (),
    has_attachments: bool = False,
    session_is_new: bool,
    is_again: bool = False,
    is_kept: bool = True,
) -> Turn:
    return Turn(
        run_id=run.id,
        session_id=run.session_id,
        question_id=run.question_id,
        answer_id=run.answer_id,
        assistant=assistant,
        question=question,
        language=run.language,
        given_history=history,
        instructions=instructions,
        opening=opening,
        parameters=parameters or {},
        attachments=attachments,
        has_attachments=has_attachments,
        session_is_new=session_is_new,
        is_queued=run.status == "queued",
        user_id=run.user_id,
        accounts=run.accounts,
        is_again=is_again,
        is_kept=is_kept,
    )


def _item(message: ChatMessage) -> NewItem:
    return NewItem(uuid4(), "user" if message.role == "user" else "assistant", message.content)


async def _put_aside_behind(session: AsyncSession, session_id: str, message_id: UUID) -> None:
    """What has followed the message becomes another branch. Raises `NotFound`."""
    message = await conversations.get_in_session(session, session_id, message_id)
    if message is None:
        raise NotFound("message", message_id)
    newest = await conversations.newest_shown(session, session_id, role=message.role)
    if newest is None or newest.id != message_id:
        await conversations.show_branch(session, session_id, message_id)
    await conversations.hide_from(session, session_id, message.position + 1)


async def _question(session: AsyncSession, asked: AskedAgain) -> StoredMessage:
    """Raises `NotFound`, and `InvalidInput` where an answer is to be edited."""
    if asked.message_id is None:
        message = await conversations.newest_shown(session, asked.session_id, role="user")
    else:
        message = await conversations.get_in_session(session, asked.session_id, asked.message_id)
        if message is not None and message.role == "assistant":
            if asked.message is not None:
                raise InvalidInput("Only a question can be edited, and this is the id of an answer.")
            if message.parent_id is None:
                raise InvalidInput("This is how the conversation begins: it answers no question.")
            message = await conversations.get_in_session(session, asked.session_id, message.parent_id)
    if message is None:
        raise NotFound("question", asked.message_id or "in this session")
    return message


def _key(asked: Asked | AskedAgain, session_id: str | None, viewer: Viewer) -> IdempotencyKey | None:
    """A key is its user's, or the session's; without either it is all that leads to the answer, and so must be unguessable.

    Raises `InvalidInput`.
    """
    key = asked.idempotency_key
    if key is None:
        return None
    if viewer.user_id is not None or session_id is not None:
        scope = _scope(viewer, session_id)
    elif is_unguessable(key):
        scope = "anonymous"
    else:
        raise InvalidInput(
            "Without a user and a session_id, whoever knows the idempotency key can read the answer: it must be a UUID or at least "
            f"{UNGUESSABLE_CHARACTERS} characters that nobody can guess."
        )
    told = replace(asked, idempotency_key=None)
    if isinstance(told, Asked):
        told = replace(told, request=None)
    request = type(asked).__name__.encode() + msgspec.json.encode(told)
    return IdempotencyKey(scope, key, hashlib.sha256(request).digest())


def _scope(viewer: Viewer, session_id: str | None) -> str:
    """Whose the idempotency keys are: the user's, or the session's."""
    return f"user:{viewer.user_id}" if viewer.user_id is not None else f"session:{session_id}"
