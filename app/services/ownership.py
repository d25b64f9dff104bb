"""Whose a session is."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import sessions
from app.errors import NotFound
from app.services.viewer import Viewer


async def require_visible(session: AsyncSession, session_id: str, viewer: Viewer) -> None:
    """Raises `NotFound` for another user's session."""
    owner = await sessions.owner_of(session, session_id)
    if owner is not None and owner[0] is not None and owner[0] != viewer.user_id:
        raise NotFound("session", session_id)
