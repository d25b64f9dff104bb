import pytest
from sqlalchemy import text

from app.db import embedders
from app.db.engine import Sessions
from app.errors import StartupRefused
from tests.words_embedder import WordsEmbedder

KNOWN = WordsEmbedder()


async def test_the_embedder_that_was_recorded_is_welcome_again(sessions: Sessions):
    async with sessions.begin() as session:
        await embedders.claim(session, KNOWN.name, KNOWN.dimensions)
        assert await embedders.is_current(session, KNOWN.name, KNOWN.dimensions)


@pytest.mark.parametrize(("name", "dimensions"), [("another", 384), (KNOWN.name, 512)])
async def test_any_other_is_refused_with_both_named_and_what_to_do(
    sessions: Sessions, name: str, dimensions: int
):
    with pytest.raises(StartupRefused) as refusal:
        async with sessions.begin() as session:
            await embedders.claim(session, name, dimensions)

    assert f"{KNOWN.name} ({KNOWN.dimensions} dimensions)" in refusal.value.message
    assert f"{name} ({dimensions} dimensions)" in refusal.value.message
    assert "freshet reembed" in refusal.value.message


async def test_the_first_is_recorded_with_an_index_for_its_dimensions(sessions: Sessions):
    async with sessions.begin() as session:
        await session.execute(text("DELETE FROM embedders"))
        await session.execute(text("DROP INDEX chunks_embedding_idx"))
        assert not await embedders.is_current(session, "first", 4_000)

        await embedders.claim(session, "first", 4_000)

        assert await embedders.is_current(session, "first", 4_000)
        index = await session.scalar(
            text("SELECT indexdef FROM pg_indexes WHERE indexname = 'chunks_embedding_idx'")
        )
    assert "halfvec(4000)) halfvec_cosine_ops) WITH (m='16', ef_construction='64')" in str(index)


async def test_more_dimensions_than_can_be_indexed_are_refused(sessions: Sessions):
    with pytest.raises(StartupRefused, match=r"at most 4,000\. Set EMBEDDING_DIMENSIONS"):
        async with sessions.begin() as session:
            await embedders.claim(session, "large", 4_001)
