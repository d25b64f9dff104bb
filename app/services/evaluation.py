"""`freshet eval`: how good the search is on questions whose answers are known, in one way or in several."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from uuid import UUID

import anyio.to_thread

from app.db import chunks, collections, documents, embedders, scratch
from app.db.chunks import Hit
from app.db.engine import Sessions
from app.errors import InvalidInput
from app.llm.protocols import ChatModel, Embedder, Reranker
from app.rag import evaluation, measures, selection
from app.rag.embedding_cache import CachingEmbedder
from app.rag.evaluation import JudgedQuestion
from app.rag.measures import Figures, Times
from app.rag.variants import Variant, take
from app.services import labelled_corpus, question_table, trial_answers
from app.services.trial_answers import TrialAnswer
from app.settings import DatabaseSettings

SHOWN_PASSAGES = 10

Stage = Literal["embedding", "searching", "reranking", "answering"]
OnProgress = Callable[[Stage, int, int], None]
"""Is told the stage, how many documents or questions are done in it, and of how many."""

OpenEmbedder = Callable[[str | None], AbstractAsyncContextManager[Embedder]]
"""Of a model's name, or None for the one of the settings."""

RerankerOf = Callable[[Embedder], Reranker | None]
"""The reranker of the settings, beside this embedder; None where there is none."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one question. `passages` are the first ten that were found, of `found`. Embedding the question, and searching in
    both halves, with the reranking, took so many seconds."""

    question: JudgedQuestion
    figures: Figures
    found: int
    passages: tuple[Hit, ...]
    embedding_s: float
    searching_s: float
    answer: TrialAnswer | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """All questions, searched in one way. `results` are in the order of the questions."""

    variant: Variant
    embedder: str
    documents: int
    chunks: int
    passage_tokens: int
    question_tokens: int
    results: tuple[Result, ...]

    @property
    def figures(self) -> Figures:
        return measures.mean(result.figures for result in self.results)

    @property
    def embedding(self) -> Times:
        return measures.percentiles([result.embedding_s for result in self.results])

    @property
    def searching(self) -> Times:
        return measures.percentiles([result.searching_s for result in self.results])

    @property
    def without_result(self) -> int:
        return sum(result.found == 0 for result in self.results)

    @property
    def answers(self) -> list[TrialAnswer]:
        return [result.answer for result in self.results if result.answer is not None]


@dataclass(frozen=True, slots=True)
class Report:
    """`runs` are in the order of the variants."""

    name: str
    recall_depth: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Answerer:
    """Who answers the questions from what was found, and how much of it is read, in tokens."""

    model: ChatModel
    context_tokens: int


@dataclass(frozen=True, slots=True)
class _Corpus:
    """What is searched. `passage_tokens` is 0 where it was embedded before."""

    sessions: Sessions
    embedder: Embedder
    collection_id: UUID
    documents: int
    chunks: int
    passage_tokens: int
    reranker: Reranker | None


@dataclass(frozen=True, slots=True)
class _Found:
    """`by_depth` is what both halves have found, and how long that took in seconds."""

    embedding_s: float
    by_depth: Mapping[int, tuple[list[Hit], float]]


