"""The one embedder that all embeddings come from: recording it, and changing it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import BigInteger, Text, bindparam, delete, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import EmbedderRecord
from app.errors import StartupRefused

# What pgvector's HNSW indexes of halfvec.
_MOST_DIMENSIONS = 4_000


@dataclass(frozen=True, slots=True)
class Passage:
    """`text` is what is embedded of the chunk."""

    chunk_id: int
    text: str


async def claim(session: AsyncSession, name: str, dimensions: int) -> None:
    """The first embedder to come is recorded, and the index made for its vectors. Raises `StartupRefused` for any other."""
    if dimensions > _MOST_DIMENSIONS:
        raise StartupRefused(
            f"The embedder {name} has {dimensions:,} dimensions, and PostgreSQL can search at most {_MOST_DIMENSIONS:,}."
            " Set EMBEDDING_DIMENSIONS to less, if the model can, or use another model."
        )
    record = insert(EmbedderRecord).values(name=name, dimensions=dimensions)
    claimed = await session.execute(record.on_conflict_do_nothing().returning(EmbedderRecord.name))
    if claimed.first() is not None:
        await _create_index(session, dimensions)
        return
    known = await session.get_one(EmbedderRecord, True)
    if (known.name, known.dimensions) != (name, dimensions):
        raise StartupRefused(
            f"The documents were embedded by {known.name} ({known.dimensions} dimensions), and the embedder is now {name}"
            f" ({dimensions} dimensions). Run `freshet reembed`, or set EMBEDDING_MODEL back."
        )


async def is_current(session: AsyncSession, name: str, dimensions: int) -> bool:
    known = await session.get(EmbedderRecord, True)
    return known is not None and (known.name, known.dimensions) == (name, dimensions)


async def prepare_change(session: AsyncSession, name: str) -> None:
    """Makes room for the new embeddings beside the old ones; what an earlier attempt left of another embedder goes."""
    await session.execute(
        text(
            "CREATE TABLE IF NOT EXISTS new_embeddings ("
            " chunk_id bigint PRIMARY KEY REFERENCES chunks ON DELETE CASCADE,"
            " embedder text NOT NULL, embedding halfvec NOT NULL)"
        )
    )
    await session.execute(text("DELETE FROM new_embeddings WHERE embedder <> :name"), {"name": name})


async def progress_of_change(session: AsyncSession) -> tuple[int, int]:
    """How many chunks have a new embedding, of how many."""
    counts = text("SELECT (SELECT count(*) FROM new_embeddings), (SELECT count(*) FROM chunks)")
    done, total = (await session.execute(counts)).one()
    return done, total


async def next_passages(session: AsyncSession, limit: int) -> list[Passage]:
    """Of the chunks without a new embedding, those with the lowest ids."""
    statement = text(
        "SELECT c.id, CASE c.heading WHEN '' THEN c.text ELSE c.heading || chr(10) || c.text END FROM chunks c"
        " WHERE NOT EXISTS (SELECT FROM new_embeddings n WHERE n.chunk_id = c.id) ORDER BY c.id LIMIT :limit"
    )
    return [Passage(*row) for row in await session.execute(statement, {"limit": limit})]


async def store_new(
    session: AsyncSession, name: str, passages: Sequence[Passage], embeddings: NDArray[np.float32]
) -> None:
    """One embedding a row; a chunk that was deleted meanwhile is passed over."""
    statement = text(
        "INSERT INTO new_embeddings (chunk_id, embedder, embedding)"
        " SELECT id, :name, :embedding FROM chunks WHERE id = :chunk_id FOR KEY SHARE ON CONFLICT DO NOTHING"
    ).bindparams(
        bindparam("chunk_id", type_=BigInteger),
        bindparam("name", type_=Text),
        bindparam("embedding", type_=HALFVEC(embeddings.shape[1])),
    )
    rows = [
        {"chunk_id": passage.chunk_id, "name": name, "embedding": HalfVector(embedding)}
        for passage, embedding in zip(passages, embeddings, strict=True)
    ]
    await session.execute(statement, rows)


async def hold_chunks(session: AsyncSession) -> None:
    """Nobody else reads or writes chunks before the transaction ends."""
    await session.execute(text("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE"))


async def finish_change(session: AsyncSession, name: str, dimensions: int) -> None:
    """Puts the new embeddings, of which there must be one for each chunk, in the place of the old ones."""
    # Into a new column: an index made in the transaction of the update would find the old vectors, which do not fit it.
    for statement in (
        "ALTER TABLE chunks DROP COLUMN embedding",
        "ALTER TABLE chunks ADD COLUMN embedding halfvec",
        "ALTER TABLE chunks ALTER COLUMN embedding SET STORAGE plain",
        "UPDATE chunks SET embedding = n.embedding FROM new_embeddings n WHERE n.chunk_id = chunks.id",
        "ALTER TABLE chunks ALTER COLUMN embedding SET NOT NULL",
        "DROP TABLE new_embeddings",
    ):
        await session.execute(text(statement))
    await session.execute(delete(EmbedderRecord))
    await claim(session, name, dimensions)


async def _create_index(session: AsyncSession, dimensions: int) -> None:
    await session.execute(
        text(
            f"CREATE INDEX chunks_embedding_idx ON chunks USING hnsw ((embedding::halfvec({int(dimensions)})) halfvec_cosine_ops)"
            " WITH (m = 16, ef_construction = 64)"
        )
    )
