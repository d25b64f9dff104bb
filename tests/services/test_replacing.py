"""Documents that are given another file: what is found of them, and what is done again."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import text

from app.db.documents import DocumentView
from app.db.engine import Sessions
from app.errors import ModelUnavailable, NotFound
from app.ingest.convert import Converter
from app.llm.protocols import Matrix
from app.rag.retrieval import Query
from app.services.ingestion import Retries
from app.services.knowledge import KnowledgeService
from tests.queued import do_next
from tests.words_embedder import WordsEmbedder

ORIGIN = "wiki:rivers"
RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow.\n\n"
DELTAS = RIVERS + b"## Deltas\n\n" + b"Where a river meets the sea, it leaves its sand behind. " * 20
BROKEN = b"%PDF-1.7 and nothing more"


class CountingEmbedder(WordsEmbedder):
    """Keeps what it was asked to embed, and fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.passages: list[str] = []
        self.failure: Exception | None = None

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        if self.failure is not None:
            raise self.failure
        self.passages += passages
        return await super().embed_passages(passages)


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
async def knowledge(sessions: Sessions, embedder: CountingEmbedder) -> AsyncGenerator[KnowledgeService]:
    retries = Retries(attempts=2, first_pause_s=0)
    async with Converter() as converter:
        yield KnowledgeService(sessions, embedder, converter, max_upload_bytes=100_000, retries=retries)


Done = Literal["added", "changed", "unchanged"]


async def _put(
    knowledge: KnowledgeService, content: bytes, name: str = "rivers.md", **told: Any
) -> tuple[DocumentView, Done]:
    return await knowledge.put("wiki", ORIGIN, name, content, **told)


async def _found(knowledge: KnowledgeService, question: str) -> list[str]:
    reach = await knowledge.reach(["wiki"])
    query = Query(question, reach.ids, chunk_count=reach.chunk_count, top_k=9, similarity_cutoff=0.1)
    return [hit.text for hit in await knowledge.search(query)]


async def _rows(sessions: Sessions, statement: str) -> list[Any]:
    async with sessions.read() as session:
        return list((await session.execute(text(statement))).all())


async def test_what_is_kept_elsewhere_is_one_document_whatever_its_bytes(
    knowledge: KnowledgeService, sessions: Sessions
):
    first, done = await _put(knowledge, RIVERS, url="https://wiki.example.com/rivers", title="Of rivers")
    assert (done, first.status, first.origin) == ("added", "pending", ORIGIN)
    assert await do_next(sessions, knowledge)

    again, done = await _put(knowledge, RIVERS)
    assert (done, again.id, again.status) == ("unchanged", first.id, "ready")
    assert (again.url, again.title) == ("https://wiki.example.com/rivers", "Of rivers")

    changed, done = await _put(knowledge, DELTAS, name="deltas.md", title="Of deltas")
    assert (done, changed.id, changed.status) == ("changed", first.id, "pending")
    assert await do_next(sessions, knowledge)
    document = await knowledge.document(first.id)
    assert (document.status, document.file_name, document.title) == ("ready", "deltas.md", "Of deltas")
    assert document.size_bytes == len(DELTAS)
    assert len(await _rows(sessions, "SELECT 1 FROM document_files")) == 1


async def test_the_same_bytes_are_two_documents_if_they_are_kept_in_two_places(
    knowledge: KnowledgeService,
):
    here, _ = await knowledge.put("wiki", "wiki:a", "a.md", RIVERS)
    there, _ = await knowledge.put("wiki", "wiki:b", "b.md", RIVERS)
    uploaded, is_new = await knowledge.add("wiki", "c.md", RIVERS)

    assert len({here.id, there.id, uploaded.id}) == 3
    assert is_new


async def test_where_it_is_and_what_it_is_called_may_change_by_themselves(
    knowledge: KnowledgeService, sessions: Sessions
):
    await _put(knowledge, RIVERS, url="https://old.example.com", title="Old")
    assert await do_next(sessions, knowledge)

    document, done = await _put(knowledge, RIVERS, url="https://new.example.com", title="New")

    assert (done, document.url, document.title) == ("unchanged", "https://new.example.com", "New")


async def test_what_is_gone_there_is_gone_here(knowledge: KnowledgeService, sessions: Sessions):
    await _put(knowledge, RIVERS)
    kept, _ = await knowledge.put("wiki", "wiki:other", "other.md", DELTAS)

    assert await knowledge.remove_origin("wiki", ORIGIN)
    assert not await knowledge.remove_origin("wiki", ORIGIN)
    with pytest.raises(NotFound):
        await knowledge.remove_origin(str(uuid4()), ORIGIN)
    assert await _rows(sessions, "SELECT id FROM documents") == [(kept.id,)]


