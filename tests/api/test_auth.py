"""Signing in, users and keys, as a client meets them."""

from uuid import uuid4

import httpx
import pytest

from app.services.accounts import AccountService, UserRecord

PASSWORD = "correct horse"


@pytest.fixture
async def ada(accounts: AccountService) -> UserRecord:
    return await accounts.create_user("ada@example.com", PASSWORD, "user", "Ada")


@pytest.fixture
async def root(accounts: AccountService) -> UserRecord:
    return await accounts.create_user("root@example.com", PASSWORD, "admin")


async def bearer(accounts: AccountService, user: UserRecord) -> dict[str, str]:
    _, key = await accounts.create_api_key(user.id, "test")
    return {"authorization": f"Bearer {key}"}


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert set(response.json()) == {"type", "code", "message", "error", "detail", "id"}
    assert "\n" not in response.text


async def log_in(client: httpx.AsyncClient, username: str, password: str) -> httpx.Response:
    return await client.post("/api/v1/auth/login", data={"username": username, "password": password})


async def test_a_user_signs_in_refreshes_and_signs_out(client: httpx.AsyncClient, ada: UserRecord) -> None:
    response = await client.post(
        "/api/v1/auth/login",
        data={"grant_type": "password", "username": "Ada@example.com", "password": PASSWORD, "scope": ""},
    )
    tokens = response.json()
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)

    me = await client.get("/api/v1/users/me", headers={"authorization": f"bearer {tokens['access_token']}"})
    assert me.json() == {"id": str(ada.id), "email": "ada@example.com", "name": "Ada", "role": "user"}

    refreshed = await client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert refreshed.status_code == 200
    newest = {"refresh_token": refreshed.json()["refresh_token"]}
    assert (await client.post("/api/v1/auth/logout", json=newest)).status_code == 204
    assert_problem(await client.post("/api/v1/auth/refresh", json=newest), 401, "unauthenticated")


async def test_who_fails_too_often_is_told_when_to_come_back(
    client: httpx.AsyncClient, ada: UserRecord
) -> None:
    for _ in range(5):
        assert_problem(await log_in(client, ada.email, "wrong horse"), 401, "unauthenticated")
    refused = await log_in(client, ada.email, PASSWORD)
    assert_problem(refused, 429, "too_many_requests")
    assert refused.headers["retry-after"] == "1"


async def test_a_form_that_is_no_login_is_refused(client: httpx.AsyncClient) -> None:
    right = {"username": "ada@example.com", "password": PASSWORD}
    wrong = (
        {"username": ""},
        {"username": "ada"},
        {"username": "a\x00@example.com"},
        {"username": "a" * 250 + "@b.cd"},
        {"password": ""},
        {"password": "x" * 1_025},
    )
    for form in ({}, *(right | change for change in wrong)):
        assert_problem(await client.post("/api/v1/auth/login", data=form), 422, "invalid_input")


