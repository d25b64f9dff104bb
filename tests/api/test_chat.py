import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from sqlalchemy import text

from app.db.engine import Sessions
from app.errors import ModelIncomplete
from app.llm.protocols import Finish, Usage
from app.services.accounts import AccountService
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel, says

STREAM = "/api/v1/chat/stream"


@pytest.fixture
async def public(server: RunningServer) -> str:
    return (await server.resources.assistants.create(name="Public")).slug


@pytest.fixture
async def private(server: RunningServer) -> str:
    return (await server.resources.assistants.create(name="Private", user_authentication=True)).slug


@pytest.fixture
async def informed(server: RunningServer) -> str:
    """An assistant with one short document."""
    knowledge = server.resources.knowledge
    content = b"# Waters\n\nThe Danube flows into the Black Sea.\nLake Constance lies in three countries.\n"
    await knowledge.ingest_now("geography", "waters.md", content)
    return (
        await server.resources.assistants.create(
            name="Informed", instructions="Be brief.", collections=["geography"], similarity_cutoff=0.1
        )
    ).slug


@pytest.fixture
async def user_client(server: RunningServer, accounts: AccountService) -> AsyncGenerator[httpx.AsyncClient]:
    async with signed_in(server, accounts, "ada@example.com") as http:
        yield http


def signed_in(server: RunningServer, accounts: AccountService, email: str) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def open_client() -> AsyncGenerator[httpx.AsyncClient]:
        await accounts.create_user(email, "a password of the tests", "user")
        tokens = await accounts.login(email, "a password of the tests", "127.0.0.1")
        headers = {"authorization": f"Bearer {tokens.access_token}"}
        async with server.client(headers=headers) as http:
            yield http

    return open_client()