async def test_the_old_text_is_found_until_the_new_one_is(knowledge: KnowledgeService, sessions: Sessions):
    await _put(knowledge, RIVERS)
    assert await do_next(sessions, knowledge)

    await _put(knowledge, b"# Deserts\n\nA dune is a hill of sand.")

    assert len(await _found(knowledge, "what is a freshet")) == 1
    assert await do_next(sessions, knowledge)
    (found,) = await _found(knowledge, "what is a dune")
    assert "hill of sand" in found


async def test_a_search_sees_the_old_text_or_the_new_and_never_none(
    knowledge: KnowledgeService, sessions: Sessions
):
    await _put(knowledge, b"A river of number 0.")
    assert await do_next(sessions, knowledge)
    over = False
    found: set[tuple[str, ...]] = set()

    async def search() -> None:
        while not over:
            found.add(tuple(await _found(knowledge, "a river")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search)
        for number in range(1, 6):
            await _put(knowledge, b"A river of number %d." % number)
            assert await do_next(sessions, knowledge)
        over = True

    assert found <= {(f"A river of number {number}.",) for number in range(6)}


async def test_if_the_new_file_is_refused_the_old_one_stays_and_the_refusal_is_shown(
    knowledge: KnowledgeService, sessions: Sessions
):
    ready, _ = await _put(knowledge, RIVERS)
    assert await do_next(sessions, knowledge)

    await _put(knowledge, BROKEN, name="rivers.pdf")
    assert await do_next(sessions, knowledge)

    document = await knowledge.document(ready.id)
    assert (document.status, document.error_reason) == ("failed", "broken")
    assert (document.file_name, document.title, document.chunk_count) == ("rivers.md", "Rivers", 1)
    assert len(await _found(knowledge, "what is a freshet")) == 1
    assert (await _put(knowledge, BROKEN, name="rivers.pdf"))[1] == "unchanged", "it would be refused again"

    back, done = await _put(knowledge, RIVERS)
    assert (done, back.status, back.error_reason) == ("changed", "ready", None)
    assert not await do_next(sessions, knowledge), "its text is that of the old file"
    assert len(await _rows(sessions, "SELECT 1 FROM document_files")) == 1


async def test_what_failed_for_a_reason_that_may_pass_is_tried_again_with_the_same_bytes(
    knowledge: KnowledgeService, embedder: CountingEmbedder, sessions: Sessions
):
    embedder.failure = ModelUnavailable("The embedder did not answer.")
    document, _ = await _put(knowledge, RIVERS)
    while await do_next(sessions, knowledge):
        pass
    assert (await knowledge.document(document.id)).status == "failed"

    embedder.failure = None
    assert (await _put(knowledge, RIVERS))[1] == "changed"
    assert await do_next(sessions, knowledge)
    assert (await knowledge.document(document.id)).status == "ready"


async def test_a_file_that_comes_while_another_is_ingested_is_the_one_that_is_found(
    knowledge: KnowledgeService, sessions: Sessions
):
    await _put(knowledge, RIVERS)
    await _put(knowledge, DELTAS)
    while await do_next(sessions, knowledge):
        pass

    assert len(await _found(knowledge, "a river")) == 2
    assert len(await _rows(sessions, "SELECT 1 FROM document_files")) == 1


async def test_passages_that_are_the_same_are_not_embedded_again(
    knowledge: KnowledgeService, embedder: CountingEmbedder, sessions: Sessions
):
    sections = [f"## Part {number}\n\n{f'The text of part {number}. ' * 30}\n\n" for number in range(5)]
    await _put(knowledge, "".join(sections).encode())
    assert await do_next(sessions, knowledge)
    vectors = await _rows(sessions, "SELECT heading, embedding::text FROM chunks ORDER BY ordinal")
    assert len(embedder.passages) == len(vectors) == 5
    embedder.passages.clear()

    sections[2] = f"## Part 2\n\n{'This one has changed. ' * 30}\n\n"
    document, _ = await _put(knowledge, "".join(sections).encode())
    assert await do_next(sessions, knowledge)

    (passage,) = embedder.passages
    assert "This one has changed." in passage
    progress = (await knowledge.document(document.id)).progress
    assert (progress.done, progress.total, progress.reused) == (5, 5, 4)
    now = await _rows(sessions, "SELECT heading, embedding::text FROM chunks ORDER BY ordinal")
    assert [row for row in now if row.heading != "Part 2"] == [
        row for row in vectors if row.heading != "Part 2"
    ]
    assert now != vectors
