"""The contract as a file: up to date, a schema, and true of what the server sends."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from app.errors import ModelIncomplete
from app.event_schema import event_schema
from app.events import Event
from tests.conftest import RunningServer
from tests.recorded_stream import CUT, as_sse, recorded
from tests.scripted_model import Act, ScriptedModel, says

FILE = Path(__file__).parents[1] / "docs" / "events.schema.json"
VALIDATOR: Any = Draft202012Validator(json.loads(event_schema()))


def _misfits(event: dict[str, Any]) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(event)]


def test_the_file_is_what_the_types_say() -> None:
    assert FILE.read_bytes() == event_schema(), (
        f"Renew it: .venv/bin/python -m app.event_schema > docs/{FILE.name}"
    )


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json.loads(event_schema()))


async def test_it_is_served_as_it_is_kept(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/chat/events.schema.json")

    assert response.headers["content-type"] == "application/schema+json"
    assert response.content == FILE.read_bytes()


def test_it_holds_every_event() -> None:
    parts = json.loads(event_schema())["$defs"].values()
    types = {part["properties"]["type"].get("const") for part in parts if "type" in part["properties"]}

    assert {kind.type_name for kind in Event.__subclasses__()} | {"heartbeat"} <= types


@pytest.mark.parametrize("event", [*recorded(), CUT], ids=lambda event: event["type"])
def test_an_event_fits_also_with_fields_of_a_newer_version_and_not_without_its_own(
    event: dict[str, Any],
) -> None:
    assert _misfits(event) == []
    assert _misfits({**event, "newer": 1}) == []
    for field in event:
        optional = field in {"duration", "payload", "model"}
        left = {name: value for name, value in event.items() if name != field}
        assert bool(_misfits(left)) is not optional, field


@pytest.mark.parametrize(
    "event",
    [
        {"type": "token", "seq": 0, "content": "a"},
        {"type": "token", "seq": 1, "content": ""},
        {"type": "token", "seq": 1, "content": None},
        {"type": "token", "content": "a"},
        {"type": "another", "seq": 1},
        {},
    ],
)
def test_what_is_no_event_does_not_fit(event: dict[str, Any]) -> None:
    assert _misfits(event)


def test_types_of_steps_and_sources_may_be_new() -> None:
    step = {"type": "step", "seq": 1, "step_type": "table_lookup", "status": "running", "step_id": "t"}

    assert _misfits({**step, "parent_id": None, "label": "Tables"}) == []
    assert _misfits({**step, "parent_id": None, "status": "begun"})


def test_the_data_of_server_sent_events_fit() -> None:
    lines = as_sse(recorded()).decode().splitlines()

    assert [_misfits(json.loads(line[6:])) for line in lines if line.startswith("data: ")] == [[]] * 13


async def test_every_event_that_the_server_sends_fits(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
) -> None:
    await server.resources.knowledge.ingest_now(
        "waters", "waters.md", b"The Danube flows into the Black Sea."
    )
    await server.resources.assistants.create(name="Waters", collections=["waters"], similarity_cutoff=-1)
    body = {"assistant_id": "waters", "message": "Where does the Danube flow?"}
    scripts: list[list[Act]] = [
        says("Into", " the Black Sea. [1]"),
        [["Half an"], ModelIncomplete("It broke off.")],
    ]
    seen: set[str] = set()
    for script, accept in product(scripts, ("*/*", "text/event-stream")):
        model.script = lambda prompt, script=script: script
        response = await client.post("/api/v1/chat/stream", json=body, headers={"accept": accept})
        body["session_id"] = response.headers["x-session-id"]
        for line in re.findall(r"^(?:data: )?(\{.*)$", response.text, re.MULTILINE):
            event = json.loads(line)
            assert _misfits(event) == [], line
            seen.add(event["type"])

    assert seen == {"start", "step", "sources", "token", "citation", "done", "error"}