class EvaluationService:
    """A labelled set is measured in a database of its own on the server of `url`, which is dropped afterwards, and its
    embeddings are kept in `cache_directory`, so that it is measured again in little time. Questions of a table are asked
    of a collection that is there."""

    def __init__(
        self,
        url: str,
        settings: DatabaseSettings,
        open_embedder: OpenEmbedder,
        cache_directory: Path,
        *,
        recall_depth: int = 100,
        answerer: Answerer | None = None,
        reranker_of: RerankerOf | None = None,
        reranked: int = 10,
    ) -> None:
        """`reranked` passages of each question are, where a variant wants that."""
        self._url = url
        self._settings = settings
        self._open_embedder = open_embedder
        self._cache_directory = cache_directory
        self._recall_depth = recall_depth
        self._answerer = answerer
        self._reranker_of = reranker_of
        self._reranked = reranked

    async def evaluate_set(
        self, directory: Path, variants: Sequence[Variant], on_progress: OnProgress
    ) -> Report:
        """Raises `InvalidInput` for a set that cannot be read, before anything is made, and `Forbidden`."""
        judged = await anyio.to_thread.run_sync(evaluation.read, directory)
        runs: dict[Variant, Run] = {}
        for model in dict.fromkeys(variant.embedding_model for variant in variants):
            async with (
                self._open_embedder(model) as opened,
                scratch.database(self._url, self._settings) as sessions,
            ):
                reranker = self._reranker(opened, variants)
                embedder = CachingEmbedder(opened, self._cache_directory)
                stored = await labelled_corpus.store(
                    sessions,
                    embedder,
                    judged,
                    lambda done, total: on_progress("embedding", done, total),
                )
                corpus = _Corpus(
                    sessions,
                    embedder,
                    stored.collection_id,
                    len(judged.documents),
                    stored.chunks,
                    stored.tokens,
                    reranker,
                )
                of_model = [variant for variant in variants if variant.embedding_model == model]
                runs |= await self._run(corpus, judged.questions, of_model, on_progress)
        return Report(judged.name, self._recall_depth, tuple(runs[variant] for variant in variants))

    async def evaluate_table(
        self,
        table: Path,
        sessions: Sessions,
        collection: str,
        variants: Sequence[Variant],
        on_progress: OnProgress,
    ) -> Report:
        """Raises `InvalidInput` for a table that cannot be read, or names documents that are not there; `NotFound`; and
        `StartupRefused` if the documents were embedded by another embedder."""
        if any(variant.embedding_model is not None for variant in variants):
            raise InvalidInput(
                "A collection has been embedded once: another embedding_model can be compared on a labelled set alone."
            )
        rows = await anyio.to_thread.run_sync(question_table.read, table)
        async with sessions.begin() as session:
            view = await collections.get(session, collection)
            names = await documents.names(session, view.id)
        questions = question_table.resolve(rows, names, collection=view.name)
        async with self._open_embedder(None) as embedder:
            async with sessions.begin() as session:
                await embedders.claim(session, embedder.name, embedder.dimensions)
            corpus = _Corpus(
                sessions,
                embedder,
                view.id,
                view.document_count,
                view.chunk_count,
                0,
                self._reranker(embedder, variants),
            )
            runs = await self._run(corpus, questions, variants, on_progress)
        return Report(table.name, self._recall_depth, tuple(runs[variant] for variant in variants))

    async def _run(
        self,
        corpus: _Corpus,
        questions: Sequence[JudgedQuestion],
        variants: Sequence[Variant],
        on_progress: OnProgress,
    ) -> dict[Variant, Run]:
        found: dict[str, _Found] = {}
        depths = {variant.depth for variant in variants}
        for done, question in enumerate(questions):
            on_progress("searching", done, len(questions))
            found[question.id] = await _search(corpus, question.text, depths)
        on_progress("searching", len(questions), len(questions))
        tokens = sum(corpus.embedder.count_tokens(question.text) for question in questions)
        results: dict[Variant, tuple[Result, ...]] = {}
        for variant in variants:
            taken = await self._taken(corpus, questions, found, variant, on_progress)
            results[variant] = await self._answered(
                _results(questions, found, taken, self._recall_depth), on_progress
            )
        return {
            variant: Run(
                variant=variant,
                embedder=corpus.embedder.name,
                documents=corpus.documents,
                chunks=corpus.chunks,
                passage_tokens=corpus.passage_tokens,
                question_tokens=tokens,
                results=results[variant],
            )
            for variant in variants
        }

    def _reranker(self, embedder: Embedder, variants: Sequence[Variant]) -> Reranker | None:
        """Raises `InvalidInput` where one is wanted and there is none."""
        if not any(variant.rerank for variant in variants):
            return None
        reranker = self._reranker_of(embedder) if self._reranker_of is not None else None
        if reranker is None:
            raise InvalidInput("There is no reranker to compare with: set RERANK_URL, or RERANK_KIND=maxsim.")
        return reranker

    async def _taken(
        self,
        corpus: _Corpus,
        questions: Sequence[JudgedQuestion],
        found: Mapping[str, _Found],
        variant: Variant,
        on_progress: OnProgress,
    ) -> dict[str, tuple[list[Hit], float]]:
        """What is found for each question, best first, and how long it took to find it, in seconds."""
        taken: dict[str, tuple[list[Hit], float]] = {}
        for done, question in enumerate(questions):
            of_depth, searching_s = found[question.id].by_depth[variant.depth]
            began = time.perf_counter()
            hits = take(replace(variant, top_k=None), of_depth)
            if variant.rerank and hits:
                on_progress("reranking", done, len(questions))
                hits = await self._in_new_order(corpus, question.text, hits)
            if variant.fold:
                hits = selection.select(hits, limit=len(hits))
            # What is told apart by mode alone has been searched once, and took as long.
            if variant.rerank or variant.fold:
                searching_s += time.perf_counter() - began
            taken[question.id] = hits[: variant.top_k], searching_s
        if variant.rerank:
            on_progress("reranking", len(questions), len(questions))
        return taken

    async def _in_new_order(self, corpus: _Corpus, question: str, hits: Sequence[Hit]) -> list[Hit]:
        assert corpus.reranker is not None, "a variant that wants one has one"
        texts = [chunks.passage(hit.heading, hit.text) for hit in hits[: self._reranked]]
        scores = await corpus.reranker.scores(question, texts)
        return selection.reranked(hits, scores, weight=corpus.reranker.weight)

    async def _answered(self, results: Sequence[Result], on_progress: OnProgress) -> tuple[Result, ...]:
        if self._answerer is None:
            return tuple(results)
        answered: list[Result] = []
        for done, result in enumerate(results):
            on_progress("answering", done, len(results))
            answer = await trial_answers.make(
                self._answerer.model,
                result.question,
                result.passages,
                context_tokens=self._answerer.context_tokens,
            )
            answered.append(replace(result, answer=answer))
        on_progress("answering", len(results), len(results))
        return tuple(answered)


