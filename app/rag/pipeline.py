"""From a question to the events of its grounded answer. Each step takes the turn; the one that calls it reports and times it."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import UUID

from app.db.assistants import AssistantForTurn
from app.errors import DatabaseUnavailable, FreshetError, ModelFailed
from app.events import (
    PROTOCOL_VERSION,
    Event,
    ModelOfAnswer,
    Source,
    Sources,
    Start,
    Tokens,
    TokenUsage,
)
from app.llm.protocols import ChatMessage, ChatModel, Finish, Passage, Prompt, Vector
from app.rag import answerability, cache, memory, prompt, small_talk
from app.rag.answerability import Calibration
from app.rag.cache import Cache, Kept, Key, Recording
from app.rag.citations import CitedAnswer
from app.rag.retrieval import Hit, Prepared, Query
from app.rag.rewrite import Rewriting, Standalone, rewrite
from app.rag.small_talk import SmallTalk
from app.rag.steps import OpenStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that has been accepted and stored. `given_history` and `instructions` are what the client sent along, for this turn
    only.

    `is_queued`: it waits for its session's other answers first. `signed_in`: a user asks. `is_again`: it has had an answer.
    """

    run_id: UUID
    session_id: str
    question_id: UUID
    answer_id: UUID
    assistant: AssistantForTurn
    question: str
    language: str | None
    given_history: tuple[ChatMessage, ...] | None
    session_is_new: bool
    is_queued: bool = False
    signed_in: bool = False
    is_again: bool = False
    instructions: str = ""


class Knowledge(Protocol):
    async def prepare(self, query: Query) -> Prepared: ...

    async def retrieve(self, prepared: Prepared, query: Query) -> list[Hit]: ...

    @property
    def reranker_name(self) -> str | None: ...

    async def rerank(self, query: Query, hits: Sequence[Hit]) -> list[Hit]: ...

    async def choose(self, query: Query, hits: Sequence[Hit]) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the pipeline works with, besides the turn."""

    model: ChatModel
    knowledge: Knowledge
    embedder_name: str
    load_history: Callable[[Turn], Awaitable[Sequence[ChatMessage]]]
    rewriting: Rewriting
    calibration: Calibration | None
    cache: Cache
    history_tokens: int
    context_tokens: int


@dataclass(slots=True)
class Spent:
    """What the model has read and said so far, for an answer that is not made to its end. `before` is what it has taken to make
    the question ready."""

    before: TokenUsage | None = None
    asked: Prompt | None = None
    said_characters: int = 0
    said_pieces: int = 0

    def usage(self) -> TokenUsage | None:
        """Of all that was asked; None if nothing was."""
        answer = self.of_answer()
        return self.before if answer is None else self.whole(answer)

    def whole(self, answer: TokenUsage) -> TokenUsage:
        """The answer's own usage, and what was taken before it."""
        if self.before is None:
            return answer
        return TokenUsage(
            input_tokens=self.before.input_tokens + answer.input_tokens,
            output_tokens=self.before.output_tokens + answer.output_tokens,
            total_tokens=self.before.total_tokens + answer.total_tokens,
            estimated=self.before.estimated or answer.estimated,
        )

    def of_answer(self) -> TokenUsage | None:
        """Estimated; None if the model was not asked. A model says a token a piece, or several: hence the larger of the two estimates."""
        if self.asked is None:
            return None
        read = sum(memory.estimated_tokens(message.content) for message in self.asked.messages)
        said = max(self.said_pieces, self.said_characters // 4)
        return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said, estimated=True)


@dataclass(frozen=True, slots=True)
class Answered:
    """The model has ended its answer; the last thing the pipeline yields."""

    finish_reason: str
    usage: TokenUsage


def start(turn: Turn, model: ChatModel) -> Start:
    """The first event of the answer."""
    return Start(
        run_id=str(turn.run_id),
        session_id=turn.session_id,
        message_id=str(turn.answer_id),
        user_message_id=str(turn.question_id),
        protocol=PROTOCOL_VERSION,
        model=ModelOfAnswer(
            name=turn.assistant.model or model.name, provider=model.provider, notice=model.notice
        ),
    )


