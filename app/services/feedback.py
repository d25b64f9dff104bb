"""What readers say of the answers they were given."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import assistants, conversations, feedback
from app.db.engine import Sessions
from app.db.feedback import Feedback, Rating, Review
from app.errors import Conflict, InvalidInput, NotFound
from app.services.viewer import Viewer


class FeedbackService:
    """An answer is rated by whoever may see its session: its user, or who knows the id of an anonymous one."""

    def __init__(self, database: Sessions) -> None:
        self._database = database

    async def rate(
        self, message_id: UUID, viewer: Viewer, *, session_id: str | None, rating: Rating, comment: str | None
    ) -> Feedback:
        """In place of what was said before. Raises `NotFound`, `InvalidInput` for a question, `Conflict` while the answer is being made."""
        async with self._database.begin() as session:
            await _require_answer(session, message_id, viewer, session_id)
            return await feedback.put(session, message_id, rating, comment)

    async def take_back(self, message_id: UUID, viewer: Viewer, *, session_id: str | None) -> None:
        """Raises as `rate` does; not where nothing has been said."""
        async with self._database.begin() as session:
            await _require_answer(session, message_id, viewer, session_id)
            await feedback.remove(session, message_id)

    async def page(
        self, *, rating: Rating | None, assistant: str | None, before: int | None, limit: int
    ) -> list[Review]:
        """The newest first; `assistant` is a slug or an id. Raises `NotFound`."""
        async with self._database.read() as session:
            found = await assistants.get(session, assistant) if assistant is not None else None
            if assistant is not None and found is None:
                raise NotFound("assistant", assistant)
            return await feedback.page(
                session,
                rating=rating,
                assistant_id=found.id if found is not None else None,
                before=before,
                limit=limit,
            )


async def _require_answer(
    session: AsyncSession, message_id: UUID, viewer: Viewer, session_id: str | None
) -> None:
    if viewer.account is None and session_id is None:
        raise InvalidInput(
            "Without a user, session_id tells whose answer it is: send the id of its session along."
        )
    message = await conversations.get_visible(
        session, message_id, session_id=session_id, user_id=viewer.user_id
    )
    if message is None:
        raise NotFound("message", message_id)
    if message.role != "assistant":
        raise InvalidInput("Only answers can be rated, and this is the id of a question.")
    if message.status in ("queued", "running"):
        raise Conflict("This answer is still being made. Rate it when it has ended.")
