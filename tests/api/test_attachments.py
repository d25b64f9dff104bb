"""Files that are attached to a session: answers there are drawn from them, and no others are."""

import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from sqlalchemy import text

from app.db.engine import Sessions
from app.services.accounts import AccountService
from app.settings import AttachmentSettings, Settings
from tests.conftest import RunningServer, Serve, ingesting
from tests.scripted_model import ScriptedModel, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n"
SECRET = b"The code of the vault is 4711, and only the gardener knows it.\n"
QUESTION = "What is the code of the vault?"


@pytest.fixture
async def server(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    few = AttachmentSettings(attachments_per_session=2, attachment_max_bytes=2_000)
    async with serve(replace(ingesting(settings), attachments=few)) as running:
        yield running


@pytest.fixture
async def assistant(server: RunningServer) -> str:
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    made = await server.resources.assistants.create(
        name="Waters", collections=["waters"], similarity_cutoff=-1, answer_cache_s=600
    )
    return made.slug


async def attach(
    client: httpx.AsyncClient, session_id: str, content: bytes = SECRET, name: str = "vault.txt"
) -> str:
    path = f"/api/v1/chat/{session_id}/attachments"
    attached = await client.post(path, files={"file": (name, content)})
    assert attached.status_code == 202, attached.text
    return attached.json()["id"]


def inline(content: bytes, name: str = "vault.txt") -> dict[str, str]:
    return {"file_name": name, "content_base64": base64.b64encode(content).decode()}


async def asked(
    client: httpx.AsyncClient, assistant: str, session_id: str | None = None, **more: Any
) -> list[dict[str, Any]]:
    """The events of the answer."""
    body = {"message": QUESTION, "assistant_id": assistant, "session_id": session_id, **more}
    with anyio.fail_after(20):
        response = await client.post("/api/v1/chat/stream", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def sources(events: list[dict[str, Any]]) -> set[str]:
    return {
        source["metadata"]["file_name"]
        for event in events
        if event["type"] == "sources"
        for source in event["data"]
    }


def steps(events: list[dict[str, Any]]) -> list[str]:
    return [
        event["step_type"] for event in events if event["type"] == "step" and event["status"] != "running"
    ]


async def test_an_answer_is_drawn_from_what_is_attached_and_may_be_checked_there(
    client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: says("The code of the vault is 4711 [1].")
    session_id = str(uuid4())
    attachment_id = await attach(client, session_id)
    events = await asked(client, assistant, session_id, attachments=[attachment_id])
    assert sources(events) == {"vault.txt", "waters.md"}
    reading = next(event for event in events if event.get("step_type") == "attachment_reading")
    assert reading["label"]
    assert steps(events)[0] == "attachment_reading"
    (citation,) = (event for event in events if event["type"] == "citation")
    assert citation["document_id"] == attachment_id
    assert citation["verified"]
    file = f"/api/v1/documents/{attachment_id}/file"
    assert (await client.get(file, params={"session_id": session_id})).content == SECRET
    assert (await client.get(file, params={"session_id": str(uuid4())})).status_code == 404
    listed = (await client.get(f"/api/v1/chat/{session_id}/attachments")).json()["attachments"]
    assert [(one["id"], one["status"], one["error"]) for one in listed] == [(attachment_id, "ready", None)]
    again = await client.post(f"/api/v1/chat/{session_id}/regenerate", json={})
    assert sources([json.loads(line) for line in again.text.splitlines()]) == {"vault.txt", "waters.md"}


async def test_no_other_session_gets_a_passage_of_it(
    server: RunningServer,
    client: httpx.AsyncClient,
    admin_client: httpx.AsyncClient,
    accounts: AccountService,
    assistant: str,
    model: ScriptedModel,
):
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    bearer = {"authorization": f"Bearer {(await accounts.create_api_key(user.id, 'tests'))[1]}"}
    async with server.client(headers=bearer) as ada:
        for owner in (ada, client):
            session_id = str(uuid4())
            attachment_id = await attach(owner, session_id)
            given = await asked(owner, assistant, session_id, attachments=[attachment_id])
            assert "vault.txt" in sources(given)
            assert not {"cache_lookup", "cache_update"} & set(steps(given))
            for other in (ada, client, admin_client):
                first = await asked(other, assistant)
                assert sources(first) == {"waters.md"}
                other_id = first[0]["session_id"]
                assert sources(await asked(other, assistant, other_id)) == {"waters.md"}
                named = {"message": QUESTION, "assistant_id": assistant, "attachments": [attachment_id]}
                for body in (named, {**named, "session_id": other_id}):
                    assert (await other.post("/api/v1/chat", json=body)).status_code == 404
                path = f"/api/v1/chat/{other_id}/attachments"
                assert (await other.get(path)).json() == {"attachments": []}
                assert (await other.delete(f"{path}/{attachment_id}")).status_code == 404
                file = f"/api/v1/documents/{attachment_id}/text"
                if other is not admin_client:
                    assert (await other.get(file, params={"session_id": other_id})).status_code == 404
        assert not any("4711" in message.content for message in model.prompts[-1].messages)
        path = f"/api/v1/chat/{(await asked(ada, assistant))[0]['session_id']}/attachments"
        assert (await client.get(path)).status_code == 404
        assert (await client.post(path, files={"file": ("vault.txt", SECRET)})).status_code == 404


async def test_an_assistant_without_documents_has_those_that_are_sent_along(
    server: RunningServer, client: httpx.AsyncClient
):
    made = await server.resources.assistants.create(name="Bare", similarity_cutoff=-1, top_k=0)
    events = await asked(client, made.slug, attachments=[inline(SECRET)])
    assert sources(events) == {"vault.txt"}
    answer = await client.post(
        "/api/v1/chat",
        json={"message": QUESTION, "assistant_id": made.slug, "attachments": [inline(SECRET)]},
    )
    assert [source["name"] for source in answer.json()["sources"]] == ["vault.txt"]
    assert sources(await asked(client, made.slug)) == set()


async def test_administrators_see_it_when_they_ask_and_cannot_use_it(
    server: RunningServer, client: httpx.AsyncClient, admin_client: httpx.AsyncClient, assistant: str
):
    session_id = str(uuid4())
    await asked(client, assistant, session_id, attachments=[await attach(client, session_id)])
    names = [one["name"] for one in (await admin_client.get("/api/v1/collections")).json()["items"]]
    assert names == ["waters"]
    shown = (await admin_client.get("/api/v1/documents")).json()["items"]
    assert [one["file_name"] for one in shown] == ["waters.md"]
    shown = (await admin_client.get("/api/v1/documents", params={"attachments": True})).json()["items"]
    assert [one["file_name"] for one in shown] == ["vault.txt", "waters.md"]
    hidden = shown[0]["collection"]
    for name in (hidden["id"], hidden["name"]):
        made = {"name": "Thief", "collections": [name]}
        assert (await admin_client.post("/api/v1/assistants", json=made)).status_code == 422
        found = await admin_client.post("/api/v1/search", json={"query": QUESTION, "collections": [name]})
        assert found.status_code in {404, 422}
    assert (await admin_client.delete(f"/api/v1/collections/{hidden['id']}")).status_code == 404


async def rows(sessions: Sessions) -> list[int]:
    async with sessions.read() as session:
        return [
            (await session.execute(text(statement))).scalar_one()
            for statement in (
                "SELECT count(*) FROM collections WHERE session_id IS NOT NULL",
                "SELECT count(*) FROM document_files f JOIN documents d ON d.id = f.document_id WHERE d.file_name = 'vault.txt'",
                "SELECT count(*) FROM chunks WHERE text LIKE '%4711%'",
            )
        ]


async def test_it_goes_along_with_a_claim_and_goes_with_the_session(
    server: RunningServer,
    client: httpx.AsyncClient,
    accounts: AccountService,
    sessions: Sessions,
    assistant: str,
):
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    bearer = {"authorization": f"Bearer {(await accounts.create_api_key(user.id, 'tests'))[1]}"}
    async with server.client(headers=bearer) as ada:
        for purge in ("", "?purge=true"):
            session_id = str(uuid4())
            await asked(client, assistant, session_id, attachments=[await attach(client, session_id)])
            assert await rows(sessions) == [1, 1, 1]
            await ada.post(f"/api/v1/sessions/{session_id}/claim")
            assert "vault.txt" in sources(await asked(ada, assistant, session_id))
            assert (await client.get(f"/api/v1/chat/{session_id}/attachments")).status_code == 404
            assert (await ada.delete(f"/api/v1/chat/{session_id}{purge}")).status_code == 200
            assert await rows(sessions) == [0, 0, 0]
        assert sources(await asked(ada, assistant, session_id)) == {"waters.md"}
    session_id = str(uuid4())
    attachment_id = await attach(client, session_id)
    await asked(client, assistant, session_id, attachments=[attachment_id])
    removed = await client.delete(f"/api/v1/chat/{session_id}/attachments/{attachment_id}")
    assert removed.status_code == 200
    assert (await rows(sessions))[1:] == [0, 0]


async def test_what_cannot_be_attached_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, assistant: str, sessions: Sessions
):
    body = {"message": QUESTION, "assistant_id": assistant}
    bad: list[tuple[Any, int, str]] = [
        (inline(b"x" * 2_001), 413, "too_large"),
        ({"file_name": "a.txt", "content_base64": "no base64!"}, 422, "invalid_input"),
        ({"file_name": "a\nb.txt", "content_base64": "eA=="}, 422, "invalid_input"),
        ({"file_name": "a.txt"}, 422, "invalid_input"),
        (str(uuid4()), 404, "not_found"),
    ]
    for attachment, status, code in bad:
        refused = await client.post("/api/v1/chat/stream", json={**body, "attachments": [attachment]})
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    three = [inline(b"%d" % number, f"{number}.txt") for number in range(3)]
    refused = await client.post("/api/v1/chat/stream", json={**body, "attachments": three})
    assert refused.status_code == 409
    session_id = str(uuid4())
    path = f"/api/v1/chat/{session_id}/attachments"
    assert (await client.post(path, files={"file": ("a.txt", b"x" * 2_001)})).status_code == 413
    assert (await client.post(path, files={"file": ("a.txt", b"")})).status_code == 422
    assert (await client.post(path, content=b"no form")).status_code == 422
    guessable = "/api/v1/chat/guessable/attachments"
    assert (await client.post(guessable, files={"file": ("a.txt", b"x")})).status_code == 422
    assert await rows(sessions) == [0, 0, 0]
    unread = await attach(client, session_id, b"\x00\x01\x02\x03", "noise.bin")
    events = await asked(client, assistant, session_id, attachments=[unread])
    assert events[-1]["code"] == "document_refused"
    assert "noise.bin" in events[-1]["message"]


async def test_an_answer_waits_no_longer_than_it_may_for_what_is_attached(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    impatient = AttachmentSettings(attachment_wait_s=0.3)
    async with serve(replace(settings, attachments=impatient)) as server, server.client() as client:
        await server.resources.assistants.create(name="Bare", user_authentication=False)
        events = await asked(client, "bare", attachments=[inline(SECRET)])
        assert (events[-1]["code"], events[-1]["retryable"]) == ("attachment_not_ready", True)
        assert steps(events) == ["attachment_reading"]
        await server.resources.assistants.change("bare", user_authentication=True)
        path = f"/api/v1/chat/{uuid4()}/attachments"
        assert (await client.post(path, files={"file": ("a.txt", b"x")})).status_code == 401
