"""From a question to the events of its grounded answer. Each step takes the turn; the one that calls it reports and times it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from app.errors import DatabaseUnavailable, FreshetError
from app.events import (
    PROTOCOL_VERSION,
    Event,
    ModelOfAnswer,
    Source,
    Start,
    Tokens,
    TokenUsage,
)
from app.llm.protocols import ChatMessage, ChatModel, Finish, Prompt
from app.rag import cache, memory, prompt, small_talk, tools
from app.rag.cache import Kept, Key, Recording
from app.rag.citations import CitedAnswer
from app.rag.grounding import Search, passage_of, query_of, retrieve, vectorise
from app.rag.memory import Memory
from app.rag.rewrite import Standalone, rewrite
from app.rag.small_talk import SmallTalk
from app.rag.steps import OpenStep
from app.rag.turn import Answered, Parts, Spent, Turn

_LENGTHS = ("max_completion_tokens", "max_tokens")


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
    remembered = Memory(turn.given_history or ())
    if turn.opening:
        remembered = Memory((ChatMessage("assistant", turn.opening),))
    if turn.given_history is None and not turn.session_is_new:
        loading = OpenStep("history_loading")
        yield loading.opening
        try:
            remembered = await parts.load_history(turn)
        except FreshetError:
            yield loading.failed()
            raise
        yield loading.completed(message_count=len(remembered.messages))
    if turn.attachments:
        reading = OpenStep("attachment_reading", label="Reading what is attached")
        yield reading.opening
        try:
            names = await parts.read_attachments(turn)
        except FreshetError:
            yield reading.failed()
            raise
        yield reading.completed(file_names=list(names))
    has_history = bool(remembered.summary) or any(m.role == "user" for m in remembered.messages)
    remembered = replace(remembered, messages=memory.within_budget(remembered.messages, parts.history_tokens))

    talk = small_talk.recognise(turn.question, remembered.messages)
    grounded = bool(turn.assistant.collection_ids) and turn.assistant.top_k > 0
    if grounded and talk is not None:
        grounded = False
        routing = OpenStep("router")
        yield routing.opening
        yield routing.completed(retrieval=False, reason=talk.kind)
    # What tools give is not known from the documents, and may change at any time.
    may_be_kept = grounded and not (
        has_history or turn.is_again or turn.has_attachments or turn.assistant.tools
    )
    key = _cache_key(turn, parts) if may_be_kept else None
    answering = (
        _answer_anew(turn, parts, remembered, talk, spent, grounded=grounded)
        if key is None
        else _answer_from_cache(turn, parts, key, remembered, spent)
    )
    async with aclosing(answering) as events:
        async for event in events:
            yield event


def _cache_key(turn: Turn, parts: Parts) -> Key | None:
    assistant = turn.assistant
    model = (parts.model.provider, assistant.model or parts.model.name)
    language = turn.language or assistant.language
    asked_along = (turn.instructions, turn.parameters)
    beside = (model, parts.knowledge.way, parts.context_tokens, language, turn.signed_in, *asked_along)
    return cache.key(assistant, turn.question, *beside)


async def _answer_from_cache(
    turn: Turn, parts: Parts, key: Key, remembered: Memory, spent: Spent
) -> AsyncGenerator[Event | Answered]:
    """The answer that is kept, or a new one, which is kept then."""
    search = Search(query_of(turn.assistant, turn.question))
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
    anew = _answer_anew(turn, parts, remembered, None, spent, grounded=True, search=search)
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


async def _look_up(parts: Parts, key: Key, search: Search, found: list[Kept]) -> AsyncGenerator[Event]:
    """`found` is given the answer to the same question, or to one that is close enough."""
    looking = OpenStep("cache_lookup")
    yield looking.opening
    try:
        kept = await parts.cache.look_up(key, None)
        if kept is None and key.least_similarity < 1:
            async with aclosing(vectorise(parts, search, looking)) as events:
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
    parts: Parts, key: Key, search: Search, said: Sequence[dict[str, Any]]
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
    remembered: Memory,
    talk: SmallTalk | None,
    spent: Spent,
    *,
    grounded: bool,
    search: Search | None = None,
) -> AsyncGenerator[Event | Answered]:
    """`search` is one that has been prepared."""
    question = turn.question
    sources: list[Source] = []
    if grounded:
        if search is None:
            standing: list[Standalone] = []
            async with aclosing(
                _make_standalone(turn, parts, remembered.messages, spent, standing)
            ) as events:
                async for event in events:
                    yield event
            question, sought = (
                (standing[0].question, standing[0].sought) if standing else (question, question)
            )
            search = Search(query_of(turn.assistant, sought))
        async with aclosing(retrieve(turn.assistant, parts, search, sources)) as events:
            async for event in events:
                yield event
    reply = talk.reply if talk is not None else None
    async with aclosing(
        _synthesise(
            turn, parts, remembered, sources, spent, grounded=grounded, question=question, reply=reply
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


async def _synthesise(
    turn: Turn,
    parts: Parts,
    remembered: Memory,
    sources: Sequence[Source],
    spent: Spent,
    *,
    grounded: bool,
    question: str,
    reply: str | None,
) -> AsyncGenerator[Event | Answered]:
    """`question` is the turn's as it stands alone, and `reply` what an answerer that only quotes says without passages."""
    assistant, model = turn.assistant, parts.model
    passages = [passage_of(source) for source in sources]
    asked = Prompt(
        messages=prompt.build(
            instructions=f"{assistant.instructions}\n\n{turn.instructions}".strip(),
            context=assistant.context,
            response_shape=assistant.response_shape,
            language=turn.language or assistant.language,
            history=remembered.messages,
            summary=remembered.summary,
            question=turn.question,
            passages=passages,
            grounded=grounded,
        ),
        question=question,
        passages=passages,
        model=assistant.model,
        parameters=_parameters(assistant.model_parameters, turn.parameters),
        language=turn.language or assistant.language,
        reply=reply,
    )
    synthesis = OpenStep("synthesis")
    yield synthesis.opening
    spent.asked = asked
    finish: Finish | None = None
    answering = (
        tools.stream(asked, assistant.tools, model, parts.toolbox, spent, synthesis)
        if assistant.tools and parts.toolbox is not None
        else model.stream(asked)
    )
    # Without documents, brackets are what the model means by them.
    cited = CitedAnswer(sources) if assistant.collection_ids else None
    try:
        async with aclosing(answering) as pieces:
            async for piece in pieces:
                if isinstance(piece, list):
                    spent.said_characters += sum(map(len, piece))
                    spent.said_pieces += len(piece)
                    for event in cited.read(piece) if cited is not None else (Tokens(contents=piece),):
                        yield event
                elif isinstance(piece, Finish):
                    finish = piece
                else:
                    yield piece
        for event in cited.end() if cited is not None else ():
            yield event
    except FreshetError:
        yield synthesis.failed()
        raise
    assert finish is not None, "a model ends with its Finish, or raises"
    usage = spent.with_rounds(spent.of_round(finish))
    yield synthesis.completed(
        model_name=assistant.model or model.name,
        model_provider=model.provider,
        tokens={"input": usage.input_tokens, "output": usage.output_tokens},
    )
    yield Answered(finish.reason, spent.whole(usage))


def _parameters(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those given go before the assistant's own. The length of an answer goes by two names, of which a model takes one: the
    assistant's, if it has any."""
    parameters = {**own, **given}
    lengths = [given[name] for name in _LENGTHS if name in given]
    if lengths:
        name = next((name for name in _LENGTHS if name in own), None)
        name = name or next(name for name in _LENGTHS if name in given)
        parameters = {key: value for key, value in parameters.items() if key not in _LENGTHS}
        parameters[name] = min(lengths)
    return parameters
