"""Tokens that let somebody into one session with one assistant, as the user he was when he got it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import chat_tokens, conversations, processes, sessions
from app.db.chat_tokens import NewToken
from app.db.engine import Sessions
from app.errors import InvalidInput, Unauthenticated
from app.services import tokens
from app.services.assistants import default_in, usable_in
from app.services.session_ids import checked_session_id
from app.services.viewer import ANONYMOUS, Account, Viewer


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a token lets in, and where. `left_s` is for how long, in seconds."""

    token_id: UUID
    name: str
    session_id: str
    assistant_id: UUID
    session_start: datetime
    left_s: float
    viewer: Viewer


class ChatTokenService:
    def __init__(self, database: Sessions, *, lifetime_s: float) -> None:
        self._database = database
        self._lifetime = timedelta(seconds=lifetime_s)

    async def issue(
        self, name: str, viewer: Viewer, *, assistant: str | None = None, session_id: str | None = None
    ) -> tuple[str, Holder]:
        """A token for the session, or for a new one. Without an `assistant`, that is the oldest which is for everybody.

        Raises `InvalidInput`, and as `ChatService.begin` does for an assistant or a session that is not the viewer's.
        """
        if not name.strip():
            raise InvalidInput("The name is empty.")
        session_id = checked_session_id(session_id, viewer)
        secret = tokens.new_secret()
        async with self._database.begin() as session:
            found = await usable_in(session, assistant or await default_in(session), viewer)
            opened = await sessions.open_session(
                session, session_id, user_id=viewer.user_id, assistant_id=found.id
            )
            if not opened.has_messages and found.first_message:
                await conversations.add_opening(session, session_id, found.first_message)
            token = NewToken(
                id=uuid4(),
                token_hash=tokens.digest(secret),
                name=name,
                session_id=session_id,
                user_id=viewer.user_id,
                assistant_id=found.id,
            )
            await chat_tokens.add(session, token, lifetime=self._lifetime)
            return secret, await _holder(session, token.token_hash)

    async def holder(self, token: str | None) -> Holder:
        """Raises `Unauthenticated` for a token that does not count, or no more."""
        if token is None:
            raise _refusal()
        async with self._database.read() as session:
            return await _holder(session, tokens.digest(token))

    async def revoke(self, token: str) -> None:
        """Its sockets are closed, in every process. A token that does not count changes nothing."""
        async with self._database.begin() as session:
            token_id = await chat_tokens.remove(session, tokens.digest(token))
            if token_id is not None:
                await processes.tell(session, "revoked", [token_id])


async def _holder(session: AsyncSession, token_hash: bytes) -> Holder:
    found = await chat_tokens.find(session, token_hash)
    if found is None:
        raise _refusal()
    user_id = found["user_id"]
    viewer = ANONYMOUS
    if user_id is not None:
        viewer = Viewer(Account(user_id, found["email"], found["user_name"], found["role"]))
    return Holder(
        token_id=found["id"],
        name=found["name"],
        session_id=found["session_id"],
        assistant_id=found["assistant_id"],
        session_start=found["session_start"],
        left_s=float(found["left_s"]),
        viewer=viewer,
    )


def _refusal() -> Unauthenticated:
    return Unauthenticated("This token does not count: it has expired, was revoked, or never was one.")
