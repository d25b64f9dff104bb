"""A conversation in the terminal, or through a pipe: a line is a question, and its answer is shown as it is made."""

import os
from collections.abc import AsyncGenerator, Hashable
from contextlib import suppress
from typing import Any, TextIO
from uuid import uuid4

import anyio

from app.messengers.interface import Context, PollingMessengerInterface, Request
from app.messengers.message import Message
from app.messengers.pipeline import AssistantPipeline
from app.messengers.sources import cited

_PIECE_BYTES = 65_536
_RESET, _QUIT = "/reset", "/quit"


async def lines(file: int) -> AsyncGenerator[str]:
    """What is typed or piped in, line by line. No thread waits for it, which could not be told to leave."""
    rest = b""
    while True:
        # A file that is no terminal, pipe or socket is never waited for.
        with suppress(PermissionError):
            await anyio.wait_readable(file)
        piece = os.read(file, _PIECE_BYTES)
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole if piece else [*whole, rest]:
            yield line.decode(errors="replace")
        if not piece:
            return


class ConsoleMessenger(PollingMessengerInterface):
    """One conversation, until `/quit` or the end of what is typed. `prompt` is shown before each question."""

    def __init__(
        self, pipeline: AssistantPipeline, typed: AsyncGenerator[str], out: TextIO, *, prompt: str = ""
    ) -> None:
        self._pipeline = pipeline
        self._ctx_id = str(uuid4())
        self._typed = typed
        self._out = out
        self._prompt = prompt
        self._answering = False
        self._over = False

    async def converse(self) -> None:
        """Raises `NotFound` and `Unauthenticated` if the assistant is not to be asked."""
        if greeting := await self._pipeline.first_message():
            self._say(f"{greeting}\n")
        await self.connect(self._streamed, lambda: not self._over)

    async def stop(self) -> bool:
        """Stop the answer that is being made; False if there is none."""
        answering = self._answering
        if answering:
            await self._pipeline.stop(self._ctx_id)
        return answering

    async def _request(self) -> list[Request]:
        while True:
            self._say(self._prompt)
            line = (await anext(self._typed, _QUIT)).strip()
            if line == _QUIT:
                self._over = True
                return []
            if line == _RESET:
                await self._pipeline.forget(self._ctx_id)
                self._say("This conversation begins anew.\n")
            elif line:
                return [(Message(text=line), self._ctx_id)]

    def _hear(self, event: dict[str, Any]) -> None:
        if event["type"] == "token":
            self._say(event["content"])

    async def _streamed(
        self,
        message: Message,
        ctx_id: Hashable | None = None,
        update_ctx_misc: dict[str, Any] | None = None,
    ) -> Context:
        self._answering = True
        try:
            return await self._pipeline(message, ctx_id, update_ctx_misc, heard=self._hear)
        finally:
            self._answering = False

    async def _respond(self, responses: list[Context]) -> None:
        for context in responses:
            told = context.last_response.misc or {}
            if "error" in told:
                self._say(f"\n{context.last_response.text}")
            elif told["status"] == "stopped":
                self._say(" (stopped)")
            self._say("\n")
            for line in cited(told):
                self._say(f"{line}\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
