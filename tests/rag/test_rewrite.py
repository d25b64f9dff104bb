import anyio
import pytest

from app.errors import ModelFailed
from app.llm.protocols import ChatMessage, Finish, Usage
from app.rag.rewrite import Rewriting, by_rules, rewrite
from tests.scripted_model import ScriptedModel, says


def talk(*texts: str) -> list[ChatMessage]:
    """Question, answer, question …"""
    return [ChatMessage("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]


CREDIT = talk("What is a FICO score?", "The FICO score is a credit score.")


@pytest.mark.parametrize(
    ("history", "question", "added"),
    [
        (CREDIT, "How is it calculated?", {"FICO", "score"}),
        (CREDIT, "Any benefits?", {"FICO", "score"}),
        (talk("Wie lange ist die Kündigungsfrist?", "Drei Monate."), "Gilt sie immer?", {"Kündigungsfrist"}),
        (talk("Quel est le délai de préavis ?", "Trois mois."), "Et pour les cadres ?", {"préavis"}),
        (talk("¿Cuál es el plazo de preaviso?", "Tres meses."), "¿Y eso por qué?", {"preaviso"}),
    ],
    ids=["pronoun", "few words", "German", "French", "Spanish"],
)
def test_a_question_that_leans_on_the_conversation_is_given_its_words(
    history: list[ChatMessage], question: str, added: set[str]
) -> None:
    standalone = by_rules(history, question)

    assert standalone is not None
    assert added <= set(standalone.sought.split())
    assert standalone.question.startswith(question)


@pytest.mark.parametrize(
    "question",
    [
        "Which documents are needed to apply for a mortgage in Spain?",
        "Is there a library that lends musical instruments to students?",
        "What are exchange funds?",
        "Welche Unterlagen braucht man für einen Kredit in Spanien?",
    ],
    ids=["many words", "that joins", "asks for a meaning", "German"],
)
def test_a_question_that_stands_alone_stays_as_it_is(question: str) -> None:
    assert by_rules(CREDIT, question) is None


def test_nothing_is_added_in_a_language_whose_words_are_unknown() -> None:
    assert by_rules(talk("芙蓉山在哪里?", "在湖南。"), "它多高?") is None


def test_what_was_asked_about_is_remembered_through_questions_that_lean_on_it() -> None:
    history = talk("How does the MLS game work?", "It is annual.", "What is it called abroad?", "Soccer.")

    standalone = by_rules(history, "Can women play it?")

    assert standalone is not None
    assert "MLS" in standalone.sought


def test_a_new_topic_takes_the_place_of_the_old_one() -> None:
    history = talk(
        "How does the MLS game work?", "It is annual.", "Which rivers cross Northern Germany?", "The Elbe."
    )

    standalone = by_rules(history, "Are they navigable?")

    assert standalone is not None
    assert "rivers" in standalone.sought
    assert "MLS" not in standalone.sought


def test_what_is_asked_weighs_more_than_what_it_is_asked_of() -> None:
    standalone = by_rules(CREDIT, "How is it calculated?")

    assert standalone is not None
    assert standalone.sought.count("calculated") == 2
    assert standalone.question.count("calculated") == 1


async def test_a_language_model_writes_the_question_anew(model: ScriptedModel) -> None:
    model.script = lambda _: says("How is the FICO score ", "calculated?", usage=Usage(30, 7))

    standalone = await rewrite(
        Rewriting("model_if_needed", 3), model, CREDIT, "How is it calculated?", named_model="small"
    )

    assert standalone is not None
    assert (standalone.question, standalone.method) == ("How is the FICO score calculated?", "model")
    assert standalone.usage is not None
    assert standalone.usage.total_tokens == 37
    assert model.prompts[0].model == "small"
    assert "The FICO score is a credit score." in model.prompts[0].messages[-1].content


@pytest.mark.parametrize("answer", ["", "An answer and no question. " * 50], ids=["nothing", "an answer"])
async def test_what_is_no_question_is_not_taken_from_the_model(model: ScriptedModel, answer: str) -> None:
    model.script = lambda _: says(answer)

    standalone = await rewrite(
        Rewriting("model", 3), model, CREDIT, "How is it calculated?", named_model=None
    )

    assert standalone is not None
    assert standalone.method == "rules"


async def test_a_model_that_fails_leaves_the_question_to_the_rules(model: ScriptedModel) -> None:
    model.script = lambda _: [["How is the"], ModelFailed("It broke.")]

    standalone = await rewrite(
        Rewriting("model", 3), model, CREDIT, "How is it calculated?", named_model=None
    )

    assert standalone is not None
    assert standalone.method == "rules"


async def test_a_model_that_takes_too_long_leaves_the_question_to_the_rules(model: ScriptedModel) -> None:
    never = anyio.Event()
    model.script = lambda _: [never, Finish("stop", None)]

    with anyio.fail_after(5):
        standalone = await rewrite(
            Rewriting("model", 0.01), model, CREDIT, "How is it calculated?", named_model=None
        )

    assert standalone is not None
    assert standalone.method == "rules"
    assert model.closed == 1


def test_only_a_question_with_a_history_that_it_needs_is_rewritten() -> None:
    needed, always, never = (Rewriting(mode, 3) for mode in ("model_if_needed", "model", "off"))

    assert not always.concerns([], "How is it calculated?")
    assert always.concerns(CREDIT, "Which documents are needed to apply for a mortgage in Spain?")
    assert not needed.concerns(CREDIT, "Which documents are needed to apply for a mortgage in Spain?")
    assert needed.concerns(CREDIT, "How is it calculated?")
    assert not never.concerns(CREDIT, "How is it calculated?")
