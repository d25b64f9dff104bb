from dataclasses import replace
from uuid import uuid4

import pytest

from app.db.assistants import AssistantForTurn
from app.events import Citation, Source, Sources, Step, Tokens
from app.rag.cache import Recording, guard, key, replayed

ASSISTANT = AssistantForTurn(
    id=uuid4(),
    slug="docs",
    name="Docs",
    instructions="Be brief.",
    context="",
    first_message="",
    response_shape=None,
    goal="",
    language=None,
    model=None,
    model_parameters={},
    tools=[],
    user_authentication=False,
    is_enabled=True,
    top_k=6,
    similarity_cutoff=0.3,
    answerability="normal",
    answer_cache_s=60,
    answer_cache_similarity=0.9,
    unread_limit_s=None,
    collection_ids=(uuid4(),),
    chunk_count=9,
    corpus_version=3,
)

CITATION = Citation(
    index=1,
    source_id="1",
    start=0,
    end=10,
    quote="It is.",
    quote_start=0,
    quote_end=6,
    verified=True,
    document_id="a",
    document_start=0,
    document_end=6,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset my password?", "how can I reset the password"),
        ("What file formats are supported?", "Which file formats are supported?"),
        ("Wie setze ich mein Passwort zurück?", "Wie setze ich das Passwort zurück?"),
    ],
)
def test_questions_that_ask_for_the_same_may_have_one_answer(one: str, other: str) -> None:
    assert guard(one) == guard(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What does version 3 scan?", "What does version 4 scan?"),
        ("Can I cancel my subscription?", "Can I not cancel my subscription?"),
        ("Can I cancel my subscription?", "Can't I cancel my subscription?"),
        ("Can I cancel my subscription?", "How do I cancel my subscription?"),
        ("Which drugs are safe with alcohol?", "Which drugs are safe without alcohol?"),
        ("Did Ada pay Bob?", "Did Bob pay Ada?"),
        ("How do I convert euros to dollars?", "How do I convert dollars to euros?"),
        ("Is the fee refundable?", "Is the fee non-refundable?"),
        ("Ist Parken erlaubt?", "Ist Parken verboten?"),
        ("它多高?", "它多低?"),
    ],
)
def test_questions_that_read_alike_and_ask_for_other_things_may_not(one: str, other: str) -> None:
    assert guard(one) != guard(other)


@pytest.mark.parametrize(
    "change",
    [
        {"id": uuid4()},
        {"instructions": "Be long."},
        {"context": "We are a court."},
        {"language": "de"},
        {"model": "other"},
        {"model_parameters": {"temperature": 1}},
        {"user_authentication": True},
        {"top_k": 5},
        {"similarity_cutoff": 0.2},
        {"answerability": "strict"},
        {"collection_ids": (uuid4(),)},
        {"collection_ids": (*ASSISTANT.collection_ids, uuid4())},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_an_assistant_changes_the_scope_of_its_answers(change: dict[str, object]) -> None:
    other = key(replace(ASSISTANT, **change), "Why?")  # pyright: ignore[reportArgumentType]  # of several types
    this = key(ASSISTANT, "Why?")

    assert this is not None
    assert other is not None
    assert this.scope != other.scope


def test_what_an_answer_depends_on_besides_changes_its_scope() -> None:
    keys = [key(ASSISTANT, "Why?", *beside) for beside in (("en", True), ("en", False), ("de", True))]

    assert len({made.scope for made in keys if made is not None}) == 3


def test_an_assistant_whose_answers_are_not_kept_has_no_key() -> None:
    assert key(replace(ASSISTANT, answer_cache_s=None), "Why?") is None


def test_an_answer_is_replayed_event_for_event() -> None:
    source = Source(
        id="1", text="It is.", score=0.5, name="a.md", type="txt", content="It is.", metadata={"start": 0}
    )
    recording = Recording()
    for event in (
        Step(step_type="synthesis", status="running", step_id="s", parent_id=None),
        Sources(data=[source]),
        Tokens(contents=["It ", "is"]),
        Tokens(contents=[" [1]."]),
        CITATION,
        Tokens(contents=[" So."]),
    ):
        recording.add(event)

    events = recording.events()

    assert events is not None
    assert replayed(events) == [
        Sources(data=[source]),
        Tokens(contents=["It ", "is", " [1]."]),
        CITATION,
        Tokens(contents=[" So."]),
    ]


@pytest.mark.parametrize("text", ["I found nothing.", "It is\0 [1]."], ids=["no source", "NUL"])
def test_an_answer_that_cannot_be_kept_is_not(text: str) -> None:
    recording = Recording()
    recording.add(Tokens(contents=[text]))
    if "[1]" in text:
        recording.add(CITATION)

    assert recording.events() is None
