from uuid import UUID, uuid4

import pytest

from app.db.chunks import Hit
from app.rag import measures
from app.rag.evaluation import JudgedQuestion
from app.rag.measures import Figures

DOCUMENT = UUID("0fca4c1e-8b1f-4d9b-9f4a-0d6a0a7f0f11")


def hit(file_name: str, text: str = "", document_id: UUID | None = None, chunk_id: int = 1) -> Hit:
    return Hit(
        chunk_id=chunk_id,
        document_id=document_id or uuid4(),
        score=0.5,
        similarity=0.5,
        dense_rank=1,
        words_rank=1,
        words_score=1.0,
        text=text,
        heading="",
        page_label=None,
        start=0,
        end=len(text),
        file_name=file_name,
        title=None,
        kind=None,
        url=None,
    )


def figures(question: JudgedQuestion, *found: Hit, recall_depth: int = 100) -> Figures:
    [one] = measures.by_question([question], {question.id: found}, recall_depth=recall_depth)
    return one


def test_figures_are_those_of_the_definitions():
    question = JudgedQuestion("q", "?", {"a": 2, "b": 1})

    of = figures(question, hit("x"), hit("a"), hit("b"))

    gained = 2 / 1.584962500721156 + 1 / 2
    best = 2 + 1 / 1.584962500721156
    assert of.ndcg_10 == pytest.approx(gained / best)
    assert (of.recall, of.mrr_10, of.hit_10) == (1, 0.5, 1)


def test_a_document_counts_at_the_place_of_its_best_passage():
    question = JudgedQuestion("q", "?", {"b": 1})

    of = figures(question, hit("a", chunk_id=1), hit("a", chunk_id=2), hit("b"), hit("b"))

    assert of.mrr_10 == 0.5


def test_what_stands_behind_the_tenth_place_counts_for_recall_alone():
    question = JudgedQuestion("q", "?", {"right": 1})
    others = [hit(f"other {number}") for number in range(10)]

    assert figures(question, *others, hit("right")) == Figures(ndcg_10=0, recall=1, mrr_10=0, hit_10=0)
    assert figures(question, *others, hit("right"), recall_depth=10).recall == 0
    assert figures(question, *others[:9], hit("right")).mrr_10 == pytest.approx(0.1)


def test_a_question_without_results_counts_nothing():
    questions = [JudgedQuestion("q1", "?", {"a": 1}), JudgedQuestion("q2", "?", {"b": 1})]

    both = measures.by_question(questions, {"q1": [hit("a")]}, recall_depth=100)

    assert measures.mean(both) == Figures(0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("15 minutes", "An access token lives 15\nMinutes."),
        ("the “rent”", 'Paid is the "rent" monthly'),
        ("ﬁne", "All is fine."),
        ("黑海", "多瑙河流入黑海。"),
        ("Straße", "in der STRASSE"),
    ],
)
def test_a_passage_with_the_answer_is_right_however_it_is_written(answer: str, text: str):
    question = JudgedQuestion("q", "?", {}, answer)

    assert figures(question, hit("a", "something else"), hit("b", text, chunk_id=2)).mrr_10 == 0.5


@pytest.mark.parametrize(
    ("answer", "text"), [("5 minutes", "15 minutes"), ("rent", "the rental"), ("a b", "a c b")]
)
def test_a_passage_with_parts_of_the_words_of_an_answer_is_not(answer: str, text: str):
    assert figures(JudgedQuestion("q", "?", {}, answer), hit("a", text)).hit_10 == 0


def test_an_answer_counts_once_and_only_in_the_documents_that_are_named():
    question = JudgedQuestion("q", "?", {"b": 1}, "yes")

    of = figures(
        question, hit("a", "yes"), hit("b", "no", chunk_id=2), hit("b", "yes", chunk_id=3), hit("b", "Yes")
    )

    assert (of.mrr_10, of.recall, of.ndcg_10) == (pytest.approx(1 / 3), 1, 0.5)


def test_a_document_is_known_by_its_id_as_well():
    question = JudgedQuestion("q", "?", {str(DOCUMENT): 1})

    assert figures(question, hit("b"), hit("a", document_id=DOCUMENT)).mrr_10 == 0.5


def test_times_are_told_by_their_percentiles():
    assert measures.percentiles([float(number) for number in range(101)]) == measures.Times(50, 95, 99)
