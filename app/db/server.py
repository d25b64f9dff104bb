"""Which database this is."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import EmbedderRecord


@dataclass(frozen=True, slots=True)
class ServerVersions:
    """`postgres` is the major version. `vector` is of the extension in this database, None when it is not there;
    `vector_available` is what the server could install."""

    postgres: int
    vector: str | None
    vector_available: str | None


async def versions(session: AsyncSession) -> ServerVersions:
    statement = text(
        "SELECT current_setting('server_version_num')::int / 10000,"
        " (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
        " (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')"
    )
    return ServerVersions(*(await session.execute(statement)).one())


async def recorded_embedder(session: AsyncSession) -> tuple[str, int] | None:
    """Name and dimensions of the one that all embeddings come from."""
    record = await session.get(EmbedderRecord, True)
    return (record.name, record.dimensions) if record is not None else None
