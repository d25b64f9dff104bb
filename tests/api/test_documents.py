from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest

from app.services.accounts import AccountService
from app.settings import Settings
from tests.conftest import ingesting
from tests.ingest.ingest_files import encrypted

RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow."


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return ingesting(settings)


async def _upload(
    admin: httpx.AsyncClient, content: bytes = RIVERS, name: str = "rivers.md", **fields: str
) -> httpx.Response:
    return await admin.post("/api/v1/documents", files={"file": (name, content)}, data=fields)


async def _ingested(admin: httpx.AsyncClient, document_id: str) -> dict[str, Any]:
    with anyio.fail_after(20):
        while True:
            document = (await admin.get(f"/api/v1/documents/{document_id}")).json()
            if document["status"] in {"ready", "failed"}:
                return document
            await anyio.sleep(0.01)


async def _assistant(admin: httpx.AsyncClient, **fields: Any) -> None:
    body = {"name": "Docs", "collections": ["default"], "similarity_cutoff": 0.1, **fields}
    assert (await admin.post("/api/v1/assistants", json=body)).status_code == 201


async def test_an_uploaded_document_becomes_ready_and_is_found(admin_client: httpx.AsyncClient):
    response = await _upload(admin_client)

    assert response.status_code == 202
    accepted = response.json()
    assert (accepted["file_name"], accepted["size_bytes"]) == ("rivers.md", len(RIVERS))
    assert accepted["collection"]["name"] == "default"
    document = await _ingested(admin_client, accepted["id"])
    assert (document["status"], document["title"], document["chunk_count"]) == ("ready", "Rivers", 1)
    assert (document["error"], document["progress"], document["warnings"]) == (None, None, [])
    found = await admin_client.post(
        "/api/v1/search", json={"question": "what is a freshet", "collections": ["default"]}
    )
    assert found.status_code == 200
    (hit,) = found.json()["items"]
    assert hit["document_id"] == document["id"]
    assert (hit["dense_rank"], hit["words_rank"]) == (1, 1)
    assert hit["similarity"] > 0.25


async def test_the_same_file_again_is_the_same_document(admin_client: httpx.AsyncClient):
    first, again = await _upload(admin_client), await _upload(admin_client, name="copy.md")
    elsewhere = await _upload(admin_client, collection="other")

    assert (first.status_code, again.status_code, elsewhere.status_code) == (202, 200, 202)
    assert first.json()["id"] == again.json()["id"] != elsewhere.json()["id"]
    assert elsewhere.json()["collection"]["name"] == "other"


async def test_a_file_that_cannot_be_read_fails_and_says_why(admin_client: httpx.AsyncClient):
    accepted = await _upload(admin_client, b"%PDF-1.7 and nothing more", "broken.pdf")

    document = await _ingested(admin_client, accepted.json()["id"])

    assert document["status"] == "failed"
    assert document["error"]["reason"] == "broken"
    text = await admin_client.get(f"/api/v1/documents/{document['id']}/text")
    assert (text.status_code, text.json()["code"]) == (409, "conflict")


async def test_a_pdf_is_opened_with_the_password_that_comes_with_it(admin_client: httpx.AsyncClient):
    locked = encrypted(b"secret")
    without = await _ingested(admin_client, (await _upload(admin_client, locked, "a.pdf")).json()["id"])
    assert without["error"]["reason"] == "encrypted"

    accepted = await _upload(admin_client, locked, "a.pdf", password="secret")

    assert (await _ingested(admin_client, accepted.json()["id"]))["status"] == "ready"
    too_long = await _upload(admin_client, locked, "a.pdf", password="x" * 1_001)
    assert (too_long.status_code, too_long.json()["code"]) == (422, "invalid_input")


async def test_an_empty_file_is_refused_with_its_reason(admin_client: httpx.AsyncClient):
    response = await _upload(admin_client, b"")

    assert (response.status_code, response.json()["code"]) == (422, "document_refused")
    assert response.json()["detail"] == {"reason": "empty"}


@pytest.mark.parametrize("size_bytes", [2**20 + 1, 3 * 2**20])
async def test_a_file_that_is_too_large_is_refused(admin_client: httpx.AsyncClient, size_bytes: int):
    response = await _upload(admin_client, bytes(size_bytes))

    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert (await admin_client.get("/api/v1/documents")).json()["items"] == []


async def test_a_file_of_the_largest_size_is_taken(admin_client: httpx.AsyncClient):
    assert (await _upload(admin_client, bytes(2**20))).status_code == 202


