"""Tokens for chat sockets: given out, looked up with what has been said so far, and revoked."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from app.api.contract import OPTIONAL_USER, problems_as_400
from app.api.deps import ChatTokens, SessionHistory, ViewerDep
from app.api.text import Text
from app.api.v1.history import Said
from app.errors import InvalidInput, Unauthenticated
from app.services.chat_tokens import Holder
from app.services.sessions import SessionService

router = APIRouter(tags=["socket"])

_MOST_MESSAGES = 200

Token = Annotated[str, Query(min_length=1, max_length=200, description="As `POST /token` gave it.")]


class SocketMessage(BaseModel):
    """`msg` begins with `Human: ` or `Bot: `."""

    id: UUID
    msg: str
    timestamp: datetime


class SocketSession(BaseModel):
    """`messages` are the newest 200 that have a text, in time order."""

    name: str
    token: str
    session_start: datetime
    messages: list[SocketMessage]


@router.post("/token", responses=problems_as_400(401, 404), openapi_extra=OPTIONAL_USER)
async def new_token(
    name: Annotated[
        Text, Query(min_length=1, max_length=200, description="What the user of the socket is called.")
    ],
    viewer: ViewerDep,
    tokens: ChatTokens,
    sessions: SessionHistory,
    response: Response,
    assistant_id: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=100,
            description="An assistant's slug or id. Left out: the oldest that is for everybody.",
        ),
    ] = None,
    session_id: Annotated[
        str | None, Query(max_length=100, description="Left out: a new session, told in `x-session-id`.")
    ] = None,
) -> SocketSession:
    """A token for a socket. With a bearer it acts as that user."""
    token, holder = await tokens.issue(name, viewer, assistant=assistant_id, session_id=session_id)
    response.headers["x-session-id"] = holder.session_id
    return await _session(token, holder, sessions)


_FOUND: dict[str, Any] = {"responses": problems_as_400()}


@router.get("/refresh_token", **_FOUND)
async def refresh_token(
    token: Token, tokens: ChatTokens, sessions: SessionHistory, response: Response
) -> SocketSession:
    """What has been said in the token's session. It lives no longer for it."""
    try:
        holder = await tokens.holder(token)
    except Unauthenticated as error:
        raise InvalidInput(error.message) from error
    response.headers["x-session-id"] = holder.session_id
    return await _session(token, holder, sessions)


@router.post("/refresh_token", **_FOUND)
async def refresh_token_by_post(
    token: Token, tokens: ChatTokens, sessions: SessionHistory, response: Response
) -> SocketSession:
    """The same."""
    return await refresh_token(token, tokens, sessions, response)


@router.delete("/token", **_FOUND)
async def revoke_token(token: Token, tokens: ChatTokens) -> Said:
    """It counts no more, and its sockets are closed. The session stays."""
    await tokens.revoke(token)
    return Said(message="The token does not count any more.")


async def _session(token: str, holder: Holder, sessions: SessionService) -> SocketSession:
    page = await sessions.history(holder.session_id, holder.viewer, before=None, limit=_MOST_MESSAGES)
    return SocketSession(
        name=holder.name,
        token=token,
        session_start=holder.session_start,
        messages=[
            SocketMessage(
                id=message.id,
                msg=f"{'Human' if message.role == 'user' else 'Bot'}: {message.text}",
                timestamp=message.created_at,
            )
            for message in (shown.message for shown in page.messages)
            if message.text
        ],
    )
