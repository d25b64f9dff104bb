"""From a question to the events of its grounded answer. Each step takes the turn; the one that calls it reports and times it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import UUID

from app.db.assistants import AssistantForTurn
from app.errors import FreshetError
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
from app.llm.protocols import ChatMessage, ChatModel, Finish, Passage, Prompt
from app.rag import answerability, memory, prompt, small_talk
from app.rag.answerability import Calibration
from app.rag.citations import CitedAnswer
from app.rag.retrieval import Hit, Prepared, Query
from app.rag.rewrite import Rewriting, Standalone, rewrite
from app.rag.steps import OpenStep


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that has been accepted and stored. `given_history` is what the client sent along, for this turn only.

    `is_queued`: it waits for its session's other answers first.
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


class Knowledge(Protocol):
    async def prepare(self, query: Query) -> Prepared: ...

    async def retrieve(self, prepared: Prepared, query: Query) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the pipeline works with, besides the turn."""

    model: ChatModel
    knowledge: Knowledge
    embedder_name: str
    load_history: Callable[[Turn], Awaitable[Sequence[ChatMessage]]]
    rewriting: Rewriting
    calibration: Calibration | None
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
    history = memory.within_budget(history, parts.history_tokens)

    sources: list[Source] = []
    question = turn.question
    talk = small_talk.recognise(question, history)
    grounded = bool(turn.assistant.collection_ids) and turn.assistant.top_k > 0
    if grounded and talk is not None:
        grounded = False
        routing = OpenStep("router")
        yield routing.opening
        yield routing.completed(retrieval=False, reason=talk.kind)
    elif grounded:
        standing: list[Standalone] = []
        async with aclosing(_make_standalone(turn, parts, history, spent, standing)) as events:
            async for event in events:
                yield event
        question, sought = (standing[0].question, standing[0].sought) if standing else (question, question)
        async with aclosing(_retrieve(turn, parts, sought, sources)) as events:
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


async def _retrieve(turn: Turn, parts: Parts, sought: str, sources: list[Source]) -> AsyncGenerator[Event]:
    assistant = turn.assistant
    query = Query(
        question=sought,
        collection_ids=assistant.collection_ids,
        chunk_count=assistant.chunk_count,
        top_k=assistant.top_k,
        similarity_cutoff=assistant.similarity_cutoff,
    )
    retrieval = OpenStep("retrieval")
    yield retrieval.opening
    vectorization = OpenStep("vectorization", parent=retrieval)
    yield vectorization.opening
    try:
        prepared = await parts.knowledge.prepare(query)
    except FreshetError:
        yield vectorization.failed()
        yield retrieval.failed()
        raise
    yield vectorization.completed(model_name=parts.embedder_name)
    try:
        found = await parts.knowledge.retrieve(prepared, query)
    except FreshetError:
        yield retrieval.failed()
        raise
    judgement = answerability.judge(
        parts.calibration, assistant.answerability, sought, found, prepared.by_words
    )
    judged: dict[str, Any] = {}
    if judgement is not None:
        judged = {"answerable": judgement.answerable, "confidence": judgement.confidence}
        if not judgement.answerable:
            found.clear()
    hits = prompt.within_budget(found, parts.context_tokens)
    sources += (_source(number, hit) for number, hit in enumerate(hits, 1))
    yield retrieval.completed(source_count=len(sources), **judged)
    yield Sources(data=sources)


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
            instructions=assistant.instructions,
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
