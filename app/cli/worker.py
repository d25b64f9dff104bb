"""A process that does the jobs of the queue, and serves nobody."""

import logging
from dataclasses import replace

import anyio

from app.cli.database import reachable, ready_schema
from app.cli.stopping import run_until_stopped
from app.cli.terminal import Terminal
from app.resources import open_resources
from app.settings import Settings


def work(*, concurrency: int | None) -> None:
    settings = Settings.load()
    if concurrency is not None:
        chosen = settings.ingest.model_copy(update={"ingest_concurrency": concurrency})
        settings = replace(settings, ingest=chosen)
    terminal = Terminal()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("app").setLevel(settings.server.log_level.upper())

    async def until_stopped(reached: Settings) -> None:
        await ready_schema(settings, reached)
        async with open_resources(reached, works=True):
            at_once = settings.ingest.ingest_concurrency
            terminal.verdict(f"Working on documents, at most {at_once} at once. Ctrl-C stops.", good=True)
            await anyio.sleep_forever()

    with reachable(settings) as reached:
        run_until_stopped(lambda: until_stopped(reached))
    terminal.verdict("Stopped", good=True)
