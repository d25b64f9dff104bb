"""What an answer looks like where there are no events: in parts that a channel takes, with its failure and its sources."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.messengers.transcript import Transcript, parts, utf16_units


@given(st.text(alphabet="ab \n\N{GRINNING FACE}", max_size=200), st.integers(2, 30))
def test_parts_fit_and_lose_nothing_but_space(text: str, limit: int) -> None:
    cut = list(parts(text, limit))
    assert all(0 < utf16_units(part) <= limit for part in cut)
    assert "".join("".join(cut).split()) == "".join(text.split())


@given(st.text(alphabet="ab \n\N{GRINNING FACE}", max_size=100), st.text(alphabet="ab \n", max_size=50))
def test_all_parts_but_the_last_stay_as_the_text_grows(text: str, more: str) -> None:
    before, after = list(parts(text, 20)), list(parts(text + more, 20))
    assert after[: len(before) - 1] == before[:-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three", ["one two", "three"]),
        ("one two\nthree four", ["one two", "three four"]),
        ("onetwothreefour", ["onetwothre", "efour"]),
        ("", []),
        ("  \n", []),
    ],
)
def test_a_text_is_cut_between_lines_or_words(text: str, expected: list[str]) -> None:
    assert list(parts(text, 10)) == expected


def test_a_failure_and_what_is_cited_follow_the_text() -> None:
    transcript = Transcript()
    source = {"id": "1", "name": "Waters", "metadata": {"page_label": "3"}, "url": "https://example.com/w"}
    transcript.hear({"type": "sources", "data": [source, {**source, "id": "2"}]})
    transcript.hear({"type": "token", "content": "Long [1]. "})
    transcript.hear({"type": "citation", "source_id": "1"})
    assert transcript.whole == "Long [1].\n\n[1] Waters, page 3 https://example.com/w"
    transcript.hear({"type": "error", "message": "It broke off."})
    assert transcript.is_over
    assert transcript.whole == "Long [1].\n\nIt broke off.\n\n[1] Waters, page 3 https://example.com/w"
