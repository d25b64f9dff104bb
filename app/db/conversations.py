"""Sessions, and their messages.

The statements of every turn are written out: built anew each time, they cost as much again as running them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    BindParameter,
    LargeBinary,
    Text,
    Uuid,
    and_,
    bindparam,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import sessions, tables
from app.db.tables import columns_of
from app.errors import SessionBusy

_sessions = columns_of(tables.Session)
_messages = columns_of(tables.Message)
_runs = columns_of(tables.Run)


def _bound(name: str, kind: type[Text | Uuid[Any] | LargeBinary]) -> BindParameter[Any]:
    return bindparam(name, type_=kind())


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """`parent_id` is the message that it follows; others that follow it as well are its siblings."""

    id: UUID
    parent_id: UUID | None
    position: int
    role: str
    status: str
    text: str
    created_at: datetime
    finish_reason: str | None
    error_code: str | None
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    visualization: dict[str, Any] | None
    usage: dict[str, Any] | None


# The question follows the newest message that is shown; hardly ever is there another branch.
NEWEST_SHOWN = """(
    SELECT m.id FROM messages m JOIN sessions s ON s.id = m.session_id
    WHERE m.session_id = :session_id AND m.is_shown AND m.position > s.forgotten_up_to ORDER BY m.position DESC LIMIT 1
)"""
_ADD_RUN = """
    INSERT INTO runs (id, session_id, assistant_id, user_id, user_message_id, message_id, process_id, language, status,
        idempotency_scope, idempotency_key, request_sha256, request, accounts)
    VALUES (:run_id, :session_id, :assistant_id, :user_id, :question_id, :answer_id, :process_id, :language, :status,
        :idempotency_scope, :idempotency_key, :request_sha256, :request, :accounts)
"""
_OF_RUN = (
    *(
        _bound(name, Uuid)
        for name in ("run_id", "process_id", "assistant_id", "user_id", "question_id", "answer_id")
    ),
    *(
        _bound(name, Text)
        for name in ("session_id", "language", "status", "idempotency_scope", "idempotency_key")
    ),
    _bound("request_sha256", LargeBinary),
    bindparam("request", type_=JSONB(none_as_null=True)),
    bindparam("accounts", type_=ARRAY(Text())),
)
_ADD_TURN = text(
    f"""
    WITH messages_of_the_turn AS (
        INSERT INTO messages (id, session_id, parent_id, role, status, text)
        VALUES (:question_id, :session_id, {NEWEST_SHOWN}, 'user', 'completed', :question),
            (:answer_id, :session_id, :question_id, 'assistant', :status, '')
    ) {_ADD_RUN}
    """
).bindparams(*_OF_RUN, _bound("question", Text))
_ADD_ANSWER = text(
    f"""
    WITH answer AS (
        INSERT INTO messages (id, session_id, parent_id, role, status, text)
        VALUES (:answer_id, :session_id, :question_id, 'assistant', :status, '')
    ) {_ADD_RUN}
    """
).bindparams(*_OF_RUN)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`scope` is whose the key is; `request_sha256` tells requests with the same key apart."""

    scope: str
    key: str
    request_sha256: bytes


