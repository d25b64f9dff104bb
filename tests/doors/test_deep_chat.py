"""Deep Chat in a real browser, with the page that its documentation shows."""

import re
import socket
from dataclasses import replace
from pathlib import Path

import anyio

from app.settings import Settings
from tests.conftest import Serve
from tests.doors.npm import Npm
from tests.doors.waters import ingest_waters, script
from tests.scripted_model import ScriptedModel

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "doors" / "deep-chat.md"


def free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return reserved.getsockname()[1]


async def test_a_page_with_the_component_converses(
    npm: Npm, chromium: str, serve: Serve, settings: Settings, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: script(prompt, gate)
    page = re.search(r"```html\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert page is not None
    port = free_port()
    origins = {"cors_origins": (f"http://127.0.0.1:{port}",)}
    async with serve(replace(settings, server=settings.server.model_copy(update=origins))) as server:
        await ingest_waters(server)
        messages = await npm.run(
            "deep-chat.mjs",
            server.url,
            limit_s=60,
            CHROMIUM=chromium,
            PAGE=page[1].replace("http://127.0.0.1:8000", server.url).replace("freshet-docs", "waters"),
            PAGE_PORT=str(port),
        )

    assert [(message["role"], message["text"]) for message in messages[:4]] == [
        ("user", "Where does the Danube flow?"),
        ("ai", "It 🐟 flows into the Black Sea [1]."),
        ("user", "Slowly"),
        ("ai", "The Danube"),
    ]
    followed_up = next(prompt for prompt in model.prompts if prompt.question.startswith("Slowly"))
    assert "Where does the Danube flow?" in [message.content for message in followed_up.messages]
