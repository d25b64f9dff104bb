"""`freshet chat`: a conversation in the terminal or through a pipe."""

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from io import StringIO
from pathlib import Path

import anyio

from app.messengers.console import ConsoleMessenger, lines
from app.messengers.pipeline import AssistantPipeline
from tests.api.turns import gated, public
from tests.conftest import RunningServer
from tests.messengers.memory import remembered
from tests.scripted_model import ScriptedModel, says


async def typed(*said: str) -> AsyncGenerator[str]:
    for line in said:
        yield line


async def conversation(server: RunningServer, slug: str, *said: str) -> str:
    shown = StringIO()
    pipeline = AssistantPipeline(server.resources, "console", slug)
    with anyio.fail_after(10):
        await ConsoleMessenger(pipeline, typed(*said), shown, prompt="> ").converse()
    return shown.getvalue()


async def test_a_conversation_is_shown_with_what_it_is_from(
    server: RunningServer, model: ScriptedModel
) -> None:
    await server.resources.knowledge.ingest_now("waters", "waters.md", b"# Waters\n\nThe Danube is long.\n")
    slug = await public(server, collections=["waters"], similarity_cutoff=-1, first_message="Ask me.")
    model.script = lambda prompt: says("It is ", "long [1].")
    shown = await conversation(server, slug, "", "How long is the Danube?", "/reset", "Again?", "/quit", "no")
    assert shown == (
        "Ask me.\n> > It is long [1].\n[1] Waters\n> This conversation begins anew.\n"
        "> It is long [1].\n[1] Waters\n> "
    )
    assert remembered(model)[-1] == 0


async def test_a_refusal_is_shown_and_the_conversation_goes_on(server: RunningServer) -> None:
    shown = await conversation(server, await public(server), "a" * 50_001, "Short?")
    assert shown == ("> \nThis message is longer than 50,000 characters.\n> An answer to Short?\n> ")


async def test_an_answer_is_stopped_and_the_conversation_goes_on(
    server: RunningServer, model: ScriptedModel
) -> None:
    gated(model, "Begun", "never")
    shown = StringIO()
    pipeline = AssistantPipeline(server.resources, "console", await public(server))
    console = ConsoleMessenger(pipeline, typed("Go"), shown)
    assert not await console.stop()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(console.converse)
            await model.asked.wait()
            assert await console.stop()
    assert shown.getvalue().endswith(" (stopped)\n")


async def test_lines_are_read_from_a_pipe_and_from_a_file(tmp_path: Path) -> None:
    text = "One\nZwei ü\nlast"
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    path = tmp_path / "questions.txt"
    path.write_text(text)
    with path.open() as file, anyio.fail_after(5):
        for source in (reading, file.fileno()):
            async with aclosing(lines(source)) as read:
                assert [line async for line in read] == ["One", "Zwei ü", "last"]
    os.close(reading)
