from uuid import uuid4

import pytest

from app.db.words import NOTHING, Lookup, Matches, Term
from app.events import Sources, Step, Tokens
from app.llm.extractive import NOTHING_FOUND, ExtractiveModel
from app.rag import pipeline
from app.rag.answerability import CALIBRATIONS, judge
from app.rag.memory import Memory
from app.rag.retrieval import Hit
from app.rag.rewrite import Rewriting
from app.rag.turn import Parts, Spent, Turn
from app.services.answer_cache import AnswerCacheService
from app.services.viewer import ANONYMOUS
from tests.conftest import RunningServer

MINILM = CALIBRATIONS["all-MiniLM-L6-v2"]


def found(similarity: float, words_score: float | None) -> Hit:
    return Hit(
        chunk_id=1,
        document_id=uuid4(),
        score=1.0,
        similarity=similarity,
        dense_rank=1,
        words_rank=1 if words_score is not None else None,
        words_score=words_score,
        text="The Danube flows into the Black Sea.",
        heading="",
        page_label=None,
        start=0,
        end=36,
        file_name="waters.md",
        title=None,
        kind="txt",
        url=None,
    )


def matched(*weights: float) -> Matches:
    """Of a question whose words weigh so much."""
    terms = tuple(Term(f"word{n}", 1, weight) for n, weight in enumerate(weights))
    return Matches((1,), (1.0,), (Lookup("english", terms, 20.0, "", by_index=True),), of_all=9)


def confidence(hits: list[Hit], by_words: Matches, question: str = "Where does the Danube flow?") -> float:
    judgement = judge(MINILM, "normal", question, hits, by_words)
    assert judgement is not None
    return judgement.confidence


def test_what_is_close_and_holds_the_words_of_the_question_can_answer_it() -> None:
    assert confidence([found(0.7, 7.0)], matched(4, 4)) > 0.9


def test_what_is_neither_close_nor_holds_the_words_cannot() -> None:
    assert confidence([found(0.25, 0.5)], matched(4, 4)) < 0.1


def test_words_that_no_document_holds_speak_against_an_answer() -> None:
    question = "Which Danube steamers carry Bavarian brass bands?"

    assert confidence([found(0.4, 4.0)], matched(4), question) < confidence(
        [found(0.4, 4.0)], matched(4), "Which Danube?"
    )


def test_nothing_found_is_no_answer() -> None:
    judgement = judge(MINILM, "normal", "Where?", [], NOTHING)

    assert judgement is not None
    assert not judgement.answerable


def test_a_strict_assistant_takes_less_for_an_answer() -> None:
    doubtful = [found(0.45, 2.0)]
    verdicts = [
        judge(MINILM, strictness, "Danube flow", doubtful, matched(5, 5))
        for strictness in ("normal", "strict")
    ]

    assert [verdict is not None and verdict.answerable for verdict in verdicts] == [True, False]


def test_it_is_told_only_where_it_is_known_how_to() -> None:
    hits, by_words = [found(0.1, None)], matched(4)

    assert judge(None, "strict", "Where?", hits, by_words) is None
    assert judge(MINILM, "off", "Where?", hits, by_words) is None
    assert judge(MINILM, "normal", "Where?", hits, None) is None


async def nothing(turn: Turn) -> Memory:
    return Memory()


async def no_files(turn: Turn) -> list[str]:
    return []


@pytest.fixture
async def turn(server: RunningServer) -> Turn:
    await server.resources.knowledge.ingest_now(
        "waters", "waters.md", b"The Danube flows into the Black Sea.\n"
    )
    await server.resources.assistants.create(name="Waters", collections=["waters"], similarity_cutoff=-1)
    assistant = await server.resources.assistants.usable("waters", ANONYMOUS)
    return Turn(
        uuid4(),
        "session",
        uuid4(),
        uuid4(),
        assistant,
        "Who invented the telephone?",
        None,
        None,
        session_is_new=True,
    )


async def test_a_question_that_the_documents_do_not_answer_is_told_so(
    server: RunningServer, turn: Turn
) -> None:
    parts = Parts(
        model=ExtractiveModel(),
        knowledge=server.resources.knowledge.passages,
        embedder_name="all-MiniLM-L6-v2",
        read_attachments=no_files,
        load_history=nothing,
        rewriting=Rewriting("off", 1),
        calibration=MINILM,
        cache=AnswerCacheService(server.resources.database),
        history_tokens=100,
        context_tokens=1_000,
    )
    spent = Spent()

    events = [event async for event in pipeline.answer(turn, parts, spent)]

    (sources,) = (event for event in events if isinstance(event, Sources))
    closed = {event.step_type: event.payload for event in events if isinstance(event, Step) and event.payload}
    assert sources.data == []
    assert closed["retrieval"].keys() == {"source_count", "answerable", "confidence"}
    assert closed["retrieval"]["answerable"] is False
    assert spent.asked is not None
    assert "Nothing was found." in spent.asked.messages[-1].content
    said = "".join(content for event in events if isinstance(event, Tokens) for content in event.contents)
    assert said == NOTHING_FOUND
