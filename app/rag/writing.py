"""What is asked of a language model besides the answer: a text, or a value of a given form."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from app import json_text
from app.errors import ModelRejected, ShapeNotMet
from app.events import TokenUsage
from app.llm.protocols import ChatMessage, ChatModel, Finish, Prompt
from app.rag import memory, shape
from app.rag.shape import Misfit, Schema

_FORM = """\
Reply with one JSON value that fits this JSON Schema, and with nothing else.
<schema>
%s
</schema>"""
_NOT_YET = """\
This does not fit the schema:
%s
Reply with the whole value again, put right, and with nothing else."""
_MOST_TOLD, _LONGEST_TOLD = 20, 300


@dataclass(frozen=True, slots=True)
class Written:
    text: str
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Filled:
    value: Any
    usage: TokenUsage


async def write(model: ChatModel, prompt: Prompt) -> Written:
    """All that the model says. Raises `ModelFailed`."""
    said: list[str] = []
    finish: Finish | None = None
    async with aclosing(model.stream(prompt)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Finish):
                finish = piece
            else:
                said += piece
    text = "".join(said)
    return Written(text, _usage(prompt, text, finish))


async def fill(
    model: ChatModel, messages: Sequence[ChatMessage], schema: Schema, *, named_model: str | None
) -> Filled:
    """A value of that form, from what the messages say. What does not fit is put right by the model, once.

    Raises `ModelFailed`; as `ShapeNotMet` where it does not fit then either.
    """
    first, *rest = messages
    form = _FORM % json_text.encode(schema.schema).decode()
    asked = [replace(first, content=f"{first.content}\n\n{form}"), *rest]
    prompt = Prompt(
        messages=asked, question="", model=named_model, schema=schema.schema, is_strict=schema.is_strict
    )
    written, prompt = await _held_to(model, prompt)
    usage = written.usage
    value, wrong = _read(written.text, schema)
    if wrong:
        told = "\n".join(f"- {_place(misfit)}: {misfit.why[:_LONGEST_TOLD]}" for misfit in wrong[:_MOST_TOLD])
        again = [ChatMessage("assistant", written.text), ChatMessage("user", _NOT_YET % told)]
        written = await write(model, replace(prompt, messages=[*asked, *again]))
        usage = usage.plus(written.usage)
        value, wrong = _read(written.text, schema)
    if wrong:
        raise ShapeNotMet([list(misfit.place) for misfit in wrong[:_MOST_TOLD]])
    return Filled(value, usage)


async def _held_to(model: ChatModel, prompt: Prompt) -> tuple[Written, Prompt]:
    """What the model says, and the prompt that it took: of servers that cannot be held to a schema, the one without it."""
    try:
        return await write(model, prompt), prompt
    except ModelRejected:
        prompt = replace(prompt, schema=None)
        return await write(model, prompt), prompt


def _read(text: str, schema: Schema) -> tuple[Any, list[Misfit]]:
    """The value, which models like to put between fences or sentences, and what is wrong with it."""
    begin = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=0)
    end = max(text.rfind("}"), text.rfind("]")) + 1
    try:
        value = msgspec.json.decode(text[begin:end] or text)
    except (msgspec.DecodeError, RecursionError):
        return None, [Misfit((), "this is not JSON")]
    return value, shape.misfits(schema, value)


def _place(misfit: Misfit) -> str:
    return ".".join(map(str, misfit.place)) or "the whole"


def _usage(prompt: Prompt, written: str, finish: Finish | None) -> TokenUsage:
    if finish is not None and finish.usage is not None:
        read, said = finish.usage.input_tokens, finish.usage.output_tokens
        return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said)
    read = sum(memory.estimated_tokens(message.content) for message in prompt.messages)
    said = memory.estimated_tokens(written)
    return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said, estimated=True)
