"""A stream of a good answer as it was recorded, in both forms, to be spoiled by tests."""

import json
from typing import Any

from app.conformance import check
from app.events import sse_frame

Events = list[dict[str, Any]]

_RECORDED = """\
{"type":"start","seq":1,"run_id":"run","session_id":"session","message_id":"answer","user_message_id":"question","protocol":1,"model":{"name":"scripted","provider":"tests"}}
{"type":"status","seq":2,"message":"An answer before this one is still being made."}
{"type":"step","seq":3,"step_type":"retrieval","status":"running","step_id":"r","parent_id":null}
{"type":"step","seq":4,"step_type":"vectorization","status":"running","step_id":"v","parent_id":"r"}
{"type":"step","seq":5,"step_type":"vectorization","status":"completed","step_id":"v","parent_id":"r","duration":0.0004,"payload":{"model_name":"words"}}
{"type":"step","seq":6,"step_type":"retrieval","status":"completed","step_id":"r","parent_id":null,"duration":0.0061,"payload":{"source_count":1}}
{"type":"sources","seq":7,"data":[{"id":"1","text":"Die Donau mündet ins Schwarze Meer.","score":0.7303,"name":"waters.md","type":"txt","content":"Die Donau mündet ins Schwarze Meer.","metadata":{"file_name":"waters.md","start":0,"end":35}}]}
{"type":"step","seq":8,"step_type":"synthesis","status":"running","step_id":"s","parent_id":null}
{"type":"token","seq":9,"content":"Ins Schwarze"}
{"type":"heartbeat"}
{"type":"token","seq":10,"content":" Meer.\\n[1]"}
{"type":"step","seq":11,"step_type":"synthesis","status":"completed","step_id":"s","parent_id":null,"duration":1.0021,"payload":{"model_name":"scripted","model_provider":"tests","tokens":{"input":11,"output":2}}}
{"type":"step","seq":12,"step_type":"completed","status":"completed","step_id":"c","parent_id":null,"duration":1.012,"payload":{"tokens":{"input":11,"output":2}}}
{"type":"done","seq":13,"status":"completed","message_id":"answer","finish_reason":"stop","usage":{"input_tokens":11,"output_tokens":2,"total_tokens":13}}
"""

# The places of its events; from the heartbeat on, they are their seq as well.
START, STATUS, RETRIEVAL, VECTORIZATION, VECTORIZED, RETRIEVED, SOURCES, SYNTHESIS, TOKEN = range(9)
HEARTBEAT, LAST_TOKEN, SYNTHESISED, SUMMARY, DONE = range(9, 14)

FAILED = {"type": "error", "seq": 13, "code": "c", "message": "m", "error": "m", "retryable": True}
CUT = {"type": "error", "code": "c", "message": "m", "error": "m", "retryable": True, "resume_after": 12}


def recorded() -> Events:
    """To be changed at will."""
    return [json.loads(line) for line in _RECORDED.splitlines()]


def problems(body: bytes, **options: Any) -> list[str]:
    return [str(problem) for problem in check(body, **options).problems]


def as_ndjson(events: Events) -> bytes:
    return b"".join(_line(event) for event in events)


def as_sse(events: Events) -> bytes:
    return b"".join(
        b": heartbeat\n\n" if event["type"] == "heartbeat" else sse_frame(_line(event), event["seq"])
        for event in events
    )


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