async def answer(turn: Turn, parts: Parts, spent: Spent) -> AsyncGenerator[Event | Answered]:
    """The steps, `Sources`, `Tokens` …, `Answered`. Raises `FreshetError` where a step failed, after its closing event."""
    history: Sequence[ChatMessage] = turn.given_history or ()
    if turn.given_history is None and not turn.session_is_new:
        loading = OpenStep("history_loading")
        yield loading.opening
        try:
            history = await parts.load_history(turn)
        except FreshetError:
            yield loading.failed()
            raise
        yield loading.completed(message_count=len(history))
    has_history = bool(history)
    history = memory.within_budget(history, parts.history_tokens)

    talk = small_talk.recognise(turn.question, history)
    grounded = bool(turn.assistant.collection_ids) and turn.assistant.top_k > 0
    if grounded and talk is not None:
        grounded = False
        routing = OpenStep("router")
        yield routing.opening
        yield routing.completed(retrieval=False, reason=talk.kind)
    key = _cache_key(turn, parts) if grounded and not has_history and not turn.is_again else None
    answering = (
        _answer_anew(turn, parts, history, talk, spent, grounded=grounded)
        if key is None
        else _answer_from_cache(turn, parts, key, spent)
    )
    async with aclosing(answering) as events:
        async for event in events:
            yield event


def _cache_key(turn: Turn, parts: Parts) -> Key | None:
    assistant = turn.assistant
    model = (parts.model.provider, assistant.model or parts.model.name)
    language = turn.language or assistant.language
    beside = (model, parts.embedder_name, parts.context_tokens, language, turn.signed_in, turn.instructions)
    return cache.key(assistant, turn.question, *beside)


async def _answer_from_cache(
    turn: Turn, parts: Parts, key: Key, spent: Spent
) -> AsyncGenerator[Event | Answered]:
    """The answer that is kept, or a new one, which is kept then."""
    search = _Search(_query(turn.assistant, turn.question))
    found: list[Kept] = []
    async with aclosing(_look_up(parts, key, search, found)) as looking:
        async for event in looking:
            yield event
    if found:
        for event in cache.replayed(found[0].events):
            yield event
        yield Answered("stop", TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0))
        return
    recording, answered = Recording(), None
    anew = _answer_anew(turn, parts, (), None, spent, grounded=True, search=search)
    async with aclosing(anew) as events:
        async for event in events:
            if isinstance(event, Answered):
                answered = event
            else:
                recording.add(event)
                yield event
    assert answered is not None, "an answer ends with Answered, or raises"
    if answered.finish_reason == "stop" and (said := recording.events()) is not None:
        async with aclosing(_keep(parts, key, search, said)) as keeping:
            async for event in keeping:
                yield event
    yield answered


async def _look_up(parts: Parts, key: Key, search: "_Search", found: list[Kept]) -> AsyncGenerator[Event]:
    """`found` is given the answer to the same question, or to one that is close enough."""
    looking = OpenStep("cache_lookup")
    yield looking.opening
    try:
        kept = await parts.cache.look_up(key, None)
        if kept is None and key.least_similarity < 1:
            async with aclosing(_vectorise(parts, search, looking)) as events:
                async for event in events:
                    yield event
            kept = await parts.cache.look_up(key, search.embedding)
    except FreshetError:
        yield looking.failed()
        raise
    if kept is None:
        yield looking.completed(hit=False)
    else:
        found.append(kept)
        yield looking.completed(hit=True, age_s=round(kept.age_s, 1), similarity=round(kept.similarity, 4))


async def _keep(
    parts: Parts, key: Key, search: "_Search", said: Sequence[dict[str, Any]]
) -> AsyncGenerator[Event]:
    updating = OpenStep("cache_update")
    yield updating.opening
    try:
        is_kept = await parts.cache.keep(key, search.embedding, said)
    except DatabaseUnavailable:
        # The answer is whole without it.
        yield updating.failed()
    else:
        yield updating.completed(stored=is_kept)


async def _answer_anew(
    turn: Turn,
    parts: Parts,
    history: Sequence[ChatMessage],
    talk: SmallTalk | None,
    spent: Spent,
    *,
    grounded: bool,
    search: "_Search | None" = None,
) -> AsyncGenerator[Event | Answered]:
    """`search` is one that has been prepared."""
    question = turn.question
    sources: list[Source] = []
    if grounded:
        standing: list[Standalone] = []
        async with aclosing(_make_standalone(turn, parts, history, spent, standing)) as events:
            async for event in events:
                yield event
        question, sought = (standing[0].question, standing[0].sought) if standing else (question, question)
        search = search or _Search(_query(turn.assistant, sought))
        async with aclosing(_retrieve(turn.assistant, parts, search, sources)) as events:
            async for event in events:
                yield event
    reply = talk.reply if talk is not None else None
    async with aclosing(
        _synthesise(
            turn, parts.model, history, sources, spent, grounded=grounded, question=question, reply=reply
        )
    ) as events:
        async for event in events:
            yield event


