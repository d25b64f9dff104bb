"""A user's sessions: listed, renamed, claimed, exported, erased."""

import json
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import anyio
import httpx
from sqlalchemy import func, select, update

from app.db.engine import Sessions
from app.db.tables import Message, Run, RunLines, Session
from app.services.accounts import AccountService
from app.settings import Settings
from tests.api.test_chat import signed_in
from tests.api.turns import answered, asked, gated, history, public
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel


async def ids(client: httpx.AsyncClient, **query: object) -> list[str]:
    response = await client.get("/api/v1/sessions", params={name: str(v) for name, v in query.items()})
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json()["items"]]


async def test_a_user_sees_the_own_sessions_the_last_active_first_in_pages(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService
):
    slug = await public(server)
    async with (
        signed_in(server, accounts, "ada@example.com") as ada,
        signed_in(server, accounts, "bob@example.com") as bob,
    ):
        for session_id in ("one", "two", "three", "one"):
            await answered(
                ada, slug, session_id=session_id, message=f"About {session_id}, at length: {'x' * 100}"
            )
        await answered(bob, slug, session_id="his")
        await answered(client, slug)
        assert await ids(ada) == ["one", "three", "two"]
        assert await ids(bob) == ["his"]
        page = (await ada.get("/api/v1/sessions", params={"limit": 2})).json()
        assert [item["id"] for item in page["items"]] == ["one", "three"]
        assert await ids(ada, cursor=page["next"]) == ["two"]
        assert page["items"][1]["title"] == f"About three, at length: {'x' * 100}"[:80]
        for cursor in ("x", "1", ".", "9" * 30 + ".a"):
            assert (await ada.get("/api/v1/sessions", params={"cursor": cursor})).status_code == 422
    assert (await client.get("/api/v1/sessions")).status_code == 401


async def test_a_session_is_renamed_by_its_user_alone(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService
):
    slug = await public(server)
    async with (
        signed_in(server, accounts, "ada@example.com") as ada,
        signed_in(server, accounts, "bob@example.com") as bob,
    ):
        await answered(ada, slug, session_id="hers", message="Why?")
        renamed = await ada.patch("/api/v1/sessions/hers", json={"title": " Reasons "})
        assert renamed.json()["title"] == "Reasons"
        assert (await bob.patch("/api/v1/sessions/hers", json={"title": "Mine"})).status_code == 404
        assert (await ada.patch("/api/v1/sessions/hers", json={"title": "x" * 201})).status_code == 422
        assert (await ada.patch("/api/v1/sessions/hers", json={"title": None})).json()["title"] == "Why?"


async def test_an_anonymous_session_becomes_the_users_who_claims_it_first(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService
):
    session_id = (await answered(client, await public(server)))[0]["session_id"]
    url = f"/api/v1/sessions/{session_id}/claim"
    assert (await client.post(url)).status_code == 401
    async with (
        signed_in(server, accounts, "ada@example.com") as ada,
        signed_in(server, accounts, "bob@example.com") as bob,
    ):
        assert (await ada.post(f"/api/v1/sessions/{uuid4()}/claim")).status_code == 404
        for _ in range(2):
            assert (await ada.post(url)).json()["id"] == session_id
        assert (await bob.post(url)).status_code == 404
        assert await ids(ada) == [session_id]
        assert len(await history(ada, session_id)) == 2
        for stranger in (client, bob):
            assert (await stranger.get(f"/api/v1/chat/{session_id}/history")).status_code == 404
            assert (await stranger.get(f"/api/v1/chat/{session_id}/stream")).status_code == 404


async def test_what_is_purged_leaves_no_row(
    client: httpx.AsyncClient, server: RunningServer, sessions: Sessions, model: ScriptedModel
):
    slug = await public(server)
    kept = (await answered(client, slug))[0]["session_id"]
    gated(model, "One", " two")
    async with asked(client, slug) as stream:
        await stream.until("token")
        for _ in range(2):
            gone = await client.delete(f"/api/v1/chat/{stream.session_id}", params={"purge": "true"})
            assert gone.status_code == 200
        assert (await stream.rest())[-1]["code"] == "session_erased"
    async with sessions.read() as session:
        for table in (Session.id, Message.session_id, Run.session_id):
            assert set((await session.execute(select(table))).scalars()) == {kept}
        assert (await session.execute(select(func.count()).select_from(RunLines))).scalar_one() == 0


async def test_all_that_is_kept_of_a_user_is_exported(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService
):
    slug = await public(server)
    async with signed_in(server, accounts, "ada@example.com") as ada:
        await answered(ada, slug, session_id="one", message="First")
        await ada.post("/api/v1/chat/one/regenerate")
        await answered(ada, slug, session_id="two", message="Second")
        await ada.delete("/api/v1/chat/two")
        await answered(client, slug, message="Not hers")
        response = await ada.get("/api/v1/users/me/export")
    assert response.headers["content-type"] == "application/x-ndjson"
    user, *records = [json.loads(line) for line in response.text.splitlines()]
    assert (user["type"], user["email"]) == ("user", "ada@example.com")
    assert [(r["type"], r.get("role", r.get("id"))) for r in records] == [
        ("session", "two"),
        ("message", "user"),
        ("message", "assistant"),
        ("session", "one"),
        ("message", "user"),
        ("message", "assistant"),
        ("message", "assistant"),
    ]
    assert [r["is_shown"] for r in records[4:]] == [True, False, True]
    assert "Not hers" not in response.text
    assert (await client.get("/api/v1/users/me/export")).status_code == 401


async def test_sessions_are_erased_after_the_days_that_are_set(
    serve: Serve, settings: Settings, sessions: Sessions
):
    async with serve(settings) as server, server.client() as client:
        slug = await public(server)
        old, recent, new = [(await answered(client, slug))[0]["session_id"] for _ in range(3)]
    async with sessions.begin() as session:
        for session_id, days in ((old, 31), (recent, 29)):
            idle = func.now() - timedelta(days=days)
            await session.execute(update(Session).where(Session.id == session_id).values(last_active_at=idle))
    chat = settings.chat.model_copy(update={"session_retention_days": 30})
    async with serve(replace(settings, chat=chat)) as server, server.client() as client:
        with anyio.fail_after(10):
            while await history(client, old):  # noqa: ASYNC110  # seen from outside
                await anyio.sleep(0.01)
        assert await history(client, recent)
        assert await history(client, new)
