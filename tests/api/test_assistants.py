from typing import Any

import httpx
import pytest

PUBLIC = {"id", "slug", "name", "description", "first_message", "language", "user_authentication"}


async def _create(admin: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await admin.post("/api/v1/assistants", json={"name": "Docs", **fields})
    assert response.status_code == 201, response.text
    return response.json()


async def test_everybody_sees_what_is_public_of_an_assistant_and_nothing_else(
    client: httpx.AsyncClient, admin_client: httpx.AsyncClient
):
    made = await _create(admin_client, instructions="Secret.", language="en-US", first_message="Hello!")

    for address in ("docs", made["id"]):
        response = await client.get(f"/api/v1/assistants/{address}")
        assert response.status_code == 200
        assert response.json() == {field: made[field] for field in PUBLIC}
    listed = (await client.get("/api/v1/assistants")).json()
    assert listed == {"items": [{field: made[field] for field in PUBLIC}], "next": None}


async def test_an_administrator_sees_all_of_it(admin_client: httpx.AsyncClient):
    await admin_client.post("/api/v1/collections", json={"name": "laws"})
    given = {
        "name": "Law",
        "slug": "law",
        "description": "About the law.",
        "instructions": "Be brief.",
        "context": "We are a court.",
        "first_message": "Hello!",
        "response_shape": {"verdict": "guilty or not", "years": [1, 2.5, None, True]},
        "model": "some-model",
        "model_parameters": {"temperature": 1, "stop": ["END"], "seed": 7},
        "user_authentication": True,
        "is_enabled": False,
        "top_k": 0,
        "similarity_cutoff": -1,
        "answerability": "strict",
        "language": "sr-Latn-RS",
        "collections": ["laws"],
    }

    made = await _create(admin_client, **given)

    assert [collection["name"] for collection in made["collections"]] == ["laws"]
    assert {field: made[field] for field in given} == {**given, "collections": made["collections"]}
    assert (await admin_client.get("/api/v1/assistants/law")).json() == made
    assert (await admin_client.get("/api/v1/assistants")).json()["items"] == [made]


async def test_only_administrators_make_change_and_delete_assistants(
    client: httpx.AsyncClient, admin_client: httpx.AsyncClient
):
    await _create(admin_client)

    for method, path in (
        ("POST", "/api/v1/assistants"),
        ("PATCH", "/api/v1/assistants/docs"),
        ("DELETE", "/api/v1/assistants/docs"),
    ):
        response = await client.request(method, path, json={"name": "Mine"})
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert (await client.get("/api/v1/assistants/docs")).json()["name"] == "Docs"


async def test_a_disabled_assistant_does_not_exist_for_others(
    client: httpx.AsyncClient, admin_client: httpx.AsyncClient
):
    await _create(admin_client, is_enabled=False)

    assert (await client.get("/api/v1/assistants/docs")).status_code == 404
    assert (await client.get("/api/v1/assistants")).json()["items"] == []


async def test_a_change_is_of_what_is_sent_alone(admin_client: httpx.AsyncClient):
    made = await _create(admin_client, context="Much.", language="en", model_parameters={"seed": 1})

    response = await admin_client.patch("/api/v1/assistants/docs", json={"language": None, "top_k": 9})

    assert response.status_code == 200
    changed = {"language": None, "top_k": 9, "updated_at": response.json()["updated_at"]}
    assert response.json() == {**made, **changed}


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": ""},
        {"name": "  "},
        {"name": "a" * 201},
        {"name": "a\x00"},
        {"slug": "Docs!"},
        {"slug": "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90"},
        {"description": "a" * 2_001},
        {"language": "english please"},
        {"top_k": 51},
        {"top_k": "6"},
        {"similarity_cutoff": 1.1},
        {"answerability": "sometimes"},
        {"is_enabled": "yes"},
        {"collections": ["nowhere"]},
        {"model_parameters": {"temperature": 2.1}},
        {"model_parameters": {"logit_bias": {}}},
        {"model_parameters": {"stop": []}},
        {"response_shape": ["no", "object"]},
        {"response_shape": {"a": "\x00"}},
        {"response_shape": {"a": "x" * 70_000}},
    ],
)
async def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    admin_client: httpx.AsyncClient, change: dict[str, Any]
):
    made = await _create(admin_client)

    changed = await admin_client.patch("/api/v1/assistants/docs", json=change)
    created = await admin_client.post("/api/v1/assistants", json={"name": "Other", **change})

    assert (changed.status_code, created.status_code) == (422, 422)
    assert changed.json()["code"] == created.json()["code"] == "invalid_input"
    assert (await admin_client.get("/api/v1/assistants")).json()["items"] == [made]


@pytest.mark.parametrize(
    "shape",
    [r'{"a": "\ud800"}', r'{"\ud800": 1}', '{"a": NaN}', '{"a": 1e999}', '{"a":' * 300 + "1" + "}" * 300],
)
async def test_a_response_shape_that_cannot_be_kept_is_refused(admin_client: httpx.AsyncClient, shape: str):
    body = f'{{"name": "Docs", "response_shape": {shape}}}'

    response = await admin_client.post(
        "/api/v1/assistants", content=body, headers={"content-type": "application/json"}
    )

    assert response.status_code == 422


async def test_a_response_shape_is_kept_as_it_is(admin_client: httpx.AsyncClient):
    shape = {"a\\u0000": "\\u0000 🌊", "deep": {"er": [[{"est": 10**300}]]}, "empty": {}}

    assert (await _create(admin_client, response_shape=shape))["response_shape"] == shape


async def test_a_slug_that_is_taken_is_a_conflict(admin_client: httpx.AsyncClient):
    await _create(admin_client)

    response = await admin_client.post("/api/v1/assistants", json={"name": "Docs", "slug": "docs"})

    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert (await _create(admin_client))["slug"] == "docs-2"


async def test_assistants_come_in_pages(client: httpx.AsyncClient, admin_client: httpx.AsyncClient):
    for slug in ("b", "c", "a"):
        await _create(admin_client, slug=slug)

    first = (await client.get("/api/v1/assistants", params={"limit": 2})).json()
    second = (await client.get("/api/v1/assistants", params={"limit": 2, "cursor": first["next"]})).json()

    assert [item["slug"] for item in first["items"]] == ["a", "b"]
    assert [item["slug"] for item in second["items"]] == ["c"]
    assert second["next"] is None


async def test_a_deleted_assistant_is_gone(admin_client: httpx.AsyncClient):
    await _create(admin_client)

    response = await admin_client.delete("/api/v1/assistants/docs")

    assert (response.status_code, response.content) == (204, b"")
    assert (await admin_client.delete("/api/v1/assistants/docs")).status_code == 404


@pytest.mark.parametrize(
    "identifier", ["nobody", "%00", "%ff", "no%20slug", "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90", "a" * 101]
)
async def test_a_malformed_or_unknown_assistant_is_refused_politely(
    client: httpx.AsyncClient, identifier: str
):
    response = await client.get(f"/api/v1/assistants/{identifier}")

    assert response.status_code in {404, 422}
    assert response.json()["type"] == "error"
