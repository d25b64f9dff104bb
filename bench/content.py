"""What the product must have in its database before it can be measured."""

from contextlib import AsyncExitStack, suppress

from sqlalchemy import text

from app.db.engine import Sessions, create_engine
from app.errors import Conflict
from app.services.assistants import AssistantService
from app.settings import DatabaseSettings
from bench.fill import fill

PLAIN = "bench-plain"
"""The assistant without documents, which goes to the model at once."""


_EMBEDDER_AND_ASSISTANT = text(
    "SELECT name, dimensions, EXISTS (SELECT FROM assistants WHERE slug = :slug) FROM embedders"
)


def filled(chunks: int) -> str:
    """The assistant that searches so many chunks."""
    return f"bench-{chunks}"


async def prepare(url: str, chunks: int | None) -> None:
    """Makes what is missing: `PLAIN`, and the assistant `filled` with so many chunks unless that is None.

    The product must have been started on the database, which then knows the embedder.
    """
    async with AsyncExitStack() as stack:
        engine = create_engine(url, DatabaseSettings())
        stack.push_async_callback(engine.dispose)
        sessions = Sessions(engine)
        with suppress(Conflict):
            await AssistantService(sessions).create(name="Without documents", slug=PLAIN)
        if chunks is None:
            return
        async with sessions.read() as session:
            known = await session.execute(_EMBEDDER_AND_ASSISTANT, {"slug": filled(chunks)})
            name, dimensions, there = known.one()
    if not there:
        await fill(url, chunks, filled(chunks), name, dimensions)
