"""How many questions a minute, and budgets: across processes, through each door, and only for what was accepted."""

from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import openai
import pytest
from sqlalchemy import select, text

from app.db import limits
from app.db.engine import Sessions
from app.db.tables import RateLimit, Run, Spendings
from app.errors import StartupRefused
from app.llm.protocols import Usage
from app.services.accounts import AccountService
from app.settings import Budget, LimitSettings, Settings
from tests.api.test_chat import signed_in
from tests.api.turns import STREAM, answered, asked, gated, public
from tests.conftest import Serve
from tests.scripted_model import ScriptedModel, says


def limited(settings: Settings, **fields: Any) -> Settings:
    return replace(settings, limits=LimitSettings(**fields))


async def ask(client: httpx.AsyncClient, assistant: str, **body: Any) -> httpx.Response:
    return await client.post(STREAM, json={"message": "Go", "assistant_id": assistant, **body})


async def test_a_limit_holds_across_processes_to_the_very_number(
    serve: Serve, settings: Settings, accounts: AccountService
):
    # One of seven is no whole number of microseconds.
    bounded = limited(settings, visitor_turns_per_minute=7, user_turns_per_minute=3)
    async with serve(bounded) as one, serve(bounded) as two, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for server in (one, two)]
        ada = await stack.enter_async_context(signed_in(one, accounts, "ada@example.com"))
        slug = await public(one)

        async def at_once(clients: list[httpx.AsyncClient], **body: Any) -> list[httpx.Response]:
            responses: list[httpx.Response] = []

            async def once(client: httpx.AsyncClient) -> None:
                responses.append(await ask(client, slug, **body))

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(once, clients[number % len(clients)])
            return responses

        assert (await ask(clients[0], "nobody")).status_code == 404
        same = await ask(clients[0], slug, idempotency_key="1" * 32)
        assert (await ask(clients[1], slug, idempotency_key="1" * 32)).headers["x-run-id"] == same.headers[
            "x-run-id"
        ]
        responses = await at_once(clients)
        refused = [response for response in responses if response.status_code == 429]
        assert sorted(response.status_code for response in responses) == [200] * 6 + [429] * 14
        assert refused[0].json()["code"] == "rate_limited"
        assert 1 <= int(refused[0].headers["retry-after"]) <= 9

        key = (await ada.post("/api/v1/api-keys", json={"name": "k"})).json()["key"]
        by_key = await stack.enter_async_context(two.client(headers={"authorization": f"Bearer {key}"}))
        by_user = await at_once([ada, by_key])
        assert sorted(response.status_code for response in by_user) == [200] * 3 + [429] * 17


