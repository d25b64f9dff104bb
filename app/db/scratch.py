"""A database that is made for one purpose and dropped after it, beside the one that is configured."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import exc, insert, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from app.db import migrations
from app.db.engine import Sessions, create_engine, normal_url
from app.db.ingestions import NewChunk
from app.db.tables import Chunk, Collection, Document
from app.errors import Forbidden
from app.settings import DatabaseSettings

_DROPPING_S = 30.0


@dataclass(frozen=True, slots=True)
class NewDocument:
    """Ready to be searched: one embedding a row."""

    name: str
    language: str
    chunks: Sequence[NewChunk]
    embeddings: NDArray[np.float32]


@asynccontextmanager
async def database(url: str, settings: DatabaseSettings) -> AsyncGenerator[Sessions]:
    """Migrated and empty, on the server of `url`. Raises `Forbidden` if the user there may not create databases."""
    name = f"freshet_scratch_{uuid4().hex}"
    server = create_async_engine(normal_url(url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        async with server.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
    except exc.ProgrammingError as error:
        # PostgreSQL counts a right that is missing among them, and the statement has nothing else that could be wrong.
        raise Forbidden("The user of DATABASE_URL may not create databases, and this needs one.") from error
    engine = create_engine(make_url(url).set(database=name).render_as_string(hide_password=False), settings)
    try:
        await migrations.migrate(engine)
        yield Sessions(engine)
    finally:
        # Shielded: who interrupts an evaluation wants its database gone as well.
        with anyio.move_on_after(_DROPPING_S, shield=True):
            await engine.dispose()
            async with server.connect() as connection:
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


async def create_collection(session: AsyncSession, name: str) -> UUID:
    collection_id = uuid4()
    await session.execute(insert(Collection).values(id=collection_id, name=name))
    return collection_id


async def store(session: AsyncSession, collection_id: UUID, documents: Sequence[NewDocument]) -> None:
    ids = [uuid4() for _ in documents]
    rows = [
        {
            "id": document_id,
            "collection_id": collection_id,
            "file_name": document.name,
            "content_sha256": document_id.bytes,
            "size_bytes": 0,
            "status": "ready",
            "chunk_count": len(document.chunks),
        }
        for document_id, document in zip(ids, documents, strict=True)
    ]
    await session.execute(insert(Document), rows)
    chunks = [
        {
            "document_id": document_id,
            "collection_id": collection_id,
            "ordinal": ordinal,
            "start_offset": chunk.start,
            "end_offset": chunk.end,
            "page_label": chunk.page_label,
            "heading": chunk.heading,
            "text": chunk.text,
            "language": document.language,
            "embedding": embedding,
        }
        for document_id, document in zip(ids, documents, strict=True)
        for ordinal, (chunk, embedding) in enumerate(zip(document.chunks, document.embeddings, strict=True))
    ]
    if chunks:
        await session.execute(insert(Chunk), chunks)


async def analyse(session: AsyncSession) -> None:
    await session.execute(text("ANALYZE"))