class KeyTaken(Exception):
    """Another request has come with this idempotency key. The transaction can only be given up."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """`status` is `running` or `queued`; `user_id` is who asks, whosever the session is, `accounts` what it is charged to. `request` is what is told of the request by who tells it again."""

    id: UUID
    process_id: UUID
    session_id: str
    assistant_id: UUID
    question_id: UUID
    answer_id: UUID
    language: str | None
    status: str
    user_id: UUID | None = None
    accounts: tuple[str, ...] = ()
    idempotency_key: IdempotencyKey | None = None
    request: dict[str, Any] | None = None


async def add_turn(session: AsyncSession, run: NewRun, question: str) -> None:
    """Store the question behind the newest message that is shown, reserve the answer, and note that it is being made.

    Raises `SessionBusy` if another run of the session is running, and `KeyTaken`.
    """
    await _add(session, _ADD_TURN, {**_values(run), "question": question})


_ADD_OPENING = text(
    """
    INSERT INTO messages (id, session_id, role, status, text)
    VALUES (:opening_id, :session_id, 'assistant', 'completed', :opening)
    """
).bindparams(_bound("opening_id", Uuid), _bound("session_id", Text), _bound("opening", Text))


async def add_opening(session: AsyncSession, session_id: str, opening: str) -> None:
    """Store what the assistant says before anything is asked, as the first message of the session."""
    values = {"opening_id": uuid4(), "session_id": session_id, "opening": opening}
    await session.execute(_ADD_OPENING, values)


async def add_answer(session: AsyncSession, run: NewRun) -> None:
    """Reserve one more answer to a question that is there, and note that it is being made. Raises as `add_turn` does."""
    await _add(session, _ADD_ANSWER, _values(run))


async def _add(session: AsyncSession, statement: Any, values: Mapping[str, Any]) -> None:
    try:
        await session.execute(statement, values)
    except IntegrityError as error:
        said = str(error.orig)
        if "runs_one_running_a_session_key" in said:
            raise SessionBusy from error
        if "runs_idempotency_scope_idempotency_key_key" in said:
            raise KeyTaken from error
        raise


def _values(run: NewRun) -> dict[str, Any]:
    key = run.idempotency_key
    return {
        "run_id": run.id,
        "process_id": run.process_id,
        "session_id": run.session_id,
        "assistant_id": run.assistant_id,
        "user_id": run.user_id,
        "question_id": run.question_id,
        "answer_id": run.answer_id,
        "language": run.language,
        "status": run.status,
        "idempotency_scope": key.scope if key is not None else None,
        "idempotency_key": key.key if key is not None else None,
        "request_sha256": key.request_sha256 if key is not None else None,
        "request": run.request,
        "accounts": list(run.accounts) or None,
    }


async def hide_from(session: AsyncSession, session_id: str, position: int) -> None:
    """Put the messages of the shown branch from this position on aside, as another branch begins there."""
    await session.execute(
        update(_messages)
        .where(_messages.c.session_id == session_id, _messages.c.is_shown, _messages.c.position >= position)
        .values(is_shown=False)
    )


_SHOW_BRANCH = text(
    """
    WITH RECURSIVE above AS (
        SELECT id, parent_id FROM messages WHERE id = :message_id AND session_id = :session_id
        UNION ALL SELECT m.id, m.parent_id FROM messages m JOIN above ON m.id = above.parent_id
    ), below AS (
        SELECT id FROM messages WHERE id = :message_id AND session_id = :session_id
        UNION ALL SELECT newest.id FROM below, LATERAL (
            SELECT id FROM messages m WHERE m.parent_id = below.id ORDER BY position DESC LIMIT 1
        ) newest
    ), branch AS (
        SELECT id FROM above UNION SELECT id FROM below
    )
    UPDATE messages SET is_shown = NOT is_shown
    WHERE session_id = :session_id AND is_shown <> (id IN (SELECT id FROM branch))
    """
).bindparams(_bound("session_id", Text), _bound("message_id", Uuid))


async def show_branch(session: AsyncSession, session_id: str, message_id: UUID) -> None:
    """Show the branch of this message: what is above it, and below it the newest of each fork."""
    await session.execute(_SHOW_BRANCH, {"session_id": session_id, "message_id": message_id})


async def siblings(
    session: AsyncSession, session_id: str, messages: Sequence[StoredMessage]
) -> Mapping[UUID, list[UUID]]:
    """The ids of the alternatives to each of these messages, itself included, in the order they were made; none where there is no other."""
    if not messages:
        return {}
    parents = [message.parent_id for message in messages if message.parent_id is not None]
    of_these = _messages.c.parent_id.in_(parents)
    if len(parents) < len(messages):
        of_these = or_(of_these, _messages.c.parent_id.is_(None))
    statement = (
        select(func.array_agg(aggregate_order_by(_messages.c.id, _messages.c.position)))
        .join(_sessions, _sessions.c.id == _messages.c.session_id)
        .where(
            _messages.c.session_id == session_id, of_these, _messages.c.position > _sessions.c.forgotten_up_to
        )
        .group_by(_messages.c.parent_id)
        .having(func.count() > 1)
    )
    return {one: family for family in (await session.execute(statement)).scalars() for one in family}


async def page_of_messages(
    session: AsyncSession, session_id: str, *, user_id: UUID | None, before: int | None, limit: int
) -> list[StoredMessage]:
    """The last `limit` messages that are shown, behind position `before`, of a session that the user may see, in time order."""
    statement = (
        _visible_messages(session_id)
        .where(sessions.visible_to(user_id))
        .order_by(_messages.c.position.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(_messages.c.position < before)
    rows = (await session.execute(statement)).all()
    return [StoredMessage(*row) for row in reversed(rows)]


async def get_message(session: AsyncSession, message_id: UUID) -> StoredMessage | None:
    statement = select(*MESSAGE_COLUMNS).where(_messages.c.id == message_id)
    row = (await session.execute(statement)).one_or_none()
    return StoredMessage(*row) if row is not None else None


async def get_in_session(session: AsyncSession, session_id: str, message_id: UUID) -> StoredMessage | None:
    """Also one of a branch that is not shown; none that a reset has put out of sight."""
    statement = messages_in_sight(session_id).where(_messages.c.id == message_id)
    row = (await session.execute(statement)).one_or_none()
    return StoredMessage(*row) if row is not None else None


async def get_visible(
    session: AsyncSession, message_id: UUID, *, session_id: str | None, user_id: UUID | None
) -> StoredMessage | None:
    """One in sight, of any branch, of this session or else of one of the user's own. An anonymous session is given by its id."""
    of_session = (
        _sessions.c.user_id == user_id
        if session_id is None
        else and_(_sessions.c.id == session_id, sessions.visible_to(user_id))
    )
    statement = _all_in_sight().where(_messages.c.id == message_id, of_session)
    row = (await session.execute(statement)).one_or_none()
    return StoredMessage(*row) if row is not None else None


