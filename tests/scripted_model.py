"""The language model of the tests: says what it is told to say, when it is told to."""

from collections.abc import AsyncGenerator, Callable

import anyio

from app.errors import ModelFailed
from app.llm.protocols import Finish, Prompt, ToolCall, Usage

Act = list[str] | Finish | ModelFailed | anyio.Event


class ScriptedModel:
    """Plays `script` for each prompt: texts are said, a `Finish` ends, a failure is raised, an event is waited for.

    `prompts` are those it was asked, in order; `closed` counts the answers that were given up before their end.
    """

    name = "scripted"
    provider = "tests"
    can_write = True
    notice = None

    def __init__(self) -> None:
        self.script: Callable[[Prompt], list[Act]] = lambda prompt: says("An answer", " to ", prompt.question)
        self.prompts: list[Prompt] = []
        self.asked = anyio.Event()
        self.closed = 0

    async def aclose(self) -> None:
        pass

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[str] | Finish]:
        self.prompts.append(prompt)
        self.asked.set()
        ended = False
        try:
            for act in self.script(prompt):
                if isinstance(act, anyio.Event):
                    await act.wait()
                elif isinstance(act, ModelFailed):
                    ended = True
                    raise act
                else:
                    ended = isinstance(act, Finish)
                    yield act
        finally:
            self.closed += not ended


def says(*texts: str, reason: str = "stop", usage: Usage | None = None) -> list[Act]:
    said: list[Act] = []
    said += [[text] for text in texts]
    said.append(Finish(reason, usage or Usage(input_tokens=11, output_tokens=len(texts))))
    return said


def calls(*wanted: tuple[str, str]) -> list[Act]:
    """Asks for calls, each by the name and the arguments that are written for it."""
    asked = tuple(ToolCall(f"call_{number}", *call) for number, call in enumerate(wanted))
    return [Finish("tool_calls", Usage(input_tokens=100, output_tokens=5), asked)]
