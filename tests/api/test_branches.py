"""Answers that are made again and questions that are edited: each begins a branch, and the history shows the chosen one."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.llm.protocols import Finish
from app.services.accounts import AccountService
from tests.api.test_chat import signed_in
from tests.api.turns import answered, asked, gated, history, opened, public, text_of
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel


@pytest.fixture
def numbered(model: ScriptedModel) -> ScriptedModel:
    """Its answers are the question and how many it has been asked so far."""
    model.script = lambda prompt: [[f"{prompt.question} {len(model.prompts)}"], Finish("stop", None)]
    return model


async def talk(client: httpx.AsyncClient, slug: str, *questions: str) -> str:
    session_id = str(uuid4())
    for question in questions:
        await answered(client, slug, message=question, session_id=session_id)
    return session_id


async def texts(client: httpx.AsyncClient, session_id: str) -> list[str]:
    return [message["text"] for message in await history(client, session_id)]


async def again(
    client: httpx.AsyncClient, session_id: str, message_id: str | None = None, **body: Any
) -> list[dict[str, Any]]:
    if "message" in body:
        url, method = f"/api/v1/chat/{session_id}/messages/{message_id}", "PATCH"
    else:
        url, method = f"/api/v1/chat/{session_id}/regenerate", "POST"
        body = body | ({"message_id": message_id} if message_id else {})
    async with opened(client, method, url, json=body) as stream:
        return await stream.rest()


async def test_an_answer_is_made_again_and_the_first_one_stays_as_its_sibling(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    session_id = await talk(client, await public(server), "a", "b")
    events = await again(client, session_id)
    assert text_of(events) == "b 3"
    assert await texts(client, session_id) == ["a", "a 1", "b", "b 3"]
    *_, question, answer = await history(client, session_id)
    assert question["siblings"] == []
    assert len(answer["siblings"]) == 2
    assert answer["siblings"][1] == answer["id"] == events[0]["message_id"]
    assert answer["parent_id"] == question["id"] == events[0]["user_message_id"]
    # What the model was told is the conversation before the question.
    assert [m.content for m in numbered.prompts[2].messages] == ["a", "a 1", "b"]


async def test_an_earlier_answer_is_made_again_and_what_followed_is_put_aside(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    slug = await public(server)
    session_id = await talk(client, slug, "a", "b")
    first_question, first_answer, *_ = await history(client, session_id)
    for message_id, text in ((first_answer["id"], "a 3"), (first_question["id"], "a 4")):
        await again(client, session_id, message_id)
        assert await texts(client, session_id) == ["a", text]
    await answered(client, slug, message="c", session_id=session_id)
    assert await texts(client, session_id) == ["a", "a 4", "c", "c 5"]
    assert [m.content for m in numbered.prompts[4].messages] == ["a", "a 4", "c"]
    assert len((await history(client, session_id))[1]["siblings"]) == 3


async def test_a_question_is_edited_and_answered_from_there(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    session_id = await talk(client, await public(server), "a", "b", "c")
    second = (await history(client, session_id))[2]
    events = await again(client, session_id, second["id"], message="B")
    assert await texts(client, session_id) == ["a", "a 1", "B", "B 4"]
    edited = (await history(client, session_id))[2]
    assert edited["siblings"] == [second["id"], edited["id"]]
    assert edited["id"] == events[0]["user_message_id"]
    assert [m.content for m in numbered.prompts[3].messages] == ["a", "a 1", "B"]


async def test_the_first_question_is_edited(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    session_id = await talk(client, await public(server), "a", "b")
    first = (await history(client, session_id))[0]
    await again(client, session_id, first["id"], message="A")
    assert await texts(client, session_id) == ["A", "A 3"]
    assert len((await history(client, session_id))[0]["siblings"]) == 2


async def test_another_branch_is_chosen_and_gone_on_with(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    slug = await public(server)
    session_id = await talk(client, slug, "a", "b")
    _, first_answer, _, second_answer = await history(client, session_id)
    await again(client, session_id, first_answer["id"])
    assert await texts(client, session_id) == ["a", "a 3"]
    for chosen, shown in (
        (first_answer["id"], ["a", "a 1", "b", "b 2"]),
        ((await history(client, session_id))[1]["id"], ["a", "a 3"]),
        (second_answer["id"], ["a", "a 1", "b", "b 2"]),
    ):
        response = await client.post(f"/api/v1/chat/{session_id}/messages/{chosen}/choose")
        assert response.status_code == 200
        assert await texts(client, session_id) == shown
    await answered(client, slug, message="c", session_id=session_id)
    assert await texts(client, session_id) == ["a", "a 1", "b", "b 2", "c", "c 4"]


async def test_an_answer_of_a_branch_that_is_not_shown_is_made_again_there(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    session_id = await talk(client, await public(server), "a", "b")
    first, *_, last = await history(client, session_id)
    await again(client, session_id, first["id"], message="A")
    await again(client, session_id, last["id"])
    assert await texts(client, session_id) == ["a", "a 1", "b", "b 4"]


async def test_what_cannot_be_answered_again_says_why(
    client: httpx.AsyncClient,
    server: RunningServer,
    accounts: AccountService,
    model: ScriptedModel,
):
    slug = await public(server)
    session_id = await talk(client, slug, "a")
    other = await talk(client, slug, "b")
    question, answer = await history(client, session_id)
    foreign = (await history(client, other))[0]["id"]
    url = f"/api/v1/chat/{session_id}"
    unknown = f"/api/v1/chat/{uuid4()}"
    async with signed_in(server, accounts, "ada@example.com") as ada:
        await answered(ada, slug, session_id="hers")
        hers = (await history(ada, "hers"))[0]["id"]
    for method, path, body, status in [
        ("POST", f"{url}/regenerate", {"message_id": str(uuid4())}, 404),
        ("POST", f"{url}/regenerate", {"message_id": foreign}, 404),
        ("POST", f"{unknown}/regenerate", {}, 404),
        ("POST", "/api/v1/chat/hers/regenerate", {}, 404),
        ("PATCH", f"/api/v1/chat/hers/messages/{hers}", {"message": "x"}, 404),
        ("PATCH", f"{url}/messages/{answer['id']}", {"message": "x"}, 422),
        ("PATCH", f"{url}/messages/{question['id']}", {"message": "   "}, 422),
        ("PATCH", f"{url}/messages/{question['id']}", {}, 422),
        ("PATCH", f"{url}/messages/{uuid4()}", {"message": "x"}, 404),
        ("PATCH", f"{url}/messages/x", {"message": "x"}, 422),
        ("POST", f"{url}/messages/{foreign}/choose", {}, 404),
        ("POST", f"{unknown}/messages/{question['id']}/choose", {}, 404),
    ]:
        response = await client.request(method, path, json=body)
        assert response.status_code == status, (method, path, response.text)
        assert response.json()["message"]
    assert len(model.prompts) == 3
    assert len(await history(client, session_id)) == 2


async def test_while_an_answer_is_made_no_other_begins_unless_it_takes_its_place(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    gated(model, "One", " two")
    async with asked(client, await public(server)) as stream:
        seen = await stream.until("token")
        url = f"/api/v1/chat/{stream.session_id}"
        assert (await client.post(f"{url}/regenerate")).status_code == 409
        chosen = await client.post(f"{url}/messages/{seen[0]['message_id']}/choose")
        assert chosen.status_code == 409
        model.script = lambda prompt: [["Again"], Finish("stop", None)]
        async with opened(client, "POST", f"{url}/regenerate", json={"on_busy": "replace"}) as other:
            assert text_of(await other.rest()) == "Again"
        assert (await stream.rest())[-1]["status"] == "stopped"
    assert await texts(client, stream.session_id) == ["Go", "Again"]


async def test_another_assistant_and_language_may_answer_again_and_a_deleted_one_must_be_replaced(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    slug = await public(server, instructions="Be brief.")
    session_id = str(uuid4())
    await answered(client, slug, session_id=session_id, language="de")
    await again(client, session_id)
    assert "'de'" in model.prompts[1].messages[0].content
    other = await public(server, instructions="Be long.")
    await again(client, session_id, assistant_id=other, language="fr")
    assert "Be long." in model.prompts[2].messages[0].content
    assert "'fr'" in model.prompts[2].messages[0].content
    await server.resources.assistants.delete(other)
    refused = await client.post(f"/api/v1/chat/{session_id}/regenerate")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert (await again(client, session_id, assistant_id=slug))[-1]["type"] == "done"


async def test_a_retry_of_an_edit_is_the_same_edit(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    session_id = await talk(client, await public(server), "a")
    first = (await history(client, session_id))[0]["id"]
    runs = [
        (await again(client, session_id, first, message="A", idempotency_key="1"))[0]["run_id"]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(numbered.prompts) == 2


async def test_what_was_forgotten_is_no_branch(
    client: httpx.AsyncClient, server: RunningServer, numbered: ScriptedModel
):
    slug = await public(server)
    session_id = await talk(client, slug, "a")
    old = (await history(client, session_id))[0]["id"]
    await client.delete(f"/api/v1/chat/{session_id}")
    assert (await client.post(f"/api/v1/chat/{session_id}/regenerate")).status_code == 404
    await answered(client, slug, message="b", session_id=session_id)
    new = (await history(client, session_id))[0]
    assert (new["parent_id"], new["siblings"]) == (None, [])
    response = await client.post(f"/api/v1/chat/{session_id}/regenerate", json={"message_id": old})
    assert response.status_code == 404
