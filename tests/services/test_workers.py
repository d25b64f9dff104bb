"""Ingestion in processes of its own: killed, stopped, called off."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from sqlalchemy import text

from app.db.engine import Sessions
from app.errors import Conflict
from app.ingest.convert import Converter
from app.services.document_work import DocumentWork
from app.services.knowledge import KnowledgeService
from tests.words_embedder import WordsEmbedder

_ROOT = Path(__file__).parents[2]
RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow."


class WorkerProcess:
    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._said = TextReceiveStream(process.stdout)
        self._words: list[str] = []

    async def until(self, word: str) -> None:
        while word not in self._words:
            self._words += (await self._said.receive()).split()
        self._words.remove(word)

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await self.process.wait()


Start = Callable[..., Awaitable[WorkerProcess]]


@pytest.fixture
async def start(database_url: str) -> AsyncGenerator[Start]:
    started: list[Process] = []

    async def run(*options: str) -> WorkerProcess:
        process = await anyio.open_process(
            [sys.executable, "-m", "tests.worker_process", database_url, *options],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=None,
            env={"PATH": os.environ["PATH"]},
        )
        started.append(process)
        worker = WorkerProcess(process)
        await worker.until("working")
        return worker

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.aclose()


@pytest.fixture
async def knowledge(sessions: Sessions) -> AsyncGenerator[KnowledgeService]:
    async with Converter() as converter:
        yield KnowledgeService(sessions, WordsEmbedder(), converter, max_upload_bytes=10**6)


@pytest.fixture
def work(sessions: Sessions, knowledge: KnowledgeService) -> DocumentWork:
    return DocumentWork(sessions, knowledge.ingestion, max_upload_bytes=10**6, look_every_s=0.01)


async def _rows(sessions: Sessions, statement: str) -> list[Any]:
    async with sessions.read() as session:
        return list((await session.execute(text(statement))).all())


async def _let_a_minute_pass(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(text("UPDATE pgqueuer SET heartbeat = heartbeat - interval '1 minute'"))
        await session.execute(text("UPDATE ingestions SET updated_at = updated_at - interval '1 minute'"))


async def _until_over(work: DocumentWork, knowledge: KnowledgeService, document: Any) -> Any:
    async for view in work.follow(await knowledge.document(document.id)):
        if view is not None and view.is_over:
            return view
    raise AssertionError("it ended before it was over")


async def test_what_a_killed_process_was_at_is_taken_up_by_another_and_done_once(
    start: Start, knowledge: KnowledgeService, work: DocumentWork, sessions: Sessions
):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    with anyio.fail_after(60):
        killed = await start("hold")
        await killed.until("embedding")
        assert await killed.end(signal.SIGKILL) == -signal.SIGKILL
        assert (await knowledge.document(document.id)).status == "processing"
        await _let_a_minute_pass(sessions)

        first, second = await start(), await start()
        over = await _until_over(work, knowledge, document)
        for worker in (first, second):
            assert await worker.end(signal.SIGTERM) == 0

    assert (over.status, over.chunk_count, over.progress.attempts) == ("ready", 1, 2)
    assert len(await _rows(sessions, "SELECT 1 FROM chunks")) == 1
    assert await _rows(sessions, "SELECT 1 FROM pgqueuer") == []


async def test_a_process_that_slept_while_another_did_its_work_adds_nothing(
    start: Start, knowledge: KnowledgeService, work: DocumentWork, sessions: Sessions
):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    with anyio.fail_after(60):
        frozen = await start("hold")
        await frozen.until("embedding")
        frozen.process.send_signal(signal.SIGSTOP)
        await _let_a_minute_pass(sessions)
        other = await start()
        assert (await _until_over(work, knowledge, document)).status == "ready"
        chunks = await _rows(sessions, "SELECT id FROM chunks")

        frozen.process.send_signal(signal.SIGCONT)
        for worker in (frozen, other):
            assert await worker.end(signal.SIGTERM) == 0

    assert await _rows(sessions, "SELECT id FROM chunks") == chunks
    assert (await knowledge.document(document.id)).status == "ready"


async def test_a_process_that_is_asked_to_stop_gives_its_document_back(
    start: Start, knowledge: KnowledgeService, sessions: Sessions
):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    with anyio.fail_after(60):
        worker = await start("hold")
        await worker.until("embedding")
        assert await worker.end(signal.SIGTERM) == 0

    left = await knowledge.document(document.id)
    assert (left.status, left.progress.stage, left.progress.attempts) == ("pending", "waiting", 0)
    assert await _rows(sessions, "SELECT status FROM pgqueuer") == [("queued",)]


async def test_a_document_that_ends_each_process_that_takes_it_is_given_up(
    knowledge: KnowledgeService, start: Start, work: DocumentWork, sessions: Sessions
):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE ingestions SET attempts = 5"))
    with anyio.fail_after(60):
        killed = await start("hold")
        await killed.until("embedding")
        await killed.end(signal.SIGKILL)
        await _let_a_minute_pass(sessions)
        await start()
        over = await _until_over(work, knowledge, document)

    assert (over.status, over.error_reason) == ("failed", "crashed")
    assert await _rows(sessions, "SELECT 1 FROM pgqueuer") == []


async def test_what_is_called_off_stops_in_the_process_that_does_it(
    start: Start, knowledge: KnowledgeService, work: DocumentWork, sessions: Sessions
):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    with anyio.fail_after(60):
        worker = await start("hold")
        await worker.until("embedding")

        cancelled = await work.cancel(document.id)
        other, _ = await knowledge.add("default", "deltas.md", b"# Deltas\n\nSand.")
        await worker.until("embedding")

        assert cancelled.status == "cancelled"
        assert (await work.cancel(document.id)).status == "cancelled"
        await work.cancel(other.id)
        await worker.end(signal.SIGTERM)
        assert (await work.retry(document.id)).status == "pending"
        await start()
        assert (await _until_over(work, knowledge, document)).status == "ready"

    with pytest.raises(Conflict):
        await work.cancel(document.id)
    with pytest.raises(Conflict):
        await work.retry(document.id)
    assert (await knowledge.document(other.id)).status == "cancelled"


async def _child(pid: int) -> int:
    children: list[str] = []
    while not children:
        found = await anyio.run_process(["pgrep", "-P", str(pid)], check=False)
        children = found.stdout.decode().split()
    return int(children[0])


async def _ends(pid: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            await anyio.sleep(0.01)


async def test_the_process_that_reads_a_file_ends_when_that_is_called_off(
    start: Start, knowledge: KnowledgeService, work: DocumentWork, sessions: Sessions
):
    worker = await start("hold")
    with anyio.fail_after(90):
        while True:
            document, _ = await knowledge.add("default", "rivers.md", RIVERS)
            reader = await _child(worker.process.pid)
            # It has yet to read its first library: what it is asked to read takes for ever from here on.
            os.kill(reader, signal.SIGSTOP)
            await work.cancel(document.id)
            with anyio.move_on_after(15) as waiting:
                await _ends(reader)
            if not waiting.cancelled_caught:
                break
            # It had read the file before it was stopped. The next one is handed to it while it is.
            await knowledge.delete_document(document.id)

    assert (await knowledge.document(document.id)).status == "cancelled"
    assert await _rows(sessions, "SELECT 1 FROM chunks") == []
