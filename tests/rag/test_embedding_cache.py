from collections.abc import Sequence
from pathlib import Path

import pytest

from app.llm.protocols import Matrix
from app.rag.embedding_cache import CachingEmbedder
from tests.words_embedder import WordsEmbedder


class CountingEmbedder(WordsEmbedder):
    def __init__(self, name: str = "words") -> None:
        super().__init__(name)
        self.embedded: list[str] = []

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        self.embedded += passages
        return await super().embed_passages(passages)


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def embed(directory: Path, *passages: str, name: str = "words") -> list[str]:
    """What had to be embedded; the vectors are right in any case."""
    embedder = CountingEmbedder(name)
    vectors = await CachingEmbedder(embedder, directory).embed_passages(passages)
    assert vectors == pytest.approx(await WordsEmbedder().embed_passages(passages))
    return embedder.embedded


async def test_a_passage_is_embedded_once_however_often_it_is_asked_for(tmp_path: Path):
    assert await embed(tmp_path, "one", "two", "one") == ["one", "two"]
    assert await embed(tmp_path, "three", "two", "one") == ["three"]
    assert await embed(tmp_path, "three", "one") == []


async def test_what_one_call_embedded_the_next_knows(tmp_path: Path):
    embedder = CountingEmbedder()
    caching = CachingEmbedder(embedder, tmp_path)

    await caching.embed_passages(["one"])
    await caching.embed_passages(["two", "one"])

    assert embedder.embedded == ["one", "two"]


async def test_another_embedder_has_its_own(tmp_path: Path):
    await embed(tmp_path, "one")

    assert await embed(tmp_path, "one", name="org/words:v2") == ["one"]
    assert len(files(tmp_path)) == 2
    assert all(path.is_file() for path in files(tmp_path))


async def test_a_record_half_written_is_written_again(tmp_path: Path):
    await embed(tmp_path, "one", "two")
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])

    assert await embed(tmp_path, "one", "two") == ["two"]
    assert await embed(tmp_path, "one", "two") == []


async def test_the_rest_is_as_the_embedder_has_it(tmp_path: Path):
    embedder = WordsEmbedder()
    caching = CachingEmbedder(embedder, tmp_path)

    assert (caching.name, caching.dimensions, caching.max_tokens) == ("words", 384, embedder.max_tokens)
    assert caching.count_tokens("one two") == 2
    assert await caching.embed_question("one") == pytest.approx(embedder.embed("one"))
    assert (await caching.embed_passages([])).shape == (0, 384)
    await caching.aclose()
    assert not embedder.is_closed
    assert files(tmp_path) == []
