"""A user's sessions, and all that is kept of them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app import json_text
from app.api.contract import Cursor, Limit, cut, problems
from app.api.deps import CurrentAccount, SessionHistory
from app.api.streaming import NDJSON
from app.api.text import Text
from app.api.v1.history import SessionId
from app.db.sessions import SessionRow
from app.errors import InvalidInput

router = APIRouter(tags=["sessions"])

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Up to the year 5138.
_MOST_DIGITS = 17


class SessionView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    title: Annotated[str | None, Field(description="Its own, or how its first question begins.")]
    assistant_id: Annotated[
        UUID | None, Field(description="The assistant it was opened with; null if that is gone.")
    ]
    created_at: datetime
    last_active_at: datetime


class SessionPage(BaseModel):
    """`next` is the `cursor` of the page that follows, null at the end."""

    items: list[SessionView]
    next: str | None


class SessionChange(BaseModel):
    title: Annotated[
        Text | None,
        Field(max_length=200, description="Null or empty: to be called by its first question again."),
    ]


@router.get("/sessions", responses=problems(401, 422))
async def list_sessions(
    account: CurrentAccount,
    sessions: SessionHistory,
    limit: Limit = 50,
    cursor: Annotated[Text | None, Cursor] = None,
) -> SessionPage:
    """One's own, the last active first."""
    before = _place(cursor) if cursor is not None else None
    rows = await sessions.page(account.id, before=before, limit=limit + 1)
    rows, following = cut(rows, limit, _cursor)
    return SessionPage(items=[SessionView.model_validate(row) for row in rows], next=following)


@router.patch("/sessions/{session_id}", responses=problems(401, 404, 422))
async def rename_session(
    session_id: SessionId, body: SessionChange, account: CurrentAccount, sessions: SessionHistory
) -> SessionView:
    row = await sessions.rename(session_id, account.id, (body.title or "").strip() or None)
    return SessionView.model_validate(row)


@router.post("/sessions/{session_id}/claim", responses=problems(401, 404, 422))
async def claim_session(
    session_id: SessionId, account: CurrentAccount, sessions: SessionHistory
) -> SessionView:
    """Make an anonymous session one's own, as after a login: for everybody else it does not exist any more."""
    return SessionView.model_validate(await sessions.claim(session_id, account.id))


@router.get(
    "/users/me/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line: the user, then each session before its messages.",
            "content": {NDJSON: {"schema": {"type": "string"}}},
        },
        **problems(401),
    },
)
async def export(account: CurrentAccount, sessions: SessionHistory) -> StreamingResponse:
    """All that is kept of what one has asked and been answered: of every branch, and also what was forgotten."""

    async def lines() -> AsyncGenerator[bytes]:
        async with aclosing(sessions.export(account)) as records:
            async for record in records:
                yield json_text.encode(record) + b"\n"

    return StreamingResponse(lines(), media_type=NDJSON)


def _cursor(row: SessionRow) -> str:
    return f"{(row.last_active_at - _EPOCH) // _MICROSECOND}.{row.id}"


def _place(cursor: str) -> tuple[datetime, str]:
    """Raises `InvalidInput`."""
    microseconds, _, session_id = cursor.partition(".")
    if not session_id or not microseconds.isdecimal() or len(microseconds) > _MOST_DIGITS:
        raise InvalidInput("cursor must be the `next` of the page before.")
    return _EPOCH + int(microseconds) * _MICROSECOND, session_id
