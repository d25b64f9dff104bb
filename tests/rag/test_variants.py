from dataclasses import replace

import pytest

from app.errors import InvalidInput
from app.rag.variants import Variant, parse, take
from tests.rag.test_measures import hit

FOUND = [
    replace(hit("both"), chunk_id=1, similarity=0.6, dense_rank=2, words_rank=2, words_score=3.0),
    replace(hit("near"), chunk_id=2, similarity=0.8, dense_rank=1, words_rank=None, words_score=None),
    replace(hit("words"), chunk_id=3, similarity=0.1, dense_rank=None, words_rank=1, words_score=9.0),
]


def test_a_variant_is_read_as_changes_to_another():
    base = Variant(depth=500)

    assert parse("mode=words, top_k=10", base) == Variant(mode="words", depth=500, top_k=10)
    assert parse("similarity_cutoff=.3,embedding_model=text-embedding-3-small", base) == Variant(
        depth=500, similarity_cutoff=0.3, embedding_model="text-embedding-3-small"
    )
    assert parse("", base) == base
    assert parse(str(base), Variant()) == base


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mode=sparse", "mode cannot be 'sparse'. It is one of words, dense, both"),
        ("top_k=many", "top_k cannot be 'many'"),
        ("top_k=0", "at least 1"),
        ("depth=-1", "at least 1"),
        ("words", "'words' is no setting of a search: write mode=…, depth=…"),
        ("k=3", "'k=3' is no setting of a search"),
    ],
)
def test_what_is_no_setting_is_refused_with_what_there_is(text: str, complaint: str):
    with pytest.raises(InvalidInput, match=complaint.replace(".", r"\.")):
        parse(text, Variant())


@pytest.mark.parametrize(
    ("variant", "files"),
    [
        (Variant(), ["both", "near", "words"]),
        (Variant(mode="dense"), ["near", "both"]),
        (Variant(mode="words"), ["words", "both"]),
        (Variant(mode="words", top_k=1), ["words"]),
        (Variant(mode="words", top_k=1, similarity_cutoff=0.3), ["both"]),
        (Variant(similarity_cutoff=0.7), ["near"]),
    ],
)
def test_a_variant_takes_its_half_in_its_order(variant: Variant, files: list[str]):
    assert [found.file_name for found in take(variant, FOUND)] == files
