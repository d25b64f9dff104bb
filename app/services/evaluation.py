"""`freshet eval`: how good the search is on a labelled set, as it is and by halves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import UUID

import anyio.to_thread
import numpy as np

from app.db import chunks, embedders, scratch
from app.db.chunks import Hit
from app.db.documents import NewChunk
from app.db.engine import Sessions
from app.db.scratch import NewDocument
from app.ingest import language
from app.ingest.convert import ConvertedDocument
from app.ingest.formats import MARKDOWN
from app.ingest.split import split
from app.llm.protocols import Embedder, Matrix
from app.rag import evaluation
from app.rag.embedding_cache import CachingEmbedder
from app.rag.evaluation import Figures, JudgedDocument, JudgedSet
from app.settings import DatabaseSettings

_DOCUMENTS_A_BATCH = 64
# A document counts by its best chunk, so that many more chunks than documents have to be found.
_CHUNKS_A_QUESTION = 5 * evaluation.DEPTH

Stage = Literal["embedding", "searching"]
OnProgress = Callable[[Stage, int, int], None]
"""Is told the stage, how many documents or questions are done in it, and of how many."""


@dataclass(frozen=True, slots=True)
class Report:
    """`both` is the search as assistants use it, but for the cut-off; `dense` and `words` are its halves."""

    name: str
    documents: int
    chunks: int
    questions: int
    dense: Figures
    words: Figures
    both: Figures


class EvaluationService:
    """Works in a database of its own on the server of `url`, which is dropped afterwards.

    Embeddings of passages are kept in `cache_directory`, so that the same set is measured again in little time.
    """

    def __init__(
        self, url: str, settings: DatabaseSettings, embedder: Embedder, cache_directory: Path
    ) -> None:
        self._url = url
        self._settings = settings
        self._embedder = CachingEmbedder(embedder, cache_directory)

    async def evaluate(self, directory: Path, on_progress: OnProgress) -> Report:
        """Raises `InvalidInput` for a set that cannot be read, before anything is made, and `Forbidden`."""
        judged = await anyio.to_thread.run_sync(evaluation.read, directory)
        async with scratch.database(self._url, self._settings) as sessions:
            collection_id, chunk_count = await self._ingest(sessions, judged, on_progress)
            hits = await self._ask(sessions, judged, collection_id, chunk_count, on_progress)
        return Report(
            name=judged.name,
            documents=len(judged.documents),
            chunks=chunk_count,
            questions=len(judged.questions),
            dense=_figures(judged, hits, lambda hit: hit.similarity if hit.dense_rank else None),
            words=_figures(judged, hits, lambda hit: hit.words_score),
            both=_figures(judged, hits, lambda hit: hit.score),
        )

    async def _ingest(
        self, sessions: Sessions, judged: JudgedSet, on_progress: OnProgress
    ) -> tuple[UUID, int]:
        async with sessions.begin() as session:
            collection_id = await scratch.create_collection(session, judged.name)
        chunk_count, total = 0, len(judged.documents)
        for start in range(0, total, _DOCUMENTS_A_BATCH):
            on_progress("embedding", start, total)
            batch = judged.documents[start : start + _DOCUMENTS_A_BATCH]
            documents = await self._prepare(batch)
            chunk_count += sum(len(document.chunks) for document in documents)
            async with sessions.begin() as session:
                await scratch.store(session, collection_id, documents)
        async with sessions.begin() as session:
            await embedders.claim(session, self._embedder.name, self._embedder.dimensions)
            await scratch.analyse(session)
        on_progress("embedding", total, total)
        return collection_id, chunk_count

    async def _prepare(self, batch: Sequence[JudgedDocument]) -> list[NewDocument]:
        split_up = [await anyio.to_thread.run_sync(partial(self._split, document)) for document in batch]
        embeddings: Matrix = await self._embedder.embed_passages(
            [chunks.passage(chunk.heading, chunk.text) for pieces in split_up for chunk in pieces]
        )
        ends = np.cumsum([len(pieces) for pieces in split_up])[:-1]
        return [
            NewDocument(document.id, language.detect(f"{document.title}\n{document.text}"), pieces, rows)
            for document, pieces, rows in zip(batch, split_up, np.split(embeddings, ends), strict=True)
        ]

    def _split(self, document: JudgedDocument) -> list[NewChunk]:
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
        pieces = split(
            converted, count_tokens=self._embedder.count_tokens, max_tokens=self._embedder.max_tokens
        )
        return [
            NewChunk(piece.start, piece.end, piece.text, piece.page_label, " > ".join(piece.headings))
            for piece in pieces
        ]

    async def _ask(
        self,
        sessions: Sessions,
        judged: JudgedSet,
        collection_id: UUID,
        chunk_count: int,
        on_progress: OnProgress,
    ) -> dict[str, list[Hit]]:
        hits: dict[str, list[Hit]] = {}
        for done, question in enumerate(judged.questions):
            on_progress("searching", done, len(judged.questions))
            embedding = await self._embedder.embed_question(question.text)
            async with sessions.read() as session:
                hits[question.id] = await chunks.search(
                    session,
                    embedding=embedding,
                    question=question.text,
                    collection_ids=[collection_id],
                    chunk_count=chunk_count,
                    depth=_CHUNKS_A_QUESTION,
                    limit=2 * _CHUNKS_A_QUESTION,
                    similarity_cutoff=-1,
                )
        on_progress("searching", len(judged.questions), len(judged.questions))
        return hits


def _figures(
    judged: JudgedSet, hits: dict[str, list[Hit]], score_of: Callable[[Hit], float | None]
) -> Figures:
    rankings: dict[str, dict[str, float]] = {}
    for question, found in hits.items():
        ranking = rankings.setdefault(question, {})
        for hit in found:
            score = score_of(hit)
            if score is not None:
                ranking[hit.file_name] = max(score, ranking.get(hit.file_name, score))
    return evaluation.measure(judged.judgements, rankings)
