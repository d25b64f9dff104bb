import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest

from app.db.engine import Sessions
from app.services.accounts import AccountService
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, RunningServer
from tests.ingest.ingest_files import lines_of, pdf
from tests.queued import do_next

RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow."
DELTAS = b"# Deltas\n\nWhere a river meets the sea, it leaves its sand behind."


@pytest.fixture
async def admin(server: RunningServer, accounts: AccountService) -> AsyncGenerator[httpx.AsyncClient]:
    await accounts.create_user(ADMIN_EMAIL, ADMIN_PASSWORD, "admin")
    tokens = await accounts.login(ADMIN_EMAIL, ADMIN_PASSWORD, "127.0.0.1")
    async with server.client(headers={"authorization": f"Bearer {tokens.access_token}"}) as http:
        yield http


@pytest.fixture
def ingest(server: RunningServer, sessions: Sessions) -> Any:
    async def next_one() -> None:
        assert await do_next(sessions, server.resources.knowledge)

    return next_one


async def _add(admin: httpx.AsyncClient, content: bytes = RIVERS, name: str = "rivers.md") -> str:
    response = await admin.post("/api/v1/documents", files={"file": (name, content)})
    return f"/api/v1/documents/{response.json()['id']}"


async def _put(admin: httpx.AsyncClient, path: str, content: bytes, name: str = "new.md") -> httpx.Response:
    return await admin.put(f"{path}/file", files={"file": (name, content)})


async def test_a_server_that_leaves_documents_to_workers_takes_none(admin: httpx.AsyncClient):
    path = await _add(admin)

    document = (await admin.get(path)).json()

    assert document["status"] == "pending"
    assert document["progress"] == {
        "stage": "waiting",
        "done": 0,
        "total": 0,
        "reused": 0,
        "attempts": 0,
        "seconds_left": None,
        "problem": None,
        "started_at": None,
    }


async def test_a_document_is_given_another_file(admin: httpx.AsyncClient, ingest: Any):
    path = await _add(admin)
    await ingest()

    replaced = await _put(admin, path, DELTAS, "deltas.md")
    assert (replaced.status_code, replaced.json()["status"]) == (202, "pending")
    assert (await admin.get(f"{path}/file")).content == RIVERS
    await ingest()

    document = (await admin.get(path)).json()
    assert (document["status"], document["file_name"], document["title"]) == ("ready", "deltas.md", "Deltas")
    assert (await admin.get(f"{path}/file")).content == DELTAS
    same = await _put(admin, path, DELTAS, "deltas.md")
    assert (same.status_code, same.json()["status"]) == (200, "ready")


async def test_a_file_that_is_refused_leaves_the_one_before(admin: httpx.AsyncClient, ingest: Any):
    path = await _add(admin)
    await ingest()

    await _put(admin, path, b"%PDF-1.7 and nothing more", "broken.pdf")
    await ingest()

    document = (await admin.get(path)).json()
    assert (document["status"], document["error"]["reason"]) == ("failed", "broken")
    assert (document["file_name"], document["chunk_count"]) == ("rivers.md", 1)
    assert (await admin.get(f"{path}/file")).content == RIVERS
    assert "freshet" in (await admin.get(f"{path}/text")).json()["text"]


async def test_the_bytes_of_another_document_are_not_taken(admin: httpx.AsyncClient):
    path = await _add(admin)
    await _add(admin, DELTAS, "deltas.md")

    response = await _put(admin, path, DELTAS)

    assert (response.status_code, response.json()["code"]) == (409, "conflict")