async def question_of(session: AsyncSession, session_id: str, answer_id: UUID) -> StoredMessage | None:
    """As `get_in_session`, of the question that this answers."""
    parent_id = select(_messages.c.parent_id).where(_messages.c.id == answer_id).scalar_subquery()
    statement = messages_in_sight(session_id).where(_messages.c.id == parent_id)
    row = (await session.execute(statement)).one_or_none()
    return StoredMessage(*row) if row is not None else None


async def newest_shown(session: AsyncSession, session_id: str, *, role: str) -> StoredMessage | None:
    statement = (
        _visible_messages(session_id)
        .where(_messages.c.role == role)
        .order_by(_messages.c.position.desc())
        .limit(1)
    )
    row = (await session.execute(statement)).one_or_none()
    return StoredMessage(*row) if row is not None else None


async def run_behind(session: AsyncSession, question_id: UUID) -> tuple[UUID | None, str | None] | None:
    """The assistant that last answered this question, if it is still there, and the language that was asked for."""
    statement = (
        select(_runs.c.assistant_id, _runs.c.language)
        .where(_runs.c.user_message_id == question_id)
        .order_by(_runs.c.started_at.desc())
        .limit(1)
    )
    row = (await session.execute(statement)).one_or_none()
    return (row.assistant_id, row.language) if row is not None else None


async def all_messages(
    session: AsyncSession, session_id: str, *, after: int, limit: int
) -> list[tuple[StoredMessage, bool]]:
    """The next `limit` messages behind position `after`, of every branch and also what was forgotten; and whether each is shown."""
    statement = (
        select(*MESSAGE_COLUMNS, _messages.c.is_shown)
        .where(_messages.c.session_id == session_id, _messages.c.position > after)
        .order_by(_messages.c.position)
        .limit(limit)
    )
    return [(StoredMessage(*row[:-1]), row[-1]) for row in await session.execute(statement)]


async def has_source(session: AsyncSession, session_id: str, document_id: UUID) -> bool:
    """Whether an answer of the session that is in sight was given a passage of the document."""
    passage = [{"metadata": {"document_id": str(document_id)}}]
    statement = messages_in_sight(session_id).where(_messages.c.sources.contains(passage)).limit(1)
    return (await session.execute(statement)).first() is not None


MESSAGE_COLUMNS = (
    _messages.c.id,
    _messages.c.parent_id,
    _messages.c.position,
    _messages.c.role,
    _messages.c.status,
    _messages.c.text,
    _messages.c.created_at,
    _messages.c.finish_reason,
    _messages.c.error_code,
    _messages.c.sources,
    _messages.c.citations,
    _messages.c.steps,
    _messages.c.visualization,
    _messages.c.usage,
)


def messages_in_sight(session_id: str) -> Any:
    return _all_in_sight().where(_messages.c.session_id == session_id)


def _all_in_sight() -> Any:
    """Those that a reset has not put out of sight, of all branches."""
    return (
        select(*MESSAGE_COLUMNS)
        .join(_sessions, _sessions.c.id == _messages.c.session_id)
        .where(_messages.c.position > _sessions.c.forgotten_up_to)
    )


def _visible_messages(session_id: str) -> Any:
    return messages_in_sight(session_id).where(_messages.c.is_shown)