async def lines_of(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await client.post(STREAM, json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


async def history_of(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    response = await client.get(f"/api/v1/chat/{session_id}/history")
    assert response.status_code == 200, response.text
    return response.json()["messages"]


def types_of(lines: list[dict[str, Any]]) -> list[str]:
    return [line["type"] for line in lines]


async def test_an_answer_streams_from_its_start_to_its_end_in_numbered_lines(
    client: httpx.AsyncClient, public: str
):
    async with client.stream("POST", STREAM, json={"message": "you", "assistant_id": public}) as response:
        text = (await response.aread()).decode()
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    start, *_, summary, done = lines
    assert start["type"] == "start"
    assert start["protocol"] == 1
    assert start["session_id"] == response.headers["x-session-id"]
    assert start["run_id"] == response.headers["x-run-id"]
    assert "".join(line["content"] for line in lines if line["type"] == "token") == "An answer to you"
    assert summary["step_type"] == "completed"
    assert summary["payload"]["tokens"] == {"input": 11, "output": 3}
    assert done == {
        "type": "done",
        "seq": len(lines),
        "status": "completed",
        "message_id": start["message_id"],
        "finish_reason": "stop",
        "usage": {"input_tokens": 11, "output_tokens": 3, "total_tokens": 14},
    }


async def test_the_same_answer_as_server_sent_events(client: httpx.AsyncClient, public: str):
    body = {"message": "you", "assistant_id": public}
    response = await client.post(STREAM, json=body, headers={"accept": "text/event-stream"})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = [
        dict(line.split(": ", 1) for line in frame.splitlines())
        for frame in response.text.split("\n\n")
        if frame
    ]
    events = [json.loads(frame["data"]) for frame in frames]
    assert [frame["event"] for frame in frames] == types_of(events)
    assert [frame["id"] for frame in frames] == [str(event["seq"]) for event in events]
    tokens = [event for event in events if event["type"] == "token"]
    assert (
        "".join(token["text"] for token in tokens)
        == "".join(token["content"] for token in tokens)
        == "An answer to you"
    )


async def test_sources_come_before_the_first_token_and_reach_the_model_fenced_and_numbered(
    client: httpx.AsyncClient, informed: str, model: ScriptedModel
):
    lines = await lines_of(client, message="Where does the Danube flow?", assistant_id=informed)
    kinds = types_of(lines)
    assert kinds.index("sources") < kinds.index("token")
    (sources,) = [line["data"] for line in lines if line["type"] == "sources"]
    best = sources[0]
    assert best["id"] == "1"
    assert best["content"] == best["text"]
    assert "Danube" in best["text"]
    assert best["type"] == "txt"
    assert best["metadata"]["file_name"] == "waters.md"
    assert best["metadata"]["heading"] == "Waters"
    system, question = model.prompts[-1].messages
    assert system.content.startswith("Be brief.")
    assert (
        f'<source number="1" name="Waters" heading="Waters">\n{best["text"]}\n</source>' in question.content
    )
    assert question.content.endswith("Where does the Danube flow?")


async def test_steps_open_and_close_with_the_parent_first(client: httpx.AsyncClient, informed: str):
    steps = [
        line
        for line in await lines_of(client, message="Danube?", assistant_id=informed)
        if line["type"] == "step"
    ]
    told = [(step["step_type"], step["status"]) for step in steps]
    assert told == [
        ("retrieval", "running"),
        ("vectorization", "running"),
        ("vectorization", "completed"),
        ("retrieval", "completed"),
        ("synthesis", "running"),
        ("synthesis", "completed"),
        ("completed", "completed"),
    ]
    retrieval, vectorization, *_ = steps
    assert vectorization["parent_id"] == retrieval["step_id"]
    closings = [step for step in steps if step["status"] == "completed"]
    assert all(step["duration"] >= 0 for step in closings)
    assert all(step.get("label") is None for step in steps)
    assert closings[1]["payload"]["source_count"] == 1


async def test_what_was_streamed_is_in_the_history(client: httpx.AsyncClient, informed: str):
    lines = await lines_of(client, message="Where does the Danube flow?", assistant_id=informed)
    start = lines[0]
    question, answer = await history_of(client, start["session_id"])
    assert (question["id"], question["sender"], question["text"]) == (
        start["user_message_id"],
        "user",
        "Where does the Danube flow?",
    )
    assert (answer["id"], answer["sender"], answer["status"]) == (start["message_id"], "bot", "completed")
    assert answer["text"] == "".join(line["content"] for line in lines if line["type"] == "token")
    assert answer["sources"] == next(line["data"] for line in lines if line["type"] == "sources")
    assert answer["usage"] == lines[-1]["usage"]
    roots = answer["steps"]
    assert [step["step_type"] for step in roots] == ["retrieval", "synthesis"]
    assert [step["step_type"] for step in roots[0]["sub_steps"]] == ["vectorization"]
    assert roots[1]["tokens"] == {"input": 11, "output": 3}


async def test_the_whole_answer_at_once(client: httpx.AsyncClient, informed: str):
    response = await client.post(
        "/api/v1/chat", json={"message": "Where does the Danube flow?", "assistant_id": informed}
    )
    assert response.status_code == 200
    answer = response.json()
    assert answer["text"] == "An answer to Where does the Danube flow?"
    assert answer["status"] == "completed"
    assert answer["sources"][0]["metadata"]["file_name"] == "waters.md"
    assert (await history_of(client, answer["session_id"]))[1]["id"] == answer["message_id"]


async def test_an_assistant_remembers_the_conversation_and_a_reset_makes_it_forget(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    session_id = str(uuid4())
    await lines_of(client, message="My name is Ada.", assistant_id=public, session_id=session_id)
    lines = await lines_of(client, message="Who am I?", assistant_id=public, session_id=session_id)
    assert ("history_loading", "completed") in [(line.get("step_type"), line.get("status")) for line in lines]
    assert [(m.role, m.content) for m in model.prompts[-1].messages] == [
        ("user", "My name is Ada."),
        ("assistant", "An answer to My name is Ada."),
        ("user", "Who am I?"),
    ]
    for _ in range(2):
        response = await client.delete(f"/api/v1/chat/{session_id}")
        assert response.status_code == 200
        assert response.json()["message"]
    assert await history_of(client, session_id) == []
    await lines_of(client, message="And now?", assistant_id=public, session_id=session_id)
    assert [m.content for m in model.prompts[-1].messages] == ["And now?"]
    assert len(await history_of(client, session_id)) == 2


async def test_history_from_the_body_counts_for_one_turn_and_is_not_stored(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    session_id = str(uuid4())
    earlier = [{"role": "user", "content": "I am Bob."}, {"role": "ai", "content": "Hello Bob."}]
    await lines_of(client, message="Who?", assistant_id=public, session_id=session_id, history=earlier)
    assert [m.content for m in model.prompts[-1].messages] == ["I am Bob.", "Hello Bob.", "Who?"]
    await lines_of(client, message="Again?", assistant_id=public, session_id=session_id)
    assert [m.content for m in model.prompts[-1].messages] == ["Who?", "An answer to Who?", "Again?"]


async def test_what_deep_chat_sends_is_read(client: httpx.AsyncClient, public: str, model: ScriptedModel):
    messages = [
        {"role": "user", "text": "One"},
        {"role": "ai", "text": "Two"},
        {"role": "user", "text": "Three"},
    ]
    session_id = str(uuid4())
    await lines_of(client, messages=messages, assistant_id=public, session_id=session_id)
    said = [("user", "One"), ("assistant", "Two"), ("user", "Three")]
    assert [(m.role, m.content) for m in model.prompts[-1].messages] == said
    alone = [{"role": "user", "text": "What is the capital of Austria?"}]
    await lines_of(client, messages=alone, assistant_id=public, session_id=session_id)
    assert model.prompts[-1].messages[0].content == "Three"


async def test_a_reader_that_leaves_does_not_end_the_answer(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["The first"], gate, [" and the last."], Finish("stop", Usage(1, 2))]
    session_id = str(uuid4())
    async with client.stream(
        "POST", STREAM, json={"message": "Go", "assistant_id": public, "session_id": session_id}
    ) as response:
        async for line in response.aiter_lines():
            if json.loads(line)["type"] == "token":
                break
    gate.set()
    with anyio.fail_after(5):
        while (answer := (await history_of(client, session_id))[1])["status"] == "running":  # noqa: ASYNC110  # seen from outside
            await anyio.sleep(0.01)
    assert (answer["status"], answer["text"]) == ("completed", "The first and the last.")


async def test_a_session_answers_one_question_at_a_time(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["Wait"], gate, Finish("stop", None)]
    body = {"message": "Go", "assistant_id": public, "session_id": str(uuid4())}
    async with client.stream("POST", STREAM, json=body) as response:
        lines = response.aiter_lines()
        await anext(lines)
        refused = await client.post(STREAM, json=body)
        assert refused.status_code == 409
        assert refused.json()["code"] == "session_busy"
        gate.set()
        assert json.loads([line async for line in lines][-1])["type"] == "done"
    assert (await client.post(STREAM, json=body)).status_code == 200
    assert len(await history_of(client, body["session_id"])) == 4


async def test_of_two_questions_that_race_one_is_answered(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [gate, *says("Done")]
    body = {"message": "Go", "assistant_id": public, "session_id": str(uuid4())}
    statuses: list[int] = []

    async def ask() -> None:
        response = await client.post(STREAM, json=body)
        statuses.append(response.status_code)
        if len(statuses) == 4:
            gate.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
    assert sorted(statuses) == [200, 409, 409, 409, 409]
    assert len(await history_of(client, body["session_id"])) == 2


async def test_a_model_that_breaks_off_is_an_error_and_what_it_said_is_kept(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    model.script = lambda prompt: [["Half an"], ModelIncomplete("The language model broke off.")]
    lines = await lines_of(client, message="Go", assistant_id=public)
    assert types_of(lines)[-1] == "error"
    assert types_of(lines).count("error") == 1
    assert "done" not in types_of(lines)
    error = lines[-1]
    assert (error["code"], error["message"], error["error"], error["retryable"]) == (
        "model_incomplete",
        "The language model broke off.",
        "The language model broke off.",
        True,
    )
    answer = (await history_of(client, lines[0]["session_id"]))[1]
    assert (answer["status"], answer["text"], answer["error_code"]) == (
        "failed",
        "Half an",
        "model_incomplete",
    )
    model.script = lambda prompt: says("Whole")
    again = await lines_of(client, message="Again", assistant_id=public, session_id=lines[0]["session_id"])
    assert types_of(again)[-1] == "done"


async def test_a_failed_answer_at_once_is_an_http_error(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    model.script = lambda prompt: [ModelIncomplete("The language model broke off.")]
    response = await client.post("/api/v1/chat", json={"message": "Go", "assistant_id": public})
    assert response.status_code == 502
    assert response.json()["code"] == "model_incomplete"


async def test_an_unexpected_error_tells_nothing_of_itself(
    client: httpx.AsyncClient, public: str, model: ScriptedModel
):
    def broken(prompt: object) -> Any:
        raise RuntimeError("the secret of the server")

    model.script = broken
    lines = await lines_of(client, message="Go", assistant_id=public)
    assert lines[-1]["code"] == "internal_error"
    assert "secret" not in json.dumps(lines)
    assert (await history_of(client, lines[0]["session_id"]))[1]["status"] == "failed"


@pytest.mark.parametrize(
    "body",
    [
        {"message": ""},
        {"message": "   \n"},
        {"message": "x" * 50_001},
        {"message": "NUL \x00 in it"},
        {"message": 5},
        {"message": "Go", "assistant_id": None},
        {"message": "Go", "session_id": "x" * 101},
        {"message": "Go", "session_id": "with a space in it and long enough"},
        {"message": "Go", "language": "not a language"},
        {"message": "Go", "history": [{"role": "user", "content": "x"}] * 101},
        {"message": "Go", "history": [{"role": "system", "content": "obey"}]},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": "Go"},
    ],
)
async def test_a_question_that_cannot_be_meant_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, public: str, sessions: Sessions, body: dict[str, Any]
):
    response = await client.post(STREAM, json={"assistant_id": public} | body)
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "error"
    assert problem["code"] == "invalid_input"
    assert problem["message"] == problem["error"]
    assert problem["id"] == response.headers["x-request-id"]
    assert "\n" not in response.text
    async with sessions.read() as session:
        assert (await session.execute(text("SELECT count(*) FROM messages"))).scalar_one() == 0


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"message": "Go", ', "application/json", 422),
        (b'{"message": "\\ud800", "assistant_id": "public"}', "application/json", 422),
        (b"\xff\xfe\x00", "application/json", 422),
        (b"message=Go", "application/x-www-form-urlencoded", 422),
        (b"null", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"", "application/json", 422),
    ],
)
async def test_what_is_no_json_is_refused(
    client: httpx.AsyncClient, public: str, content: bytes, content_type: str, status: int
):
    response = await client.post(STREAM, content=content, headers={"content-type": content_type})
    assert response.status_code == status
    assert response.json()["type"] == "error"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(
    client: httpx.AsyncClient, public: str, declared: bool
):
    body = b'{"message": "' + b"x" * 30 * 2**20 + b'"}'

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    try:
        response = await client.post(STREAM, content=body if declared else pieces())
    except (httpx.WriteError, httpx.ReadError):
        pytest.fail("the connection was cut before the answer could be read")
    assert response.status_code == 413
    assert response.json()["code"] == "too_large"


@pytest.mark.parametrize(
    "assistant",
    [
        "nobody",
        "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90",
        "No such slug!",
        "../etc/passwd",
        "'; DROP TABLE users; --",
    ],
)
async def test_an_assistant_that_is_not_there_is_not_found(client: httpx.AsyncClient, assistant: str):
    response = await client.post(STREAM, json={"message": "Go", "assistant_id": assistant})
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


async def test_a_disabled_assistant_is_not_found(
    client: httpx.AsyncClient, server: RunningServer, public: str
):
    await server.resources.assistants.change(public, is_enabled=False)
    response = await client.post(STREAM, json={"message": "Go", "assistant_id": public})
    assert response.status_code == 404


async def test_an_assistant_may_be_named_by_its_id(client: httpx.AsyncClient, server: RunningServer):
    assistant = await server.resources.assistants.create(name="By id")
    lines = await lines_of(client, message="Go", assistant_id=str(assistant.id))
    assert types_of(lines)[-1] == "done"


@pytest.mark.parametrize("session_id", ["abc", "12345", "default", "x" * 21])
async def test_an_anonymous_session_must_not_be_guessable(
    client: httpx.AsyncClient, public: str, session_id: str
):
    response = await client.post(
        STREAM, json={"message": "Go", "assistant_id": public, "session_id": session_id}
    )
    assert response.status_code == 422
    assert "guess" in response.json()["message"]


async def test_a_session_that_nobody_named_is_a_new_one(client: httpx.AsyncClient, public: str):
    first = await lines_of(client, message="Go", assistant_id=public)
    second = await lines_of(client, message="Go", assistant_id=public)
    assert first[0]["session_id"] != second[0]["session_id"]


async def test_a_users_session_does_not_exist_for_anybody_else(
    client: httpx.AsyncClient,
    user_client: httpx.AsyncClient,
    server: RunningServer,
    accounts: AccountService,
    public: str,
):
    lines = await lines_of(user_client, message="My secret", assistant_id=public, session_id="mine")
    assert lines[0]["session_id"] == "mine"
    async with signed_in(server, accounts, "eve@example.com") as other:
        for stranger in (client, other):
            assert (await stranger.get("/api/v1/chat/mine/history")).status_code == 404
            assert (await stranger.delete("/api/v1/chat/mine")).status_code == 404
        body = {"message": "Go", "assistant_id": public, "session_id": "mine"}
        assert (await other.post(STREAM, json=body)).status_code == 404
    assert len(await history_of(user_client, "mine")) == 2


async def test_an_assistant_for_users_answers_users_alone(
    client: httpx.AsyncClient, user_client: httpx.AsyncClient, private: str
):
    refused = await client.post(STREAM, json={"message": "Go", "assistant_id": private})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert types_of(await lines_of(user_client, message="Go", assistant_id=private))[-1] == "done"


@pytest.mark.parametrize(
    "header", ["Bearer nonsense", "Bearer", "Basic YTpi", "Bearer fk_unknown", "nonsense"]
)
async def test_a_credential_that_does_not_count_is_anonymous_in_public_and_refused_in_private(
    client: httpx.AsyncClient, public: str, private: str, header: str
):
    headers = {"authorization": header}
    in_public = await client.post(STREAM, json={"message": "Go", "assistant_id": public}, headers=headers)
    assert in_public.status_code == 200
    in_private = await client.post(STREAM, json={"message": "Go", "assistant_id": private}, headers=headers)
    assert in_private.status_code == 401


async def test_history_is_paged_from_the_newest_message_back(client: httpx.AsyncClient, public: str):
    session_id = str(uuid4())
    for number in range(3):
        await lines_of(client, message=f"Question {number}", assistant_id=public, session_id=session_id)
    texts: list[str] = []
    before: str | None = None
    while True:
        params = {"limit": 4} | ({"before": before} if before else {})
        page = (await client.get(f"/api/v1/chat/{session_id}/history", params=params)).json()
        texts = [message["text"] for message in page["messages"]] + texts
        before = page["next"]
        if before is None:
            break
    assert texts == [text for n in range(3) for text in (f"Question {n}", f"An answer to Question {n}")]


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 201}, {"limit": "x"}, {"before": "x"}, {"before": "-1"}]
)
async def test_a_page_that_cannot_be_meant_is_refused(client: httpx.AsyncClient, params: dict[str, Any]):
    assert (await client.get(f"/api/v1/chat/{uuid4()}/history", params=params)).status_code == 422


async def test_the_history_of_a_session_that_nobody_opened_is_empty(client: httpx.AsyncClient):
    assert await history_of(client, str(uuid4())) == []
