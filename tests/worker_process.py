"""A process that ingests: `python -m tests.worker_process URL [hold]`. One that holds embeds nothing, and stays at its document.

It prints `working`, and `embedding` each time that it is asked to embed.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

import anyio

from app.db.engine import Sessions, create_engine
from app.db.ingestions import ENTRYPOINT
from app.db.queue import Work, Worker
from app.ingest.convert import Converter
from app.llm.protocols import Matrix
from app.services.knowledge import KnowledgeService
from app.settings import DatabaseSettings
from tests.words_embedder import WordsEmbedder


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class TellingEmbedder(WordsEmbedder):
    def __init__(self, *, hold: bool) -> None:
        super().__init__()
        self._hold = hold

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        _say("embedding")
        if self._hold:
            await anyio.sleep_forever()
        return await super().embed_passages(passages)


async def main(url: str, *, hold: bool) -> None:
    engine = create_engine(url, DatabaseSettings())
    async with Converter() as converter:
        embedder = TellingEmbedder(hold=hold)
        knowledge = KnowledgeService(Sessions(engine), embedder, converter, max_upload_bytes=10**6)
        worker = Worker(engine, {ENTRYPOINT: Work(knowledge.ingest_job, 1)}, look_again_s=0.05)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with worker.running(grace_s=0):
            _say("working")
            await stop.wait()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], hold="hold" in sys.argv[2:]))
