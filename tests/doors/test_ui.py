"""The UI message stream, through the chat of the AI SDK in the versions that are in use, and what that never sends."""

import json
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from app.api.ui_stream import UIMessageStream
from app.runs.log import Lines
from app.services.accounts import AccountService
from app.settings import Settings
from tests.conftest import RunningServer, ingesting
from tests.doors.npm import Npm
from tests.doors.waters import WATERS, ingest_waters, script
from tests.scripted_model import ScriptedModel

NO_BASE64 = "data:text/plain;base64,???"
UI = "/api/v1/chat/ui"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of a server that reads what is attached."""
    return ingesting(settings)


@pytest.fixture
async def assistant(server: RunningServer) -> str:
    slug = await ingest_waters(server)
    await server.resources.assistants.create(name="Private", slug="private", user_authentication=True)
    return slug


async def key_of(accounts: AccountService, name: str) -> str:
    user = await accounts.create_user(f"{name}@example.com", "a password of the tests", "user")
    return (await accounts.create_api_key(user.id, "tests"))[1]


def parts(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == kind]


def message_of(problem: str) -> str:
    """These clients show the whole of a body that is no answer."""
    return json.loads(problem)["message"]


@pytest.mark.parametrize("version", ["ai6", "ai7"])
async def test_the_chat_of_the_sdk_converses(
    npm: Npm,
    server: RunningServer,
    accounts: AccountService,
    assistant: str,
    model: ScriptedModel,
    version: str,
):
    gate = anyio.Event()
    model.script = lambda prompt: script(prompt, gate)
    ada, bob = await key_of(accounts, "ada"), await key_of(accounts, "bob")

    told = await npm.run("ui.mjs", server.url, AI_PACKAGE=version, TOKEN=ada, OTHER_TOKEN=bob)

    ended = {"isAbort": False, "isError": False}
    finished, failed = ended | {"finishReason": "stop"}, ended | {"isError": True}

    whole = told["whole"]
    assert (whole["status"], whole["error"], whole["finished"]) == ("ready", None, [finished, finished])
    assert whole["texts"][1::2] == [
        "It 🐟 flows into the Black Sea [1].",
        "You said: Where does Lake Constance lie?",
    ]
    await check_the_parts(server, whole["messages"][1], version)
    asked = next(prompt for prompt in model.prompts if prompt.question == "Where does Lake Constance lie?")
    assert [message.content for message in asked.messages[1:3]] == [
        "Where does the Danube flow?",
        "It 🐟 flows into the Black Sea.",
    ]

    regenerated = told["regenerated"]
    assert regenerated["again"]
    assert regenerated["edited"] == ["First", "You said: First", "Second, edited", "You said: Second, edited"]
    assert (regenerated["texts"], regenerated["status"]) == (["First", "You said: First"], "ready")

    lost = told["lost"]
    assert (lost["texts"], lost["status"]) == (["Lost", "You said: Lost"], "ready")
    assert lost["finished"] == [failed, finished]

    assert told["repeated"]["first"] == told["repeated"]["again"]
    assert [prompt.question for prompt in model.prompts].count("Once") == 1

    broken = told["failed"]
    assert (broken["status"], broken["error"]) == ("error", "It broke off.")
    assert (broken["texts"], broken["finished"]) == (["Fail", "The"], [failed])

    stopped = told["stopped"]
    assert (stopped["status"], stopped["texts"], stopped["finished"]) == ("ready", ["Slowly", "The"], [ended])
    assert parts(stopped["messages"][1], "text")[0]["state"] == "done"

    left = told["left"]
    assert (left["texts"], left["status"]) == (["Slowly", "The", "Another", "You said: Another"], "ready")

    resumed = told["resumed"]
    assert resumed["first"]["texts"] == ["Slowly", "The Danube"]
    assert resumed["second"]["messages"] == resumed["first"]["messages"]
    assert (resumed["late"]["status"], resumed["late"]["messages"]) == ("ready", [])

    assert "crypto.randomUUID()" in message_of(told["guessable"]["error"])
    assert told["ofAnother"]["owner"] == "ready"
    assert {message_of(problem) for problem in told["ofAnother"]["told"]} == {"There is no session short."}
    assert "needs a user" in message_of(told["private"]["error"])
    found = parts(told["withFile"]["messages"][1], "source-document")
    assert "elbe.txt" in [source["filename"] for source in found]
    assert "other addresses are not fetched" in message_of(told["withAddress"]["error"])


async def check_the_parts(server: RunningServer, message: dict[str, Any], version: str) -> None:
    """Of the answer with a citation. What is linked opens."""
    assert message["metadata"]["usage"]["total_tokens"] == 13
    assert message["metadata"]["model"]["name"] == "scripted"
    steps = [step["data"] for step in parts(message, "data-step")]
    assert [step["step_type"] for step in steps] == ["retrieval", "vectorization", "synthesis", "completed"]
    assert {step["status"] for step in steps} == {"completed"}
    (source,) = parts(message, "source-document")
    assert (source["title"], source["mediaType"], source["filename"]) == (
        "Waters",
        "text/markdown",
        "waters.md",
    )
    (citation,) = (part["data"] for part in parts(message, "data-citation"))
    assert citation["quote"] == "The Danube flows into the Black Sea."
    assert (citation["verified"], citation["start"], citation["end"]) == (True, 0, 33)
    (text,) = parts(message, "text")
    assert text["state"] == "done"
    if version == "ai7":
        (cited,) = text["citations"]
        assert (cited["citedText"], cited["startIndex"], cited["endIndex"]) == (citation["quote"], 0, 34)
        assert cited["source"]["providerMetadata"]["freshet"]["url"] == citation["url"]
    async with httpx.AsyncClient() as browser:
        for url in (citation["url"], source["providerMetadata"]["freshet"]["url"]):
            assert (await browser.get(url)).content == WATERS


async def test_the_stream_is_announced_and_its_end_is_said(server: RunningServer, assistant: str):
    body = {"assistant_id": assistant, "messages": [user("Hello?")]}
    async with httpx.AsyncClient(base_url=server.url) as browser:
        response = await browser.post(UI, json=body)

        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert response.text.endswith("data: [DONE]\n\n")
        session_id = response.headers["x-session-id"]
        assert (await browser.get(f"{UI}/{session_id}/stream")).status_code == 204


def user(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"id": "m", "role": "user", "parts": [{"type": "text", "text": text} for text in texts], **fields}


async def test_what_cannot_be_meant_is_refused_and_nothing_is_kept(
    client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    session_id = "a session that nobody guesses".replace(" ", "-")
    refused: list[tuple[Any, int]] = [
        (b"{", 422),
        (b"x" * (8 * 2**20 + 1), 413),
        ({"messages": [user("Hello?")]}, 422),
        ({"assistant_id": "nobody", "messages": [user("Hello?")]}, 404),
        *(
            ({"assistant_id": assistant, "messages": messages}, 422)
            for messages in (
                "Hello?",
                [],
                [{"role": "user", "content": "Hello?"}],
                [user("Hello?"), user("Hello!", role="assistant")],
                [user(" ")],
                [user("x" * 2**20)],
                [user("\0")],
                [user("Hello?", parts=[{"type": "text", "text": 1}])],
                [user("Hello?", parts=["Hello?"])],
                [user("Hello?", id={})],
                [user("Hello?", parts=[{"type": "text", "text": "Hello?"}, {"type": "tool-search"}])],
                [
                    user(
                        "Hello?",
                        parts=[{"type": "text", "text": "Hello?"}, {"type": "file", "url": NO_BASE64}],
                    )
                ],
            )
        ),
        ({"assistant_id": assistant, "messages": [user("Hello?")], "trigger": "resume-stream"}, 422),
        ({"assistant_id": assistant, "messages": [user("Hello?")], "id": "?" * 30}, 422),
    ]
    for body, status in refused:
        content = body if isinstance(body, bytes) else json.dumps({"id": session_id, **body}).encode()
        response = await client.post(UI, content=content, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["type"]) == (status, "error"), content[:200]
    assert model.prompts == []
    assert (await client.get(f"/api/v1/chat/{session_id}/history")).json()["messages"] == []


def test_what_these_clients_do_not_know_is_data_to_them():
    stream = UIMessageStream("http://freshet/documents", "s")
    lines = [
        b'{"type":"status","seq":1,"message":"Waiting"}\n',
        b'{"type":"anything","seq":2,"field":[1]}\n',
        b'{"type":"done","seq":3,"status":"completed","message_id":"m","finish_reason":"else","usage":{}}\n',
    ]

    *frames, last, _ = stream.write(Lines(1, lines)).decode().split("\n\n")

    assert [msgspec.json.decode(frame.removeprefix("data: ")) for frame in frames] == [
        {"type": "data-status", "data": {"message": "Waiting"}, "transient": True},
        {"type": "data-anything", "data": {"field": [1]}},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "other", "messageMetadata": {"usage": {}}},
    ]
    assert last == "data: [DONE]"
