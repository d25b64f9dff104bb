"""What becomes of a document when what it needs is away: the embedder, the database."""

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from app.db.documents import Progress
from app.db.engine import Sessions, create_engine
from app.db.queue import Later
from app.errors import DatabaseUnavailable, ModelRejected, ModelUnavailable
from app.ingest.convert import Converter
from app.llm.protocols import Matrix
from app.services.ingestion import Ingestion, Retries
from app.services.knowledge import KnowledgeService
from app.settings import DatabaseSettings
from tests.queued import do_next, job_of, next_job
from tests.relay import Relay
from tests.words_embedder import WordsEmbedder

RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow."
RETRIES = Retries(attempts=3, first_pause_s=0)


class GuidedEmbedder(WordsEmbedder):
    """Tells when it is asked to embed passages, and does it when it may; or fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self.may = anyio.Event()
        self.failure: Exception | None = None
        self.calls = 0

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        self.calls += 1
        self.asked.set()
        await self.may.wait()
        if self.failure is not None:
            raise self.failure
        return await super().embed_passages(passages)


@pytest.fixture
def embedder() -> GuidedEmbedder:
    return GuidedEmbedder()


@pytest.fixture
async def converter() -> AsyncGenerator[Converter]:
    async with Converter() as converter:
        yield converter


@pytest.fixture
def knowledge(sessions: Sessions, embedder: GuidedEmbedder, converter: Converter) -> KnowledgeService:
    return KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000, retries=RETRIES)


async def _rows(sessions: Sessions, statement: str) -> list[Any]:
    async with sessions.read() as session:
        return list((await session.execute(text(statement))).all())


async def test_a_failure_that_may_pass_is_tried_again_and_shown_meanwhile(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    embedder.may.set()
    embedder.failure = ModelUnavailable("The embedder did not answer.")
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)

    assert await do_next(sessions, knowledge)
    waiting = await knowledge.document(document.id)
    assert (waiting.status, waiting.error_reason) == ("pending", None)
    assert (waiting.progress.stage, waiting.progress.attempts) == ("waiting", 1)
    assert waiting.progress.problem == "The embedder did not answer."

    embedder.failure = None
    assert await do_next(sessions, knowledge)
    ready = await knowledge.document(document.id)
    assert (ready.status, ready.progress.attempts, ready.progress.problem) == ("ready", 2, None)


async def test_after_the_last_attempt_the_document_has_failed_for_that_reason(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    embedder.may.set()
    embedder.failure = ModelUnavailable("The embedder did not answer.")
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)

    while await do_next(sessions, knowledge):
        pass

    failed = await knowledge.document(document.id)
    assert (failed.status, failed.error_reason) == ("failed", "model_unavailable")
    assert (embedder.calls, failed.progress.attempts) == (3, 3)
    assert await _rows(sessions, "SELECT 1 FROM pgqueuer") == []


async def test_a_failure_that_will_not_pass_is_not_tried_again(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    embedder.may.set()
    embedder.failure = ModelRejected("The key is wrong.")
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    refused, _ = await knowledge.add("default", "broken.pdf", b"%PDF-1.7 and nothing more")

    assert await do_next(sessions, knowledge)
    assert await do_next(sessions, knowledge)
    assert not await do_next(sessions, knowledge)

    assert (await knowledge.document(document.id)).error_reason == "model_rejected"
    assert (await knowledge.document(refused.id)).error_reason == "broken"


def test_pauses_grow_up_to_a_limit_and_are_never_quite_the_same():
    retries = Retries(first_pause_s=10, longest_pause_s=60)

    for attempt, planned_s in ((1, 10), (2, 20), (3, 40), (4, 60), (9, 60)):
        pauses = {retries.pause_after(attempt) for _ in range(50)}
        assert len(pauses) > 1
        assert all(0.75 * planned_s <= pause / timedelta(seconds=1) <= 1.25 * planned_s for pause in pauses)


async def test_what_was_made_of_a_document_is_stored_when_the_database_is_back(
    database_url: str, embedder: GuidedEmbedder, converter: Converter
):
    relay = Relay(database_url)
    with anyio.fail_after(20):
        async with relay.running():
            engine = create_engine(relay.url, DatabaseSettings(db_connect_timeout_s=2))
            sessions = Sessions(engine)
            knowledge = KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000)
            document, _ = await knowledge.add("default", "rivers.md", RIVERS)
            job = await next_job(sessions)
            assert job is not None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(knowledge.ingest_job, job)
                await embedder.asked.wait()
                relay.cut()
                with pytest.raises(DatabaseUnavailable):
                    await knowledge.document(document.id)
                relay.refused = anyio.Event()
                embedder.may.set()
                await relay.refused.wait()
                relay.mend()
            assert (await knowledge.document(document.id)).status == "ready"
            await engine.dispose()
    assert embedder.calls == 1


async def test_without_a_database_for_long_the_document_is_left_for_later(
    database_url: str, sessions: Sessions, embedder: GuidedEmbedder, converter: Converter
):
    relay = Relay(database_url)
    knowledge = KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000)
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    job = await job_of(sessions, document.id)
    left: list[Later] = []
    with anyio.fail_after(20):
        async with relay.running():
            engine = create_engine(relay.url, DatabaseSettings(db_connect_timeout_s=2))
            ingestion = Ingestion(Sessions(engine), embedder, converter, store_patience_s=0)

            async def ingest() -> None:
                try:
                    await ingestion.do(job)
                except Later as later:
                    left.append(later)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ingest)
                await embedder.asked.wait()
                relay.cut()
                embedder.may.set()
            await engine.dispose()

    assert len(left) == 1
    assert (await knowledge.document(document.id)).status == "processing", "its claim will lapse"


async def test_a_claim_is_kept_while_the_work_goes_on_and_tells_how_far_it_has_come(
    database_url: str, sessions: Sessions, embedder: GuidedEmbedder, converter: Converter
):
    relay = Relay(database_url)
    knowledge = KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000)
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    job = await job_of(sessions, document.id)
    told: list[Progress] = []
    lapsed = "SELECT 1 FROM ingestions WHERE updated_at < now() - interval '1 minute'"
    with anyio.fail_after(20):
        async with relay.running():
            engine = create_engine(relay.url, DatabaseSettings(db_connect_timeout_s=2))
            ingestion = Ingestion(Sessions(engine), embedder, converter, tell_every_s=0.01)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ingestion.do, job)
                await embedder.asked.wait()
                relay.cut()
                await relay.refused.wait()
                async with sessions.begin() as session:
                    await session.execute(
                        text("UPDATE ingestions SET updated_at = now() - interval '10 minutes'")
                    )
                relay.mend()
                while await _rows(sessions, lapsed):
                    pass
                told.append((await knowledge.document(document.id)).progress)
                embedder.may.set()
            await engine.dispose()

    assert [(progress.stage, progress.done, progress.total) for progress in told] == [("embedding", 0, 1)]
    assert (await knowledge.document(document.id)).status == "ready"


async def test_a_document_deleted_before_it_is_read_is_passed_over(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    await knowledge.delete_document(document.id)

    assert await do_next(sessions, knowledge)

    assert embedder.calls == 0
    assert await _rows(sessions, "SELECT 1 FROM pgqueuer") == []
