"""What a conversation has come to: the calls that have the model read it afterwards."""

from typing import Any

import anyio
import httpx
import pytest

from app.llm.protocols import Prompt, Usage
from tests.api.turns import answered, asked, history, public, text_of
from tests.conftest import RunningServer
from tests.scripted_model import Act, ScriptedModel, says

SHAPE = {"destination": "where to", "nights": "integer"}


def fills(model: ScriptedModel, *replies: str) -> None:
    """The model says these, one each time that it is given a transcript, and answers questions as ever."""
    left = list(replies)

    def script(prompt: Prompt) -> list[Act]:
        if prompt.messages[-1].content.startswith(("<conversation>", "This does not fit")):
            return says(left.pop(0), usage=Usage(50, 5))
        return says("Certainly.")

    model.script = script


async def asked_for(client: httpx.AsyncClient, session_id: str, call: str, **body: Any) -> httpx.Response:
    return await client.post(f"/api/v1/chat/{session_id}/{call}", json=body or None)


@pytest.fixture
async def travels(server: RunningServer) -> str:
    return await public(server, first_message="Where to?", response_shape=SHAPE, model="another")


async def test_a_conversation_is_summed_up_in_its_assistants_shape(
    client: httpx.AsyncClient, model: ScriptedModel, travels: str
):
    fills(model, '{"destination": "Vienna", "nights": null}')
    session_id = (await answered(client, travels, message="To Vienna."))[0]["session_id"]
    before = await history(client, session_id)

    response = await asked_for(client, session_id, "summary")

    assert response.status_code == 200, response.text
    assert response.json() == {
        "session_id": session_id,
        "summary": {"destination": "Vienna", "nights": None},
        "usage": {"input_tokens": 50, "output_tokens": 5, "total_tokens": 55},
    }
    read = model.prompts[-1]
    assert read.messages[-1].content == (
        "<conversation>\nassistant: Where to?\nuser: To Vienna.\nassistant: Certainly.\n</conversation>"
    )
    assert (read.model, read.schema is not None) == ("another", True)
    assert await history(client, session_id) == before


async def test_without_a_shape_the_summary_is_a_text(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel, travels: str
):
    fills(model, " A journey to Vienna. ")
    session_id = (await answered(client, travels, message="To Vienna."))[0]["session_id"]
    response = await asked_for(client, session_id, "summary", assistant_id=await public(server))
    assert response.json()["summary"] == "A journey to Vienna."


async def test_a_summary_that_never_fits_is_an_error_with_the_places(
    client: httpx.AsyncClient, model: ScriptedModel, travels: str
):
    fills(model, "No.", '{"destination": 1}')
    session_id = (await answered(client, travels, message="To Vienna."))[0]["session_id"]
    response = await asked_for(client, session_id, "summary")
    told = response.json()
    assert (response.status_code, told["code"]) == (502, "shape_not_met")
    assert told["detail"] == {"places": [["destination"], []]}


async def test_what_was_forgotten_is_not_summed_up(
    client: httpx.AsyncClient, model: ScriptedModel, travels: str
):
    fills(model, "{}")
    session_id = (await answered(client, travels, message="To Vienna."))[0]["session_id"]
    await client.delete(f"/api/v1/chat/{session_id}")
    response = await asked_for(client, session_id, "summary")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")


async def test_who_may_not_ask_the_assistant_may_not_have_the_summary_either(
    server: RunningServer,
    client: httpx.AsyncClient,
    admin_client: httpx.AsyncClient,
    model: ScriptedModel,
    travels: str,
):
    fills(model)
    private = (await server.resources.assistants.create(name="Private", user_authentication=True)).slug
    theirs = (await answered(admin_client, travels, message="To Vienna."))[0]["session_id"]
    gone = await public(server)
    session_id = (await answered(client, gone, message="Hi"))[0]["session_id"]
    await server.resources.assistants.delete(gone)
    cases: list[tuple[str, dict[str, Any], int]] = [
        (theirs, {}, 404),
        ("nobody-has-opened-this-one", {}, 404),
        (session_id, {}, 422),
        (session_id, {"assistant_id": private}, 401),
        (session_id, {"assistant_id": "nobody"}, 404),
        (session_id, {"assistant_id": 3}, 422),
    ]
    for session, body, status in cases:
        response = await asked_for(client, session, "summary", **body)
        assert response.status_code == status, (session, body, response.text)
        assert response.json()["type"] == "error"
    assert (await client.post(f"/api/v1/chat/{session_id}/summary", content=b"{")).status_code == 422


