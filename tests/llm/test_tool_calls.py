"""Calls of tools on the wire of OpenAI's chat completions, from a server that streams what it is told to."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from aiohttp import web
from pydantic import SecretStr

from app.errors import ModelIncomplete
from app.llm.openai_model import OpenAIModel, create_client
from app.llm.protocols import ChatMessage, Finish, Prompt, Tool, ToolCall
from app.settings import ModelSettings

ADD = Tool("desk__add", "The sum.", {"type": "object", "properties": {"a": {"type": "integer"}}})
ASKED = Prompt(messages=[ChatMessage("user", "What is 2 + 3?")], question="What is 2 + 3?", tools=[ADD])


def delta(finish_reason: str | None = None, **fields: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


def piece(index: int, arguments: str = "", **fields: Any) -> dict[str, Any]:
    name = fields.pop("name", None)
    return {
        "index": index,
        "function": {"arguments": arguments, **({"name": name} if name else {})},
        **fields,
    }


class Server:
    """Streams `chunks`, and ends with `[DONE]`."""

    def __init__(self, *chunks: str) -> None:
        self.chunks = chunks
        self.bodies: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for chunk in (*self.chunks, "[DONE]"):
            await response.write(f"data: {chunk}\n\n".encode())
        return response


@asynccontextmanager
async def opened(server: Server) -> AsyncGenerator[OpenAIModel]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = ModelSettings(
        openai_api_key=SecretStr("a key"),
        openai_base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1",
        model_retries=0,
    )
    try:
        async with aclosing(OpenAIModel(create_client(settings, connections=2), settings)) as model:
            yield model
    finally:
        await runner.cleanup()


async def said(server: Server, prompt: Prompt = ASKED) -> Sequence[Any]:
    with anyio.fail_after(10):
        async with opened(server) as model, aclosing(model.stream(prompt)) as pieces:
            return [piece async for piece in pieces]


async def test_calls_are_put_together_from_their_pieces():
    server = Server(
        delta(role="assistant", content=None),
        delta(tool_calls=[piece(0, id="call_a", name="desk__add")]),
        delta(tool_calls=[piece(0, '{"a": 2')]),
        delta(content="", tool_calls=[piece(1, id="call_b", name="desk__add"), piece(0, ', "b": 3}')]),
        delta(tool_calls=[piece(1, "{}")]),
        delta("tool_calls"),
    )
    (finish,) = await said(server)
    calls = (ToolCall("call_a", "desk__add", '{"a": 2, "b": 3}'), ToolCall("call_b", "desk__add", "{}"))
    assert finish == Finish("tool_calls", None, calls)


async def test_a_call_without_an_id_gets_one_and_may_end_with_another_reason():
    (finish,) = await said(Server(delta("stop", tool_calls=[piece(0, "{}", name="desk__add")])))
    assert finish.calls == (ToolCall("call_0", "desk__add", "{}"),)


async def test_a_call_that_breaks_off_is_a_failure():
    with pytest.raises(ModelIncomplete):
        await said(Server(delta(tool_calls=[piece(0, '{"a"', id="call_a", name="desk__add")])))


async def test_the_request_holds_the_tools_what_was_called_and_what_came_of_it():
    call = ToolCall("call_a", "desk__add", "{}")
    messages = [
        *ASKED.messages,
        ChatMessage("assistant", "", calls=(call,)),
        ChatMessage("tool", "5", answers="call_a"),
    ]
    server = Server(delta("stop", content="It is 5."))
    await said(server)
    await said(server, Prompt(messages, "", tools=[ADD], calls_are_over=True))
    await said(server, Prompt(messages, ""))
    first, last, without = server.bodies
    function = {"name": "desk__add", "description": "The sum.", "parameters": ADD.parameters}
    assert first["tools"] == last["tools"] == [{"type": "function", "function": function}]
    assert ("tool_choice" in first, last["tool_choice"]) == (False, "none")
    assert not {"tools", "tool_choice"} & set(without)
    asked = {"id": "call_a", "type": "function", "function": {"name": "desk__add", "arguments": "{}"}}
    assert last["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "content": "5", "tool_call_id": "call_a"},
    ]
