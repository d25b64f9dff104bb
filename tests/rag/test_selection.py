from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest

from app.db.chunks import Hit
from app.rag.selection import Selection, reranked, select

TEXT = "The lease may be ended with three months' notice in writing, at the end of any month of the year."


def hit(text: str, document_id: UUID | None = None, chunk_id: int = 0) -> Hit:
    return Hit(
        chunk_id=chunk_id,
        document_id=document_id or uuid4(),
        score=0.5,
        similarity=0.5,
        dense_rank=1,
        words_rank=None,
        words_score=None,
        text=text,
        heading="",
        page_label=None,
        start=0,
        end=len(text),
        file_name="a.txt",
        title=None,
        kind=None,
        url=None,
    )


@pytest.mark.parametrize(
    "again",
    [
        TEXT,
        TEXT.upper().replace(" ", "\n"),
        f"Clause 7. {TEXT}",
        TEXT.removesuffix(" of the year."),
        TEXT.replace("of the year", "of the years"),
    ],
    ids=["equal", "other letters and blanks", "contains it", "is contained", "a word differs"],
)
def test_what_says_the_same_is_folded_into_the_best_and_its_document_is_named(again: str):
    first, second, other = hit(TEXT), hit(again), hit("Noise is to be avoided at night.")

    chosen = select([first, second, other], limit=6)

    assert chosen == [replace(first, duplicates=(second.document_id,)), other]


def test_what_says_something_else_in_the_same_words_is_kept():
    hits = [
        hit(TEXT),
        hit(TEXT.replace("three months' notice in writing, at", "six weeks' notice by letter, before")),
    ]

    assert select(hits, limit=6) == hits


def test_a_document_that_repeats_itself_is_no_other_document():
    first, other = hit(TEXT), hit(TEXT)
    again = hit(TEXT, first.document_id)

    (kept,) = select([first, again, other, other], limit=6)

    assert kept.duplicates == (other.document_id,)


def test_the_place_of_what_is_folded_is_given_to_the_next():
    hits = [hit(TEXT), hit(TEXT), hit("Noise is to be avoided."), hit("The roof is kept in order.")]

    assert [it.text for it in select(hits, limit=2)] == [TEXT, "Noise is to be avoided."]


def test_of_one_document_there_are_no_more_than_allowed():
    document = uuid4()
    hits = [*(hit(f"Clause number{n} of it", document) for n in range(4)), hit("Noise is to be avoided.")]

    assert select(hits, limit=3, most_of_document=2) == [*hits[:2], hits[4]]
    assert select(hits, limit=3) == hits[:3]


def test_short_texts_are_compared_as_a_whole():
    hits = [hit("Yes."), hit("No."), hit("yes")]

    assert [it.text for it in select(hits, limit=6)] == ["Yes.", "No."]


def test_reranking_goes_by_the_scores_and_leaves_equals_as_they_were():
    hits = [hit(str(n), chunk_id=n) for n in range(4)]

    order = [it.chunk_id for it in reranked(hits, np.array([0, 2, 1, 2], np.float32))]

    assert order == [1, 3, 2, 0]


def test_scores_that_count_half_are_weighed_against_those_of_the_search():
    hits = [replace(hit(str(n), chunk_id=n), score=score) for n, score in enumerate((0.9, 0.8, 0.5, 0.1))]

    order = [it.chunk_id for it in reranked(hits, np.array([10, 40, 30, 20], np.float32), weight=0.5)]

    assert order == [1, 2, 0, 3]


def test_equal_scores_leave_the_order_of_the_search():
    hits = [replace(hit(str(n), chunk_id=n), score=1 - n / 10) for n in range(3)]

    assert reranked(hits, np.full(3, 7, np.float32), weight=0.5) == hits


def test_what_has_no_score_stays_behind_what_has():
    hits = [hit(str(n), chunk_id=n) for n in range(4)]

    assert [it.chunk_id for it in reranked(hits, np.array([1, 2], np.float32))] == [1, 0, 2, 3]


def test_as_many_are_looked_at_as_are_reranked_or_may_be_folded():
    selection = Selection(candidates=30)

    assert [selection.looked_at(6, reranked=it) for it in (True, False)] == [30, 12]
    assert selection.looked_at(20, reranked=True) == 40
