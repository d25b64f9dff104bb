"""A recorded stream taken apart into its events, with what is wrong about their form."""

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

import msgspec

Form = Literal["ndjson", "sse"]

_BEGINS_A_FRAME = re.compile(rb"(id|event|data|retry)?:")


class Problem(NamedTuple):
    """`line` counts from 1 in what was recorded."""

    line: int
    what: str
    expected: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}, expected {self.expected}"


class Entry(NamedTuple):
    """One event or heartbeat, and the line with its JSON. The comments of server-sent events are heartbeats."""

    line: int
    event: dict[str, Any]


class _Field(NamedTuple):
    line: int
    name: bytes
    value: bytes


def form_of(body: bytes) -> Form | None:
    """What it begins like."""
    if body.startswith(b"{"):
        return "ndjson"
    return "sse" if _BEGINS_A_FRAME.match(body) else None


def entries(body: bytes, form: Form, *, prefix: bool) -> Iterator[Entry | Problem]:
    """In their order. Of a `prefix`, a last line or frame that is not whole is left out."""
    if b"\r\n" in body:
        line = body[: body.index(b"\r\n")].count(b"\n") + 1
        yield Problem(line, "the line ends with \\r\\n", "\\n")
        body = body.replace(b"\r\n", b"\n")
    yield from _ndjson(body, prefix=prefix) if form == "ndjson" else _sse(body, prefix=prefix)


def _ndjson(body: bytes, *, prefix: bool) -> Iterator[Entry | Problem]:
    *lines, rest = body.split(b"\n")
    if rest and not prefix:
        yield Problem(len(lines) + 1, "the last line has no end", "\\n")
        lines.append(rest)
    broken = False
    for number, line in enumerate(lines, 1):
        found = _entry(number, line)
        # An object that is printed over many lines is told once.
        if isinstance(found, Entry) or not broken:
            yield found
        broken = isinstance(found, Problem)


def _sse(body: bytes, *, prefix: bool) -> Iterator[Entry | Problem]:
    *lines, rest = body.split(b"\n")
    frame: list[_Field] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(b":"):
            yield Entry(number, {"type": "heartbeat"})
        elif line:
            name, _, value = line.partition(b":")
            frame.append(_Field(number, name, value.removeprefix(b" ")))
        elif frame:
            yield from _event_of(frame)
            frame = []
    if (frame or rest) and not prefix:
        yield Problem(
            frame[0].line if frame else len(lines) + 1, "the last frame has no end", "an empty line"
        )


def _event_of(frame: list[_Field]) -> Iterator[Entry | Problem]:
    data = [field for field in frame if field.name == b"data"]
    if len(data) != 1:
        yield Problem(frame[0].line, f"the frame has {len(data)} lines of data", "one")
        return
    entry = _entry(data[0].line, data[0].value)
    if isinstance(entry, Entry):
        yield from _mismatches(frame, entry)
    yield entry


def _mismatches(frame: list[_Field], entry: Entry) -> Iterator[Problem]:
    line, event = entry
    seq, kind = event.get("seq"), event.get("type")
    for name, same, value in ((b"id", "seq", seq), (b"event", "type", kind)):
        given = [field.value.decode(errors="replace") for field in frame if field.name == name]
        wanted = [] if value is None else [str(value)]
        if given != wanted:
            shown = " and ".join(given) or "missing"
            yield Problem(line, f"{name.decode()} is {shown}", f"{value}, its {same}" if wanted else "none")
    if kind == "token" and event.get("text") != event.get("content"):
        yield Problem(line, "text of the token is another than its content", "the same")
    if kind == "heartbeat":
        yield Problem(line, "the heartbeat is an event", "a comment")


def _entry(number: int, line: bytes) -> Entry | Problem:
    try:
        value = msgspec.json.decode(line.decode())
    except UnicodeDecodeError:
        return Problem(number, "the line is not in UTF-8", "UTF-8")
    except (msgspec.DecodeError, RecursionError):
        return Problem(number, "the line is no JSON", "one JSON object a line")
    if not isinstance(value, dict):
        return Problem(number, "the line is JSON, but no object", "one JSON object a line")
    return Entry(number, cast("dict[str, Any]", value))