async def test_a_password_is_never_sent_back(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/auth/login", json={"username": "ada", "password": "hunter2hunter2"})
    assert_problem(response, 422, "invalid_input")
    assert "hunter2" not in response.text


async def test_what_is_no_credential_is_told_to_be_none(client: httpx.AsyncClient) -> None:
    for authorization in (
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic YTpi",
        "fk_",
        "Bearer fk_x",
        f"Bearer {'a' * 10_000}",
    ):
        response = await client.get("/api/v1/users/me", headers={"authorization": authorization})
        assert_problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_users_are_for_administrators_alone(
    client: httpx.AsyncClient, accounts: AccountService, ada: UserRecord
) -> None:
    hers = await bearer(accounts, ada)
    new = {"email": "eve@example.com", "password": PASSWORD, "role": "admin"}
    for headers, status, code in ((hers, 403, "forbidden"), ({}, 401, "unauthenticated")):
        assert_problem(await client.get("/api/v1/users", headers=headers), status, code)
        assert_problem(await client.post("/api/v1/users", headers=headers, json=new), status, code)
        changed = await client.patch(f"/api/v1/users/{ada.id}", headers=headers, json={"role": "admin"})
        assert_problem(changed, status, code)
    assert [user.email for user in await accounts.list_users()] == [ada.email]


async def test_an_administrator_makes_users_and_changes_them(
    client: httpx.AsyncClient, accounts: AccountService, root: UserRecord
) -> None:
    client.headers.update(await bearer(accounts, root))
    new = {"email": "Eve@Example.com", "password": PASSWORD, "name": "Eve"}
    made = await client.post("/api/v1/users", json=new)
    eve = made.json()
    assert made.status_code == 201
    assert set(eve) == {"id", "email", "name", "role", "is_active", "created_at"}
    assert (eve["email"], eve["role"], eve["is_active"]) == ("eve@example.com", "user", True)
    assert_problem(await client.post("/api/v1/users", json=new), 409, "conflict")

    changed = await client.patch(f"/api/v1/users/{eve['id']}", json={"is_active": False, "name": "E."})
    assert changed.json() == {**eve, "is_active": False, "name": "E."}
    assert_problem(await client.patch(f"/api/v1/users/{root.id}", json={"role": "user"}), 409, "conflict")
    assert_problem(await client.patch(f"/api/v1/users/{uuid4()}", json={}), 404, "not_found")


async def test_users_are_read_page_by_page(
    client: httpx.AsyncClient, accounts: AccountService, ada: UserRecord, root: UserRecord
) -> None:
    client.headers.update(await bearer(accounts, root))
    first = (await client.get("/api/v1/users", params={"limit": 1})).json()
    assert ([user["email"] for user in first["users"]], first["next"]) == ([ada.email], ada.email)
    second = (await client.get("/api/v1/users", params={"limit": 1, "cursor": first["next"]})).json()
    assert ([user["email"] for user in second["users"]], second["next"]) == ([root.email], None)


async def test_a_user_that_cannot_be_meant_is_refused(
    client: httpx.AsyncClient, accounts: AccountService, root: UserRecord
) -> None:
    client.headers.update(await bearer(accounts, root))
    right = {"email": "eve@example.com", "password": PASSWORD, "name": "Eve", "role": "user"}
    wrong = (
        {"email": "eve"},
        {"password": "1234567"},
        {"password": "x" * 1_025},
        {"password": "eve@example.com"},
        {"name": "E\x00"},
        {"name": "x" * 201},
        {"role": "owner"},
        {"email": None},
    )
    for change in wrong:
        assert_problem(await client.post("/api/v1/users", json=right | change), 422, "invalid_input")
    surrogate = b'{"email": "eve@example.com", "password": "correct horse\\ud800"}'
    response = await client.post(
        "/api/v1/users", content=surrogate, headers={"content-type": "application/json"}
    )
    assert_problem(response, 422, "invalid_input")
    assert (await client.post("/api/v1/users", json=right)).status_code == 201


async def test_a_key_is_shown_once_and_counts_until_it_is_revoked(
    client: httpx.AsyncClient, accounts: AccountService, ada: UserRecord
) -> None:
    client.headers.update(await bearer(accounts, ada))
    made = (await client.post("/api/v1/api-keys", json={"name": "script"})).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert (await client.get("/api/v1/users/me", headers=headers)).json()["id"] == str(ada.id)

    listed = (await client.get("/api/v1/api-keys")).json()["api_keys"]
    assert [key["name"] for key in listed] == ["test", "script"]
    assert set(listed[1]) == {"id", "name", "prefix", "created_at", "last_used_at"}
    assert made["key"].startswith(listed[1]["prefix"])

    assert (await client.delete(f"/api/v1/api-keys/{made['id']}")).status_code == 204
    assert_problem(await client.get("/api/v1/users/me", headers=headers), 401, "unauthenticated")
    assert_problem(await client.delete(f"/api/v1/api-keys/{made['id']}"), 404, "not_found")


async def test_the_keys_of_others_do_not_exist_but_for_administrators(
    client: httpx.AsyncClient, accounts: AccountService, ada: UserRecord, root: UserRecord
) -> None:
    record, _ = await accounts.create_api_key(root.id, "admin's")
    hers, his = await bearer(accounts, ada), await bearer(accounts, root)
    assert_problem(await client.delete(f"/api/v1/api-keys/{record.id}", headers=hers), 404, "not_found")
    of_root = f"/api/v1/api-keys?user_id={root.id}"
    assert_problem(await client.get(of_root, headers=hers), 403, "forbidden")

    (key,) = (await client.get(f"/api/v1/api-keys?user_id={ada.id}", headers=his)).json()["api_keys"]
    assert (await client.delete(f"/api/v1/api-keys/{key['id']}", headers=his)).status_code == 204
    assert_problem(await client.get("/api/v1/users/me", headers=hers), 401, "unauthenticated")
