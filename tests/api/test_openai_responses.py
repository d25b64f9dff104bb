"""`/v1/responses` through OpenAI's own client, and what it never sends."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from anyio import to_thread
from openai import AsyncOpenAI
from sqlalchemy import text

from app.errors import ModelIncomplete
from app.services.accounts import AccountService
from tests.api.turns import answered, gated, history, public
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n\nLake Constance lies in three countries.\n"
QUESTION = "Where does the Danube flow?"


@pytest.fixture
async def assistant(server: RunningServer) -> str:
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    made = await server.resources.assistants.create(
        name="Waters", instructions="Be brief.", collections=["waters"], similarity_cutoff=0
    )
    return made.slug


def opened(url: str, key: str = "no key of ours") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def openai_client(server: RunningServer) -> AsyncGenerator[AsyncOpenAI]:
    async with opened(server.url) as client:
        yield client


async def key_of(accounts: AccountService, email: str) -> str:
    user = await accounts.create_user(email, "a password of the tests", "user")
    return (await accounts.create_api_key(user.id, "tests"))[1]


def plain(events: list[Any]) -> list[dict[str, Any]]:
    return [event.model_dump() for event in events]


async def read(stream: Any) -> list[Any]:
    with anyio.fail_after(10):
        return [event async for event in stream]


async def until(stream: Any, kind: str, **fields: Any) -> list[Any]:
    """The events up to the first of this type that has these fields."""
    seen: list[Any] = []
    with anyio.fail_after(10):
        async for event in stream:
            seen.append(event)
            if event.type == kind and all(getattr(event, name) == value for name, value in fields.items()):
                return seen
    raise AssertionError(f"no {kind} among {seen}")


async def test_an_answer_streams_as_the_events_of_a_response(
    openai_client: AsyncOpenAI, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: says('The "Dänube" ', "flows into the Black Sea [1]", ".\n")
    stream = await openai_client.responses.create(
        model=assistant, input=QUESTION, stream=True, metadata={"of": "tests"}, instructions="In verse."
    )
    events = await read(stream)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = 'The "Dänube" flows into the Black Sea [1].\n'
    added, done, part, item = events[-5:-1]
    assert "".join(delta.delta for delta in deltas) == done.text == part.part.text == text
    response = events[-1].response
    assert plain(response.output) == plain([item.item])
    (content,) = item.item.content
    assert content.text == text
    assert plain(content.annotations) == [added.annotation.model_dump()]
    cited = added.annotation.model_dump()
    assert cited["type"] == "file_citation"
    assert cited["filename"] == "waters.md"
    assert cited["quote"] == "The Danube flows into the Black Sea."
    assert text[cited["start_index"] : cited["end_index"]].endswith("Black Sea [1]")
    assert cited["index"] == cited["end_index"]
    assert (response.status, response.metadata, response.instructions) == (
        "completed",
        {"of": "tests"},
        "In verse.",
    )
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.usage.total_tokens == 14
    assert model.prompts[-1].messages[0].content.startswith("Be brief.\n\nIn verse.")
    assert events[0].response.model_dump() == {
        **response.model_dump(),
        "status": "in_progress",
        "output": [],
        "usage": None,
    }


async def test_an_answer_comes_whole_and_can_be_read_again(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, assistant: str, model: ScriptedModel
):
    model.script = lambda prompt: says("The Danube flows into", " the Black Sea [1].")
    answer = await openai_client.responses.create(model=assistant, input=QUESTION)
    assert answer.output_text == "The Danube flows into the Black Sea [1]."
    assert answer.status == "completed"
    assert (await openai_client.responses.retrieve(answer.id)).model_dump() == answer.model_dump()
    (asked,) = (await openai_client.responses.input_items.list(answer.id)).data
    (part,) = asked.model_dump()["content"]
    assert (part["type"], part["text"]) == ("input_text", QUESTION)
    assert answer.conversation is not None
    said = await history(client, answer.conversation.id)
    assert [message["text"] for message in said] == [QUESTION, answer.output_text]


async def test_a_stream_is_taken_up_in_the_middle_from_any_process_and_after_its_end(
    openai_client: AsyncOpenAI,
    server: RunningServer,
    elsewhere: httpx.AsyncClient,
    assistant: str,
    model: ScriptedModel,
):
    gate, last = gated(model, "The Danube", " flows into the Black Sea [1]", " for long")
    stream = await openai_client.responses.create(
        model=assistant, input=QUESTION, stream=True, background=True
    )
    seen = await until(stream, "response.output_text.delta")
    await stream.close()
    begun = seen[0].response
    assert (await openai_client.responses.retrieve(begun.id)).status == "in_progress"
    async with opened(str(elsewhere.base_url).rstrip("/")) as other:
        number = seen[-1].sequence_number
        again = await openai_client.responses.retrieve(begun.id, stream=True, starting_after=number)
        far = await other.responses.retrieve(begun.id, stream=True, starting_after=number)
        gate.set()
        middle = await until(again, "response.output_text.delta")
        last.set()
        whole = plain([*seen, *middle, *await read(again)])
        assert plain([*seen, *await read(far)]) == whole
        assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
        assert whole[-1]["type"] == "response.completed"
        for one in (openai_client, other):
            for number in (0, 3, 5, len(whole) - 2):
                rest = await one.responses.retrieve(begun.id, stream=True, starting_after=number)
                assert plain(await read(rest)) == whole[number + 1 :]
            assert plain(await read(await one.responses.retrieve(begun.id, stream=True))) == whole
            assert (await one.responses.retrieve(begun.id)).model_dump() == whole[-1]["response"]
        async with other.responses.stream(response_id=begun.id, starting_after=4) as helped:
            final = await helped.get_final_response()
        assert final.output_text == "The Danube flows into the Black Sea [1] for long"
    assert len(model.prompts) == 1


async def test_an_answer_in_the_background_goes_on_without_readers(
    openai_client: AsyncOpenAI, server: RunningServer, model: ScriptedModel
):
    slug = await public(server, unread_limit_s=0)
    (gate,) = gated(model, "One", " two")
    begun = await openai_client.responses.create(model=slug, input="Go", background=True)
    assert (begun.status, begun.output, begun.background) == ("in_progress", [], True)
    (run,) = server.resources.runner.runs()
    assert run.unread_limit_s is None
    gate.set()
    await read(await openai_client.responses.retrieve(begun.id, stream=True))
    assert (await openai_client.responses.retrieve(begun.id)).output_text == "One two"


async def test_a_cancelled_answer_keeps_what_was_said(
    openai_client: AsyncOpenAI, server: RunningServer, elsewhere: httpx.AsyncClient, model: ScriptedModel
):
    gated(model, "One", " two")
    stream = await openai_client.responses.create(
        model=await public(server), input="Go", stream=True, background=True
    )
    seen = await until(stream, "response.output_text.delta")
    async with opened(str(elsewhere.base_url).rstrip("/")) as other:
        with anyio.fail_after(10):
            cancelled = await other.responses.cancel(seen[0].response.id)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "One")
    rest = await read(stream)
    assert rest[-1].response.model_dump() == cancelled.model_dump()
    assert rest[-1].type == "response.incomplete"
    again = await openai_client.responses.cancel(cancelled.id)
    assert again.model_dump() == cancelled.model_dump()


async def test_an_answer_that_is_cut_short_is_incomplete(
    openai_client: AsyncOpenAI, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    for reason, told in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        model.script = lambda prompt, reason=reason: says("The Dan", reason=reason)
        stream = await openai_client.responses.create(
            model=slug, input=QUESTION, stream=True, max_output_tokens=2
        )
        last = (await read(stream))[-1]
        assert last.type == "response.incomplete"
        assert last.response.status == "incomplete"
        assert last.response.incomplete_details.reason == told
        assert last.response.output[0].status == "incomplete"
        assert last.response.max_output_tokens == 2
        assert model.prompts[-1].parameters == {"max_tokens": 2}


async def test_an_answer_that_fails_tells_so(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    model.script = lambda prompt: [["The Danube"], ModelIncomplete("It broke off.")]
    last = (await read(await openai_client.responses.create(model=slug, input="Go", stream=True)))[-1]
    assert last.type == "response.failed"
    assert (last.response.status, last.response.usage) == ("failed", None)
    assert (last.response.error.message, last.response.error.type) == ("It broke off.", "model_incomplete")
    assert last.response.output[0].content[0].text == "The Danube"
    again = await openai_client.responses.retrieve(last.response.id)
    assert again.model_dump() == last.response.model_dump()
    response = await client.post("/v1/responses", json={"model": slug, "input": "Go"})
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "model_incomplete"


async def test_a_response_goes_on_with_another(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    model.script = lambda prompt: says(f"To {prompt.question}")

    async def ask(text: Any, **more: Any) -> Any:
        create: Any = openai_client.responses.create
        return await create(model=slug, input=text, **more)

    def asked() -> list[str]:
        return [message.content for message in model.prompts[-1].messages if message.role != "system"]

    first = await ask(
        [
            {"role": "developer", "content": "Rhyme."},
            {"role": "user", "content": "Zero"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": None},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Nil", "annotations": []}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One"}]},
        ],
        instructions="Only now.",
    )
    assert asked() == ["Zero", "Nil", "One"]
    second = await ask("Two", previous_response_id=first.id)
    assert asked() == ["Zero", "Nil", "One", "To One", "Two"]
    assert model.prompts[-1].messages[0].content.endswith("Rhyme.")
    assert "Only now." not in model.prompts[-1].messages[0].content
    assert second.conversation.id == first.conversation.id
    other = await ask("Deux", previous_response_id=first.id)
    assert asked() == ["Zero", "Nil", "One", "To One", "Deux"]
    said = await history(client, first.conversation.id)
    assert [message["text"] for message in said] == [*asked(), "To Deux"]
    await ask("Three", previous_response_id=second.id)
    assert asked() == ["Zero", "Nil", "One", "To One", "Two", "To Two", "Three"]
    await ask(
        [{"role": "system", "content": "Hum."}, {"role": "user", "content": "Four"}],
        previous_response_id=second.id,
    )
    assert model.prompts[-1].messages[0].content.endswith("Hum.")
    assert "Rhyme." not in model.prompts[-1].messages[0].content
    await ask("Passing", previous_response_id=other.id, store=False)
    assert asked()[-3:] == ["Deux", "To Deux", "Passing"]
    referred = {"type": "item_reference", "id": second.output[0].id}
    await ask([{"role": "user", "content": "Two"}, referred, {"role": "user", "content": "Four"}])
    assert asked() == ["Two", "To Two", "Four"]
    given = (await openai_client.responses.input_items.list(first.id, order="asc", limit=2)).model_dump()
    assert [item["content"][0]["text"] for item in given["data"]] == ["Zero", "Nil"]
    rest = await openai_client.responses.input_items.list(first.id, order="asc", after=given["last_id"])
    assert [item["content"][0]["text"] for item in rest.model_dump()["data"]] == ["One"]


async def test_what_is_not_to_be_stored_is_gone_with_its_end(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    (gate,) = gated(model, "One", " two")
    stream = await openai_client.responses.create(model=slug, input="Go", stream=True, store=False)
    seen = await until(stream, "response.output_text.delta")
    response = seen[0].response
    session_id = stream.response.headers["x-session-id"]
    assert (response.store, response.conversation) == (False, None)
    assert await history(client, session_id) == []
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.retrieve(response.id)
    gate.set()
    assert (await read(stream))[-1].response.output_text == "One two"
    model.script = lambda prompt: says("Whole")
    whole = await openai_client.responses.create(model=slug, input="Go", store=False)
    assert whole.output_text == "Whole"
    for gone in (response.id, whole.id):
        with pytest.raises(openai.NotFoundError) as refused:
            await openai_client.responses.retrieve(gone)
        assert refused.value.code == "response_not_found"
    assert (await client.get(f"/api/v1/chat/{session_id}/stream")).status_code == 204
    async with server.resources.database.read() as session:
        assert (await session.execute(text("SELECT count(*) FROM sessions"))).scalar_one() == 0


async def test_a_deleted_response_is_gone_and_the_last_takes_its_session_along(
    openai_client: AsyncOpenAI, client: httpx.AsyncClient, server: RunningServer
):
    slug = await public(server)
    ask = openai_client.responses.create
    first = await ask(model=slug, input="One")
    second = await ask(model=slug, input="Two", previous_response_id=first.id)
    assert first.conversation is not None
    await openai_client.responses.delete(first.id)
    assert len(await history(client, first.conversation.id)) == 4
    assert (await openai_client.responses.retrieve(second.id)).id == second.id
    for call in (
        openai_client.responses.retrieve(first.id),
        openai_client.responses.cancel(first.id),
        openai_client.responses.input_items.list(first.id),
        ask(model=slug, input="Three", previous_response_id=first.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await call
    await openai_client.responses.delete(second.id)
    assert await history(client, first.conversation.id) == []

    third = await ask(model=slug, input="Three")
    assert third.conversation is not None
    session_id = third.conversation.id
    await answered(client, slug, session_id=session_id)
    await openai_client.responses.delete(third.id)
    assert len(await history(client, session_id)) == 4


async def test_another_users_response_does_not_exist(server: RunningServer, accounts: AccountService):
    slug = await public(server, user_authentication=True)
    async with (
        opened(server.url, await key_of(accounts, "ada@example.com")) as ada,
        opened(server.url, await key_of(accounts, "bob@example.com")) as bob,
        opened(server.url) as stranger,
    ):
        answer = await ada.responses.create(model=slug, input="Go")
        assert answer.conversation is not None
        made = await ada.conversations.create()
        for who in (bob, stranger):
            item: Any = [
                {"type": "item_reference", "id": answer.output[0].id},
                {"role": "user", "content": "x"},
            ]
            for call in (
                who.responses.retrieve(answer.id),
                who.responses.retrieve(answer.id, stream=True),
                who.responses.cancel(answer.id),
                who.responses.delete(answer.id),
                who.responses.create(model=slug, input="Go", previous_response_id=answer.id),
                who.responses.create(model=slug, input="Go", conversation=made.id),
                who.responses.create(model=slug, input="Go", conversation=answer.conversation.id),
                who.responses.create(model=slug, input=item),
                who.conversations.retrieve(made.id),
                who.conversations.update(made.id, metadata={}),
                who.conversations.delete(made.id),
                who.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}]),
            ):
                with pytest.raises(openai.NotFoundError) as refused:
                    await call
                assert answer.conversation.id not in refused.value.message.replace(
                    f"conversation {answer.conversation.id}", ""
                )
        for call in (
            stranger.responses.create(model=slug, input="Go"),
            stranger.conversations.create(),
        ):
            with pytest.raises(openai.AuthenticationError) as unknown:
                await call
            assert unknown.value.code == "invalid_api_key"
        assert (await ada.responses.retrieve(answer.id)).id == answer.id
        assert (await ada.conversations.retrieve(made.id)).id == made.id


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": " "}, "input"),
    ({"input": "x" * 50_001}, "input"),
    ({"input": "a\0b"}, "input"),
    ({"input": [{"role": "king", "content": "x"}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
    ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
    ({"input": [{"type": "item_reference", "id": "of another"}]}, "input"),
    ({"input": ["x"]}, "input"),
    ({"input": [{"type": ["x"]}]}, "input"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ({"conversation": {"name": "x"}}, "conversation"),
    ({"conversation": "x", "previous_response_id": "y"}, "previous_response_id"),
    ({"background": True, "store": False}, "store"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}, "text.format.type"),
    ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
]


async def test_what_cannot_be_meant_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    slug = await public(server)
    for change, param in MALFORMED:
        response = await client.post("/v1/responses", json={"model": slug, "input": "Go", **change})
        error = response.json()["error"]
        assert response.status_code == 400, change
        assert error["type"] == "invalid_request_error"
        assert error["param"].startswith(param), change
    for change, status, code in (
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"previous_response_id": "resp_1"}, 404, "response_not_found"),
        ({"conversation": "conv_1"}, 404, "conversation_not_found"),
        ({"input": [{"type": "item_reference", "id": f"msg_{'0' * 32}"}]}, 404, "item_not_found"),
    ):
        response = await client.post("/v1/responses", json={"model": slug, "input": "Go", **change})
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert model.prompts == []


async def test_a_request_that_comes_twice_is_answered_once(
    client: httpx.AsyncClient, server: RunningServer, model: ScriptedModel
):
    body = {"model": await public(server), "input": "Go"}
    headers = {"idempotency-key": "0123456789012345678901"}
    answers = [
        (
            await client.post("/v1/responses", json={**body, "metadata": {"try": which}}, headers=headers)
        ).json()
        for which in ("first", "second")
    ]
    assert answers[0] == answers[1]
    assert len(model.prompts) == 1


async def test_the_example_of_the_documentation_prints_two_answers(
    server: RunningServer, model: ScriptedModel, capsys: pytest.CaptureFixture[str]
):
    page = (Path(__file__).parents[2] / "docs" / "doors" / "openai.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example is not None
    code = (
        example[1].replace("http://127.0.0.1:8000", server.url).replace("freshet-docs", await public(server))
    )
    model.script = lambda prompt: says("To ", prompt.question)
    names: dict[str, Any] = {}
    with anyio.fail_after(10):
        await to_thread.run_sync(exec, code, names)
    assert capsys.readouterr().out == "To What is Freshet?\nTo And how do I back it up?"
