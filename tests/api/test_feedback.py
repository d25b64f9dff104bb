"""Ratings of answers: who may give them, where they are shown, and who reads them all."""

import csv
import io
from typing import Any
from uuid import uuid4

import httpx

from app.services.accounts import AccountService
from tests.api.test_chat import signed_in
from tests.api.turns import answered, asked, gated, history, public
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel


def _of(message_id: str) -> str:
    return f"/api/v1/messages/{message_id}/feedback"


async def _answer(client: httpx.AsyncClient, assistant: str, **body: Any) -> dict[str, Any]:
    """The `start` of an answer that has ended."""
    return (await answered(client, assistant, **body))[0]


async def test_a_rating_is_shown_in_the_history_changed_by_another_and_taken_back(
    client: httpx.AsyncClient, server: RunningServer
):
    start = await _answer(client, await public(server))
    of_session = {"session_id": start["session_id"]}

    async def shown() -> list[Any]:
        return [message["feedback"] for message in await history(client, start["session_id"])]

    assert await shown() == [None, None]
    first = await client.post(
        _of(start["message_id"]), params=of_session, json={"rating": "down", "comment": "Too long.\n"}
    )
    assert first.status_code == 200, first.text
    said = first.json()
    assert (said["message_id"], said["rating"], said["comment"]) == (
        start["message_id"],
        "down",
        "Too long.",
    )
    assert await shown() == [
        None,
        {"rating": "down", "comment": "Too long.", "updated_at": said["updated_at"]},
    ]
    second = (
        await client.post(_of(start["message_id"]), params=of_session, json={"rating": "up", "comment": " "})
    ).json()
    assert (second["rating"], second["comment"], second["created_at"]) == ("up", None, said["created_at"])
    for _ in range(2):
        assert (await client.delete(_of(start["message_id"]), params=of_session)).status_code == 204
    assert await shown() == [None, None]


async def test_only_who_may_see_the_session_rates_and_only_what_is_an_answer(
    client: httpx.AsyncClient, server: RunningServer, accounts: AccountService, model: ScriptedModel
):
    slug = await public(server)
    async with (
        signed_in(server, accounts, "ada@example.com") as ada,
        signed_in(server, accounts, "bob@example.com") as bob,
    ):
        hers, nobodys = await _answer(ada, slug), await _answer(client, slug)
        forgotten = await _answer(client, slug)
        await client.delete(f"/api/v1/chat/{forgotten['session_id']}")
        up = {"rating": "up"}
        cases: list[tuple[httpx.AsyncClient, str, str | None, dict[str, Any], int, str]] = [
            (ada, hers["message_id"], None, up, 200, ""),
            (ada, hers["message_id"], hers["session_id"], up, 200, ""),
            (ada, nobodys["message_id"], nobodys["session_id"], up, 200, ""),
            (client, nobodys["message_id"], nobodys["session_id"], up, 200, ""),
            (bob, hers["message_id"], None, up, 404, "no message"),
            (bob, hers["message_id"], hers["session_id"], up, 404, "no message"),
            (client, hers["message_id"], hers["session_id"], up, 404, "no message"),
            (client, hers["message_id"], nobodys["session_id"], up, 404, "no message"),
            (bob, nobodys["message_id"], None, up, 404, "no message"),
            (client, nobodys["message_id"], None, up, 422, "session_id"),
            (client, str(uuid4()), nobodys["session_id"], up, 404, "no message"),
            (client, forgotten["message_id"], forgotten["session_id"], up, 404, "no message"),
            (ada, hers["user_message_id"], None, up, 422, "Only answers"),
            (ada, "1", None, up, 422, "message_id"),
            (ada, hers["message_id"], None, {"rating": "5"}, 422, "rating"),
            (ada, hers["message_id"], None, {}, 422, "rating"),
            (ada, hers["message_id"], None, {**up, "comment": "x" * 5_001}, 422, "comment"),
            (ada, hers["message_id"], None, {**up, "comment": "\0"}, 422, "comment"),
        ]
        for who, message_id, session_id, body, status, words in cases:
            query = {"session_id": session_id} if session_id is not None else {}
            response = await who.post(_of(message_id), params=query, json=body)
            assert response.status_code == status, (response.text, message_id, session_id, body)
            assert words in response.text
            if status == 404:
                taken_back = await who.delete(_of(message_id), params=query)
                assert taken_back.status_code == 404

        (gate,) = gated(model, "The ", "end")
        async with asked(ada, slug) as stream:
            start = (await stream.until("start"))[0]
            refused = await ada.post(_of(start["message_id"]), json=up)
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
            gate.set()
            await stream.rest()


async def test_administrators_read_ratings_with_what_they_are_of_in_pages_and_as_a_table(
    client: httpx.AsyncClient, admin_client: httpx.AsyncClient, server: RunningServer
):
    slugs = [await public(server) for _ in range(2)]
    rated: list[dict[str, Any]] = []
    for number, rating in enumerate(("up", "down", "up")):
        start = await _answer(client, slugs[number % 2], message=f"Question {number}")
        body = {"rating": rating, "comment": f"=HYPERLINK({number})"}
        query = {"session_id": start["session_id"]}
        await client.post(_of(start["message_id"]), params=query, json=body)
        rated.append(start)

    async def listed(**query: Any) -> list[str]:
        response = await admin_client.get("/api/v1/feedback", params=query)
        assert response.status_code == 200, response.text
        return [item["question"] for item in response.json()["items"]]

    assert await listed() == ["Question 2", "Question 1", "Question 0"]
    assert await listed(rating="down") == ["Question 1"]
    assert await listed(assistant_id=slugs[0]) == ["Question 2", "Question 0"]
    page = (await admin_client.get("/api/v1/feedback", params={"limit": 2})).json()
    assert await listed(before=page["next"]) == ["Question 0"]
    item = page["items"][0]
    assert (item["message_id"], item["answer"], item["user_id"]) == (
        rated[2]["message_id"],
        "An answer to Question 2",
        None,
    )

    by_format = await admin_client.get("/api/v1/feedback", params={"format": "csv"})
    by_accept = await admin_client.get("/api/v1/feedback", headers={"accept": "text/csv"})
    assert by_format.text == by_accept.text
    assert by_format.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(by_format.text)))
    assert [row["question"] for row in rows] == ["Question 2", "Question 1", "Question 0"]
    assert rows[0]["comment"] == "'=HYPERLINK(2)"

    await client.delete(f"/api/v1/chat/{rated[2]['session_id']}")
    await client.delete(f"/api/v1/chat/{rated[1]['session_id']}?purge=true")
    left = (await admin_client.get("/api/v1/feedback")).json()["items"]
    assert [(item["question"], item["answer"], item["rating"]) for item in left] == [
        (None, None, "up"),
        ("Question 0", "An answer to Question 0", "up"),
    ]
    for query, status in (({"assistant_id": "nobody"}, 404), ({"rating": "5"}, 422), ({"before": "x"}, 422)):
        assert (await admin_client.get("/api/v1/feedback", params=query)).status_code == status
    assert (await client.get("/api/v1/feedback")).status_code == 401
