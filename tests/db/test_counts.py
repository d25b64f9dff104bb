"""What BM25 needs to know of the chunks is counted as they come, change and go."""

import asyncio
from collections import Counter
from random import Random
from uuid import UUID

import anyio
import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from app.db.engine import Sessions
from app.db.tables import Chunk, Collection, Document, Language, Lexeme
from tests.db.test_chunks import EMBEDDER, PASSAGES, add_collection

LANGUAGES = ("english", "german", "simple")


async def kept(
    sessions: Sessions,
) -> tuple[dict[tuple[UUID, str, str], int], dict[tuple[UUID, str], tuple[int, int]]]:
    """By collection, in how many chunks each lexeme stands, and how many chunks of how many words are in each language."""
    async with sessions.begin() as session:
        lexemes = await session.execute(
            select(Lexeme.collection_id, Lexeme.language, Lexeme.lexeme, Lexeme.chunk_count)
        )
        languages = await session.execute(
            select(Language.collection_id, Language.language, Language.chunk_count, Language.word_count)
        )
        return {(row[0], row[1], row[2]): row[3] for row in lexemes}, {
            (row[0], row[1]): (row[2], row[3]) for row in languages
        }


async def there(
    sessions: Sessions,
) -> tuple[dict[tuple[UUID, str, str], int], dict[tuple[UUID, str], tuple[int, int]]]:
    """The same, as the chunks are."""
    words = text(
        "SELECT collection_id, language, array(SELECT lexeme FROM unnest(found)),"
        " (SELECT coalesce(sum(cardinality(positions)), 0) FROM unnest(found))::int"
        " FROM chunks, LATERAL words_of(language, heading || ' ' || text) AS found"
    )
    lexemes: Counter[tuple[UUID, str, str]] = Counter()
    chunk_counts: Counter[tuple[UUID, str]] = Counter()
    word_counts: Counter[tuple[UUID, str]] = Counter()
    async with sessions.begin() as session:
        for collection_id, language, found, length in await session.execute(words):
            lexemes.update((collection_id, language, lexeme) for lexeme in found)
            chunk_counts[collection_id, language] += 1
            word_counts[collection_id, language] += length
    return dict(lexemes), {key: (count, word_counts[key]) for key, count in chunk_counts.items()}


async def chunk_counts(sessions: Sessions) -> dict[UUID, int]:
    async with sessions.begin() as session:
        rows = await session.execute(select(Collection.id, Collection.chunk_count))
        return {row.id: row.chunk_count for row in rows}


async def insert_chunks(
    sessions: Sessions, collection_id: UUID, document_id: UUID, ordinals: range, chance: Random
) -> None:
    vocabulary = "lease rents notice flat roofs of the Häuser 熊猫竹子 Miete".split()
    rows = [
        {
            "document_id": document_id,
            "collection_id": collection_id,
            "ordinal": ordinal,
            "start_offset": 0,
            "end_offset": 0,
            "heading": chance.choice(["", "Ending"]),
            "text": " ".join(chance.choices(vocabulary, k=chance.randrange(12))),
            "language": chance.choice(LANGUAGES),
            "embedding": EMBEDDER.embed("rent"),
        }
        for ordinal in ordinals
    ]
    async with sessions.begin() as session:
        await session.execute(insert(Chunk), rows)


async def document_of(sessions: Sessions, collection_id: UUID) -> UUID:
    async with sessions.begin() as session:
        found = await session.scalar(select(Document.id).where(Document.collection_id == collection_id))
        assert found is not None
        return found


@pytest.mark.parametrize("seed", range(4))
async def test_the_counts_are_exact_after_whatever_was_inserted_changed_and_deleted(
    sessions: Sessions, seed: int
):
    chance = Random(seed)
    collections = [await add_collection(sessions, PASSAGES[: chance.randrange(1, 4)]) for _ in range(2)]
    documents = {collection_id: await document_of(sessions, collection_id) for collection_id in collections}
    ordinal = 100

    for _ in range(25):
        collection_id = chance.choice(collections)
        some = (
            select(Chunk.id)
            .where(Chunk.collection_id == collection_id)
            .order_by(Chunk.id)
            .limit(chance.randrange(4))
        )
        match chance.choice(["insert", "insert", "delete", "change", "move"]):
            case "insert":
                await insert_chunks(
                    sessions, collection_id, documents[collection_id], range(ordinal, ordinal + 3), chance
                )
                ordinal += 3
            case "delete":
                async with sessions.begin() as session:
                    await session.execute(delete(Chunk).where(Chunk.id.in_(some)))
            case "change":
                changed = {"text": chance.choice(PASSAGES), "language": chance.choice(LANGUAGES)}
                async with sessions.begin() as session:
                    await session.execute(update(Chunk).where(Chunk.id.in_(some)).values(changed))
            case _:
                async with sessions.begin() as session:
                    moved = (
                        update(Chunk)
                        .where(Chunk.id.in_(some))
                        .values(collection_id=chance.choice(collections))
                    )
                    await session.execute(moved)
        assert await kept(sessions) == await there(sessions)

    _, languages = await there(sessions)
    expected = {it: sum(count for (of, _), (count, _) in languages.items() if of == it) for it in collections}
    assert await chunk_counts(sessions) == expected


@pytest.mark.parametrize("table", [Document, Collection])
async def test_deleting_what_chunks_belong_to_uncounts_them(
    sessions: Sessions, table: type[Document | Collection]
):
    first = await add_collection(sessions, PASSAGES)
    second = await add_collection(sessions, PASSAGES[:2])

    async with sessions.begin() as session:
        which = Document.collection_id == first if table is Document else Collection.id == first
        await session.execute(delete(table).where(which))

    left = await chunk_counts(sessions)
    assert left[second] == 2
    assert left.get(first, 0) == 0
    assert await kept(sessions) == await there(sessions)
    assert {collection_id for collection_id, *_ in (await kept(sessions))[0]} == {second}


async def test_those_who_write_the_same_words_at_once_wait_for_each_other_and_count_right(sessions: Sessions):
    collections = [await add_collection(sessions, PASSAGES) for _ in range(2)]

    async def replace(number: int) -> None:
        """In one transaction, in an order of its own."""
        for repetition in range(8):
            ordinal = 1_000 * number + 2 * repetition
            words = ["lease rent notice", "roof wall floor"]
            async with sessions.begin() as session:
                for place in range(2) if number % 2 else (1, 0):
                    row = {
                        "document_id": documents[collections[number % 2]],
                        "collection_id": collections[number % 2],
                        "ordinal": ordinal + place,
                        "start_offset": 0,
                        "end_offset": 0,
                        "text": words[place],
                        "embedding": EMBEDDER.embed("rent"),
                    }
                    await session.execute(insert(Chunk).values(row))
                    await asyncio.sleep(0)
                mine = delete(Chunk).where(Chunk.ordinal.between(1_000 * number, ordinal - 1))
                await session.execute(mine)

    documents = {collection_id: await document_of(sessions, collection_id) for collection_id in collections}
    with anyio.fail_after(30):
        await asyncio.gather(*(replace(number) for number in range(1, 7)))

    assert await kept(sessions) == await there(sessions)


async def test_a_language_that_postgresql_does_not_know_is_refused(sessions: Sessions):
    with pytest.raises(DBAPIError, match="klingon"):
        await add_collection(sessions, PASSAGES, language="klingon")
    assert await kept(sessions) == ({}, {})
