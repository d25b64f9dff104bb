import time
from collections.abc import Sequence

import pytest

from app.events import Citation, Source, Tokens
from app.rag.citations import CitedAnswer, without_marks

DANUBE = "The Danube flows into the Black Sea. It is 2,850 km long."
RHINE = "The Rhine flows north. It is 1,230 km long."
LAKE = "Lake Constance lies in three countries."


def source(number: int, text: str) -> Source:
    told = {"document_id": f"document-{number}", "start": 100 * number, "page_label": str(number)}
    return Source(str(number), text, 0.5, f"{number}.pdf", "pdf", text, told)


SOURCES = [source(number, text) for number, text in enumerate((DANUBE, RHINE, LAKE), 1)]


def read(text: str, size: int = 1_000, sources: Sequence[Source] = SOURCES) -> tuple[str, list[Citation]]:
    """What a reader gets of an answer that comes in pieces of this size."""
    answer = CitedAnswer(sources)
    events = [
        event for place in range(0, len(text), size) for event in answer.read([text[place : place + size]])
    ]
    events += answer.end()
    said = "".join(piece for event in events if isinstance(event, Tokens) for piece in event.contents)
    return said, [event for event in events if isinstance(event, Citation)]


def claims(text: str) -> list[tuple[int, str, bool]]:
    said, citations = read(text)
    return [(c.index, said[c.start : c.end], c.verified) for c in citations]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("It flows [1].", "It flows [1]."),
        ("It flows [4].", "It flows."),
        ("It flows[4][1].", "It flows[1]."),
        ("It flows [0].", "It flows."),
        ("It flows [1, 4,2].", "It flows [1][2]."),
        ("It flows [4, 5].", "It flows."),
        ("It flows [1-3].", "It flows [1][2][3]."),
        ("It flows [^2].", "It flows [2]."),
        ("It flows [Source 2] [source: 9].", "It flows [2]."),
        ("It flows 【3†source】【9】.", "It flows [3]."),
        ("It flows [1][1].", "It flows [1][1]."),
        ("[9] It flows.", " It flows."),
        ("From [0, 1] to [2019] and [a] [ ] []", "From [0, 1] to [2019] and [a] [ ] []"),
        ("`a[1]` and ``b[9]``", "`a[1]` and ``b[9]``"),
        ("```\nx[9] = y[1]\n```\n", "```\nx[9] = y[1]\n```\n"),
        ("a stray ` here\nand [9]", "a stray ` here\nand"),
        ("\\[9\\]", "\\[9\\]"),
        ("cut off [", "cut off ["),
        ("cut off [1", "cut off [1"),
        ("blanks  \n  stay  ", "blanks  \n  stay  "),
        ("no\0thing", "nothing"),
    ],
)
def test_marks_of_what_was_not_given_are_dropped_and_the_rest_is_said_in_one_form(
    said: str, sent: str
) -> None:
    assert read(said)[0] == sent


ANSWER = """\
The Danube flows into the Black Sea [1][2], and is 2850 km long [1]. The Rhine flows north [2, 9].

According to [3], the lake lies in three countries. `x[1]` is code. - [2] It is 1230 km long!
```
y[9]
```
【1†x】The Danube. [^2] 答案[1]。"""


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 40])
def test_an_answer_is_the_same_however_it_comes_in_pieces(size: int) -> None:
    said, citations = read(ANSWER, size)
    whole, of_whole = read(ANSWER)
    assert said == whole
    assert sorted(citations, key=lambda c: (c.end, c.index)) == sorted(
        of_whole, key=lambda c: (c.end, c.index)
    )
    assert len(citations) == said.count("[1]") + said.count("[2]") + said.count("[3]") - 1, "all but the code"


def test_nothing_of_a_mark_is_seen_before_it_is_whole():
    answer = CitedAnswer(SOURCES)
    sent = [list(answer.read([piece])) for piece in ("It flows", " [", "9", "]", " north", " [1", "]", ".")]
    texts = ["".join(p for e in events if isinstance(e, Tokens) for p in e.contents) for events in sent]
    assert texts == ["It flows", "", "", "", " north", "", " [1]", "."]


