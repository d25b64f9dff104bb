import logging
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.db.documents import Progress
from app.db.engine import Sessions
from app.db.ingestions import CLAIM_COUNTS_FOR
from app.db.queue import Later
from app.errors import (
    Conflict,
    DocumentRefused,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    TooLarge,
)
from app.ingest.convert import Converter
from app.llm.protocols import Matrix
from app.rag.retrieval import Hit, Query
from app.services.ingestion import Retries
from app.services.knowledge import KnowledgeService
from tests.ingest.ingest_files import encrypted
from tests.queued import do_next, job_of, next_job
from tests.words_embedder import WordsEmbedder

RIVERS = b"""# Rivers

The Danube rises in the Black Forest and flows into the Black Sea.

## Floods

A freshet is the flood of a river from melted snow, and comes in spring.
"""


class GuidedEmbedder(WordsEmbedder):
    """Tells when it is asked to embed passages, and does it when it may; or fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self.may = anyio.Event()
        self.failure: Exception | None = None
        self.passages: list[str] = []

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        self.asked.set()
        await self.may.wait()
        if self.failure is not None:
            raise self.failure
        self.passages += passages
        return await super().embed_passages(passages)


@pytest.fixture
async def converter() -> AsyncGenerator[Converter]:
    async with Converter() as converter:
        yield converter


@pytest.fixture
def embedder() -> GuidedEmbedder:
    """It may embed from the start; give it another `may` to hold it."""
    embedder = GuidedEmbedder()
    embedder.may.set()
    return embedder


NO_PAUSE = Retries(attempts=3, first_pause_s=0)


def _service(sessions: Sessions, embedder: WordsEmbedder, converter: Converter) -> KnowledgeService:
    return KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000, retries=NO_PAUSE)


@pytest.fixture
def knowledge(sessions: Sessions, embedder: GuidedEmbedder, converter: Converter) -> KnowledgeService:
    return _service(sessions, embedder, converter)


async def _run(sessions: Sessions, statement: str) -> None:
    async with sessions.begin() as session:
        await session.execute(text(statement))


async def _rows(sessions: Sessions, statement: str) -> list[Any]:
    async with sessions.read() as session:
        return list((await session.execute(text(statement))).all())


async def _search(knowledge: KnowledgeService, question: str, collection: str = "default") -> list[Hit]:
    reach = await knowledge.reach([collection])
    return await knowledge.search(
        Query(
            question=question,
            collection_ids=reach.ids,
            chunk_count=reach.chunk_count,
            top_k=5,
            similarity_cutoff=0.1,
        )
    )


async def test_what_has_been_ingested_is_found(knowledge: KnowledgeService):
    document = await knowledge.ingest_now("default", "rivers.md", RIVERS)

    assert document.status == "ready"
    assert (document.title, document.kind, document.media_type) == ("Rivers", "txt", "text/markdown")
    hits = await _search(knowledge, "what is a freshet")
    assert hits[0].document_id == document.id
    assert "melted snow" in hits[0].text


async def test_a_chunk_knows_its_place_and_its_headings(knowledge: KnowledgeService, sessions: Sessions):
    sections = "".join(f"## Part {part}\n\n{'The words of this part. ' * 30}\n\n" for part in "AB")
    document = await knowledge.ingest_now("default", "book.md", f"# Book\n\n{sections}".encode())

    chunks = await _rows(sessions, "SELECT * FROM chunks ORDER BY ordinal")

    assert len(chunks) == document.chunk_count == (await knowledge.collection("default")).chunk_count
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.heading for chunk in chunks} == {"Book > Part A", "Book > Part B"}
    assert {chunk.page_label for chunk in chunks} == {None}
    for chunk in chunks:
        excerpt = await knowledge.excerpt(document.id, start=chunk.start_offset, end=chunk.end_offset)
        assert excerpt.text == chunk.text


async def test_a_passage_is_embedded_with_its_headings(knowledge: KnowledgeService, embedder: GuidedEmbedder):
    await knowledge.ingest_now("default", "rivers.md", b"# Rivers\n\n## Floods\n\nThey come in spring.")

    assert [passage.splitlines()[0] for passage in embedder.passages] == ["Rivers > Floods"]


async def test_progress_is_told_stage_by_stage(knowledge: KnowledgeService):
    told: list[Progress] = []

    await knowledge.ingest_now("default", "rivers.md", RIVERS, on_progress=told.append)

    assert [progress.stage for progress in told] == [
        "converting",
        "splitting",
        "embedding",
        "embedding",
        "storing",
    ]
    assert told[-1].done == told[-1].total > 0


async def test_a_document_s_words_are_found_in_its_own_language(
    knowledge: KnowledgeService, sessions: Sessions
):
    text_in_german = (
        "Die Mieter der Häuser sind für die Heizung verantwortlich, und die Miete ist nicht hoch."
    )
    await knowledge.ingest_now("default", "miete.md", text_in_german.encode())

    (hit,) = await _search(knowledge, "Wer ist in einem Haus der Mieter?")
    assert hit.words_rank == 1
    assert await _rows(sessions, "SELECT language FROM chunks") == [("german",)]


async def test_the_same_bytes_are_one_document_in_a_collection(
    knowledge: KnowledgeService, sessions: Sessions
):
    first, first_is_new = await knowledge.add("default", "rivers.md", RIVERS)
    second, second_is_new = await knowledge.add("default", "copy.md", RIVERS)
    elsewhere, elsewhere_is_new = await knowledge.add("other", "rivers.md", RIVERS)

    assert (first_is_new, second_is_new, elsewhere_is_new) == (True, False, True)
    assert first.id == second.id != elsewhere.id
    assert second.file_name == "rivers.md"
    assert len(await _rows(sessions, "SELECT 1 FROM document_files")) == 2


async def test_uploads_of_the_same_bytes_at_once_are_one_document(knowledge: KnowledgeService):
    ids: set[UUID] = set()

    async def add() -> None:
        document, _ = await knowledge.add("default", "rivers.md", RIVERS)
        ids.add(document.id)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(add)

    assert len(ids) == 1


async def test_a_document_that_cannot_be_read_fails_with_its_reason(
    knowledge: KnowledgeService, sessions: Sessions
):
    document = await knowledge.ingest_now("default", "broken.pdf", b"%PDF-1.7 and nothing more")

    assert (document.status, document.error_reason) == ("failed", "broken")
    assert document.error_message
    assert await _rows(sessions, "SELECT 1 FROM chunks") == []


async def test_a_password_opens_a_document_and_is_kept_nowhere(
    knowledge: KnowledgeService, sessions: Sessions, caplog: pytest.LogCaptureFixture
):
    locked = encrypted(b"open sesame")
    refused = await knowledge.ingest_now("default", "a.pdf", locked)
    assert refused.error_reason == "encrypted"

    wrong = await knowledge.ingest_now("default", "a.pdf", locked, password=SecretStr("wrong key"))
    assert wrong.error_reason == "encrypted"
    async with knowledge.ingestion.running():
        _, is_new = await knowledge.add("default", "a.pdf", locked, password=SecretStr("open sesame"))
        assert is_new
        assert not await do_next(sessions, knowledge), "no other process could open it"
        with anyio.fail_after(20):
            while (await knowledge.document(refused.id)).status != "ready":
                pass

    elsewhere = await knowledge.ingest_now("other", "a.pdf", locked)
    assert elsewhere.error_reason == "encrypted"
    stored = str(await _rows(sessions, "SELECT d::text, i::text FROM documents d, ingestions i"))
    assert "sesame" not in stored + caplog.text
    assert "wrong key" not in stored + caplog.text


async def test_a_document_that_failed_is_tried_again_under_its_new_name(
    knowledge: KnowledgeService, sessions: Sessions
):
    failed = await knowledge.ingest_now("default", "rivers.pdf", RIVERS)
    again, is_new = await knowledge.add("default", "rivers.md", RIVERS)

    assert (failed.status, again.status, is_new) == ("failed", "pending", True)
    assert (again.id, again.file_name, again.error_reason) == (failed.id, "rivers.md", None)
    assert await do_next(sessions, knowledge)
    assert (await knowledge.document(failed.id)).status == "ready"


async def test_a_failure_of_the_embedder_is_the_reason(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    embedder.failure = ModelUnavailable("The embedder did not answer.")

    document = await knowledge.ingest_now("default", "rivers.md", RIVERS)

    assert (document.error_reason, document.error_message) == (
        "model_unavailable",
        "The embedder did not answer.",
    )
    assert await _rows(sessions, "SELECT 1 FROM chunks") == []


async def test_an_unexpected_error_is_logged_and_not_shown(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, caplog: pytest.LogCaptureFixture
):
    embedder.failure = ZeroDivisionError("a secret of the code")

    document = await knowledge.ingest_now("default", "rivers.md", RIVERS)

    assert (document.status, document.error_reason) == ("failed", "internal")
    assert "secret" not in str(document.error_message)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is embedder.failure


async def test_nothing_of_a_document_is_found_before_all_of_it(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    embedder.may = anyio.Event()
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do_next, sessions, knowledge)
            await embedder.asked.wait()
            assert (await knowledge.document(document.id)).status == "processing"
            assert await _search(knowledge, "what is a freshet") == []
            embedder.may.set()

    assert await _search(knowledge, "what is a freshet") != []


async def test_what_is_cancelled_waits_again_at_once(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions
):
    embedder.may = anyio.Event()
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do_next, sessions, knowledge)
            await embedder.asked.wait()
            tasks.cancel_scope.cancel()

    assert (await knowledge.document(document.id)).status == "pending"
    assert await _rows(sessions, "SELECT 1 FROM chunks") == []


async def test_the_document_that_has_waited_longest_is_next(knowledge: KnowledgeService, sessions: Sessions):
    first, _ = await knowledge.add("default", "first.txt", b"The first of two.")
    second, _ = await knowledge.add("default", "second.txt", b"The second of two.")

    assert await do_next(sessions, knowledge)

    assert (await knowledge.document(first.id)).status == "ready"
    assert (await knowledge.document(second.id)).status == "pending"
    assert await do_next(sessions, knowledge)
    assert not await do_next(sessions, knowledge)


async def test_processes_share_what_waits_and_do_nothing_twice(
    sessions: Sessions, embedder: GuidedEmbedder, converter: Converter
):
    services = [_service(sessions, embedder, converter) for _ in range(3)]
    texts = [f"The text of document number {number}." for number in range(9)]
    for number, content in enumerate(texts):
        await services[0].add("default", f"{number}.txt", content.encode())

    async def drain(service: KnowledgeService) -> None:
        while await do_next(sessions, service):
            pass

    async with anyio.create_task_group() as tasks:
        for service in services:
            tasks.start_soon(drain, service)

    assert sorted(embedder.passages) == texts
    ready = await services[0].documents(collection=None, status="ready", before=None, limit=100)
    assert len(ready) == len(texts)


async def test_a_claim_counts_until_it_has_lapsed(knowledge: KnowledgeService, sessions: Sessions):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    await _run(sessions, "UPDATE ingestions SET claim_id = gen_random_uuid()")

    with pytest.raises(Later) as later:
        await knowledge.ingest_job(await job_of(sessions, document.id))
    assert timedelta(0) < later.value.after <= CLAIM_COUNTS_FOR

    await _run(sessions, "UPDATE ingestions SET updated_at = now() - interval '16 s'")
    assert await do_next(sessions, knowledge)
    assert (await knowledge.document(document.id)).status == "ready"


async def test_a_process_that_comes_late_with_a_document_adds_nothing(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions, converter: Converter
):
    embedder.may = anyio.Event()
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)
    job = await next_job(sessions)
    assert job is not None
    before: list[Any] = []

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(knowledge.ingest_job, job)
            await embedder.asked.wait()
            await _run(sessions, "UPDATE ingestions SET updated_at = now() - interval '16 s'")
            await _service(sessions, WordsEmbedder(), converter).ingest_job(job)
            before += await _rows(sessions, "SELECT id FROM chunks ORDER BY id")
            embedder.may.set()

    assert (await knowledge.document(document.id)).status == "ready"
    assert await _rows(sessions, "SELECT id FROM chunks ORDER BY id") == before != []


@pytest.mark.parametrize("whole_collection", [False, True])
async def test_a_document_deleted_while_it_is_ingested_stays_deleted(
    knowledge: KnowledgeService, embedder: GuidedEmbedder, sessions: Sessions, whole_collection: bool
):
    embedder.may = anyio.Event()
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do_next, sessions, knowledge)
            await embedder.asked.wait()
            if whole_collection:
                await knowledge.delete_collection("default")
            else:
                await knowledge.delete_document(document.id)
            embedder.may.set()

    for table in ("documents", "document_files", "chunks", "lexemes"):
        assert await _rows(sessions, f"TABLE {table}") == []


async def test_what_was_embedded_by_an_embedder_of_the_past_is_not_stored(
    knowledge: KnowledgeService, sessions: Sessions
):
    await _run(sessions, "UPDATE embedders SET name = 'another'")

    document = await knowledge.ingest_now("default", "rivers.md", RIVERS)

    assert (document.status, document.error_reason) == ("failed", "conflict")
    assert await _rows(sessions, "SELECT 1 FROM chunks") == []


async def test_an_excerpt_is_cut_to_the_text(knowledge: KnowledgeService):
    document = await knowledge.ingest_now("default", "short.txt", "Naïve 🌊 text.".encode())

    whole = await knowledge.excerpt(document.id, start=0, end=1_000)
    assert (whole.text, whole.start, whole.end, whole.length) == ("Naïve 🌊 text.", 0, 13, 13)
    assert (await knowledge.excerpt(document.id, start=6, end=7)).text == "🌊"
    beyond = await knowledge.excerpt(document.id, start=50, end=60)
    assert (beyond.text, beyond.start, beyond.end) == ("", 13, 13)


async def test_a_document_without_text_has_no_excerpt(knowledge: KnowledgeService):
    document, _ = await knowledge.add("default", "rivers.md", RIVERS)

    with pytest.raises(Conflict):
        await knowledge.excerpt(document.id, start=0, end=1)
    with pytest.raises(NotFound):
        await knowledge.excerpt(uuid4(), start=0, end=1)


async def test_a_deleted_document_leaves_nothing(knowledge: KnowledgeService, sessions: Sessions):
    kept = await knowledge.ingest_now("default", "kept.txt", b"This one is kept.")
    gone = await knowledge.ingest_now("default", "rivers.md", RIVERS)

    await knowledge.delete_document(gone.id)

    assert (await knowledge.collection("default")).chunk_count == kept.chunk_count
    assert len(await _rows(sessions, "SELECT 1 FROM document_files")) == 1
    for call in (knowledge.document, knowledge.delete_document):
        with pytest.raises(NotFound):
            await call(gone.id)


async def test_documents_are_listed_newest_first_by_collection_and_status(knowledge: KnowledgeService):
    async def names(**filters: Any) -> list[str]:
        wanted: dict[str, Any] = {"collection": None, "status": None, "before": None, "limit": 10}
        return [document.file_name for document in await knowledge.documents(**(wanted | filters))]

    first = await knowledge.ingest_now("a", "1.txt", b"The first.")
    second, _ = await knowledge.add("a", "2.txt", b"The second.")
    await knowledge.add("b", "3.txt", b"The third.")

    assert await names() == ["3.txt", "2.txt", "1.txt"]
    assert await names(collection="a") == ["2.txt", "1.txt"]
    assert await names(collection=str(first.collection_id)) == ["2.txt", "1.txt"]
    assert await names(status="pending") == ["3.txt", "2.txt"]
    assert await names(limit=1) == ["3.txt"]
    assert await names(before=second.position) == ["1.txt"]
    with pytest.raises(NotFound):
        await names(collection="c")


@pytest.mark.parametrize(
    "name", ["", "a/b", " a", "a\n", "a\x00", "a" * 101, ".", "..", "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90"]
)
async def test_a_collection_is_not_named_so_that_no_address_leads_to_it(
    knowledge: KnowledgeService, name: str
):
    await knowledge.create_collection("good")

    with pytest.raises(InvalidInput):
        await knowledge.create_collection(name)
    with pytest.raises(InvalidInput):
        await knowledge.change_collection("good", name=name)


async def test_a_document_is_not_added_to_a_collection_by_an_id_that_there_is_none_of(
    knowledge: KnowledgeService,
):
    with pytest.raises(NotFound):
        await knowledge.add(str(uuid4()), "rivers.md", RIVERS)


async def test_a_collection_is_found_and_changed_by_its_name_and_its_id(knowledge: KnowledgeService):
    made = await knowledge.create_collection("Laws", description="Of the land.")
    other = await knowledge.create_collection("Other")

    renamed = await knowledge.change_collection("Laws", name="Statutes")
    assert (renamed.id, renamed.description) == (made.id, "Of the land.")
    assert await knowledge.change_collection(str(made.id)) == renamed
    assert await knowledge.collection("Statutes") == renamed
    assert [one.name for one in await knowledge.collections(after=None, limit=9)] == ["Other", "Statutes"]
    assert await knowledge.collections(after="Other", limit=9) == [renamed]
    with pytest.raises(Conflict):
        await knowledge.change_collection(str(other.id), name="Statutes")
    with pytest.raises(Conflict):
        await knowledge.create_collection("Statutes")
    await knowledge.delete_collection("Other")
    for attempt in (
        knowledge.collection("Other"),
        knowledge.delete_collection("Other"),
        knowledge.change_collection("Other", name="Third"),
    ):
        with pytest.raises(NotFound):
            await attempt


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/etc/a.txt", "a.txt"),
        (r"C:\docs\b.txt", "b.txt"),
        (" c.txt ", "c.txt"),
        ("می\u200cخواهم.txt", "می\u200cخواهم.txt"),
        ("d" * 255, "d" * 255),
    ],
)
async def test_of_a_file_name_only_the_last_part_is_kept(knowledge: KnowledgeService, given: str, kept: str):
    document, _ = await knowledge.add("default", given, RIVERS)

    assert document.file_name == kept


@pytest.mark.parametrize("name", ["", "/", "..", "a\x00.txt", "a\r\n.txt", "e" * 256])
async def test_a_file_name_that_is_none_is_refused(knowledge: KnowledgeService, name: str):
    with pytest.raises(InvalidInput):
        await knowledge.add("default", name, RIVERS)


async def test_a_file_that_is_empty_or_too_large_is_refused(knowledge: KnowledgeService):
    with pytest.raises(DocumentRefused) as refused:
        await knowledge.add("default", "empty.txt", b"")
    assert refused.value.reason == "empty"
    with pytest.raises(TooLarge, match="100,000"):
        await knowledge.add("default", "large.txt", bytes(100_001))


async def test_a_search_in_no_collection_finds_nothing(knowledge: KnowledgeService):
    query = Query(question="rivers", collection_ids=(), chunk_count=0, top_k=5, similarity_cutoff=0)

    assert await knowledge.search(query) == []
