"""The JSON Schema of what a stream holds, derived from the types of its events.

`python -m app.event_schema` writes it to standard output; docs/events.schema.json is kept equal to it by a test.
"""

import sys
from typing import Any

import msgspec

from app.events import Cut, Event, Tokens

_DESCRIPTION = """\
One event of a streamed answer: a line of NDJSON, or the data of a server-sent event. docs/protocol.md says in which order they \
come. Within protocol 1 types and fields are only added: ignore those that you do not know.\
"""
_SEQ: dict[str, Any] = {"description": "1, 2, 3 without a hole.", "type": "integer", "minimum": 1}
_PIECE = "A piece of the answer's text, as the model gave it."
_TEXT: dict[str, Any] = {
    "description": "The same as `content`; only in server-sent events.",
    "type": "string",
}
_HEARTBEAT: dict[str, Any] = {
    "title": "Heartbeat",
    "description": "The answer is still being made. As server-sent events it is a comment.",
    "type": "object",
    "properties": {"type": {"const": "heartbeat"}},
    "required": ["type"],
}
# Fields whose values only grow: what is known is given as examples, so that a newer server's events still fit.
_GROWING = (("Step", "step_type"), ("Source", "type"))


def event_schema() -> bytes:
    """The same bytes each time, indented, with a line feed at the end."""
    events = [kind for kind in Event.__subclasses__() if kind.__module__ == Event.__module__]
    _, parts = msgspec.json.schema_components([*events, Cut], ref_template="#/$defs/{name}")
    for struct, field in _GROWING:
        properties = parts[struct]["properties"]
        properties[field] = {"type": "string", "examples": properties[field]["enum"]}
    names = {kind: "Token" if kind is Tokens else kind.__name__ for kind in events}
    parts["Token"] = _token(parts.pop("Tokens"))
    for kind, name in names.items():
        parts[name] = _with(parts[name], type={"const": kind.type_name}, seq=_SEQ)
    # An error of the run has a seq, the end of a stream whose run goes on has none: so each line is one of the two.
    parts["Cut"] = {**_with(parts["Cut"], type={"const": "error"}), "not": {"required": ["seq"]}}
    parts["Heartbeat"] = _HEARTBEAT
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "description": _DESCRIPTION,
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in (*names.values(), "Cut", "Heartbeat")],
        "$defs": {name: parts[name] for name in sorted(parts)},
    }
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _token(tokens: dict[str, Any]) -> dict[str, Any]:
    """A line of each of the pieces."""
    content = tokens["properties"]["contents"]["items"]
    properties = {"content": {**content, "minLength": 1}, "text": _TEXT}
    named = {"title": "Token", "description": _PIECE}
    return {**tokens, **named, "properties": properties, "required": ["content"]}


def _with(part: dict[str, Any], **head: dict[str, Any]) -> dict[str, Any]:
    """With fields that stand before its own."""
    return {**part, "properties": head | part["properties"], "required": [*head, *part["required"]]}


if __name__ == "__main__":
    sys.stdout.buffer.write(event_schema())
