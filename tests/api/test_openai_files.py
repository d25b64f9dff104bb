"""`/v1/files` and `/v1/vector_stores` through OpenAI's own client, and what it never sends."""

from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import anyio
import httpx
import openai
import pytest
from openai import AsyncOpenAI

from app.services.accounts import AccountService
from app.settings import Settings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, RunningServer, ingesting

RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow."
LAKES = b"# Lakes\n\nLake Constance lies between three countries."


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return ingesting(settings)


@pytest.fixture
async def admin(server: RunningServer, accounts: AccountService) -> AsyncGenerator[AsyncOpenAI]:
    user = await accounts.create_user(ADMIN_EMAIL, ADMIN_PASSWORD, "admin")
    _, key = await accounts.create_api_key(user.id, "tests")
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def _upload(admin: AsyncOpenAI, content: bytes = RIVERS, name: str = "rivers.md") -> str:
    return (await admin.files.create(file=(name, content), purpose="assistants")).id


async def test_a_file_is_uploaded_put_into_a_vector_store_and_found(admin: AsyncOpenAI):
    store = await admin.vector_stores.create(name="waters")
    assert (store.status, store.file_counts.total) == ("completed", 0)
    with anyio.fail_after(20):
        file = await admin.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("rivers.md", RIVERS), poll_interval_ms=20
        )
        await admin.files.wait_for_processing(file.id, poll_interval=0.02)
    assert (file.status, file.last_error, file.vector_store_id) == ("completed", None, store.id)
    counted = await admin.vector_stores.retrieve(store.id)
    assert (counted.file_counts.completed, counted.usage_bytes) == (1, len(RIVERS))

    (hit,) = (await admin.vector_stores.search(store.id, query="what is a freshet")).data
    assert (hit.file_id, hit.filename) == (file.id, "rivers.md")
    assert hit.content[0].text == RIVERS.decode()
    assert 0.25 < hit.score <= 1
    assert hit.attributes == {"title": "Rivers", "heading": "Rivers"}
    several = await admin.vector_stores.search(store.id, query=["a freshet", "melted snow"])
    assert [found.file_id for found in several.data] == [file.id]
    above = {"score_threshold": 0.99}
    assert (await admin.vector_stores.search(store.id, query="snow", ranking_options=above)).data == []  # pyright: ignore[reportArgumentType]  # the type knows no dictionary


async def test_what_was_found_before_moves_with_its_file(admin: AsyncOpenAI, server: RunningServer):
    with anyio.fail_after(20):
        file_id = await _upload(admin)
        await admin.files.wait_for_processing(file_id, poll_interval=0.02)
    store = await admin.vector_stores.create(name="waters", file_ids=[file_id])
    assert store.file_counts.completed == 1
    assert (await admin.vector_stores.search(store.id, query="a freshet")).data[0].file_id == file_id
    assert (await admin.vector_stores.search("files", query="a freshet")).data == []

    with pytest.raises(openai.ConflictError) as refused:
        await admin.vector_stores.create(name="another", file_ids=[file_id])
    assert "is in the vector store waters" in refused.value.message
    assert [known.name async for known in await admin.vector_stores.list(limit=1)] == ["files", "waters"]
    again = await admin.vector_stores.files.create(vector_store_id=store.id, file_id=file_id)
    assert again.status == "completed"

    same = await _upload(admin)
    with pytest.raises(openai.ConflictError):
        await admin.vector_stores.files.create(vector_store_id=store.id, file_id=same)
    await admin.files.delete(same)
    gone = await admin.vector_stores.files.delete(file_id, vector_store_id=store.id)
    assert gone.deleted
    assert (await admin.vector_stores.retrieve(store.id)).file_counts.total == 0
    assert (await admin.vector_stores.search("files", query="a freshet")).data[0].file_id == file_id
    kept, _ = await server.resources.knowledge.put("kept", "a key", "lakes.md", LAKES)
    with pytest.raises(openai.ConflictError) as refused:
        await admin.vector_stores.files.create(vector_store_id=store.id, file_id=str(kept.id))
    assert "kept in step with another place" in refused.value.message
    with pytest.raises(openai.ConflictError):
        await admin.vector_stores.files.delete(str(kept.id), vector_store_id="kept")


async def test_files_are_listed_read_and_deleted(admin: AsyncOpenAI):
    ids = [await _upload(admin, RIVERS + b"%d" % number, f"{number}.md") for number in range(3)]
    listed = [file async for file in await admin.files.list(limit=2)]
    assert [file.id for file in listed] == list(reversed(ids))
    assert (listed[0].filename, listed[0].bytes, listed[0].purpose) == ("2.md", len(RIVERS) + 1, "assistants")
    assert [file.id async for file in await admin.files.list(purpose="batch")] == []
    assert (await admin.files.content(ids[0])).content == RIVERS + b"0"
    in_store = [file async for file in await admin.vector_stores.files.list("files", limit=2)]
    assert [file.id for file in in_store] == list(reversed(ids))
    assert (await admin.files.delete(ids[0])).deleted
    for call in (admin.files.retrieve, admin.files.delete, admin.files.content):
        with pytest.raises(openai.NotFoundError):
            await call(ids[0])


