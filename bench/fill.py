"""Fills a migrated database with made-up documents to search: `python -m bench.fill DATABASE_URL --chunks 100000 --assistant SLUG`.

Nothing in them means anything, so the assistant takes what is nearest however far away it is.
"""

import argparse
import asyncio
import hashlib
import sys
import time
from uuid import UUID, uuid4

import asyncpg
import numpy as np
from pgvector import HalfVector
from pgvector.asyncpg import register_vector

from bench.made_up import texts, vectors

_CHUNKS_A_COPY = 20_000

_SLOW_INDEXES = (
    "SELECT indexdef FROM pg_indexes WHERE indexname IN ('chunks_embedding_idx', 'chunks_words_idx')"
)


async def fill(url: str, chunks: int, slug: str, embedder: str, dimensions: int) -> None:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        await register_vector(connection)
        async with connection.transaction():
            await _claim(connection, embedder, dimensions)
            # Filling an index costs several times what making it at the end does.
            indexes = [row["indexdef"] for row in await connection.fetch(_SLOW_INDEXES)]
            await connection.execute("DROP INDEX chunks_embedding_idx, chunks_words_idx")
            collection = await _make_assistant(connection, slug)
            await _copy_documents(connection, collection, chunks, dimensions)
            _say("indexing")
            await connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
            for definition in indexes:
                await connection.execute(definition)
        _say("analysing")
        for table in ("chunks", "documents", "lexemes", "languages", "collections"):
            await connection.execute(f"VACUUM ANALYZE {table}")
    finally:
        await connection.close()


async def _claim(connection: "asyncpg.Connection[asyncpg.Record]", embedder: str, dimensions: int) -> None:
    """Makes these the vectors of the database, as a first start would; its embedder if it has one must be the same."""
    claimed = await connection.fetchval(
        "INSERT INTO embedders (name, dimensions) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
        embedder,
        dimensions,
    )
    if claimed:
        await connection.execute(
            "CREATE INDEX chunks_embedding_idx ON chunks USING hnsw"
            f" ((embedding::halfvec({dimensions})) halfvec_cosine_ops) WITH (m = 16, ef_construction = 64)"
        )
    row = await connection.fetchrow("SELECT name, dimensions FROM embedders")
    assert row is not None
    if tuple(row) != (embedder, dimensions):
        raise SystemExit(f"The database's embedder is {row['name']} with {row['dimensions']} dimensions.")


async def _make_assistant(connection: "asyncpg.Connection[asyncpg.Record]", slug: str) -> UUID:
    assistant, collection = uuid4(), uuid4()
    try:
        await connection.execute(
            "INSERT INTO assistants (id, slug, name, similarity_cutoff) VALUES ($1, $2, $2, -1)",
            assistant,
            slug,
        )
        await connection.execute("INSERT INTO collections (id, name) VALUES ($1, $2)", collection, slug)
    except asyncpg.UniqueViolationError as error:
        raise SystemExit(f"There is an assistant or a collection named {slug} already.") from error
    await connection.execute("INSERT INTO assistant_collections VALUES ($1, $2)", assistant, collection)
    return collection


async def _copy_documents(
    connection: "asyncpg.Connection[asyncpg.Record]", collection: UUID, chunks: int, dimensions: int
) -> None:
    chance = np.random.default_rng(1)
    of_chunks, of_vectors = texts(chunks, chance), vectors(chunks, dimensions, chance)
    documents: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    done = 0
    for number, (pieces, matrix) in enumerate(zip(of_chunks, of_vectors, strict=True), start=1):
        document = uuid4()
        text = "\n\n".join(pieces)
        content = text.encode()
        documents.append(
            (
                document,
                collection,
                f"document-{number}.txt",
                "text/plain",
                "txt",
                f"Document {number}",
                hashlib.sha256(content).digest(),
                len(content),
                "ready",
                text,
                len(pieces),
            )
        )
        start = 0
        for ordinal, (piece, vector) in enumerate(zip(pieces, matrix, strict=True)):
            end = start + len(piece)
            rows.append((document, collection, ordinal, start, end, "", piece, HalfVector(vector)))
            start = end + 2
        done += len(pieces)
        if len(rows) >= _CHUNKS_A_COPY or done == chunks:
            await _copy(connection, documents, rows)
            documents, rows = [], []
            _say(f"{done} of {chunks} chunks")


async def _copy(
    connection: "asyncpg.Connection[asyncpg.Record]",
    documents: list[tuple[object, ...]],
    chunks: list[tuple[object, ...]],
) -> None:
    await connection.copy_records_to_table(
        "documents",
        records=documents,
        columns="id collection_id file_name media_type kind title content_sha256 size_bytes status text chunk_count".split(),
    )
    await connection.copy_records_to_table(
        "chunks",
        records=chunks,
        columns="document_id collection_id ordinal start_offset end_offset heading text embedding".split(),
        timeout=None,
    )


_STARTED = time.perf_counter()


def _say(what: str) -> None:
    print(f"{time.perf_counter() - _STARTED:6.1f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", metavar="DATABASE_URL")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument(
        "--assistant", required=True, metavar="SLUG", help="a public assistant is made of this name"
    )
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2", help="whose vectors these pretend to be")
    parser.add_argument("--dimensions", type=int, default=384)
    given = parser.parse_args()
    asyncio.run(fill(given.url, given.chunks, given.assistant, given.embedder, given.dimensions))
    _say("done")


if __name__ == "__main__":
    main()
