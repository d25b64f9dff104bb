"""The documents of a labelled set, made searchable as uploaded ones are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import anyio.to_thread
import numpy as np

from app.db import chunks, embedders, scratch
from app.db.engine import Sessions
from app.db.ingestions import NewChunk
from app.db.scratch import NewDocument
from app.ingest import language
from app.ingest.convert import ConvertedDocument
from app.ingest.formats import MARKDOWN
from app.ingest.split import split
from app.llm.protocols import Embedder
from app.rag.evaluation import JudgedDocument, JudgedSet

_DOCUMENTS_A_BATCH = 64


@dataclass(frozen=True, slots=True)
class Stored:
    """`tokens` are those of the passages, whether they were embedded now or before."""

    collection_id: UUID
    chunks: int
    tokens: int


async def store(
    sessions: Sessions, embedder: Embedder, judged: JudgedSet, on_progress: Callable[[int, int], None]
) -> Stored:
    """Into a collection of their own. `on_progress` is told how many documents are done, and of how many."""
    async with sessions.begin() as session:
        collection_id = await scratch.create_collection(session, judged.name)
    chunk_count, tokens, total = 0, 0, len(judged.documents)
    for start in range(0, total, _DOCUMENTS_A_BATCH):
        on_progress(start, total)
        batch = judged.documents[start : start + _DOCUMENTS_A_BATCH]
        documents, tokens_of_batch = await _prepare(embedder, batch)
        tokens += tokens_of_batch
        chunk_count += sum(len(document.chunks) for document in documents)
        async with sessions.begin() as session:
            await scratch.store(session, collection_id, documents)
    async with sessions.begin() as session:
        await embedders.claim(session, embedder.name, embedder.dimensions)
        await scratch.analyse(session)
    on_progress(total, total)
    return Stored(collection_id, chunk_count, tokens)


async def _prepare(embedder: Embedder, batch: Sequence[JudgedDocument]) -> tuple[list[NewDocument], int]:
    split_up = [await anyio.to_thread.run_sync(partial(cut, document, embedder)) for document in batch]
    passages = [chunks.passage(chunk.heading, chunk.text) for pieces in split_up for chunk in pieces]
    embeddings = await embedder.embed_passages(passages)
    ends = np.cumsum([len(pieces) for pieces in split_up])[:-1]
    documents = [
        NewDocument(document.id, language.detect(f"{document.title}\n{document.text}"), pieces, rows)
        for document, pieces, rows in zip(batch, split_up, np.split(embeddings, ends), strict=True)
    ]
    return documents, sum(map(embedder.count_tokens, passages))


def cut(document: JudgedDocument, embedder: Embedder) -> list[NewChunk]:
    """As a Markdown file with the title as its heading would be."""
    title = " ".join(document.title.split())
    converted = ConvertedDocument(
        text=f"# {title}\n\n{document.text}" if title else document.text,
        media_type=MARKDOWN.media_type,
        kind=MARKDOWN.kind,
        title=title or None,
        pages=(),
        warnings=(),
    )
    pieces = split(converted, count_tokens=embedder.count_tokens, max_tokens=embedder.max_tokens)
    return [
        NewChunk(piece.start, piece.end, piece.text, piece.page_label, " > ".join(piece.headings))
        for piece in pieces
    ]
