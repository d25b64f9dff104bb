"""Agents with memory: assistants and their sessions behind the calls of clients that know them as agents."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.errors import ModelIncomplete
from app.llm.protocols import Prompt
from app.services.accounts import AccountService
from app.settings import ChatSettings, Settings
from tests.api.turns import answered, history, public, text_of
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel, says

TRAVEL: dict[str, Any] = {
    "context": "You plan journeys.",
    "first_message": "Where would you like to go?",
    "response_shape": {"destination": "where to", "nights": 3},
    "instructions": "Be brief.",
}


@pytest.fixture
async def open_server(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    """A server on which anybody may make agents."""
    async with serve(replace(settings, chat=ChatSettings(agents_open=True))) as running:
        yield running


@pytest.fixture
async def visitor(open_server: RunningServer) -> AsyncGenerator[httpx.AsyncClient]:
    async with open_server.client() as http:
        yield http


async def called(client: httpx.AsyncClient, method: str, call: str, at: str = "/agents", **given: Any) -> Any:
    response = await sent(client, method, f"{at}/{call}", given)
    assert response.status_code == 200, response.text
    return response.json()


async def sent(client: httpx.AsyncClient, method: str, url: str, given: dict[str, Any]) -> httpx.Response:
    return await (client.get(url, params=given) if method == "GET" else client.post(url, json=given))


async def begun(client: httpx.AsyncClient, agent_id: str) -> str:
    return (await called(client, "POST", "create-conversation", agent_id=agent_id))["id"]


def roles(prompt: Prompt) -> list[str]:
    return [message.role for message in prompt.messages]


@pytest.mark.parametrize("at", ["/agents", "/api/v1/agents"])
async def test_a_client_without_credentials_plays_the_whole_conversation(
    visitor: httpx.AsyncClient, model: ScriptedModel, at: str
):
    agent = await called(visitor, "POST", "create-agent", at, **TRAVEL)
    assert agent.keys() == {*TRAVEL, "id", "timestamp", "conversations"}
    assert TRAVEL.items() <= agent.items()
    conversation = await called(visitor, "POST", "create-conversation", at, agent_id=agent["id"])
    assert conversation.keys() == {"id", "agent_id", "timestamp"}
    said = {"conversation_id": conversation["id"], "message": "To Vienna."}
    model.script = lambda prompt: says("For how ", "many nights?")

    answer = await called(visitor, "POST", "chat-agent", at, **said)

    assert answer == {"conversation_id": conversation["id"], "response": "For how many nights?"}
    messages = await called(visitor, "GET", "get-messages", at, conversation_id=conversation["id"])
    assert [(m["user_message"], m["agent_message"]) for m in messages] == [
        ("", "Where would you like to go?"),
        ("To Vienna.", "For how many nights?"),
    ]
    assert all(
        m.keys() == {"id", "user_message", "agent_message", "timestamp", "conversation_id"} for m in messages
    )
    assert await called(visitor, "GET", "get-conversations", at, agent_id=agent["id"]) == [conversation]
    (listed,) = await called(visitor, "GET", "get-agents", at)
    assert listed == {**agent, "conversations": [conversation]}


async def test_all_four_fields_of_an_agent_reach_the_model(visitor: httpx.AsyncClient, model: ScriptedModel):
    agent = await called(visitor, "POST", "create-agent", **TRAVEL)
    conversation = await begun(visitor, agent["id"])
    await called(visitor, "POST", "chat-agent", conversation_id=conversation, message="To Vienna.")
    await called(visitor, "POST", "chat-agent", conversation_id=conversation, message="For a week.")

    first, second = model.prompts
    rules = first.messages[0].content
    assert rules.startswith("Be brief.\n\nYou plan journeys.")
    assert '"destination":"where to"' in rules
    # Models with a strict template want the user's turn first.
    assert roles(first) == ["system", "user", "assistant", "user"]
    assert first.messages[2].content == second.messages[2].content == "Where would you like to go?"
    assert [message.content for message in second.messages[3:]] == [
        "To Vienna.",
        "An answer to To Vienna.",
        "For a week.",
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('{"city": "where to"}', {"city": "where to"}),
        ("A sentence with the city.", {"answer": "A sentence with the city."}),
        ("[1]", {"answer": "[1]"}),
        ("", None),
        (None, None),
    ],
)
async def test_a_response_shape_may_come_as_text(
    visitor: httpx.AsyncClient, given: str | None, kept: dict[str, Any] | None
):
    agent = await called(visitor, "POST", "create-agent", context="Plan.", response_shape=given)
    assert agent["response_shape"] == kept


async def test_without_the_setting_agents_are_made_by_administrators(
    client: httpx.AsyncClient,
    admin_client: httpx.AsyncClient,
    accounts: AccountService,
    server: RunningServer,
):
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    key = (await accounts.create_api_key(user.id, "tests"))[1]

    assert (await client.post("/agents/create-agent", json=TRAVEL)).status_code == 401
    async with server.client(headers={"authorization": f"Bearer {key}"}) as ada:
        assert (await ada.post("/agents/create-agent", json=TRAVEL)).status_code == 403
    assert (await called(client, "GET", "get-agents")) == []
    made = await called(admin_client, "POST", "create-agent", **TRAVEL)
    assert TRAVEL.items() <= made.items()

    (seen,) = await called(client, "GET", "get-agents")
    assert seen["first_message"] == TRAVEL["first_message"]
    assert (seen["context"], seen["instructions"], seen["response_shape"]) == ("", "", None)
    assert (await called(admin_client, "GET", "get-agents")) == [made]


async def test_what_steers_an_assistant_that_was_made_elsewhere_stays_with_its_administrators(
    open_server: RunningServer, visitor: httpx.AsyncClient
):
    slug = await public(open_server, instructions="Secret.", context="Secret.")
    conversation = await begun(visitor, slug)
    (agent,) = await called(visitor, "GET", "get-agents")
    assert (agent["instructions"], agent["context"], agent["conversations"]) == ("", "", [])
    assert await called(visitor, "GET", "get-conversations", agent_id=slug) == []
    assert await called(visitor, "GET", "get-messages", conversation_id=conversation) == []


async def test_a_users_conversations_are_the_users_alone(
    server: RunningServer, client: httpx.AsyncClient, admin_client: httpx.AsyncClient
):
    slug = await public(server, first_message="Hello!")
    theirs = await begun(admin_client, slug)

    assert [c["id"] for c in await called(admin_client, "GET", "get-conversations", agent_id=slug)] == [
        theirs
    ]
    assert await called(client, "GET", "get-conversations", agent_id=slug) == []
    for response in (
        await client.get("/agents/get-messages", params={"conversation_id": theirs}),
        await client.post("/agents/chat-agent", json={"conversation_id": theirs, "message": "Hi"}),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert len(await called(admin_client, "GET", "get-messages", conversation_id=theirs)) == 1


async def test_the_first_message_opens_a_session_at_every_door(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    slug = await public(server, first_message="Welcome!")
    events = await answered(client, slug, message="Hi")
    session_id = events[0]["session_id"]
    await answered(client, slug, message="And now?", session_id=session_id)

    said = [(message["sender"], message["text"]) for message in await history(client, session_id)]
    assert said[:3] == [("bot", "Welcome!"), ("user", "Hi"), ("bot", "An answer to Hi")]
    assert len(said) == 5
    assert [prompt.messages[1].content for prompt in model.prompts] == ["Welcome!"] * 2
    completion = {"model": slug, "messages": [{"role": "user", "content": "Hi"}]}
    assert (await client.post("/v1/chat/completions", json=completion)).status_code == 200
    assert model.prompts[-1].messages[1].content == "Welcome!"


async def test_a_client_that_brings_its_own_history_is_not_greeted(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    slug = await public(server, first_message="Welcome!")
    given = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]
    events = await answered(client, slug, message="Three", history=given)
    assert [message.content for message in model.prompts[-1].messages] == ["One", "Two", "Three"]
    assert (await history(client, events[0]["session_id"]))[0]["text"] == "Three"


async def test_the_first_message_stays_what_it_was_and_is_never_answered_again(
    server: RunningServer, client: httpx.AsyncClient
):
    slug = await public(server, first_message="Welcome!")
    events = await answered(client, slug, message="Hi")
    session_id = events[0]["session_id"]
    await server.resources.assistants.change(slug, first_message="Good day!")
    opening, question, _ = await history(client, session_id)

    refused = await client.post(f"/api/v1/chat/{session_id}/regenerate", json={"message_id": opening["id"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    edited = await client.patch(
        f"/api/v1/chat/{session_id}/messages/{question['id']}", json={"message": "Hello"}
    )
    assert edited.status_code == 200
    said = [message["text"] for message in await history(client, session_id)]
    assert said == ["Welcome!", "Hello", "An answer to Hello"]


async def test_after_a_reset_the_conversation_is_not_opened_again(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    slug = await public(server, first_message="Welcome!")
    session_id = (await answered(client, slug, message="Hi"))[0]["session_id"]
    await client.delete(f"/api/v1/chat/{session_id}")
    await answered(client, slug, message="Again", session_id=session_id)
    assert [message.content for message in model.prompts[-1].messages] == ["Again"]


async def test_a_kept_answer_opens_a_conversation_like_a_new_one(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    await server.resources.knowledge.ingest_now(
        "waters", "waters.md", b"The Danube flows into the Black Sea.\n"
    )
    slug = await public(
        server, first_message="Welcome!", collections=["waters"], similarity_cutoff=-1, answer_cache_s=60
    )
    model.script = lambda prompt: says("Into the Black Sea [1].")
    question = "Where does the Danube flow?"
    first = await answered(client, slug, message=question)
    again = await answered(client, slug, message=question)
    assert text_of(first) == text_of(again)
    assert len(model.prompts) == 1
    assert model.prompts[0].messages[2].content == "Welcome!"
    assert len(await history(client, again[0]["session_id"])) == 3


async def test_what_cannot_be_meant_is_refused_in_our_form(
    server: RunningServer, client: httpx.AsyncClient, admin_client: httpx.AsyncClient, model: ScriptedModel
):
    slug = await public(server)
    private = (await server.resources.assistants.create(name="Private", user_authentication=True)).slug
    conversation = await begun(client, slug)
    gone = (await server.resources.assistants.create(name="Gone")).slug
    orphan = await begun(client, gone)
    await server.resources.assistants.delete(gone)
    nobody = str(uuid4())
    cases: list[tuple[str, str, dict[str, Any], int]] = [
        ("POST", "create-agent", {}, 422),
        ("POST", "create-agent", {**TRAVEL, "context": "x" * 100_001}, 422),
        ("POST", "create-agent", {**TRAVEL, "response_shape": ["a"]}, 422),
        ("POST", "create-agent", {**TRAVEL, "response_shape": '{"a": "\\u0000"}'}, 422),
        ("POST", "create-conversation", {}, 422),
        ("POST", "create-conversation", {"agent_id": "nobody"}, 404),
        ("POST", "create-conversation", {"agent_id": private}, 401),
        ("POST", "chat-agent", {"conversation_id": conversation}, 422),
        ("POST", "chat-agent", {"conversation_id": conversation, "message": " "}, 422),
        ("POST", "chat-agent", {"conversation_id": conversation, "message": "x" * 2**20}, 422),
        ("POST", "chat-agent", {"conversation_id": nobody, "message": "Hi"}, 404),
        ("POST", "chat-agent", {"conversation_id": "x" * 101, "message": "Hi"}, 422),
        ("POST", "chat-agent", {"conversation_id": orphan, "message": "Hi"}, 404),
        ("GET", "get-conversations", {}, 422),
        ("GET", "get-conversations", {"agent_id": "nobody"}, 404),
        ("GET", "get-messages", {"conversation_id": nobody}, 404),
    ]
    for method, call, given, status in cases:
        who = admin_client if call == "create-agent" else client
        response = await sent(who, method, f"/agents/{call}", given)
        assert response.status_code == status, (call, given, response.text)
        assert response.json().keys() >= {"type", "code", "message", "error", "detail", "id"}
    assert (await client.post("/agents/chat-agent", content=b"{")).status_code == 422
    assert model.prompts == []

    model.script = lambda prompt: [["Half"], ModelIncomplete("It broke off.")]
    response = await client.post(
        "/agents/chat-agent", json={"conversation_id": conversation, "message": "Hi", "unknown": 1}
    )
    assert (response.status_code, response.json()["code"]) == (502, "model_incomplete")
