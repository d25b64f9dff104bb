"""The same request twice is one answer, however it comes: at once, through another process, after the end."""

import asyncio
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest

from app.services.accounts import AccountService
from tests.api.test_chat import signed_in
from tests.api.turns import STREAM, asked, gated, history, public
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel


async def test_a_retry_takes_up_the_same_answer_while_it_is_made_and_after_it(
    client: httpx.AsyncClient, elsewhere: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    (gate,) = gated(model, "One", " answer")
    slug, key = await public(server), uuid4().hex
    async with asked(client, slug, idempotency_key=key) as first:
        seen = await first.until("token")
        async with asked(elsewhere, slug, idempotency_key=key) as again:
            assert (again.run_id, again.session_id) == (first.run_id, first.session_id)
            assert await again.until("token") == seen
            gate.set()
            rest = await first.rest()
            assert await again.rest() == rest
    body = {"message": "Go", "assistant_id": slug}
    for http in (client, elsewhere):
        by_header = await http.post(STREAM, json=body, headers={"idempotency-key": key})
        assert by_header.headers["x-run-id"] == first.run_id
        assert len(by_header.text.splitlines()) == len(seen) + len(rest)
    whole = await client.post("/api/v1/chat", json={**body, "idempotency_key": key})
    assert whole.json()["text"] == "One answer"
    assert whole.json()["message_id"] == seen[0]["message_id"]
    assert len(model.prompts) == 1
    assert len(await history(client, first.session_id)) == 2


@pytest.mark.parametrize("with_session", [True, False])
async def test_requests_that_race_are_one_answer(
    client: httpx.AsyncClient,
    elsewhere: httpx.AsyncClient,
    server: RunningServer,
    model: ScriptedModel,
    with_session: bool,
):
    body = {"message": "Go", "assistant_id": await public(server), "idempotency_key": uuid4().hex}
    if with_session:
        body["session_id"] = str(uuid4())
    with anyio.fail_after(20):
        responses = await asyncio.gather(
            *(http.post(STREAM, json=body) for _ in range(5) for http in (client, elsewhere))
        )
    assert {response.status_code for response in responses} == {200}
    assert len({response.headers["x-run-id"] for response in responses}) == 1
    assert len({response.content for response in responses}) == 1
    assert len(model.prompts) == 1


@pytest.mark.parametrize(
    "change", [{"message": "Stop"}, {"language": "de"}, {"on_busy": "queue"}, {"history": []}]
)
async def test_a_key_that_comes_with_another_request_is_refused(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel, change: dict[str, Any]
):
    body = {"message": "Go", "assistant_id": await public(server), "idempotency_key": uuid4().hex}
    await client.post(STREAM, json=body)
    other = await client.post(STREAM, json={**body, **change})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len(model.prompts) == 1


async def test_the_same_key_of_two_users_is_two_keys(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService, model: ScriptedModel
):
    body = {"message": "Go", "assistant_id": await public(server), "idempotency_key": "order-1"}
    async with (
        signed_in(server, accounts, "ada@example.com") as ada,
        signed_in(server, accounts, "bob@example.com") as bob,
    ):
        runs = [(await http.post(STREAM, json=body)).headers["x-run-id"] for http in (ada, bob, ada)]
    assert runs[0] == runs[2] != runs[1]
    in_a_session = {**body, "session_id": str(uuid4())}
    assert (await client.post(STREAM, json=in_a_session)).status_code == 200
    assert len(model.prompts) == 3


async def test_a_key_that_a_stranger_could_guess_leads_to_no_answer(
    client: httpx.AsyncClient, server: RunningServer
):
    body = {"message": "Go", "assistant_id": await public(server), "idempotency_key": "order-1"}
    response = await client.post(STREAM, json=body)
    assert response.status_code == 422
    assert "guess" in response.json()["message"]


@pytest.mark.parametrize("key", ["", "k" * 10_000, "with a space" * 3, "ü" * 30])
@pytest.mark.parametrize("where", ["body", "header"])
async def test_what_cannot_be_a_key_is_refused(
    client: httpx.AsyncClient, server: RunningServer, key: str, where: str
):
    body = {"message": "Go", "assistant_id": await public(server)}
    if where == "body":
        response = await client.post(STREAM, json={**body, "idempotency_key": key})
    else:
        response = await client.post(STREAM, json=body, headers=[(b"idempotency-key", key.encode())])
    assert response.status_code == 422
    assert "idempotency" in response.json()["message"].lower()


async def test_two_different_keys_in_one_request_are_refused(
    client: httpx.AsyncClient, server: RunningServer
):
    body = {"message": "Go", "assistant_id": await public(server), "idempotency_key": uuid4().hex}
    response = await client.post(STREAM, json=body, headers={"idempotency-key": uuid4().hex})
    assert response.status_code == 422
