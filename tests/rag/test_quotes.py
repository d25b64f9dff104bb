import pytest

from app.rag.quotes import Quotable
from bench.citations import cases, measured

TEXT = """\
# Harbour

Harbour keeps a copy of your files. It listens on port 7070, and runs on Linux.

| Setting | Default |
| --- | --- |
| KEEP_DAYS | 30 |

Copies are never sent to third parties.
"""


def quoted(claim: str, text: str = TEXT) -> tuple[str, bool]:
    quote = Quotable(text, "harbour.md").quote(claim)
    return text[quote.start : quote.end], quote.verified


@pytest.mark.parametrize(
    ("claim", "quote"),
    [
        (
            "Harbour listens on port 7070.",
            "Harbour keeps a copy of your files. It listens on port 7070, and runs on Linux.",
        ),
        ("KEEP_DAYS is 30", "| KEEP_DAYS | 30 |"),
        ("The copies are not sent to third parties", "Copies are never sent to third parties."),
    ],
)
def test_what_bears_a_claim_out_is_quoted_word_for_word(claim: str, quote: str) -> None:
    assert quoted(claim) == (quote, True)


@pytest.mark.parametrize(
    "claim",
    [
        "Harbour listens on port 7071.",
        "KEEP_DAYS is 7 by default",
        "Copies are sent to third parties",
        "Lighthouse listens on port 7070 and runs on Linux, says Mole",
        "Harbour was founded in Lisbon by two fishermen.",
        "",
        "...",
    ],
    ids=["number", "number in a table", "denied", "name", "invented", "nothing", "dots"],
)
def test_what_the_source_does_not_say_is_not_verified(claim: str) -> None:
    quote, verified = quoted(claim)
    assert not verified
    assert quote in TEXT


@pytest.mark.parametrize("text", ["", "   ", "…"])
def test_of_a_text_without_words_nothing_is_quoted(text: str) -> None:
    assert quoted("Harbour listens on port 7070.", text) == ("", False)


def test_the_method_is_as_good_as_the_documentation_says():
    found = measured(cases())
    assert found.all_claims.precision >= 0.83
    assert found.all_claims.recall >= 0.90
    assert found.refused["number"] == 1.0
    assert found.refused["invented"] == 1.0
    assert found.refused["another source"] >= 0.99
