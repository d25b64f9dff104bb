"""A conversation in the terminal."""

import signal
import sys

import anyio

from app.cli.database import with_resources
from app.messengers.console import ConsoleMessenger, lines
from app.messengers.pipeline import AssistantPipeline
from app.resources import Resources


def chat(assistant: str, *, email: str | None) -> None:
    async def converse(resources: Resources) -> None:
        pipeline = AssistantPipeline(resources, "console", assistant, email=email)
        prompt = "> " if sys.stdin.isatty() else ""
        console = ConsoleMessenger(pipeline, lines(sys.stdin.fileno()), sys.stdout, prompt=prompt)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_on_interrupt, console, tasks.cancel_scope)
            await console.converse()
            tasks.cancel_scope.cancel()

    with_resources(converse)


async def _on_interrupt(console: ConsoleMessenger, all_of_it: anyio.CancelScope) -> None:
    """Ctrl-C stops the answer that is being made, and else the conversation."""
    with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
        async for _ in interrupts:
            if not await console.stop():
                all_of_it.cancel()
