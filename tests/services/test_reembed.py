from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy import delete, select, text

from app.db import embedders
from app.db.engine import Sessions
from app.db.tables import Chunk
from app.errors import ModelUnavailable
from app.llm.protocols import Matrix
from app.services import reembed
from app.services.reembed import ReembedService
from tests.db.test_chunks import PASSAGES, add_collection
from tests.words_embedder import WordsEmbedder


class NewEmbedder(WordsEmbedder):
    """Does something of the test's before each batch."""

    def __init__(self, before_batch: Callable[[int], Awaitable[None]] | None = None) -> None:
        super().__init__("new", 512)
        self.batches: list[Sequence[str]] = []
        self._before_batch = before_batch

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        if self._before_batch is not None:
            await self._before_batch(len(self.batches))
        self.batches.append(passages)
        return await super().embed_passages(passages)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reembed, "_PASSAGES_A_BATCH", 3)


def ignore(done: int, total: int) -> None:
    pass


async def assert_all_are_of(sessions: Sessions, embedder: WordsEmbedder) -> None:
    async with sessions.begin() as session:
        assert await embedders.is_current(session, embedder.name, embedder.dimensions)
        rows = (await session.execute(select(Chunk.heading, Chunk.text, Chunk.embedding))).all()
        index = await session.scalar(
            text("SELECT indexdef FROM pg_indexes WHERE indexname = 'chunks_embedding_idx'")
        )
    for heading, passage, embedding in rows:
        expected = embedder.embed(f"{heading}\n{passage}" if heading else passage)
        assert embedding == pytest.approx(expected.tolist(), abs=1e-3)
    assert f"halfvec({embedder.dimensions})" in str(index)


async def test_every_chunk_gets_an_embedding_of_the_new_one_and_progress_is_told(sessions: Sessions):
    await add_collection(sessions, PASSAGES[:4])
    await add_collection(sessions, PASSAGES[4:], heading="Heating > Times")
    embedder, told = NewEmbedder(), list[tuple[int, int]]()

    changed = await ReembedService(sessions, embedder).reembed(lambda done, total: told.append((done, total)))

    assert changed
    await assert_all_are_of(sessions, embedder)
    assert told == [(0, 8), (3, 8), (6, 8), (8, 8)]


async def test_nothing_is_done_where_the_embedder_is_the_same(sessions: Sessions):
    await add_collection(sessions, PASSAGES)

    assert not await ReembedService(sessions, WordsEmbedder()).reembed(ignore)
    await assert_all_are_of(sessions, WordsEmbedder())


async def test_an_attempt_that_broke_off_leaves_the_old_ones_and_is_taken_up_where_it_ended(
    sessions: Sessions,
):
    await add_collection(sessions, PASSAGES)

    async def fail_at_the_third(batch: int) -> None:
        if batch == 2:
            raise ModelUnavailable("The embedder cannot be reached.")

    with pytest.raises(ModelUnavailable):
        await ReembedService(sessions, NewEmbedder(fail_at_the_third)).reembed(ignore)
    await assert_all_are_of(sessions, WordsEmbedder())

    embedder, told = NewEmbedder(), list[tuple[int, int]]()
    await ReembedService(sessions, embedder).reembed(lambda done, total: told.append((done, total)))
    assert told[0] == (6, 8)
    assert embedder.batches == [list(PASSAGES[6:])]
    await assert_all_are_of(sessions, embedder)


async def test_what_an_attempt_with_a_third_embedder_left_is_not_used(sessions: Sessions):
    await add_collection(sessions, PASSAGES)
    async with sessions.begin() as session:
        await embedders.prepare_change(session, "third")
        passages = await embedders.next_passages(session, 2)
        third = WordsEmbedder("third", 384)
        embeddings = await third.embed_passages([passage.text for passage in passages])
        await embedders.store_new(session, "third", passages, embeddings)

    embedder = NewEmbedder()
    await ReembedService(sessions, embedder).reembed(ignore)

    assert sum(map(len, embedder.batches)) == len(PASSAGES)
    await assert_all_are_of(sessions, embedder)


async def test_chunks_that_come_and_go_meanwhile_are_minded(sessions: Sessions):
    await add_collection(sessions, PASSAGES)

    async def change(batch: int) -> None:
        if batch == 1:
            await add_collection(sessions, ["A passage that came later."])
            async with sessions.begin() as session:
                await session.execute(delete(Chunk).where(Chunk.text.in_([PASSAGES[0], PASSAGES[4]])))

    embedder = NewEmbedder(change)
    await ReembedService(sessions, embedder).reembed(ignore)

    await assert_all_are_of(sessions, embedder)
    async with sessions.begin() as session:
        left = (await session.execute(select(Chunk.text))).scalars().all()
    assert set(left) == {*PASSAGES[1:4], *PASSAGES[5:], "A passage that came later."}