async def _make_standalone(
    turn: Turn, parts: Parts, history: Sequence[ChatMessage], spent: Spent, standing: list[Standalone]
) -> AsyncGenerator[Event]:
    """`standing` is given the question as it stands alone, if that is another."""
    if not parts.rewriting.concerns(history, turn.question):
        return
    rewriting = OpenStep("query_rewrite")
    yield rewriting.opening
    written = await rewrite(
        parts.rewriting, parts.model, history, turn.question, named_model=turn.assistant.model
    )
    if written is None:
        yield rewriting.completed(question=turn.question, method="none")
        return
    standing.append(written)
    spent.before = usage = written.usage
    payload: dict[str, Any] = {"question": written.question, "method": written.method}
    if usage is not None:
        payload["tokens"] = {"input": usage.input_tokens, "output": usage.output_tokens}
    yield rewriting.completed(**payload)


@dataclass(slots=True)
class _Search:
    """`prepared` once the question has been embedded."""

    query: Query
    prepared: Prepared | None = None

    @property
    def embedding(self) -> Vector:
        assert self.prepared is not None, "it is embedded before it is asked for"
        return self.prepared.embedding


def _query(assistant: AssistantForTurn, sought: str) -> Query:
    return Query(
        question=sought,
        collection_ids=assistant.collection_ids,
        chunk_count=assistant.chunk_count,
        top_k=assistant.top_k,
        similarity_cutoff=assistant.similarity_cutoff,
    )


async def _vectorise(parts: Parts, search: _Search, parent: OpenStep) -> AsyncGenerator[Event]:
    vectorization = OpenStep("vectorization", parent=parent)
    yield vectorization.opening
    try:
        search.prepared = await parts.knowledge.prepare(search.query)
    except FreshetError:
        yield vectorization.failed()
        raise
    yield vectorization.completed(model_name=parts.embedder_name)


async def _retrieve(
    assistant: AssistantForTurn, parts: Parts, search: _Search, sources: list[Source]
) -> AsyncGenerator[Event]:
    retrieval = OpenStep("retrieval")
    yield retrieval.opening
    try:
        if search.prepared is None:
            async with aclosing(_vectorise(parts, search, retrieval)) as events:
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


async def _synthesise(
    turn: Turn,
    model: ChatModel,
    history: Sequence[ChatMessage],
    sources: Sequence[Source],
    spent: Spent,
    *,
    grounded: bool,
    question: str,
    reply: str | None,
) -> AsyncGenerator[Event | Answered]:
    """`question` is the turn's as it stands alone, and `reply` what an answerer that only quotes says without passages."""
    assistant = turn.assistant
    passages = [_passage(source) for source in sources]
    asked = Prompt(
        messages=prompt.build(
            instructions=f"{assistant.instructions}\n\n{turn.instructions}".strip(),
            context=assistant.context,
            language=turn.language or assistant.language,
            history=history,
            question=turn.question,
            passages=passages,
            grounded=grounded,
        ),
        question=question,
        passages=passages,
        model=assistant.model,
        parameters=assistant.model_parameters,
        language=turn.language or assistant.language,
        reply=reply,
    )
    synthesis = OpenStep("synthesis")
    yield synthesis.opening
    spent.asked = asked
    finish: Finish | None = None
    # Without documents, brackets are what the model means by them.
    cited = CitedAnswer(sources) if assistant.collection_ids else None
    try:
        async with aclosing(model.stream(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    finish = piece
                else:
                    spent.said_characters += sum(map(len, piece))
                    spent.said_pieces += len(piece)
                    for event in cited.read(piece) if cited is not None else (Tokens(contents=piece),):
                        yield event
        for event in cited.end() if cited is not None else ():
            yield event
    except FreshetError:
        yield synthesis.failed()
        raise
    assert finish is not None, "a model ends with its Finish, or raises"
    usage = _usage(finish, spent)
    yield synthesis.completed(
        model_name=assistant.model or model.name,
        model_provider=model.provider,
        tokens={"input": usage.input_tokens, "output": usage.output_tokens},
    )
    yield Answered(finish.reason, spent.whole(usage))


def _usage(finish: Finish, spent: Spent) -> TokenUsage:
    if finish.usage is not None:
        read, said = finish.usage.input_tokens, finish.usage.output_tokens
        return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said)
    usage = spent.of_answer()
    assert usage is not None, "a model that has ended has been asked"
    return usage


def _passage(source: Source) -> Passage:
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