async def test_an_answerer_that_quotes_cannot_do_it(
    client: httpx.AsyncClient, model: ScriptedModel, travels: str
):
    session_id = (await answered(client, travels, message="To Vienna."))[0]["session_id"]
    model.can_write = False
    response = await asked_for(client, session_id, "summary")
    assert (response.status_code, response.json()["code"]) == (501, "model_needed")


VERDICT = '{"goal": {"reached": true, "reason": "A city was named."}, "end": {"reached": false, "reason": "No leave was taken."}}'


async def test_whether_goal_and_end_are_reached_is_told_when_it_is_asked_for(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel, travels: str
):
    fills(model, VERDICT, '{"end": {"reached": true, "reason": "Goodbye."}}')
    session_id = (await answered(client, travels, message="To Vienna."))[0]["session_id"]

    response = await asked_for(client, session_id, "verification")
    assert response.status_code == 200, response.text
    assert response.json() == {
        "session_id": session_id,
        "goal": {"reached": True, "reason": "A city was named."},
        "end": {"reached": False, "reason": "No leave was taken."},
        "usage": {"input_tokens": 50, "output_tokens": 5, "total_tokens": 55},
    }
    # Without a goal of its own, the assistant's is to fill its shape.
    assert "where to" in model.prompts[-1].messages[0].content
    aimless = await asked_for(client, session_id, "verification", assistant_id=await public(server))
    assert (aimless.json()["goal"], aimless.json()["end"]["reached"]) == (None, True)
    assert (await asked_for(client, "nobody-has-opened-this-one", "verification")).status_code == 404


async def test_an_assistant_with_a_goal_tells_after_each_answer_whether_it_is_reached(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    fills(model, VERDICT, "Hm.", "Hm.")
    slug = await public(server, goal="A city is named.")
    events = await answered(client, slug, message="To Vienna.")

    assert [event["type"] for event in events][-4:] == ["step", "conversation", "step", "done"]
    assert events[-3] == {
        "type": "conversation",
        "seq": len(events) - 2,
        "goal_reached": True,
        "ended": False,
        "reason": "A city was named. No leave was taken.",
    }
    assert events[-1]["usage"]["total_tokens"] == 11 + 1 + 55
    judged = model.prompts[-1].messages
    assert "A city is named." in judged[0].content
    assert judged[1].content == "<conversation>\nuser: To Vienna.\nassistant: Certainly.\n</conversation>"
    assert [message["text"] for message in await history(client, events[0]["session_id"])][1] == "Certainly."

    # What the model cannot tell is not told, and the answer is whole.
    again = await answered(client, slug, message="Or to Graz.", session_id=events[0]["session_id"])
    assert [event["type"] for event in again][-3:] == ["step", "step", "done"]


async def test_a_door_that_does_not_know_the_event_goes_without(server: RunningServer, model: ScriptedModel):
    fills(model, VERDICT)
    slug = await public(server, goal="A city is named.")
    completion = {"model": slug, "stream": True, "messages": [{"role": "user", "content": "To Graz."}]}
    # Its streams are not held against our own protocol.
    async with httpx.AsyncClient(base_url=server.url) as other:
        streamed = await other.post("/v1/chat/completions", json=completion)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "conversation" not in streamed.text
    assert len(model.prompts) == 2


async def test_no_token_waits_for_the_judgement(
    server: RunningServer, client: httpx.AsyncClient, model: ScriptedModel
):
    gate = anyio.Event()

    def script(prompt: Prompt) -> list[Act]:
        judges = prompt.messages[-1].content.startswith("<conversation>")
        return [gate, *says(VERDICT)] if judges else says("Certainly.")

    model.script = script
    slug = await public(server, goal="A city is named.")
    async with asked(client, slug) as stream:
        events = await stream.until("step", step_type="synthesis", status="completed")
        assert text_of(events) == "Certainly."
        gate.set()
        rest = await stream.rest()
    assert [event["type"] for event in rest] == ["conversation", "step", "done"]
