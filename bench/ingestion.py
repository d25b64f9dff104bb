"""Documents through the product, over HTTP, beside the embedder alone on the passages that the product made of them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2

from app.db.chunks import passage
from app.llm.minilm import MiniLM
from app.settings import EmbeddingSettings
from bench.machine import cpu_s
from bench.servers import Server

Report = dict[str, Any]

_POLL_S = 0.05
_LIMIT_S = 300.0
_PAGE = 100
_ENDS = {"ready", "failed"}


@dataclass(frozen=True, slots=True)
class Ingested:
    report: Report
    passages: Sequence[str]


async def through_product(
    server: Server, token: str, database_url: str, documents: Mapping[str, str]
) -> Ingested:
    """At most 100 documents, by file name, from the first upload until the last can be searched."""
    collection = f"bench-{uuid4().hex}"
    async with httpx2.AsyncClient(
        base_url=f"{server.url}/api/v1",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    ) as client:
        cpu_before, started_at = cpu_s([server.pid]), time.perf_counter()
        for name, text in documents.items():
            file = name, text.encode(), "text/markdown"
            answer = await client.post("/documents", data={"collection": collection}, files={"file": file})
            answer.raise_for_status()
        statuses = await _statuses(client, collection)
        while not set(statuses) <= _ENDS and time.perf_counter() - started_at < _LIMIT_S:
            await asyncio.sleep(_POLL_S)
            statuses = await _statuses(client, collection)
        wall_s = time.perf_counter() - started_at
        used_s = cpu_s([server.pid]) - cpu_before
        passages = await _passages(database_url, collection)
        (await client.delete(f"/collections/{collection}")).raise_for_status()
    ready = statuses.count("ready")
    report = _report(ready, len(passages), wall_s, used_s)
    return Ingested({**report, "requests": len(documents), "whole": ready}, passages)


async def embedder_alone(documents: int, passages: Sequence[str]) -> Report:
    """In this process, with as many threads as the product's; its loading does not count."""
    embedder = MiniLM(EmbeddingSettings().embedding_threads)
    embedder.load()
    await embedder.embed_passages(passages[:8])
    cpu_before, started_at = time.process_time(), time.perf_counter()
    await embedder.embed_passages(passages)
    wall_s, used_s = time.perf_counter() - started_at, time.process_time() - cpu_before
    return _report(documents, len(passages), wall_s, used_s)


def _report(documents: int, chunks: int, wall_s: float, used_s: float) -> Report:
    return {
        "documents": documents,
        "chunks": chunks,
        "wall_s": round(wall_s, 3),
        "documents_per_s": round(documents / wall_s, 2),
        "chunks_per_s": round(chunks / wall_s, 2),
        "cpu_ms_per_chunk": round(1e3 * used_s / max(1, chunks), 2),
    }


async def _statuses(client: httpx2.AsyncClient, collection: str) -> list[str]:
    answer = await client.get("/documents", params={"collection": collection, "limit": _PAGE})
    answer.raise_for_status()
    return [document["status"] for document in answer.json()["items"]]


async def _passages(database_url: str, collection: str) -> list[str]:
    connection = await asyncpg.connect(database_url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        rows = await connection.fetch(
            "SELECT heading, text FROM chunks WHERE collection_id = (SELECT id FROM collections WHERE name = $1)"
            " ORDER BY chunks.id",
            collection,
        )
    finally:
        await connection.close()
    return [passage(row["heading"], row["text"]) for row in rows]
