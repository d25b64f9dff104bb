"""A question, asked in the terminal."""

import sys
from contextlib import aclosing
from typing import Any

import click
import msgspec

from app.cli.database import with_resources
from app.cli.terminal import Terminal
from app.errors import FreshetError
from app.messengers.sources import place
from app.resources import Resources
from app.services.chat import Asked
from app.services.viewer import ANONYMOUS, Viewer

_STEPS = {
    "history_loading": "reading the conversation",
    "cache_lookup": "looking for an earlier answer",
    "query_rewrite": "reading the question",
    "vectorization": "embedding the question",
    "retrieval": "searching",
    "synthesis": "answering",
}


class _AnswerFailed(FreshetError):
    """The answer ended with an error event, whose message this is."""


def ask(question: str, *, assistant: str, session_id: str | None, email: str | None) -> None:
    async def answer(resources: Resources) -> None:
        viewer = ANONYMOUS
        if email is not None:
            viewer = Viewer(await resources.accounts.find_user(email))
        followed = await resources.chat.begin(Asked(question, assistant, session_id=session_id), viewer)
        reader = _Reader()
        async with aclosing(followed.follow(after=0)) as batches:
            async for batch in batches:
                for line in batch.lines:
                    reader.read(msgspec.json.decode(line))
        reader.end(followed.session_id)

    with_resources(answer)


class _Reader:
    """Shows the events of one answer."""

    def __init__(self) -> None:
        self._aside = Terminal(aside=True)
        self._sources: list[dict[str, Any]] = []
        self._steps: list[str] = []
        self._speaks = False
        self._failure: str | None = None

    def read(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "start":
            self._aside.say(event["model"].get("notice") or f"{event['model']['name']} answers.", "dim")
        elif kind == "step" and event["status"] != "running" and event["step_type"] in _STEPS:
            self._steps.append(f"{_STEPS[event['step_type']]} {event['duration']:.2f} s")
        elif kind == "sources":
            self._sources = event["data"]
        elif kind == "token":
            if not self._speaks:
                self._show_steps()
            self._speaks = True
            click.echo(event["content"], nl=False)
            sys.stdout.flush()
        elif kind == "error":
            self._failure = event["message"]

    def end(self, session_id: str) -> None:
        if self._speaks:
            click.echo()
        self._show_steps()
        if self._failure is not None:
            raise _AnswerFailed(self._failure)
        if self._sources:
            self._aside.say()
            self._aside.say("Sources", "bold")
        for source in self._sources:
            self._aside.say(f"[{source['id']}] {place(source)}  {source['score']:.4f}")
        self._aside.say(f"Go on with --session {session_id}", "dim")

    def _show_steps(self) -> None:
        if self._steps:
            self._aside.say(" · ".join(self._steps), "dim")
        self._steps = []