async def _search(corpus: _Corpus, question: str, depths: set[int]) -> _Found:
    began = time.perf_counter()
    embedding = await corpus.embedder.embed_question(question)
    embedding_s = time.perf_counter() - began
    by_depth: dict[int, tuple[list[Hit], float]] = {}
    for depth in depths:
        began = time.perf_counter()
        async with corpus.sessions.read() as session:
            hits = await chunks.search(
                session,
                embedding=embedding,
                question=question,
                collection_ids=[corpus.collection_id],
                chunk_count=corpus.chunks,
                depth=depth,
                limit=2 * depth,
                similarity_cutoff=-1,
            )
        by_depth[depth] = hits, time.perf_counter() - began
    return _Found(embedding_s, by_depth)


def _results(
    questions: Sequence[JudgedQuestion],
    found: Mapping[str, _Found],
    taken: Mapping[str, tuple[Sequence[Hit], float]],
    recall_depth: int,
) -> tuple[Result, ...]:
    hits = {key: list(of_question) for key, (of_question, _) in taken.items()}
    figures = measures.by_question(questions, hits, recall_depth=recall_depth)
    return tuple(
        Result(
            question=question,
            figures=of_question,
            found=len(hits[question.id]),
            passages=tuple(hits[question.id][:SHOWN_PASSAGES]),
            embedding_s=found[question.id].embedding_s,
            searching_s=taken[question.id][1],
        )
        for question, of_question in zip(questions, figures, strict=True)
    )
