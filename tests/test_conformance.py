"""The checker of streams: a good one passes, and for each rule one that breaks it is noticed, where and how."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.conformance import check
from app.conformance.rules import WELL_KNOWN_STEPS
from tests.recorded_stream import (
    CUT,
    DONE,
    FAILED,
    HEARTBEAT,
    LAST_TOKEN,
    RETRIEVAL,
    RETRIEVED,
    SOURCES,
    START,
    STATUS,
    SUMMARY,
    SYNTHESIS,
    SYNTHESISED,
    TOKEN,
    VECTORIZATION,
    VECTORIZED,
    Events,
    as_ndjson,
    as_sse,
    problems,
    recorded,
)

OWN_STEP = {
    "type": "step",
    "step_type": "table_lookup",
    "status": "running",
    "step_id": "t",
    "parent_id": None,
    "label": "Tables",
}
OWN_STEP_FAILED = {**OWN_STEP, "status": "failed", "duration": 1}
CITATION = {
    "type": "citation",
    "index": 1,
    "source_id": "1",
    "start": 4,
    "end": 22,
    "quote": "Schwarze Meer.",
    "quote_start": 21,
    "quote_end": 35,
    "verified": True,
    "document_id": "d",
    "document_start": 21,
    "document_end": 35,
}
CONVERSATION = {"type": "conversation", "goal_reached": False, "ended": False, "reason": "Not yet."}


def renumbered(events: Events) -> Events:
    numbered = [event for event in events if "seq" in event]
    for seq, event in enumerate(numbered, 1):
        event["seq"] = seq
    return events


Spoil = Callable[[Events], object]


def change(index: int, **fields: Any) -> Spoil:
    return lambda events: events[index].update(fields)


def drop(index: int, field: str) -> Spoil:
    return lambda events: events[index].pop(field)


def leave_out(*indices: int) -> Spoil:
    """Counted anew, as if they had never been sent."""

    def spoil(events: Events) -> None:
        events[:] = [event for index, event in enumerate(events) if index not in indices]
        renumbered(events)

    return spoil


def put(index: int, *more: dict[str, Any]) -> Spoil:
    """Counted anew, but for those that have no seq."""

    def spoil(events: Events) -> None:
        events[index:index] = [{"seq": 0, **event} for event in more]
        renumbered(events)

    return spoil


def move(index: int, to: int) -> Spoil:
    def spoil(events: Events) -> None:
        events.insert(to, events.pop(index))
        renumbered(events)

    return spoil


def end_with(event: dict[str, Any]) -> Spoil:
    def spoil(events: Events) -> None:
        events[-1] = event

    return spoil


BROKEN: dict[str, tuple[Spoil, list[str]]] = {
    "a hole": (
        lambda events: [event.update(seq=event["seq"] + 1) for event in events[LAST_TOKEN:]],
        ["line 11: seq is 11, expected 10"],
    ),
    "a seq twice": (
        lambda events: [event.update(seq=event["seq"] - 1) for event in events[LAST_TOKEN:]],
        ["line 11: seq is 9, expected 10"],
    ),
    "an event without seq": (drop(TOKEN, "seq"), ["line 9: seq is missing, expected 9"]),
    "a seq that is no number": (change(TOKEN, seq="9"), ["line 9: seq is '9', expected 9"]),
    "a seq that only equals its number": (change(START, seq=True), ["line 1: seq is True, expected 1"]),
    "another number first": (
        lambda events: [event.update(seq=event["seq"] - 1) for event in events if "seq" in event],
        ["line 1: seq is 0, expected 1"],
    ),
    "a heartbeat with a seq": (
        change(HEARTBEAT, seq=10),
        ["line 10: the heartbeat has a seq, expected none"],
    ),
    "an event without a type": (drop(TOKEN, "type"), ["line 9: the event has no type, expected one"]),
    "no start": (leave_out(START), ["line 1: the stream begins with status, expected start"]),
    "another start": (
        put(STATUS, recorded()[START]),
        ["line 2: start comes again, expected it first and once"],
    ),
    "another protocol": (change(START, protocol=2), ["line 1: protocol is 2, expected 1"]),
    "a field that is missing": (drop(START, "run_id"), ["line 1: start has no run_id, expected one"]),
    "a field below that is missing": (
        lambda events: events[SOURCES]["data"][0].pop("score"),
        ["line 7: sources.data[0] has no score, expected one"],
    ),
    "a field of another type": (
        change(DONE, finish_reason=5),
        ["line 14: done.finish_reason is int, expected str"],
    ),
    "a value that there is not": (
        change(VECTORIZATION, status="started"),
        [
            "line 4: step.status does not fit (Invalid enum value 'started'), expected what the protocol says",
            "line 5: step v is completed, expected it running before",
        ],
    ),
    "status behind the first token": (
        move(STATUS, HEARTBEAT),
        ["line 10: status follows a token, expected it before the first one"],
    ),
    "sources behind the first token": (
        move(SOURCES, LAST_TOKEN),
        ["line 11: sources follow a token, expected them before the first one"],
    ),
    "a source whose content is not its text": (
        lambda events: events[SOURCES]["data"][0].update(content="Die Donau"),
        ["line 7: content of source 1 is another than its text, expected the same"],
    ),
    "an empty token": (change(TOKEN, content=""), ["line 9: content of the token is empty, expected text"]),
    "a part before its whole": (
        move(RETRIEVAL, VECTORIZATION),
        ["line 3: parent_id is r, expected a step that is running before its parts"],
    ),
    "a part that forgets its whole": (
        change(VECTORIZED, parent_id=None),
        ["line 5: parent_id of the closing event is None, expected r, as when the step began"],
    ),
    "a part that does not say whether it is one": (
        drop(VECTORIZED, "parent_id"),
        [
            "line 5: step has no parent_id, expected one",
            "line 14: step v (vectorization) is open, expected it closed before done",
        ],
    ),
    "a step that becomes another": (
        change(VECTORIZED, step_type="reranking"),
        [
            "line 5: step_type of the closing event is reranking, expected vectorization, as when the step began"
        ],
    ),
    "an end of a step without its duration": (
        drop(RETRIEVED, "duration"),
        ["line 6: duration of the retrieval step is missing, expected seconds"],
    ),
    "a duration below zero": (
        change(RETRIEVED, duration=-0.5),
        ["line 6: duration of the retrieval step is -0.5, expected seconds"],
    ),
    "an id that is used again": (
        lambda events: [event.update(step_id="r") for event in (events[SYNTHESIS], events[SYNTHESISED])],
        ["line 8: step_id r is used again, expected another"],
    ),
    "an end of a step that never began": (
        leave_out(SYNTHESIS),
        ["line 11: step s is completed, expected it running before"],
    ),
    "an end of a step that has ended": (
        put(SOURCES, recorded()[RETRIEVED]),
        ["line 7: step r is closed again, expected it closed once"],
    ),
    "a step that does not end": (
        leave_out(SYNTHESISED),
        ["line 13: step s (synthesis) is open, expected it closed before done"],
    ),
    "a step of one's own without a label": (
        put(SOURCES, {**OWN_STEP, "label": None}, {**OWN_STEP_FAILED, "label": None}),
        [
            f"line {line}: a table_lookup step has no label, expected one, as its type is no well-known one"
            for line in (7, 8)
        ],
    ),
    "a label that is not repeated": (
        put(SOURCES, OWN_STEP, {**OWN_STEP_FAILED, "label": "T"}),
        ["line 8: label of the closing event is T, expected Tables, as when the step began"],
    ),
    "a well-known step with a label": (
        lambda events: [event.update(label="Search") for event in (events[RETRIEVAL], events[RETRIEVED])],
        [
            f"line {line}: a retrieval step has a label, expected none, as its type is a well-known one"
            for line in (3, 6)
        ],
    ),
    "a summary that runs": (
        put(SUMMARY, {**recorded()[SUMMARY], "status": "running"}),
        [
            "line 13: the summary step is running, expected its closing event alone",
            "line 14: step follows the summary step, expected the end",
        ],
    ),
    "no summary": (
        leave_out(SUMMARY),
        ["line 13: done follows step, expected it right behind the summary step"],
    ),
    "a token behind the summary": (
        move(LAST_TOKEN, SUMMARY),
        [
            "line 13: token follows the summary step, expected the end",
            "line 14: done follows token, expected it right behind the summary step",
        ],
    ),
    "the end of another answer": (
        change(DONE, message_id="another"),
        ["line 14: message_id is another, expected answer, as start says"],
    ),
    "no end": (
        leave_out(DONE),
        ["line 13: the stream ends without done or error, expected one of them"],
    ),
    "an end with the number of what came before": (
        end_with({**FAILED, "seq": 12}),
        ["line 14: seq is 12, expected 13"],
    ),
    "an end behind the end": (
        lambda events: events.append({**FAILED, "seq": 14}),
        ["line 15: error follows done, expected nothing"],
    ),
    "a heartbeat behind the end": (
        lambda events: events.append({"type": "heartbeat"}),
        ["line 15: heartbeat follows done, expected nothing"],
    ),
    "an error with two texts": (
        end_with({**FAILED, "error": "another"}),
        ["line 14: error is another text than message, expected the same"],
    ),
    "an error without a seq": (
        end_with({name: value for name, value in FAILED.items() if name != "seq"}),
        ["line 14: seq is missing, expected 13"],
    ),
    "a cut that does not say whether it may be resumed": (
        end_with({name: value for name, value in CUT.items() if name != "retryable"}),
        ["line 14: error without a seq has no retryable, expected one"],
    ),
    "a cut that tells another place": (
        end_with({**CUT, "resume_after": 13}),
        ["line 14: resume_after is 13, expected 12, the last seq"],
    ),
    "a cut with two texts": (
        end_with({**CUT, "error": "another"}),
        ["line 14: error is another text than message, expected the same"],
    ),
    "a citation beyond the text": (
        put(SUMMARY, {**CITATION, "end": 23}),
        ["line 13: the citation is from 4 to 23, expected a span within 0 to 22"],
    ),
    "a conversation that is judged before its end": (
        put(TOKEN, CONVERSATION),
        [f"line {line}: a token follows conversation, expected it behind the last one" for line in (10, 12)],
    ),
    "a citation of nothing": (
        put(SUMMARY, {**CITATION, "end": 4}),
        ["line 13: the citation is from 4 to 4, expected a span within 0 to 22"],
    ),
    "a citation without its mark": (
        put(SUMMARY, {**CITATION, "end": 12}),
        ["line 13: the citation's span has no [1], expected the claim with its mark"],
    ),
    "a citation of what was not given": (
        put(SUMMARY, {**CITATION, "source_id": "2"}),
        ["line 13: the citation is of source 2, expected one that sources told"],
    ),
    "a quote that the source does not say": (
        put(SUMMARY, {**CITATION, "quote": "Rotes Meer."}),
        ["line 13: quote of the citation is another text, expected the characters 21 to 35 of source 1"],
    ),
}


@pytest.mark.parametrize(("spoil", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_stream_that_breaks_a_rule_is_told_where_and_how(spoil: Spoil, expected: list[str]) -> None:
    events = recorded()
    spoil(events)

    assert problems(as_ndjson(events)) == expected


@pytest.mark.parametrize("length", range(1, 14))
def test_an_answer_may_fail_at_any_time(length: int) -> None:
    events = recorded()[:length]
    seq = sum("seq" in event for event in events) + 1

    assert problems(as_ndjson([*events, {**FAILED, "seq": seq}])) == []


def test_a_stopped_answer_needs_neither_the_ends_of_its_steps_nor_the_summary() -> None:
    events = recorded()
    leave_out(SYNTHESISED, SUMMARY)(events)
    events[-1]["status"] = "stopped"

    assert problems(as_ndjson(events)) == []


@pytest.mark.parametrize(
    "spoil",
    [
        put(SOURCES, OWN_STEP, OWN_STEP_FAILED),
        put(SUMMARY, CITATION),
        put(SUMMARY, CONVERSATION),
        put(SOURCES, {"type": "of_a_newer_version", "anything": 1}),
        change(TOKEN, newer=True),
        end_with(CUT),
    ],
    ids=["a step of one's own", "a citation", "a conversation", "an event", "a field", "a cut"],
)
def test_what_the_protocol_leaves_open_is_no_problem(spoil: Spoil) -> None:
    events = recorded()
    spoil(events)

    assert problems(as_ndjson(events)) == []


@pytest.mark.parametrize("body", [as_ndjson(recorded()), as_sse(recorded())], ids=["ndjson", "sse"])
def test_a_good_stream_has_no_problems_and_is_counted(body: bytes) -> None:
    report = check(body)

    assert report.problems == []
    assert report.counts == {
        "start": 1,
        "status": 1,
        "step": 7,
        "sources": 1,
        "token": 2,
        "heartbeat": 1,
        "done": 1,
    }


def test_the_types_of_steps_that_need_no_label_are_those_that_are_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
    section = page.split("\n## The contract as a file\n")[1]
    listed = section[section.index("must be of a type of this list") :]

    assert set(re.findall(r"`(\w+)`", listed)) == WELL_KNOWN_STEPS
