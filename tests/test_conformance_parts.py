"""The checker of streams, of parts of them: what was cut off, and what was resumed."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conformance import Form
from tests.recorded_stream import (
    CUT,
    DONE,
    FAILED,
    SUMMARY,
    SYNTHESISED,
    Events,
    as_ndjson,
    as_sse,
    problems,
    recorded,
)

_EVENTS = [event for event in recorded() if "seq" in event]


@pytest.mark.parametrize("form", ["ndjson", "sse"])
@given(data=st.data())
def test_a_stream_that_was_cut_off_anywhere_is_a_prefix_and_not_whole(
    form: Form, data: st.DataObject
) -> None:
    body = as_ndjson(recorded()) if form == "ndjson" else as_sse(recorded())
    cut_off = body[: data.draw(st.integers(0, len(body) - 1))]

    assert problems(cut_off, prefix=True, form=form) == []
    assert problems(cut_off, form=form)


@given(st.permutations(_EVENTS))
def test_no_other_order_of_the_events_is_as_good(events: Events) -> None:
    assert (problems(as_ndjson(events)) == []) is (events == _EVENTS)


@pytest.mark.parametrize("missing", range(len(_EVENTS)))
def test_no_event_may_be_missing(missing: int) -> None:
    assert problems(as_ndjson(_EVENTS[:missing] + _EVENTS[missing + 1 :]))


@pytest.mark.parametrize("form", [as_ndjson, as_sse])
@pytest.mark.parametrize("after", range(1, 13))
def test_a_stream_may_be_resumed_behind_any_event(after: int, form: Callable[[Events], bytes]) -> None:
    rest = form([event for event in recorded() if event.get("seq", 0) > after])

    assert problems(rest, after=after) == []
    assert problems(rest, after=after - 1)
    assert problems(rest)


def test_a_resumed_stream_has_no_start_and_closes_a_step_once() -> None:
    events = recorded()
    again = [*events[SYNTHESISED:DONE], {**events[SYNTHESISED], "seq": 13}, {**FAILED, "seq": 14}]

    assert problems(as_ndjson(events), after=5)[:2] == [
        "line 1: seq is 1, expected 6",
        "line 1: start comes again, expected it first and once",
    ]
    assert problems(as_ndjson(again), after=10) == [
        "line 3: step follows the summary step, expected the end",
        "line 3: step s is closed again, expected it closed once",
    ]


def test_whoever_resumes_beyond_the_end_is_told_the_end_again() -> None:
    end = as_ndjson(recorded()[DONE:])

    assert problems(end, after=13) == []
    assert problems(end, after=40) == []
    assert problems(end, after=11) == ["line 1: seq is 13, expected 12"]
    assert problems(as_ndjson(recorded()[SUMMARY:]), after=40) == [
        "line 1: seq is 12, expected 41",
    ]


def test_a_resumed_stream_may_be_cut_before_it_has_said_anything() -> None:
    assert problems(as_ndjson([CUT]), after=12) == []


@pytest.mark.parametrize("seq", [1, 9, 12, 13])
def test_an_answer_whose_process_was_killed_may_end_before_what_was_sent(seq: int) -> None:
    interrupted = {**FAILED, "code": "interrupted", "seq": seq}

    assert problems(as_ndjson([*recorded()[:DONE], interrupted])) == []
    assert problems(as_ndjson([*recorded()[:DONE], {**interrupted, "seq": 14}]))
    assert problems(as_ndjson([*recorded()[:DONE], {**interrupted, "seq": 0}]))
