"""A run's log as the events of a response, where the reader has more of it than there is."""

import json
from typing import Any
from uuid import uuid4

from app.api.openai.response_events import ResponseEvents
from app.errors import FreshetError, Interrupted, ModelIncomplete, ReaderTooSlow
from app.events import Done, Event, Start, Tokens, TokenUsage, failure
from app.runs.log import Lines

START = Start(run_id="r", session_id="s", message_id="m", user_message_id="u", protocol=1)
DONE = Done(
    status="completed",
    message_id="m",
    finish_reason="stop",
    usage=TokenUsage(input_tokens=1, output_tokens=2, total_tokens=3),
)


def events(starting_after: int, *said: Event) -> list[tuple[int, str]]:
    """The numbers and types of those that are written."""
    wire = ResponseEvents(uuid4(), {"status": "in_progress"}, starting_after=starting_after)
    lines: list[bytes] = []
    for event in (START, *said):
        lines += event.lines(len(lines) + 1)
    return told(wire.write(Lines(1, lines)))


def told(body: bytes) -> list[tuple[int, str]]:
    frames = [json.loads(frame.split("\ndata: ")[1]) for frame in body.decode().split("\n\n") if frame]
    return [(frame["sequence_number"], frame["type"]) for frame in frames]


def failed(error: FreshetError) -> Event:
    return failure(error)


def test_a_reader_who_is_ahead_of_what_was_stored_is_told_the_end_behind_what_he_has() -> None:
    said = (Tokens(contents=["a", "b"]), failed(Interrupted()))
    assert events(3, *said)[-1] == (6, "response.failed")
    assert events(6, *said) == [(7, "response.failed")]
    assert events(50, *said) == [(51, "response.failed")]


def test_a_reader_who_has_all_is_told_nothing() -> None:
    said = (Tokens(contents=["a"]), DONE)
    last = events(-1, *said)[-1]
    assert last == (8, "response.completed")
    assert events(7, *said) == [last]
    assert events(8, *said) == []
    assert events(5, failed(ModelIncomplete("It broke off."))) == [(6, "response.failed")]


def test_an_answer_without_a_text_has_no_output() -> None:
    assert [kind for _, kind in events(-1, DONE)] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]


def test_the_end_of_a_stream_whose_answer_goes_on_has_the_number_behind_which_it_is_taken_up() -> None:
    wire = ResponseEvents(uuid4(), {})
    written: Any = told(wire.write(Lines(1, START.lines(1))) + wire.cut(ReaderTooSlow(), 1))
    assert written == [(0, "response.created"), (1, "response.in_progress"), (1, "error")]
