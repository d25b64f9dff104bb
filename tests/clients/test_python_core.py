"""The Python client without its connections: what it makes of the bytes that come, wherever they are cut."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet_client import Disconnected, Event, RequestRefused, Retry, Token
from freshet_client.calls import Calling
from freshet_client.events import Unknown
from freshet_client.following import Broken, Following
from freshet_client.lines import LineSplitter
from freshet_client.records import ModelOfAnswer, Source, TokenUsage
from freshet_client.requests import Request, ask
from freshet_client.retry import Patience

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "events.schema.json").read_text())

START: dict[str, Any] = {
    "type": "start",
    "seq": 1,
    "run_id": "the run",
    "session_id": "the session",
    "message_id": "m",
    "user_message_id": "u",
    "protocol": 1,
    "model": {"name": "n", "provider": "p"},
}
HEAD = {"x-session-id": "the session", "x-run-id": "the run"}
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


def token(seq: int, content: str = "x") -> dict[str, Any]:
    return {"type": "token", "seq": seq, "content": content}


def done(seq: int) -> dict[str, Any]:
    return {
        "type": "done",
        "seq": seq,
        "status": "completed",
        "message_id": "m",
        "finish_reason": "stop",
        "usage": USAGE,
    }


def interrupted(seq: int) -> dict[str, Any]:
    return {
        "type": "error",
        "seq": seq,
        "code": "interrupted",
        "message": "m",
        "error": "m",
        "retryable": True,
    }


def in_lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


@dataclass
class Clock:
    now: float = 0

    def __call__(self) -> float:
        return self.now


def asking(retry: Retry | None = None, clock: Clock | None = None) -> Following:
    question = ask("Hello?", {"assistant_id": "a"})
    return Following(Patience(retry or Retry(), clock or Clock()), question=question)


def opened(following: Following) -> Following:
    following.next_request()
    following.opened(HEAD)
    return following


def repeat(act: Callable[[], None], times: int) -> None:
    for _ in range(times):
        act()


def seqs(following: Following, *events: dict[str, Any]) -> list[int]:
    return [event.seq for event in following.received(in_lines(*events))]


@settings(deadline=None)
@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.data())
def test_lines_come_out_whole_wherever_their_bytes_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(line + b"\n" for line in lines) + b"half a line"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)))))
    splitter = LineSplitter()

    got = [
        line
        for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)
        for line in splitter.feed(sent[begin:end])
    ]

    assert got == lines


def test_lines_come_out_whole_if_each_byte_comes_alone() -> None:
    sent = in_lines(START, token(2, "Grüße \u2028 日本"), done(3))
    splitter = LineSplitter()

    got = [line for byte in sent for line in splitter.feed(bytes([byte]))]

    assert b"".join(line + b"\n" for line in got) == sent


@dataclass
class Connections:
    """A server and the net before it: each connection ends in a way that is drawn, until as many have ended as were to."""

    answer: list[dict[str, Any]]
    draw: st.DataObject
    to_cut: int
    asked: dict[str, int] = field(default_factory=dict[str, int])

    def serve(self, following: Following) -> Iterator[Event]:
        while not following.ended:
            request = following.next_request()
            cuts = self.to_cut > 0
            self.to_cut -= 1
            if cuts and self.draw.draw(st.booleans()):
                # It may have arrived, and only its answer been lost.
                self._take(request)
                following.broke()
                continue
            if cuts and self.draw.draw(st.booleans()):
                following.refused(503, {"retry-after": "1"}, b"<html>a proxy's</html>")
                continue
            following.opened(HEAD)
            sent = in_lines(*self._take(request))
            if cuts:
                sent = sent[: self.draw.draw(st.integers(0, len(sent)))]
            middle = self.draw.draw(st.integers(0, len(sent)))
            for data in (sent[:middle], sent[middle:]):
                yield from following.received(data)
            if not following.ended:
                following.broke()

    def _take(self, request: Request) -> Iterator[dict[str, Any]]:
        if request.method == "POST":
            key = request.headers["Idempotency-Key"]
            self.asked[key] = self.asked.get(key, 0) + 1
            after = 0
        else:
            assert request.path == "/chat/the%20session/stream"
            assert request.query["run_id"] == "the run"
            after = int(request.query["after"])
        for event in self.answer[after:]:
            yield {"type": "heartbeat"}
            yield event


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), max_size=8), st.integers(0, 12), st.data())
def test_every_event_comes_once_and_in_order_however_the_connections_end(
    texts: list[str], to_cut: int, data: st.DataObject
) -> None:
    answer = [START, *(token(seq, text) for seq, text in enumerate(texts, 2)), done(len(texts) + 2)]
    connections = Connections(answer, data, to_cut)
    following = asking(Retry(give_up_after_s=math.inf))

    got = list(connections.serve(following))

    assert [event.seq for event in got] == list(range(1, len(answer) + 1))
    assert "".join(event.content for event in got if isinstance(event, Token)) == "".join(texts)
    assert [event.type for event in got].count("done") == 1
    assert len(connections.asked) == 1


def test_an_answer_whose_head_came_is_resumed_and_not_asked_for_again() -> None:
    following = opened(asking())
    following.broke()

    request = following.next_request()

    assert (request.method, request.path) == ("GET", "/chat/the%20session/stream")
    assert request.query == {"run_id": "the run", "after": 0}


def test_a_session_that_is_resumed_stays_with_the_run_that_it_began_with() -> None:
    following = Following(Patience(Retry(), Clock()), session_id="the session", after=1)
    assert following.next_request().query == {"after": 1}
    following.opened(HEAD)
    assert seqs(following, token(2)) == [2]
    following.broke()

    assert following.next_request().query == {"run_id": "the run", "after": 2}


def test_there_may_be_nothing_to_resume() -> None:
    following = Following(Patience(Retry(), Clock()), session_id="the session", after=7)
    following.next_request()

    following.refused(204, {}, b"")

    assert following.ended


@pytest.mark.parametrize("seq", [2, 3])
def test_a_last_event_ends_the_answer_though_its_place_has_been_taken(seq: int) -> None:
    following = opened(asking())
    assert seqs(following, START, token(2), token(3)) == [1, 2, 3]
    following.broke()

    assert seqs(opened(following), interrupted(seq)) == [seq]
    assert following.ended


def test_an_answer_that_nobody_knows_any_more_is_no_answer_without_an_end() -> None:
    following = opened(asking())
    assert seqs(following, START) == [1]
    following.broke()

    with pytest.raises(Disconnected):
        following.refused(204, {}, b"")


def test_nothing_is_given_out_twice_nor_after_the_last_event() -> None:
    following = opened(asking())

    assert seqs(following, START, token(2), token(2), START, done(3), token(4), done(5)) == [1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"error","code":"shutting_down","message":"m","error":"m","retryable":true,"resume_after":2}',
        json.dumps(token(4)).encode(),
        b"<html>",
        b"[]",
        b'{"type":"token","seq":3}',
        b'{"seq":3}',
    ],
    ids=["cut", "gap", "markup", "list", "incomplete", "untyped"],
)
def test_a_line_that_is_not_the_next_of_the_answer_ends_the_connection_alone(line: bytes) -> None:
    following = opened(asking())
    assert seqs(following, START, token(2)) == [1, 2]

    with pytest.raises(Broken):
        list(following.received(line + b"\n"))

    following.broke()
    assert seqs(opened(following), token(3), done(4)) == [3, 4]


def test_events_that_are_not_known_are_handed_on_and_fields_that_are_not_known_left_out() -> None:
    following = opened(asking())

    first, unknown = following.received(
        in_lines({**START, "new": 1}, {"type": "of_a_newer_version", "seq": 2, "index": 1})
    )

    assert first.type == "start"
    assert unknown == Unknown(2, "of_a_newer_version", {"index": 1})


def test_it_gives_up_when_there_was_no_sign_of_life_for_too_long() -> None:
    clock = Clock()
    following = opened(asking(Retry(give_up_after_s=60), clock))
    assert seqs(following, START, token(2)) == [1, 2]
    following.broke()
    clock.now += 61

    with pytest.raises(Disconnected) as caught:
        following.broke("The line is dead.")

    assert str(caught.value) == "The line is dead."
    assert (caught.value.session_id, caught.value.run_id, caught.value.last_seq) == (
        "the session",
        "the run",
        2,
    )


@pytest.mark.parametrize("line", [{"type": "heartbeat"}, token(2)], ids=["heartbeat", "event"])
def test_a_sign_of_life_gives_it_the_whole_time_again(line: dict[str, Any]) -> None:
    clock = Clock()
    following = opened(asking(Retry(give_up_after_s=60), clock))
    seqs(following, START)
    following.broke()
    clock.now += 61
    seqs(opened(following), line)

    assert following.broke() < 1


def test_a_server_that_only_cuts_is_given_up() -> None:
    clock = Clock()
    following = opened(asking(Retry(give_up_after_s=60), clock))
    seqs(following, START)
    cut = {"type": "error", "code": "reader_too_slow", "message": "m", "error": "m", "resume_after": 1}

    def cut_off() -> None:
        with pytest.raises(Broken):
            seqs(opened(following), cut)
        clock.now += following.broke()

    with pytest.raises(Disconnected):
        repeat(cut_off, 100)


def test_the_pauses_double_up_to_a_limit_less_up_to_a_half_by_chance() -> None:
    patience = Patience(Retry(give_up_after_s=math.inf, first_delay_s=1, longest_delay_s=4), Clock())

    for longest in (1, 2, 4, 4):
        pause_s = patience.pause_s()
        assert pause_s is not None
        assert longest / 2 <= pause_s <= longest
    assert Patience(Retry(math.inf), Clock()).pause_s() != Patience(Retry(math.inf), Clock()).pause_s()


def test_a_server_that_says_when_to_come_again_is_not_asked_before() -> None:
    assert 7 < asking().refused(503, {"retry-after": "7"}, b"") < 8
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 20 < asking().refused(503, {"retry-after": later}, b"") < 31
    assert asking().refused(503, {"retry-after": "soon"}, b"") < 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_passes_is_waited_for_until_it_takes_too_long(status: int) -> None:
    calling, following = Calling(Patience(Retry(), Clock())), asking()
    assert following.refused(status, {}, b"") < 1

    with pytest.raises(RequestRefused):
        following.refused(status, {"retry-after": "3600"}, b"")
    assert calling.broke(httpx.ConnectError("x")) < 1


@pytest.mark.parametrize("status", [301, 400, 401, 404, 409, 422, 429, 500])
def test_what_does_not_pass_is_raised_at_once_in_the_words_of_the_server(status: int) -> None:
    problem = {"type": "error", "code": "c", "message": "No.", "error": "No.", "detail": [1], "id": "i"}

    with pytest.raises(RequestRefused) as caught:
        asking().refused(status, {"retry-after": "1"}, json.dumps(problem).encode())

    refusal = caught.value
    assert (refusal.status, refusal.code, refusal.message, refusal.detail) == (status, "c", "No.", [1])


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a": 1}', b"\xff"])
def test_a_refusal_that_is_not_the_servers_own_has_no_code(body: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        asking().refused(404, {}, body)

    assert caught.value.code is None


def test_the_types_of_events_have_the_fields_of_the_schema_and_require_the_same() -> None:
    kinds: list[type[Any]] = [*get_args(Event), ModelOfAnswer, Source, TokenUsage]
    kinds.remove(Unknown)
    ours = {
        kind.__name__: {
            each.name: each.default is MISSING and each.default_factory is MISSING for each in fields(kind)
        }
        for kind in kinds
    }
    # The other names of the same text.
    doubles = {"Error": {"error"}, "Source": {"content"}, "Token": {"text"}}
    theirs = {
        name: {
            field: field in kind["required"]
            for field, schema in kind["properties"].items()
            if field not in doubles.get(name, set()) and "const" not in schema
        }
        for name, kind in SCHEMA["$defs"].items()
        if name not in {"Cut", "Heartbeat"}
    }

    assert ours == theirs
