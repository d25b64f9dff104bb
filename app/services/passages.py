"""The search for the passages that a question is answered from: found, reranked and chosen."""

import asyncio
import logging
from collections.abc import Sequence

from app.db.chunks import passage
from app.db.engine import Sessions
from app.errors import DatabaseUnavailable, ModelFailed
from app.llm.protocols import Embedder, Reranker
from app.rag import neighbours, retrieval, selection
from app.rag.retrieval import Hit, Matches, Prepared, Query
from app.rag.selection import Selection

logger = logging.getLogger(__name__)


class PassageService:
    """A turn calls `prepare`, `retrieve`, `rerank` and `choose`, one after the other."""

    def __init__(
        self,
        sessions: Sessions,
        embedder: Embedder,
        reranker: Reranker | None = None,
        selected_by: Selection | None = None,
    ) -> None:
        self._sessions = sessions
        self._embedder = embedder
        self._reranker = reranker
        self._selection = selected_by or Selection()

    async def prepare(self, query: Query) -> Prepared:
        """Embeds the question, and meanwhile has the database look for its words. Raises `ModelFailed`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                embedding = tasks.create_task(self._embedder.embed_question(query.question))
                by_words = tasks.create_task(self._match(query))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__  # noqa: ASYNC123  # its cause is what it has
        return Prepared(embedding.result(), by_words.result())

    async def _match(self, query: Query) -> Matches | None:
        try:
            async with self._sessions.read() as session:
                return await retrieval.match(session, query)
        except DatabaseUnavailable:
            # Retrieving asks again, and is what has failed then.
            return None

    async def retrieve(self, prepared: Prepared, query: Query) -> list[Hit]:
        """The candidates, best first, for `rerank` and `choose`."""
        candidates = self._selection.looked_at(query.top_k, reranked=self._reranker is not None)
        async with self._sessions.read() as session:
            return await retrieval.search(session, prepared, query, candidates=candidates)

    @property
    def reranker_name(self) -> str | None:
        return self._reranker.name if self._reranker is not None else None

    @property
    def way(self) -> str:
        """What else than the question and the assistant decides which passages are found."""
        return f"{self._embedder.name} {self.reranker_name} {self._selection}"

    async def rerank(self, query: Query, hits: Sequence[Hit]) -> list[Hit]:
        """As they are without a reranker. Raises `ModelFailed`."""
        if self._reranker is None or not hits:
            return list(hits)
        texts = [passage(hit.heading, hit.text) for hit in hits[: self._selection.candidates]]
        scores = await self._reranker.scores(query.question, texts)
        return selection.reranked(hits, scores, weight=self._reranker.weight)

    async def choose(self, query: Query, hits: Sequence[Hit]) -> list[Hit]:
        """The `top_k` best of the candidates that say something of their own."""
        chosen = selection.select(hits, limit=query.top_k, most_of_document=self._selection.most_of_document)
        if not self._selection.neighbour_characters or not chosen:
            return chosen
        async with self._sessions.read() as session:
            return await neighbours.widen(session, chosen, budget=self._selection.neighbour_characters)

    async def search(self, query: Query) -> list[Hit]:
        if not query.collection_ids or query.top_k == 0:
            return []
        hits = await self.retrieve(await self.prepare(query), query)
        try:
            hits = await self.rerank(query, hits)
        except ModelFailed as error:
            logger.warning("passages are not reranked: %s", error.message)
        return await self.choose(query, hits)