async def test_an_upload_that_does_not_tell_its_size_is_counted(admin_client: httpx.AsyncClient):
    async def body():
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(40):
            yield bytes(2**16)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await admin_client.post("/api/v1/documents", content=body(), headers=headers)

    assert (response.status_code, response.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--b--"),
        ("multipart/form-data; boundary=b", b"nonsense"),
        ("multipart/form-data; boundary=b", b""),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
        ),
        ("multipart/form-data; boundary=b", b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
    ],
)
async def test_a_body_that_is_no_form_with_a_file_is_refused(
    admin_client: httpx.AsyncClient, content_type: str, body: bytes
):
    response = await admin_client.post(
        "/api/v1/documents", content=body, headers={"content-type": content_type}
    )

    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("collection", ["a/b", "\x00", ""])
async def test_a_collection_that_cannot_be_named_so_is_refused(
    admin_client: httpx.AsyncClient, collection: str
):
    assert (await _upload(admin_client, collection=collection)).status_code == 422


async def test_of_a_file_name_the_folders_are_dropped(admin_client: httpx.AsyncClient):
    body = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="C:\\\\secret\\\\../../a.txt"\r\n\r\nText.'
        b"\r\n--b--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}

    response = await admin_client.post("/api/v1/documents", content=body, headers=headers)

    assert (response.status_code, response.json()["file_name"]) == (202, "a.txt")


async def test_documents_and_collections_are_for_administrators(client: httpx.AsyncClient):
    for method, path in (
        ("POST", "documents"),
        ("GET", "documents"),
        ("GET", f"documents/{uuid4()}"),
        ("GET", f"documents/{uuid4()}/text"),
        ("DELETE", f"documents/{uuid4()}"),
        ("GET", "collections"),
        ("GET", "collections/default"),
        ("DELETE", "collections/default"),
    ):
        response = await client.request(method, f"/api/v1/{path}")
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def test_the_text_of_a_document_is_read_in_parts(admin_client: httpx.AsyncClient):
    document = await _ingested(admin_client, (await _upload(admin_client)).json()["id"])
    address = f"/api/v1/documents/{document['id']}/text"

    whole = (await admin_client.get(address)).json()
    part = (await admin_client.get(address, params={"start": 2, "end": 8})).json()

    assert (whole["start"], whole["end"]) == (0, whole["length"])
    assert part == {"text": "Rivers", "start": 2, "end": 8, "length": whole["length"]}
    assert (await admin_client.get(address, params={"start": 8, "end": 2})).json()["text"] == ""
    for bad in ({"start": -1}, {"start": 2**31}, {"end": "x"}):
        assert (await admin_client.get(address, params=bad)).status_code == 422


async def test_no_more_than_a_part_of_a_long_text_is_sent_at_once(admin_client: httpx.AsyncClient):
    content = b"A line of a long text.\n" * 5_000
    document = await _ingested(admin_client, (await _upload(admin_client, content, "long.txt")).json()["id"])

    for params in ({}, {"end": 10**9}):
        part = (await admin_client.get(f"/api/v1/documents/{document['id']}/text", params=params)).json()
        assert (part["start"], part["end"], len(part["text"])) == (0, 100_000, 100_000)


async def test_documents_come_in_pages_newest_first(admin_client: httpx.AsyncClient):
    for number in range(3):
        await _upload(admin_client, f"Number {number}.".encode(), f"{number}.txt")

    first = (await admin_client.get("/api/v1/documents", params={"limit": 2})).json()
    rest = {"limit": 2, "cursor": first["next"], "collection": "default"}
    second = (await admin_client.get("/api/v1/documents", params=rest)).json()

    assert [item["file_name"] for item in first["items"]] == ["2.txt", "1.txt"]
    assert [item["file_name"] for item in second["items"]] == ["0.txt"]
    assert second["next"] is None
    for bad in ({"cursor": "x"}, {"status": "lost"}, {"limit": 0}):
        assert (await admin_client.get("/api/v1/documents", params=bad)).status_code == 422


async def test_a_deleted_document_is_gone(admin_client: httpx.AsyncClient):
    document = await _ingested(admin_client, (await _upload(admin_client)).json()["id"])
    address = f"/api/v1/documents/{document['id']}"

    assert (await admin_client.delete(address)).status_code == 204

    for method in ("GET", "DELETE"):
        assert (await admin_client.request(method, address)).status_code == 404
    found = await admin_client.post(
        "/api/v1/search", json={"question": "freshet", "collections": ["default"]}
    )
    assert found.json() == {"items": []}