async def test_a_budget_refuses_when_it_is_used_up_says_when_it_begins_anew_and_lets_finish_what_runs(
    serve: Serve,
    settings: Settings,
    model: ScriptedModel,
    accounts: AccountService,
    sessions: Sessions,
):
    bounded = limited(
        settings,
        user_budget=Budget(tokens=100, period="month"),
        visitor_budget=Budget(tokens=1_000, period="day"),
    )
    async with (
        serve(bounded) as server,
        server.client() as client,
        signed_in(server, accounts, "ada@example.com") as ada,
    ):
        own, free = await public(server, budget={"tokens": 10, "period": "day"}), await public(server)
        gates = gated(model, "A word, ", "or more")
        async with asked(client, own) as first, asked(client, own) as second:
            # Nothing has been spent of it yet.
            await first.until("token")
            await second.until("token")
            model.script = lambda _: says("Yes", usage=Usage(90, 20))
            gates[0].set()
            await first.rest()
            await second.rest()
        # The two have taken 3 tokens each.
        assert (await answered(client, own))[-1]["type"] == "done"
        now = datetime.now(UTC)
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        refused = await ask(client, own)
        assert (refused.status_code, refused.json()["code"]) == (429, "budget_exhausted")
        assert refused.json()["detail"] == {
            "budget": "assistant",
            "period": "day",
            "resets_at": midnight.isoformat(),
        }
        assert f"{midnight:%Y-%m-%d} 00:00 UTC" in refused.json()["message"]
        assert 0 <= int(refused.headers["retry-after"]) - (midnight - now).total_seconds() + 5 <= 10
        again = await client.post(f"/api/v1/chat/{first.session_id}/regenerate", json={})
        assert (again.status_code, again.json()["code"]) == (429, "budget_exhausted")
        wire = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none")
        async with wire:
            with pytest.raises(openai.RateLimitError) as error:
                await wire.chat.completions.create(model=own, messages=[{"role": "user", "content": "Go"}])
        assert (error.value.type, error.value.code) == ("insufficient_quota", "insufficient_quota")

        await answered(ada, free)
        hers = await ask(ada, free)
        assert (hers.status_code, hers.json()["detail"]["budget"]) == (429, "user")
        assert hers.json()["detail"]["resets_at"].split("T")[0].endswith("-01")
        # An answer that is erased with its session has been paid for all the same.
        (gate,) = gated(model, "x" * 8_000, "the end")
        async with asked(client, free) as stream:
            await stream.until("token")
            await client.delete(f"/api/v1/chat/{stream.session_id}?purge=true")
            await stream.rest()
        gate.set()
        visitors = await ask(client, free)
        assert (visitors.status_code, visitors.json()["detail"]["budget"]) == (429, "visitor")
    async with sessions.read() as session:
        assert set((await session.scalars(select(Run.accounts))).all()) == {None}
        names = (await session.scalars(select(Spendings.account))).all()
    assert not any("127.0.0.1" in name for name in names)


async def test_a_budget_of_cost_is_used_up_by_what_answers_cost(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    model.script = lambda _: says("Yes", usage=Usage(100, 0))
    prices = {"scripted": {"input": 1_000, "output": 0}}
    priced = settings.model.model_validate({"model_prices": prices})
    async with serve(replace(settings, model=priced)) as server, server.client() as client:
        slug = await public(server, budget={"cost": 0.2, "period": "month"})
        statuses = [(await ask(client, slug)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_a_budget_of_an_assistant_is_set_changed_and_taken_away(admin_client: httpx.AsyncClient):
    made = await admin_client.post(
        "/api/v1/assistants", json={"name": "A", "budget": {"tokens": 5, "period": "day"}}
    )
    assert made.json()["budget"] == {"tokens": 5, "cost": None, "period": "day"}
    changed = await admin_client.patch(
        "/api/v1/assistants/a", json={"budget": {"cost": 1.5, "period": "month"}}
    )
    assert changed.json()["budget"] == {"tokens": None, "cost": 1.5, "period": "month"}
    assert (await admin_client.patch("/api/v1/assistants/a", json={"budget": None})).json()["budget"] is None
    for budget in (
        {"period": "day"},
        {"tokens": 0, "period": "day"},
        {"tokens": 1},
        {"tokens": 1, "period": "year"},
    ):
        response = await admin_client.patch("/api/v1/assistants/a", json={"budget": budget})
        assert response.status_code == 422, budget


async def test_counts_that_are_over_are_forgotten(sessions: Sessions):
    async with sessions.begin() as session:
        for statement in (
            "INSERT INTO rate_limits VALUES ('old', now() - interval '2 minutes'), ('new', now())",
            "INSERT INTO spendings VALUES ('old', 1, 0, now() - interval '33 days'), ('new', 1, 0, now())",
        ):
            await session.execute(text(statement))
        await limits.forget_what_is_over(session)
        assert (await session.scalars(select(RateLimit.subject))).all() == ["new"]
        assert (await session.scalars(select(Spendings.account))).all() == ["new"]


@pytest.mark.parametrize("value", ["{", '{"tokens": 1}', '{"period": "day"}', "7"])
def test_a_budget_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("VISITOR_BUDGET", value)
    with pytest.raises(StartupRefused, match="VISITOR_BUDGET"):
        Settings.load()