async def test_what_is_called_off_can_be_tried_again(admin: httpx.AsyncClient, ingest: Any):
    path = await _add(admin)

    cancelled = await admin.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["progress"] is None
    listed = (await admin.get("/api/v1/documents", params={"status": "cancelled"})).json()["items"]
    assert [document["id"] for document in listed] == [cancelled.json()["id"]]

    again = await admin.post(f"{path}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    await ingest()
    assert (await admin.get(path)).json()["status"] == "ready"
    for call in ("cancel", "retry"):
        response = await admin.post(f"{path}/{call}")
        assert (response.status_code, response.json()["code"]) == (409, "conflict")


async def test_the_way_of_a_document_is_streamed_until_it_is_over(admin: httpx.AsyncClient, ingest: Any):
    path = await _add(admin)
    told: list[dict[str, Any]] = []

    with anyio.fail_after(20):
        async with admin.stream("GET", f"{path}/progress") as stream, anyio.create_task_group() as tasks:
            assert stream.headers["content-type"] == "application/x-ndjson"
            async for line in stream.aiter_lines():
                told.append(json.loads(line))
                if len(told) == 1:
                    tasks.start_soon(ingest)

    assert (told[0]["type"], told[0]["status"], told[0]["stage"]) == ("progress", "pending", "waiting")
    assert (told[-1]["type"], told[-1]["status"]) == ("done", "ready")
    assert told[-1]["document"]["chunk_count"] == 1
    assert {line["type"] for line in told[:-1]} == {"progress"}


async def test_the_way_of_a_document_is_streamed_as_server_sent_events(admin: httpx.AsyncClient, ingest: Any):
    path = await _add(admin)
    await ingest()

    response = await admin.get(f"{path}/progress", headers={"accept": "text/event-stream"})

    assert response.headers["content-type"].startswith("text/event-stream")
    event, data = response.text.strip().split("\n")
    assert event == "event: done"
    assert json.loads(data.removeprefix("data: "))["document"]["status"] == "ready"


async def test_who_follows_a_document_that_is_deleted_is_told(admin: httpx.AsyncClient):
    path = await _add(admin)
    told: list[dict[str, Any]] = []

    with anyio.fail_after(20):
        async with admin.stream("GET", f"{path}/progress") as stream:
            async for line in stream.aiter_lines():
                told.append(json.loads(line))
                if len(told) == 1:
                    await admin.delete(path)

    assert (told[-1]["type"], told[-1]["code"], told[-1]["retryable"]) == ("error", "not_found", False)


async def test_who_follows_a_document_is_sent_away_when_the_server_stops(
    server: RunningServer, admin: httpx.AsyncClient
):
    path = await _add(admin)
    told: list[dict[str, Any]] = []

    with anyio.fail_after(20):
        async with admin.stream("GET", f"{path}/progress") as stream:
            async for line in stream.aiter_lines():
                told.append(json.loads(line))
                server.stop()

    assert (told[-1]["code"], told[-1]["retryable"]) == ("shutting_down", True)


@pytest.mark.parametrize(
    ("name", "content", "kind", "disposition"),
    [
        ("rivers.md", RIVERS, "text/plain", "inline"),
        ("Flüsse.pdf", pdf([lines_of("The first page.")]), "application/pdf", "inline"),
        (
            "page.html",
            b"<html><body><script>alert(1)</script><p>A freshet is a flood.</p></body></html>",
            "text/html",
            "attachment",
        ),
    ],
)
async def test_a_file_is_given_as_it_was_and_can_do_nothing(
    admin: httpx.AsyncClient, ingest: Any, name: str, content: bytes, kind: str, disposition: str
):
    path = await _add(admin, content, name)
    await ingest()

    response = await admin.get(f"{path}/file")

    assert response.content == content
    headers = response.headers
    assert headers["content-type"].split(";")[0] == kind
    assert headers["content-disposition"].startswith(f"{disposition}; filename*=UTF-8''")
    assert headers["content-disposition"].isascii()
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert ("sandbox" in headers["content-security-policy"]) is (kind != "application/pdf")


async def test_a_file_that_has_not_been_read_is_only_for_keeping(admin: httpx.AsyncClient):
    path = await _add(admin)

    headers = (await admin.get(f"{path}/file")).headers

    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-6", 206, slice(-6, None)),
        ("bytes=0-999999", 200, slice(None)),
        ("bytes=4-2", 200, slice(None)),
        ("bytes=0-1,3-4", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=999999-", 416, slice(0)),
        ("bytes=-0", 416, slice(0)),
    ],
)
async def test_a_part_of_a_file_is_given(admin: httpx.AsyncClient, wanted: str, status: int, part: slice):
    path = await _add(admin)

    response = await admin.get(f"{path}/file", headers={"range": wanted})

    assert (response.status_code, response.content) == (status, RIVERS[part])
    if status == 206:
        first = range(len(RIVERS))[part][0]
        last = first + len(response.content) - 1
        assert response.headers["content-range"] == f"bytes {first}-{last}/{len(RIVERS)}"


async def test_a_file_that_is_known_is_not_sent_again(admin: httpx.AsyncClient):
    path = await _add(admin)
    etag = (await admin.get(f"{path}/file")).headers["etag"]

    known = await admin.get(f"{path}/file", headers={"if-none-match": etag})
    part = await admin.get(f"{path}/file", headers={"range": "bytes=0-3", "if-range": etag})
    other = await admin.get(f"{path}/file", headers={"range": "bytes=0-3", "if-range": '"another"'})

    assert (known.status_code, known.content) == (304, b"")
    assert (part.status_code, other.status_code) == (206, 200)


@pytest.mark.parametrize(
    ("method", "call"),
    [("GET", "file"), ("PUT", "file"), ("GET", "progress"), ("POST", "cancel"), ("POST", "retry")],
)
async def test_of_a_document_that_there_is_none_of_nothing_can_be_had(
    server: RunningServer, admin: httpx.AsyncClient, method: str, call: str
):
    path = f"/api/v1/documents/{uuid4()}/{call}"
    files = {"file": ("a.md", RIVERS)} if method == "PUT" else None

    assert (await admin.request(method, path, files=files)).status_code == 404
    assert (await admin.request(method, "/api/v1/documents/x/" + call, files=files)).status_code == 422
    async with server.client() as anonymous:
        assert (await anonymous.request(method, path, files=files)).status_code == 401


async def test_a_new_file_may_be_as_large_as_an_upload(admin: httpx.AsyncClient):
    path = await _add(admin)

    assert (await _put(admin, path, bytes(2**20))).status_code == 202
    assert (await _put(admin, path, bytes(2**20 + 1))).status_code == 413
    assert (await _put(admin, path, b"")).json()["code"] == "document_refused"