async def test_a_collection_is_made_read_changed_and_deleted(admin_client: httpx.AsyncClient):
    made = await admin_client.post(
        "/api/v1/collections", json={"name": "Laws & rules", "description": "All."}
    )
    assert made.status_code == 201

    read = await admin_client.get("/api/v1/collections/Laws%20%26%20rules")
    assert read.json() == made.json()
    changed = await admin_client.patch(f"/api/v1/collections/{made.json()['id']}", json={"name": "Laws"})
    assert changed.json() == {**made.json(), "name": "Laws"}
    listed = (await admin_client.get("/api/v1/collections", params={"limit": 1})).json()
    assert listed == {"items": [changed.json()], "next": None}
    again = await admin_client.post("/api/v1/collections", json={"name": "Laws"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    unchanged = await admin_client.patch("/api/v1/collections/Laws", json={"description": None})
    assert unchanged.json() == changed.json()
    described = await admin_client.patch("/api/v1/collections/Laws", json={"description": "Some."})
    assert described.json()["description"] == "Some."
    assert (await admin_client.delete("/api/v1/collections/Laws")).status_code == 204
    assert (await admin_client.delete("/api/v1/collections/Laws")).status_code == 404


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\x00", "a" * 101, "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90", " a"]
)
async def test_a_collection_that_cannot_be_addressed_is_refused(admin_client: httpx.AsyncClient, name: str):
    response = await admin_client.post("/api/v1/collections", json={"name": name})

    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")


async def test_a_search_through_an_assistant_is_for_those_it_answers(
    client: httpx.AsyncClient, admin_client: httpx.AsyncClient
):
    await _ingested(admin_client, (await _upload(admin_client)).json()["id"])
    await _assistant(admin_client, slug="open")
    await _assistant(admin_client, slug="members", user_authentication=True)
    await _assistant(admin_client, slug="off", is_enabled=False)

    async def status(http: httpx.AsyncClient, assistant: str) -> int:
        question = {"question": "what is a freshet", "assistant": assistant}
        response = await http.post("/api/v1/search", json=question)
        if response.status_code == 200:
            assert len(response.json()["items"]) == 1
        return response.status_code

    assert [await status(client, slug) for slug in ("open", "members", "off", "none")] == [200, 401, 404, 404]
    assert [await status(admin_client, slug) for slug in ("open", "members", "off")] == [200, 200, 200]


async def test_a_search_in_collections_is_for_administrators(
    client: httpx.AsyncClient, admin_client: httpx.AsyncClient, accounts: AccountService
):
    body = {"question": "anything", "collections": ["default"]}
    await accounts.create_user("user@example.com", "the password of a user", "user")
    tokens = await accounts.login("user@example.com", "the password of a user", "127.0.0.1")
    user = {"authorization": f"Bearer {tokens.access_token}"}

    assert (await client.post("/api/v1/search", json=body)).status_code == 401
    assert (await client.post("/api/v1/search", json=body, headers=user)).status_code == 403
    assert (await admin_client.post("/api/v1/search", json=body)).status_code == 404


async def test_a_search_may_set_how_many_and_how_similar(admin_client: httpx.AsyncClient):
    for text in (b"The freshet of spring.", b"The freshet of the Danube.", b"Of mountains."):
        await _ingested(admin_client, (await _upload(admin_client, text, "a.txt")).json()["id"])
    await _assistant(admin_client)

    async def count(**settings: Any) -> int:
        body = {"question": "freshet of spring", "assistant": "docs", **settings}
        return len((await admin_client.post("/api/v1/search", json=body)).json()["items"])

    assert await count(top_k=1) == 1
    assert await count(top_k=0) == 0
    assert await count(similarity_cutoff=-1) == 3
    assert await count(similarity_cutoff=1) == 0


@pytest.mark.parametrize(
    "body",
    [
        {"question": "anything"},
        {"question": "", "assistant": "docs"},
        {"question": "a" * 50_001, "assistant": "docs"},
        {"question": "a\x00", "assistant": "docs"},
        {"question": "anything", "collections": []},
        {"question": "anything", "assistant": "docs", "top_k": 51},
    ],
)
async def test_a_search_that_cannot_be_meant_is_refused(
    admin_client: httpx.AsyncClient, body: dict[str, Any]
):
    response = await admin_client.post("/api/v1/search", json=body)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")
