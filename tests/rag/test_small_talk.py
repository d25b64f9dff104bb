import pytest

from app.llm.protocols import ChatMessage
from app.rag.small_talk import Kind, recognise

ANSWERED = [ChatMessage("user", "How long is the notice?"), ChatMessage("assistant", "Three months.")]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Hello!", "greeting"),
        ("hi there 👋", "greeting"),
        ("Great, thank you very much!", "thanks"),
        ("ok", "acknowledgement"),
        ("Goodbye", "farewell"),
        ("Hallo zusammen", "greeting"),
        ("Alles klar, vielen Dank für die Hilfe", "thanks"),
        ("Merci beaucoup", "thanks"),
        ("Hola, buenos días", "greeting"),
        ("Adiós", "farewell"),
    ],
)
def test_small_talk_needs_no_passages(said: str, kind: Kind) -> None:
    recognised = recognise(said, [])

    assert recognised is not None
    assert recognised.kind == kind


@pytest.mark.parametrize(
    "wish",
    [
        "Shorter, please",
        "Can you translate that into German?",
        "please summarize your answer in two sentences",
        "As a table",
        "Kannst du das bitte auf Deutsch übersetzen?",
        "Peux-tu le traduire en anglais ?",
        "¿Puedes resumirlo en una frase?",
    ],
)
def test_the_last_answer_in_another_form_needs_no_passages(wish: str) -> None:
    recognised = recognise(wish, ANSWERED)

    assert recognised is not None
    assert recognised.kind == "reformulation"
    assert recognise(wish, []) is None


@pytest.mark.parametrize(
    "question",
    [
        "hello world program",
        "What does hello mean?",
        "thanks giving holiday",
        "Hi, how long is the notice?",
        "Thanks, and how long is it for apprentices?",
        "translate the manual into German",
        "How do I translate that page into German?",
        "explain that",
        "shorter contracts",
        "good",
        "all",
        "no",
        "Danke sagen im Brief",
        "?",
        "thanks " * 30,
    ],
)
def test_what_may_be_a_question_is_searched_for(question: str) -> None:
    assert recognise(question, ANSWERED) is None


def test_small_talk_is_answered_in_its_language() -> None:
    replies = {said: recognise(said, []) for said in ("Thank you", "Danke", "Merci", "Gracias")}

    assert len({talk.reply for talk in replies.values() if talk is not None}) == 4