def test_pieces_without_marks_are_passed_on_as_they_came():
    answer = CitedAnswer(SOURCES)
    (event,) = answer.read(["The", " Danube", " flows"])
    assert event == Tokens(contents=["The", " Danube", " flows"])


def test_pieces_that_come_with_a_mark_stay_pieces():
    answer = CitedAnswer(SOURCES)
    events = [*answer.read(["The", " Rhine", " flows", " north", " [2]", ".", " Yes"]), *answer.end()]
    said = [event.contents for event in events if isinstance(event, Tokens)]
    assert said == [["The"], [" Rhine"], [" flows"], [" north"], [" [2]"], ["."], [" Yes"]]


def test_a_citation_tells_its_claim_and_the_words_of_the_source():
    said, (citation,) = read("Yes. The Danube is 2850 km long [1].")
    assert said[citation.start : citation.end] == "The Danube is 2850 km long [1]"
    assert citation.source_id == "1"
    assert citation.verified
    assert citation.quote == DANUBE[citation.quote_start : citation.quote_end]
    assert "2,850 km" in citation.quote
    assert (citation.document_id, citation.page_label) == ("document-1", "1")
    assert (citation.document_start, citation.document_end) == (100, 100 + len(DANUBE))


def test_a_citation_follows_the_mark_that_it_is_of():
    answer = CitedAnswer(SOURCES)
    events = [*answer.read(["The Rhine flows north [2]", ". It is"]), *answer.end()]
    kinds = [type(event) for event in events]
    assert kinds == [Tokens, Citation, Tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Rhine flows north. [2]", [(2, "The Rhine flows north. [2]", True)]),
        (
            "The Rhine flows north [2] and the Danube flows into the Black Sea [1].",
            [(2, "The Rhine flows north [2]", True), (1, "and the Danube flows into the Black Sea [1]", True)],
        ),
        ("The Rhine flows north [1][2].", [(1, "The Rhine flows north [1]", False), (2, "The Rhine flows north [1][2]", True)]),
        ("As [2] says, the Rhine flows north. Good.", [(2, "As [2] says, the Rhine flows north.", True)]),
        ("[1] The Danube flows into the Black Sea\n[2] The Rhine flows north", [(1, "[1] The Danube flows into the Black Sea", True), (2, "[2] The Rhine flows north", True)]),
        ("- The Rhine flows north [2]\n- The Danube has seven locks [1]", [(2, "The Rhine flows north [2]", True), (1, "The Danube has seven locks [1]", False)]),
        ("The Rhine is 1320 km long [2].", [(2, "The Rhine is 1320 km long [2]", False)]),
    ],
    ids=["behind the sentence", "two in one sentence", "two of one claim", "before", "in lines", "in a list", "wrong"],
)  # fmt: skip
def test_a_mark_is_for_the_claim_beside_it(text: str, expected: list[tuple[int, str, bool]]) -> None:
    assert claims(text) == expected


def test_without_sources_every_mark_is_dropped():
    assert read("It flows [1].", sources=[]) == ("It flows.", [])


@pytest.mark.parametrize(
    "piece", [" ", "[", "[1", "`", "【", "[1]", " [9]", "[1, ", "[1-", "x [1] ", "\n", "[[[1]]]"], ids=repr
)
def test_a_model_that_says_the_same_for_ever_is_read_in_bounded_time(piece: str) -> None:
    began = time.process_time()
    said, _ = read(piece * 3_000, size=len(piece))
    read(piece * 3_000, size=100_000)
    # Linear takes two seconds at most here; what is quadratic takes minutes.
    assert time.process_time() - began < 20
    assert len(said) <= len(piece) * 3_000


def test_a_text_for_somebody_else_is_without_marks():
    assert without_marks("It flows [1][2] north 【3】.") == "It flows north."
