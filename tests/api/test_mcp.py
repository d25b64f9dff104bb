"""`/mcp` through the protocol's own client, in the version that has a handshake and in the one that has none."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ResourceLink, TextContent, TextResourceContents

from app.errors import ModelIncomplete
from app.llm.protocols import Prompt
from app.services.accounts import AccountService
from app.settings import Settings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, RunningServer, Serve
from tests.scripted_model import Act, ScriptedModel, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n\nLake Constance lies in three countries.\n"
QUESTION = {"question": "Where does the Danube flow?", "assistant": "waters"}


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def document_id(server: RunningServer) -> str:
    """Of what the public assistant `waters` answers from; `private` answers nobody without a key."""
    document = await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    assistants = server.resources.assistants
    await assistants.create(name="Waters", collections=["waters"], similarity_cutoff=0)
    await assistants.create(
        name="Private", collections=["waters"], similarity_cutoff=0, user_authentication=True
    )
    return str(document.id)


@pytest.fixture
async def key(accounts: AccountService) -> str:
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    return (await accounts.create_api_key(user.id, "tests"))[1]


@pytest.fixture
async def admin_token(accounts: AccountService) -> str:
    await accounts.create_user(ADMIN_EMAIL, ADMIN_PASSWORD, "admin")
    return (await accounts.login(ADMIN_EMAIL, ADMIN_PASSWORD, "127.0.0.1")).access_token


@asynccontextmanager
async def connected(server: RunningServer, mode: Any, bearer: str | None = None) -> AsyncGenerator[Client]:
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    with anyio.fail_after(30):
        async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
            transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
            async with Client(transport, mode=mode, cache=None) as client:
                yield client


def text_of(result: CallToolResult) -> str:
    (first, *_) = result.content
    assert isinstance(first, TextContent)
    return first.text


async def test_the_tools_and_the_assistants_behind_them_are_listed(
    server: RunningServer, document_id: str, mode: Any
):
    async with connected(server, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        (template,) = (await client.list_resource_templates()).resource_templates
    assert set(tools) == {"ask", "search"}
    assert "waters (Waters)" in (tools["ask"].description or "")
    assert set(tools["ask"].input_schema["required"]) == {"question", "assistant"}
    assert template.uri_template.startswith("freshet://documents/{document_id}")


async def test_an_answer_has_its_sources_and_the_conversation_goes_on(
    server: RunningServer, document_id: str, model: ScriptedModel, mode: Any
):
    model.script = lambda prompt: says("The Danube flows into", " the Black Sea [1].")
    told: list[tuple[float, str | None]] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async with connected(server, mode) as client:
        result = await client.call_tool("ask", QUESTION, progress_callback=progressed)
        answer = result.structured_content
        assert text_of(result) == answer["text"] == "The Danube flows into the Black Sea [1]."
        (citation,) = answer["citations"]
        assert (citation["source_id"], citation["verified"]) == (answer["sources"][0]["id"], True)
        link = next(block for block in result.content if isinstance(block, ResourceLink))
        assert link.uri == f"freshet://documents/{document_id}?session_id={answer['session_id']}"
        again = {**QUESTION, "question": "And the lake?", "session_id": answer["session_id"]}
        await client.call_tool("ask", again)
    assert "Where does the Danube flow?" in [message.content for message in model.prompts[-1].messages]
    assert [progress for progress, _ in told] == sorted({progress for progress, _ in told})
    assert "synthesis" in [message for _, message in told]


async def test_what_is_found_is_given_to_whom_it_may_be_given(
    server: RunningServer, document_id: str, admin_token: str
):
    within = {"query": "the Danube", "collections": ["waters"]}
    async with connected(server, "auto") as client:
        found = await client.call_tool("search", {"query": "the Danube", "assistant": "waters", "limit": 1})
        (hit,) = found.structured_content["items"]
        assert (hit["document_id"], hit["words_rank"]) == (document_id, 1)
        assert text_of(found).startswith("[1] Waters, Waters\n# Waters")
        refused = await client.call_tool("search", within)
        assert (refused.is_error, refused.meta) == (True, {**(refused.meta or {}), "code": "unauthenticated"})
    async with connected(server, "auto", admin_token) as client:
        assert (await client.call_tool("search", within)).structured_content == found.structured_content
        nothing = {"query": "xyzzy", "assistant": "waters", "limit": 50}
        assert not (await client.call_tool("search", nothing)).is_error


async def test_documents_are_read_by_administrators_and_by_whom_an_answer_was_given_them(
    server: RunningServer, document_id: str, admin_token: str, key: str
):
    uri = f"freshet://documents/{document_id}"
    async with connected(server, "auto") as client:
        assert (await client.list_resources()).resources == []
        asked = await client.call_tool("ask", QUESTION)
        link = next(block for block in asked.content if isinstance(block, ResourceLink))
        (contents,) = (await client.read_resource(link.uri)).contents
        assert isinstance(contents, TextResourceContents)
        assert contents.text.startswith("# Waters")
        for unread in (
            uri,
            f"{uri}?session_id=00000000-0000-4000-8000-000000000000",
            f"{uri}?start=-1",
            f"{uri}/x",
            "freshet://documents/x",
            "file:///etc/passwd",
            "x" * 10_000,
        ):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(unread)
            assert refused.value.code in {-32602, -32603}
            assert refused.value.data["code"] in {"not_found", "unauthenticated"}
    async with connected(server, "auto", key) as client:
        assert (await client.list_resources()).resources == []
        with pytest.raises(MCPError):
            await client.read_resource(uri)
    async with connected(server, "auto", admin_token) as client:
        page = await client.list_resources()
        assert [(one.uri, one.name) for one in page.resources] == [(uri, "waters.md")]
        assert (await client.list_resources(cursor="1")).resources == []
        with pytest.raises(MCPError):
            await client.list_resources(cursor="the next")
        (part,) = (await client.read_resource(f"{uri}?start=2&end=8")).contents
        assert isinstance(part, TextResourceContents)
        assert (part.text, part.meta) == ("Waters", {"start": 2, "end": 8, "length": len(WATERS)})


async def test_a_call_that_cannot_be_meant_has_a_result_that_says_so_and_ends_nothing(
    server: RunningServer, document_id: str, model: ScriptedModel, mode: Any
):
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("forget", {}, "not_found"),
        ("ask", {}, "invalid_input"),
        ("ask", {**QUESTION, "question": " "}, "invalid_input"),
        ("ask", {**QUESTION, "question": 1}, "invalid_input"),
        ("ask", {**QUESTION, "question": "x" * 50_001}, "invalid_input"),
        ("ask", {**QUESTION, "question": "x" * 2**20}, "invalid_input"),
        ("ask", {**QUESTION, "question": "a\x00b"}, "invalid_input"),
        ("ask", {**QUESTION, "temperature": 1}, "invalid_input"),
        ("ask", {**QUESTION, "session_id": "guess"}, "invalid_input"),
        ("ask", {**QUESTION, "assistant": "nobody"}, "not_found"),
        ("ask", {**QUESTION, "assistant": "private"}, "unauthenticated"),
        ("search", {"query": "x"}, "invalid_input"),
        ("search", {"query": "x", "assistant": "waters", "collections": ["waters"]}, "invalid_input"),
        ("search", {"query": "x", "assistant": "waters", "limit": 51}, "invalid_input"),
        ("search", {"query": "x", "assistant": "private"}, "unauthenticated"),
    ]
    async with connected(server, mode) as client:
        for tool, arguments, code in wrong:
            result = await client.call_tool(tool, arguments)
            assert result.is_error, (tool, arguments)
            assert (result.meta or {})["code"] == code, text_of(result)
            assert len(text_of(result)) < 300
        model.script = lambda prompt: [["The"], ModelIncomplete("It broke off.")]
        failed = await client.call_tool("ask", QUESTION)
        assert (failed.is_error, text_of(failed)) == (True, "It broke off.")
        model.script = lambda prompt: says("Here.")
        assert text_of(await client.call_tool("ask", QUESTION)) == "Here."


async def test_a_key_counts_until_it_is_revoked(
    server: RunningServer, document_id: str, accounts: AccountService, mode: Any
):
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    record, key = await accounts.create_api_key(user.id, "tests")
    private = {**QUESTION, "assistant": "private"}
    async with connected(server, mode, key) as client:
        assert not (await client.call_tool("ask", private)).is_error
        await accounts.revoke_api_key(await accounts.authenticate(key), record.id)
        refused = await client.call_tool("ask", private)
        assert (refused.is_error, (refused.meta or {})["code"]) == (True, "unauthenticated")
        assert not (await client.call_tool("ask", QUESTION)).is_error


async def test_two_clients_are_answered_at_once(
    server: RunningServer, document_id: str, model: ScriptedModel
):
    both = anyio.Event()

    def script(prompt: Prompt) -> list[Act]:
        if len(model.prompts) == 2:
            both.set()
        return [both, *says(f"To {prompt.question}")]

    model.script = script
    answers: list[str] = []

    async def ask(mode: Any, question: str) -> None:
        async with connected(server, mode) as client:
            answers.append(text_of(await client.call_tool("ask", {**QUESTION, "question": question})))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "legacy", "Who goes first, the river?")
        tasks.start_soon(ask, "auto", "Who goes first, the lake?")
    assert sorted(answers) == ["To Who goes first, the lake?", "To Who goes first, the river?"]


async def test_who_leaves_does_not_end_the_answer(
    server: RunningServer, document_id: str, model: ScriptedModel, client: httpx.AsyncClient, mode: Any
):
    gate = anyio.Event()
    model.script = lambda prompt: [["The "], gate, *says("Danube")]
    session_id = "00000000-0000-4000-8000-000000000000"
    async with connected(server, mode) as asking, anyio.create_task_group() as tasks:
        tasks.start_soon(asking.call_tool, "ask", {**QUESTION, "session_id": session_id})
        await model.asked.wait()
        tasks.cancel_scope.cancel()
    gate.set()
    with anyio.fail_after(10):
        resumed = await client.get(f"/api/v1/chat/{session_id}/stream")
    assert json.loads(resumed.text.splitlines()[-1])["status"] == "completed"


async def test_a_server_that_stops_answers_what_it_was_asked(
    serve: Serve, settings: Settings, model: ScriptedModel, mode: Any
):
    gate = anyio.Event()
    model.script = lambda prompt: [["The "], gate, *says("Danube")]
    answers: list[str] = []

    async def ask() -> None:
        async with connected(server, mode) as client:
            # Or else it would ask for them afterwards, to compare the result with what was promised.
            await client.list_tools()
            answers.append(text_of(await client.call_tool("ask", {**QUESTION, "assistant": "any"})))

    async with serve(settings) as server:
        await server.resources.assistants.create(name="Any")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await model.asked.wait()
            server.stop()
            while not server.resources.runner.draining:
                await anyio.lowlevel.checkpoint()
            # By then whoever looks for it twice a second has seen that the server is to exit.
            await anyio.sleep(0.6)
            gate.set()
    assert answers == ["The Danube"]


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.mark.parametrize(
    ("method", "sent", "headers", "status"),
    [
        ("POST", b"{", {}, 400),
        ("POST", b"", {}, 400),
        ("POST", b"[]", {}, 400),
        ("POST", b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}', {}, 400),
        ("POST", b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', {}, 400),
        ("POST", b"x" * (8 * 2**20 + 1), {}, 413),
        ("POST", json.dumps(LIST).encode(), {"origin": "https://evil.example"}, 403),
        ("POST", json.dumps(LIST).encode(), {"origin": "null"}, 403),
        ("GET", None, {}, 405),
        ("DELETE", None, {}, 405),
    ],
)
async def test_what_is_no_message_is_refused_in_the_form_of_the_protocol(
    client: httpx.AsyncClient, method: str, sent: bytes | None, headers: dict[str, str], status: int
):
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json", **headers}
    response = await client.request(method, "/mcp", content=sent, headers=headers)
    assert response.status_code == status
    told = response.json()
    assert (told["jsonrpc"], told["id"]) == ("2.0", None)
    assert set(told["error"]) == {"code", "message", "data"}
    assert "pydantic" not in response.text


async def test_both_spellings_of_the_address_answer_and_pages_of_known_origins_are_let_in(
    client: httpx.AsyncClient, document_id: str
):
    headers = {"accept": "application/json, text/event-stream", "origin": "https://chat.example.com"}
    for path in ("/mcp", "/mcp/"):
        response = await client.post(path, json=LIST, headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://chat.example.com"
        assert '"ask"' in response.text
