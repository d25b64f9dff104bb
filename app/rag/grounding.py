"""From a question to the sources of its answer: embedded, searched, reranked, chosen, and judged whether they can answer."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from app.db.assistants import AssistantForTurn
from app.errors import FreshetError, ModelFailed
from app.events import Event, Source, Sources
from app.llm.protocols import Passage, Vector
from app.rag import answerability, prompt
from app.rag.retrieval import Hit, Prepared, Query
from app.rag.steps import OpenStep
from app.rag.turn import Parts

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Search:
    """`prepared` once the question has been embedded."""

    query: Query
    prepared: Prepared | None = None

    @property
    def embedding(self) -> Vector:
        assert self.prepared is not None, "it is embedded before it is asked for"
        return self.prepared.embedding


def query_of(assistant: AssistantForTurn, sought: str) -> Query:
    return Query(
        question=sought,
        collection_ids=assistant.collection_ids,
        chunk_count=assistant.chunk_count,
        top_k=assistant.top_k,
        similarity_cutoff=assistant.similarity_cutoff,
    )


async def vectorise(parts: Parts, search: Search, parent: OpenStep) -> AsyncGenerator[Event]:
    vectorization = OpenStep("vectorization", parent=parent)
    yield vectorization.opening
    try:
        search.prepared = await parts.knowledge.prepare(search.query)
    except FreshetError:
        yield vectorization.failed()
        raise
    yield vectorization.completed(model_name=parts.embedder_name)


async def retrieve(
    assistant: AssistantForTurn, parts: Parts, search: Search, sources: list[Source]
) -> AsyncGenerator[Event]:
    retrieval = OpenStep("retrieval")
    yield retrieval.opening
    try:
        if search.prepared is None:
            async with aclosing(vectorise(parts, search, retrieval)) as events:
                async for event in events:
                    yield event
        assert search.prepared is not None, "it has just been made"
        found = await parts.knowledge.retrieve(search.prepared, search.query)
        searched = found[: search.query.top_k]
        if found and parts.knowledge.reranker_name is not None:
            async with aclosing(_rerank(parts, search.query, found, retrieval)) as events:
                async for event in events:
                    yield event
        chosen = await parts.knowledge.choose(search.query, found)
    except FreshetError:
        yield retrieval.failed()
        raise
    judgement = answerability.judge(
        parts.calibration, assistant.answerability, search.query.question, searched, search.prepared.by_words
    )
    judged: dict[str, Any] = {}
    if judgement is not None:
        judged = {"answerable": judgement.answerable, "confidence": judgement.confidence}
        if not judgement.answerable:
            chosen.clear()
    hits = prompt.within_budget(chosen, parts.context_tokens)
    sources += (_source(number, hit) for number, hit in enumerate(hits, 1))
    yield retrieval.completed(source_count=len(sources), **judged)
    yield Sources(data=sources)


async def _rerank(parts: Parts, query: Query, found: list[Hit], retrieval: OpenStep) -> AsyncGenerator[Event]:
    """Puts what was found into its new order, and leaves it as it was where the reranker fails."""
    reranking = OpenStep("reranking", parent=retrieval)
    yield reranking.opening
    try:
        found[:] = await parts.knowledge.rerank(query, found)
    except ModelFailed as error:
        logger.warning("passages are not reranked: %s", error.message)
        yield reranking.failed()
    else:
        yield reranking.completed(model_name=parts.knowledge.reranker_name)


def passage_of(source: Source) -> Passage:
    told = source.metadata
    return Passage(
        int(source.id),
        source.text,
        source.score,
        source.name,
        told.get("page_label"),
        told.get("heading", ""),
    )


def _source(number: int, hit: Hit) -> Source:
    metadata: dict[str, Any] = {
        "file_name": hit.file_name,
        "document_id": str(hit.document_id),
        "chunk_id": hit.chunk_id,
    }
    optional = {"page_label": hit.page_label, "heading": hit.heading, "title": hit.title, "url": hit.url}
    metadata |= {name: value for name, value in optional.items() if value}
    metadata |= {"start": hit.start, "end": hit.end}
    if hit.duplicates:
        metadata["duplicates"] = [str(document_id) for document_id in hit.duplicates]
    return Source(
        id=str(number),
        text=hit.text,
        score=round(hit.similarity, 4),
        name=hit.title or hit.file_name,
        type=cast("Any", hit.kind or "txt"),
        content=hit.text,
        metadata=metadata,
        url=hit.url,
    )
