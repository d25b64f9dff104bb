"""What a turn of a long conversation costs: `python -m bench.memory`.

One conversation of 1,000 turns in this process, on a PostgreSQL of its own, with a model that says what it is told to: figures are
of what is done around it. A fact is told in turn 3 and looked for in the last prompt. Exit code 1 if it is not there.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import uvloop
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import migrations
from app.db.embedded import EmbeddedPostgres
from app.db.engine import create_engine
from app.llm.protocols import Finish, Prompt, Usage
from app.rag.memory import estimated_tokens
from app.resources import Resources, open_resources
from app.services.chat import Asked
from app.services.viewer import ANONYMOUS
from app.settings import DatabaseSettings, SecuritySettings, Settings

_FACT = "My dog is called Bartholomew."
_QUESTION = "What do you say about number {} of the things that we speak about all the time, and why do you say that of it? "
_ANSWER = (
    "There is much to be said about it, and most of it was said before, so this is said again in other words. "
    * 4
)
_MARKS = (10, 100, 1_000)
_WINDOW = 10


@dataclass(slots=True)
class Turn:
    """Of one turn, and of the summary that it brought about; `summaries` is 0 or 1."""

    prompt_tokens: int = 0
    summary_tokens: int = 0
    summaries: int = 0
    statements: int = 0
    rows: int = 0
    cpu_s: float = 0.0
    took_s: float = 0.0


class Model:
    """Answers at once, and keeps the fact in its summaries."""

    name = provider = "bench"
    can_write = True
    notice = None

    def __init__(self) -> None:
        self.turn = Turn()
        self.last = ""

    async def aclose(self) -> None:
        pass

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[str] | Finish]:
        read = sum(estimated_tokens(message.content) for message in prompt.messages)
        told = "\n".join(message.content for message in prompt.messages)
        if "You keep the memory" in prompt.messages[0].content:
            said = f"{_FACT if _FACT in told else ''} {_ANSWER * 4}"
            self.turn.summaries += 1
            self.turn.summary_tokens += read + estimated_tokens(said)
        else:
            said = _ANSWER
            self.turn.prompt_tokens += read
            self.last = told
        yield [said]
        yield Finish("stop", Usage(read, estimated_tokens(said)))


def _count(engine: AsyncEngine, model: Model) -> None:
    """Each statement, and how many rows it gave or changed."""

    def ran(*arguments: object) -> None:
        cursor = arguments[1]
        model.turn.statements += 1
        model.turn.rows += max(0, getattr(cursor, "rowcount", 0))

    event.listen(engine.sync_engine, "after_cursor_execute", ran)


async def _converse(resources: Resources, model: Model, turns: int) -> list[Turn]:
    assistant = await resources.assistants.create(name="Bench", instructions="Be brief.")
    session_id = str(uuid4())
    done: list[Turn] = []
    for number in range(1, turns + 1):
        question = _QUESTION.format(number) + (_FACT if number == 3 else "")
        model.turn = Turn()
        began, spent = time.perf_counter(), time.process_time()
        followed = await resources.chat.begin(
            Asked(question, assistant.slug, session_id=session_id), ANONYMOUS
        )
        await resources.runs.finished(followed)
        model.turn.took_s = time.perf_counter() - began
        # The summary is written beside whatever comes next, and is counted with the turn that brought it about.
        await asyncio.sleep(0.01)
        model.turn.cpu_s = time.process_time() - spent
        done.append(model.turn)
    return done


def _row(label: str, turns: list[Turn]) -> str:
    def mean(name: str) -> float:
        return statistics.mean(getattr(turn, name) for turn in turns)

    middle = statistics.median(turn.took_s for turn in turns) * 1_000
    cells = (
        label,
        f"{mean('prompt_tokens'):,.0f}",
        f"{mean('summary_tokens'):,.0f}",
        f"{mean('summaries'):.2f}",
        f"{mean('statements'):.1f}",
        f"{mean('rows'):.1f}",
        f"{mean('cpu_s') * 1_000:.1f}",
        f"{middle:.1f}",
    )
    return f"| {' | '.join(cells)} |"


async def _measure(url: str, directory: Path) -> bool:
    settings = replace(
        Settings.load(),
        database=DatabaseSettings(database_url=SecretStr(url), freshet_data_dir=directory),
        security=SecuritySettings(secret_key=SecretStr("x" * 32)),
    )
    engine = create_engine(url, settings.database)
    await migrations.migrate(engine)
    await engine.dispose()
    print("| turn | prompt tokens | summary tokens | summaries | statements | rows | CPU ms | ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, tokens in (("", settings.chat.summary_tokens), (", without a summary", 0)):
        model = Model()
        chat = settings.chat.model_copy(update={"summary_tokens": tokens})
        async with open_resources(replace(settings, chat=chat), model=model) as resources:
            _count(resources.engine, model)
            done = await _converse(resources, model, max(_MARKS))
        for mark in _MARKS:
            print(_row(f"{mark:,}{name}", done[max(0, mark - _WINDOW) : mark]))
        knows = _FACT in model.last
        print(
            f"\nThe fact of turn 3 is {'' if knows else 'not '}in the prompt of turn {max(_MARKS):,}{name}.\n"
        )
        if tokens and not knows:
            return False
    return True


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="freshet-memory-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with EmbeddedPostgres(directory / "postgres") as url:
            remembers = uvloop.run(_measure(url, directory))
    sys.exit(0 if remembers else 1)


if __name__ == "__main__":
    main()
