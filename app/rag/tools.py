"""An answer for which the model may have tools called: it is asked, what it asks for is called, and it is asked again."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import msgspec

from app.errors import ModelIncomplete
from app.events import Step
from app.llm.protocols import (
    ChatMessage,
    ChatModel,
    Finish,
    Prompt,
    ServedTool,
    Tool,
    Toolbox,
    ToolCall,
    ToolResult,
)
from app.rag import prompt
from app.rag.steps import OpenStep
from app.rag.turn import Spent

# Of one round; what a model asks for beyond is passed over.
_MOST_CALLS = 16
_LONGEST_NAME = 64
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


async def stream(
    asked: Prompt, paths: Sequence[str], model: ChatModel, toolbox: Toolbox, spent: Spent, parent: OpenStep
) -> AsyncGenerator[list[str] | Finish | Step]:
    """As `ChatModel.stream`, with the steps of the calls in between. Its `Finish` is that of the last round.

    When it has had its rounds, the model is asked a last time without calls. Raises `ModelFailed`.
    """
    offer = await toolbox.offered(paths)
    for server, error in offer.missing.items():
        looking = OpenStep("tool_call", parent=parent, label=server, about={"server": server})
        yield looking.opening
        yield looking.failed(error=error)
    named = _named(offer.tools)
    asked = replace(
        asked,
        messages=prompt.with_tools(asked.messages, list(offer.missing)),
        tools=[Tool(name, tool.description, tool.parameters) for name, tool in named.items()],
        calls_are_over=not toolbox.rounds,
    )
    for left in range(toolbox.rounds, -1, -1):
        finish, said = None, ""
        spent.asked = asked
        async with aclosing(model.stream(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    finish = piece
                else:
                    said += "".join(piece)
                    yield piece
        assert finish is not None, "a model ends with its Finish, or raises"
        if not left and finish.calls and not said.strip():
            raise ModelIncomplete("The language model asked for tools again and again, and gave no answer.")
        if not left or not finish.calls:
            yield finish
            return
        spent.end_round(finish)
        calls = finish.calls[:_MOST_CALLS]
        steps = [_step(call, named.get(call.name), parent) for call in calls]
        for step in steps:
            yield step.opening
        results, closings = await _called(calls, steps, named, toolbox)
        for closing in closings:
            yield closing
        messages = [*asked.messages, ChatMessage("assistant", said, calls=calls), *results]
        asked = replace(asked, messages=messages, calls_are_over=left == 1)
        if said.strip():
            yield ["\n\n"]


def _named(tools: Sequence[ServedTool]) -> dict[str, ServedTool]:
    """By names that every model takes; two that read alike are told apart by a number."""
    named: dict[str, ServedTool] = {}
    for tool in tools:
        name = plain = _NOT_IN_A_NAME.sub("_", f"{tool.server}__{tool.name}")[:_LONGEST_NAME]
        number = 2
        while name in named:
            name = f"{plain[: _LONGEST_NAME - 4]}_{number}"
            number += 1
        named[name] = tool
    return named


def _step(call: ToolCall, tool: ServedTool | None, parent: OpenStep) -> OpenStep:
    label = tool.path if tool is not None else call.name[:_LONGEST_NAME] or "?"
    about = {"server": tool.server, "tool": tool.name} if tool is not None else {"tool": label}
    return OpenStep("tool_call", parent=parent, label=label, about=about)


async def _called(
    calls: Sequence[ToolCall],
    steps: Sequence[OpenStep],
    named: Mapping[str, ServedTool],
    toolbox: Toolbox,
) -> tuple[list[ChatMessage], list[Step]]:
    """All at once; the results in the order of the calls, the steps in the order in which they ended."""
    results: dict[str, ChatMessage] = {}
    closings: list[Step] = []

    async def call_one(call: ToolCall, step: OpenStep) -> None:
        tool = named.get(call.name)
        result = await _result(call, tool, toolbox)
        size = len(result.text)
        closings.append(
            step.completed(size=size) if result.error is None else step.failed(size=size, error=result.error)
        )
        text = prompt.tool_result(tool.path if tool is not None else call.name, result.text)
        results[call.id] = ChatMessage("tool", text, answers=call.id)

    async with anyio.create_task_group() as tasks:
        for call, step in zip(calls, steps, strict=True):
            tasks.start_soon(call_one, call, step)
    return [results[call.id] for call in calls], closings


async def _result(call: ToolCall, tool: ServedTool | None, toolbox: Toolbox) -> ToolResult:
    if tool is None:
        return ToolResult("There is no such tool.", "not_allowed")
    try:
        arguments: Any = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return ToolResult("The arguments are no JSON object.", "invalid_arguments")
    return await toolbox.call(tool, arguments)  # pyright: ignore[reportUnknownArgumentType]  # any JSON object