async def test_a_file_that_cannot_be_read_has_failed_and_says_why(admin: AsyncOpenAI):
    store = await admin.vector_stores.create(name="waters")
    with anyio.fail_after(20):
        broken = await admin.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("broken.pdf", b"%PDF-1.7 and nothing more"), poll_interval_ms=20
        )
    assert (broken.status, broken.last_error and broken.last_error.code) == ("failed", "invalid_file")
    failed = await admin.vector_stores.files.list(store.id, filter="failed")
    assert [file.id for file in failed.data] == [broken.id]
    assert (await admin.vector_stores.files.list(store.id, filter="completed")).data == []
    assert (await admin.files.retrieve(broken.id)).status == "error"


async def test_what_cannot_be_meant_is_refused_in_the_form_of_these_clients(
    admin: AsyncOpenAI, server: RunningServer
):
    stored: Any = {"file": ("rivers.md", RIVERS)}
    cases: list[tuple[str, str, dict[str, Any], int, str | None]] = [
        ("POST", "/v1/files", {"files": stored, "data": {"purpose": "batch"}}, 400, "purpose"),
        ("POST", "/v1/files", {"files": stored}, 400, "purpose"),
        ("POST", "/v1/files", {"data": {"purpose": "assistants"}}, 400, None),
        ("POST", "/v1/files", {"json": {}}, 400, None),
        (
            "POST",
            "/v1/files",
            {"files": stored, "data": {"purpose": "user_data", "expires_after[seconds]": "3600"}},
            400,
            "expires_after",
        ),
        (
            "POST",
            "/v1/files",
            {"files": {"file": ("empty.md", b"")}, "data": {"purpose": "user_data"}},
            400,
            None,
        ),
        ("POST", "/v1/files", {"content": b"x" * (2**21 + 1)}, 413, None),
        ("GET", "/v1/files?order=asc", {}, 400, "order"),
        ("GET", f"/v1/files?after={uuid4()}", {}, 404, None),
        ("GET", "/v1/files/file-abc123", {}, 404, None),
        ("POST", "/v1/vector_stores", {"json": {"name": "a/b"}}, 400, "name"),
        ("POST", "/v1/vector_stores", {"json": {"name": "files"}}, 409, None),
        ("POST", "/v1/vector_stores", {"json": {"expires_after": {"days": 1}}}, 400, "expires_after"),
        ("POST", "/v1/vector_stores", {"json": {"name": "x", "file_ids": ["file-abc"]}}, 404, None),
        ("POST", "/v1/vector_stores", {"content": b"{"}, 400, None),
        ("GET", "/v1/vector_stores/vs_abc", {}, 404, None),
        ("DELETE", "/v1/vector_stores/files", {}, 405, None),
        ("POST", "/v1/vector_stores/files/files", {"json": {"file_id": str(uuid4())}}, 404, None),
        ("GET", f"/v1/vector_stores/files/files/{uuid4()}", {}, 404, None),
        ("POST", "/v1/vector_stores/files/search", {"json": {}}, 400, "query"),
        ("POST", "/v1/vector_stores/files/search", {"json": {"query": ""}}, 400, None),
        ("POST", "/v1/vector_stores/files/search", {"json": {"query": "q" * 2**20}}, 400, None),
        (
            "POST",
            "/v1/vector_stores/files/search",
            {"json": {"query": "q", "max_num_results": 51}},
            400,
            "max_num_results",
        ),
        (
            "POST",
            "/v1/vector_stores/files/search",
            {"json": {"query": "q", "filters": {"type": "eq"}}},
            400,
            "filters",
        ),
        ("POST", "/v1/vector_stores/nowhere/search", {"json": {"query": "q"}}, 404, None),
    ]
    await _upload(admin)
    async with httpx.AsyncClient(
        base_url=server.url, headers={"authorization": f"Bearer {admin.api_key}"}
    ) as http:
        for method, path, body, status, param in cases:
            response = await http.request(method, path, **body)
            error = response.json()["error"]
            assert response.status_code == status, (path, body, error)
            assert error["type"] == "invalid_request_error"
            assert error["message"]
            assert param is None or error["param"] == param, (path, body, error)
        assert len((await http.get("/v1/vector_stores")).json()["data"]) == 1


async def test_files_and_vector_stores_are_for_administrators(
    server: RunningServer, accounts: AccountService
):
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    _, key = await accounts.create_api_key(user.id, "tests")
    calls = [
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", f"/v1/files/{uuid4()}"),
        ("GET", f"/v1/files/{uuid4()}/content"),
        ("DELETE", f"/v1/files/{uuid4()}"),
        ("GET", "/v1/vector_stores"),
        ("POST", "/v1/vector_stores"),
        ("GET", "/v1/vector_stores/files"),
        ("GET", "/v1/vector_stores/files/files"),
        ("POST", "/v1/vector_stores/files/files"),
        ("GET", f"/v1/vector_stores/files/files/{uuid4()}"),
        ("DELETE", f"/v1/vector_stores/files/files/{uuid4()}"),
        ("POST", "/v1/vector_stores/files/search"),
    ]
    async with httpx.AsyncClient(base_url=server.url) as http:
        for method, path in calls:
            body: Any = {"name": "x", "query": "q", "file_id": "f"} if method == "POST" else None
            stranger = await http.request(method, path, json=body)
            known = await http.request(method, path, json=body, headers={"authorization": f"Bearer {key}"})
            assert (stranger.status_code, known.status_code) == (401, 403), path
            assert stranger.json()["error"]["code"] == "invalid_api_key"
            assert known.json()["error"]["type"] == "permission_error"
