import json

from app.events import Done, Error, Event, Step, Tokens, TokenUsage, sse_frame


def test_each_line_is_one_json_object_with_its_type_and_number_first():
    step = Step(step_type="retrieval", status="running", step_id="1", parent_id=None)
    (line,) = step.lines(7)
    assert (
        line
        == b'{"type":"step","seq":7,"step_type":"retrieval","status":"running","step_id":"1","parent_id":null}\n'
    )


def test_pieces_that_came_together_are_a_line_each():
    lines = Tokens(contents=["a", " \n", "é😀"]).lines(3)
    assert [json.loads(line) for line in lines] == [
        {"type": "token", "seq": 3, "content": "a"},
        {"type": "token", "seq": 4, "content": " \n"},
        {"type": "token", "seq": 5, "content": "é😀"},
    ]
    assert all(line.count(b"\n") == 1 for line in lines)


def test_a_server_sent_event_carries_the_same_json_and_a_token_under_both_names():
    (line,) = Tokens(contents=['say "text":"x"} \n']).lines(3)
    head, data, end = sse_frame(line, 3).split(b"data: ")[0], sse_frame(line, 3).split(b"data: ")[1], b"\n\n"
    assert head == b"id: 3\nevent: token\n"
    assert data.endswith(end)
    said = 'say "text":"x"} \n'
    assert json.loads(data) == {"type": "token", "seq": 3, "content": said, "text": said}


def test_a_server_sent_event_of_another_type_is_its_line_unchanged():
    event = Error(code="interrupted", message="m", error="m", retryable=True)
    (line,) = event.lines(9)
    assert sse_frame(line, 9) == b"id: 9\nevent: error\ndata: " + line + b"\n"


def test_only_the_end_of_a_stream_is_terminal():
    terminal = {kind.type_name for kind in Event.__subclasses__() if kind.terminal}
    assert terminal == {Done.type_name, Error.type_name}


def test_usage_says_when_it_is_an_estimate():
    usage = TokenUsage(input_tokens=1, output_tokens=2, total_tokens=3)
    (line,) = Done(status="completed", message_id="m", finish_reason="stop", usage=usage).lines(1)
    assert json.loads(line)["usage"] == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
