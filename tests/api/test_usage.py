"""What answers have taken: noted once for each, whatever its end, and told to those who may know."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select

from app.db import conversations, processes, runs
from app.db import sessions as stored_sessions
from app.db.conversations import NewRun
from app.db.engine import Sessions
from app.db.runs import NewLines
from app.db.tables import Usage
from app.db.usage import Expense
from app.errors import ModelUnavailable, StartupRefused
from app.events import ModelOfAnswer, Start, Step, Tokens, TokenUsage
from app.llm.protocols import Usage as Counted
from app.services.accounts import AccountService
from app.services.expenses import Prices
from app.settings import EmbeddingSettings, ModelPrice, ModelSettings, Settings
from tests.api.test_chat import signed_in
from tests.api.turns import answered, asked, gated, history, opened, public
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel, says

PRICES = {"scripted": ModelPrice(input=1_000, output=2_000)}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, model=settings.model.model_copy(update={"model_prices": PRICES}))


async def noted(sessions: Sessions) -> list[Usage]:
    async with sessions.read() as session:
        return list((await session.scalars(select(Usage).order_by(Usage.ended_at))).all())


async def told(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    response = await client.get("/api/v1/usage", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def test_each_end_is_noted_once_with_all_that_was_asked_of_the_model_at_the_prices_of_then(
    client: httpx.AsyncClient,
    server: RunningServer,
    model: ScriptedModel,
    sessions: Sessions,
    accounts: AccountService,
):
    slug = await public(server)
    model.script = lambda _: says("Yes", usage=Counted(100, 10))
    completed = await answered(client, slug, idempotency_key="0" * 32)
    assert await answered(client, slug, idempotency_key="0" * 32) == completed
    assert completed[-1]["usage"] == {
        "input_tokens": 100,
        "output_tokens": 10,
        "total_tokens": 110,
        "cost": pytest.approx(0.12),
    }
    assert (await history(client, completed[0]["session_id"]))[1]["usage"] == completed[-1]["usage"]

    async with signed_in(server, accounts, "ada@example.com") as ada:
        me = (await ada.get("/api/v1/users/me")).json()["id"]
        # She asks in a session that is nobody's.
        model.script = lambda _: [["No"], ModelUnavailable("Away.")]
        await answered(ada, slug, session_id=completed[0]["session_id"])
    gated(model, "A word or ", "two")
    async with asked(client, slug) as stream:
        await stream.until("token")
        await client.post(f"/api/v1/chat/{stream.session_id}/stop")
        stopped = await stream.rest()
    async with asked(client, slug) as stream:
        await stream.until("token")
        await client.delete(f"/api/v1/chat/{stream.session_id}?purge=true")
        assert (await stream.rest())[-1]["code"] == "session_erased"

    rows = await noted(sessions)
    assert [(row.status, row.model, row.input_tokens > 0, row.is_estimated) for row in rows] == [
        ("completed", "scripted", True, False),
        ("failed", "scripted", True, True),
        ("stopped", "scripted", True, True),
        ("stopped", "scripted", True, True),
    ]
    assert [row.user_id for row in rows] == [None, UUID(me), None, None]
    assert rows[0].cost == pytest.approx(0.12)
    assert stopped[-1]["usage"]["cost"] == rows[2].cost
    assert rows[3].session_id is None

    await client.delete(f"/api/v1/chat/{completed[0]['session_id']}?purge=true")
    assert [(row.session_id, row.cost) for row in (await noted(sessions))[:2]] == [
        (None, row.cost) for row in rows[:2]
    ]


async def test_what_is_known_of_an_interrupted_answer_is_noted_by_who_ends_it(
    serve: Serve, settings: Settings, sessions: Sessions
):
    chat = settings.chat.model_copy(update={"process_heartbeat_s": 0.05})
    async with serve(replace(settings, chat=chat)) as server, server.client() as client:
        assistant = await server.resources.assistants.create(name="Public")
        gone, run_id, session_id = uuid4(), uuid4(), str(uuid4())
        run = NewRun(
            run_id, gone, session_id, assistant.id, uuid4(), uuid4(), None, "running", user_id=uuid4()
        )
        async with sessions.begin() as session:
            await processes.beat(session, gone)
            await stored_sessions.open_session(session, session_id, user_id=None, assistant_id=assistant.id)
            await conversations.add_turn(session, run, "Go")
            start = Start(
                run_id=str(run_id),
                session_id=session_id,
                message_id=str(run.answer_id),
                user_message_id=str(run.question_id),
                protocol=1,
                model=ModelOfAnswer(name="scripted", provider="tests"),
            )
            step = Step(step_type="synthesis", status="running", step_id="1", parent_id=None)
            token = Tokens(contents=["Half an answer"])
            lines = b"".join([*start.lines(1), *step.lines(2), *token.lines(3)])
            await runs.add_lines(session, [NewLines(run_id, 1, 3, lines)])
        async with opened(client, "GET", f"/api/v1/chat/{session_id}/stream") as stream:
            assert (await stream.rest())[-1]["code"] == "interrupted"
    (row,) = await noted(sessions)
    assert (row.run_id, row.status, row.assistant_id) == (run_id, "failed", assistant.id)
    assert (row.output_tokens, row.is_estimated, row.cost) == (3, True, pytest.approx(0.006))
    assert row.user_id is None, "there is no such user"


async def test_sums_are_told_by_day_assistant_user_session_and_model_as_json_and_as_a_table(
    client: httpx.AsyncClient,
    admin_client: httpx.AsyncClient,
    server: RunningServer,
    model: ScriptedModel,
    accounts: AccountService,
):
    slug, other = await public(server), await public(server, model="unpriced")
    model.script = lambda _: says("Yes", usage=Counted(100, 10))
    async with signed_in(server, accounts, "ada@example.com") as ada:
        await answered(ada, slug, session_id="hers")
        await answered(ada, slug, session_id="hers")
        await answered(ada, other)
        await answered(client, slug)
        today = datetime.now(UTC).date()

        async def rows(who: httpx.AsyncClient, by: str, **query: Any) -> list[Any]:
            report = await told(who, by=by, **query)
            return [(row["name"] or row["key"], row["answers"], row["cost"]) for row in report["items"]]

        assert await rows(admin_client, "day") == [(str(today), 4, pytest.approx(0.36))]
        assert await rows(admin_client, "assistant") == [
            (slug, 3, pytest.approx(0.36)),
            (other, 1, None),
        ]
        assert await rows(admin_client, "user") == [
            ("ada@example.com", 3, pytest.approx(0.24)),
            (None, 1, pytest.approx(0.12)),
        ]
        assert await rows(admin_client, "model") == [
            ("scripted", 3, pytest.approx(0.36)),
            ("unpriced", 1, None),
        ]
        assert (await rows(ada, "session"))[0] == ("hers", 2, pytest.approx(0.24))
        assert await rows(ada, "day") == [(str(today), 3, pytest.approx(0.24))]
        assert await rows(ada, "day", assistant_id=other) == [(str(today), 1, None)]
        tomorrow = str(today + timedelta(days=1))
        assert await rows(admin_client, "day", **{"from": tomorrow, "to": tomorrow}) == []
        report = await told(ada)
        assert (report["to"], report["from"]) == (str(today), str(today - timedelta(days=29)))
        assert report["total"] == {
            "answers": 3,
            "input_tokens": 300,
            "output_tokens": 30,
            "embedding_tokens": 0,
            "cost": pytest.approx(0.24),
            "priced_answers": 2,
        }
        for headers, query in (({"accept": "text/csv"}, {}), ({}, {"format": "csv"})):
            response = await ada.get("/api/v1/usage", params={"by": "model", **query}, headers=headers)
            assert response.headers["content-type"] == "text/csv; charset=utf-8"
            table = list(csv.DictReader(io.StringIO(response.text)))
            assert [(row["key"], row["input_tokens"], row["cost"]) for row in table] == [
                ("scripted", "200", "0.24"),
                ("unpriced", "100", ""),
            ]
        me = (await ada.get("/api/v1/users/me")).json()["id"]
        assert await rows(admin_client, "user", user_id=me) == [("ada@example.com", 3, pytest.approx(0.24))]
        for who, query, status in (
            (client, {}, 401),
            (ada, {"user_id": str(uuid4())}, 403),
            (ada, {"assistant_id": "nobody"}, 404),
            (ada, {"by": "colour"}, 422),
            (ada, {"from": "yesterday"}, 422),
            (ada, {"from": "2026-01-02", "to": "2026-01-01"}, 422),
            (ada, {"from": "1026-01-02"}, 422),
            (ada, {"to": "0"}, 422),
        ):
            response = await who.get("/api/v1/usage", params=query)
            assert response.status_code == status, response.text


def test_a_price_is_that_of_the_model_by_its_name_and_none_is_made_up():
    model = ModelSettings(
        chat_model="a", model_input_price=1, model_output_price=3, model_prices={"b": PRICES["scripted"]}
    )
    prices = Prices.of(model, EmbeddingSettings(embedding_price=1_000_000))
    usage = TokenUsage(input_tokens=1_000_000, output_tokens=1_000_000, total_tokens=2_000_000)
    assert prices.expense("a", usage, "").cost == 4
    assert prices.expense("b", usage, "").cost == 3_000
    assert prices.expense("c", usage, "").cost is None
    assert prices.expense("a", None, "four" * 4) == Expense("a", embedding_tokens=5, cost=5)
    only_input = ModelSettings(chat_model="a", model_input_price=1)
    assert Prices.of(only_input, EmbeddingSettings()).expense("a", usage, "").cost is None


@pytest.mark.parametrize(
    "value",
    [
        "{",
        "[]",
        '{"a": {"input": 1}}',
        '{"a": {"input": -1, "output": 1}}',
        '{"a": {"input": 1, "output": NaN}}',
    ],
)
def test_a_table_of_prices_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("MODEL_PRICES", value)
    with pytest.raises(StartupRefused, match="MODEL_PRICES"):
        Settings.load()


def test_a_table_of_prices_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODEL_PRICES", '{"gpt-4.1-mini": {"input": 0.4, "output": 1.6}}')
    assert Settings.load().model.model_prices == {"gpt-4.1-mini": ModelPrice(input=0.4, output=1.6)}
