"""Which chunks are looked at for the words of a question."""

import pytest

from app.db import words
from app.db.words import Lookup, Term


def plan(*chunk_counts: int, chunk_count: int = 100_000, of_all: int | None = None) -> Lookup:
    """Of terms named a, b, c and so on."""
    terms = [Term(chr(ord("a") + n), count, 1) for n, count in enumerate(chunk_counts)]
    return words.plan(
        "english", terms, chunk_count=chunk_count, word_count=80 * chunk_count, of_all=of_all or chunk_count
    )


def test_all_chunks_with_a_rare_word_are_looked_at_and_of_the_others_those_with_two():
    lookup = plan(10, 300, 2_000, 3_000, 4_000)

    assert lookup.sought == "'a' | 'b' | ('c' & ('d' | 'e')) | ('d' & ('e'))"
    assert lookup.average_length == 80
    assert [term.lexeme for term in lookup.terms] == ["a", "b", "c", "d", "e"]


def test_pairs_that_too_many_chunks_hold_are_left_out():
    assert plan(10, 2_000, 9_000, 30_000).sought == "'a' | ('b' & ('c'))"


def test_lists_too_long_to_read_are_not_read():
    assert plan(10, 19_000, 19_500, chunk_count=1_000_000).sought == "'a' | ('b' & ('c'))"
    assert plan(10, 21_000, 22_000, chunk_count=1_000_000).sought == "'a'"


@pytest.mark.parametrize(
    ("chunk_counts", "sought"),
    [
        ((50_000,), "'a'"),
        ((50_000, 60_000), "('a' & ('b'))"),
        ((700, 2_300), "'a' | 'b'"),
        ((700, 2_400), "'a'"),
    ],
)
def test_there_is_always_something_to_look_at(chunk_counts: tuple[int, ...], sought: str):
    assert plan(*chunk_counts).sought == sought


def test_of_few_chunks_all_are_looked_at():
    assert plan(10, 300, 1_400, 1_500, chunk_count=1_500).sought == "'a' | 'b' | 'c' | 'd'"


def test_the_index_is_left_where_other_collections_fill_it():
    assert plan(10, 300, 2_000, chunk_count=10_000).by_index
    assert plan(10, 300, 2_000, chunk_count=10_000, of_all=1_000_000).by_index is False


def test_a_lexeme_is_quoted():
    assert Term("it's a \\", 1, 1).query == "'it''s a \\\\'"
