"""The checker of streams, of what is no event: bytes, lines and frames."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conformance import Form, check
from app.errors import InvalidInput
from tests.recorded_stream import CUT, DONE, Events, as_ndjson, as_sse, problems, recorded

NDJSON_FORM: dict[str, tuple[bytes, bytes, list[str]]] = {
    "a line without an end": (
        b'"total_tokens":13}}\n',
        b'"total_tokens":13}}',
        ["line 14: the last line has no end, expected \\n"],
    ),
    "the ends of lines of another system": (
        b"\n",
        b"\r\n",
        ["line 1: the line ends with \\r\\n, expected \\n"],
    ),
    "a comma too much": (
        b'"Ins Schwarze"}',
        b'"Ins Schwarze",}',
        ["line 9: the line is no JSON, expected one JSON object a line", "line 11: seq is 10, expected 9"],
    ),
    "half of a surrogate pair": (
        b"Ins Schwarze",
        b"\\ud83d",
        ["line 9: the line is no JSON, expected one JSON object a line", "line 11: seq is 10, expected 9"],
    ),
    "no object": (
        b'{"type":"heartbeat"}',
        b"[]",
        ["line 10: the line is JSON, but no object, expected one JSON object a line"],
    ),
    "an empty line": (
        b'{"type":"heartbeat"}',
        b"",
        ["line 10: the line is no JSON, expected one JSON object a line"],
    ),
    "an object over several lines": (
        b'{"type":"heartbeat"}',
        b'{\n"type":\n"heartbeat"\n}',
        ["line 10: the line is no JSON, expected one JSON object a line"],
    ),
    "another encoding": (
        "mündet".encode(),
        "mündet".encode("latin-1"),
        ["line 7: the line is not in UTF-8, expected UTF-8", "line 8: seq is 8, expected 7"],
    ),
}


@pytest.mark.parametrize(("good", "bad", "expected"), NDJSON_FORM.values(), ids=NDJSON_FORM)
def test_a_line_that_is_not_one_object_is_told(good: bytes, bad: bytes, expected: list[str]) -> None:
    body = as_ndjson(recorded())
    assert good in body

    assert problems(body.replace(good, bad)) == expected


SSE_FORM: dict[str, tuple[bytes, bytes, list[str]]] = {
    "another id": (b"id: 9\n", b"id: 8\n", ["line 35: id is 8, expected 9, its seq"]),
    "no id": (b"id: 9\n", b"", ["line 34: id is missing, expected 9, its seq"]),
    "another event": (
        b'event: token\ndata: {"type":"token","seq":9',
        b'event: text\ndata: {"type":"token","seq":9',
        ["line 35: event is text, expected token, its type"],
    ),
    "another text": (
        b'"text":"Ins Schwarze"',
        b'"text":"Ins"',
        ["line 35: text of the token is another than its content, expected the same"],
    ),
    "no text": (
        b',"text":"Ins Schwarze"',
        b"",
        ["line 35: text of the token is another than its content, expected the same"],
    ),
    "data over several lines": (
        b'"content":"Ins Schwarze"',
        b'\ndata: "content":"Ins Schwarze"',
        ["line 33: the frame has 2 lines of data, expected one", "line 42: seq is 10, expected 9"],
    ),
    "a heartbeat as an event": (
        b": heartbeat\n\n",
        b'event: heartbeat\ndata: {"type":"heartbeat"}\n\n',
        ["line 38: the heartbeat is an event, expected a comment"],
    ),
    "a frame without an end": (
        b'"total_tokens":13}}\n\n',
        b'"total_tokens":13}}\n',
        [
            "line 51: the last frame has no end, expected an empty line",
            "line 53: the stream ends without done or error, expected one of them",
        ],
    ),
}


@pytest.mark.parametrize(("good", "bad", "expected"), SSE_FORM.values(), ids=SSE_FORM)
def test_a_frame_that_does_not_fit_its_event_is_told(good: bytes, bad: bytes, expected: list[str]) -> None:
    body = as_sse(recorded())
    assert good in body

    assert problems(body.replace(good, bad)) == expected


def test_the_cut_of_server_sent_events_has_no_id() -> None:
    before = as_sse(recorded()[:DONE])
    cut = b"event: error\ndata: " + json.dumps(CUT).encode() + b"\n\n"

    assert problems(before + cut) == []
    assert problems(before + b"id: 13\n" + cut) == ["line 53: id is 13, expected none"]


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"", "is empty"), (b"\x89PNG\r\n", "no recorded stream"), (b"[]\n", "no recorded stream")],
)
def test_what_is_no_stream_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        check(body)


_FIELDS = st.sampled_from(sorted({name for event in [*recorded(), CUT] for name in event}))
_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [value for event in recorded() for value in event.values()]
    + [None, True, -1, 0.5, 2**70, "", "running", "citation", [], [[]], {}, [{"id": "1"}]]
)


@given(st.binary(), st.sampled_from(["ndjson", "sse"]))
def test_whatever_was_recorded_is_told_and_never_raises(body: bytes, form: Form) -> None:
    assert problems(body, form=form)


@given(st.lists(st.dictionaries(_FIELDS, _VALUES, max_size=8), max_size=14), st.integers(0, 5))
def test_whatever_events_hold_is_told_and_never_raises(events: Events, after: int) -> None:
    for spoilt in (events, [good | bad for good, bad in zip(recorded(), events, strict=False)]):
        check(as_ndjson(spoilt), after=after, form="ndjson")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_json_without_bottom_is_told(opening: bytes, closing: bytes) -> None:
    deep = opening * 100_000 + b"1" + closing * 100_000

    assert problems(deep + b"\n", form="ndjson")
