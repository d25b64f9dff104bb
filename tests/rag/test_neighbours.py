from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from app.db import chunks
from app.db.chunks import Hit
from app.db.engine import Sessions
from app.db.tables import Chunk, Collection, Document
from app.rag import neighbours
from tests.words_embedder import WordsEmbedder

EMBEDDER = WordsEmbedder()
SENTENCES = tuple(f"Clause number{n} is about topic{n} 😀." for n in range(6))
GAP = "\n\n"
TEXT = GAP.join(SENTENCES)


async def add_document(sessions: Sessions, headings: tuple[str, ...] = ("Lease",) * 6) -> UUID:
    """Its chunks are the sentences, two a page."""
    collection_id, document_id = uuid4(), uuid4()
    async with sessions.begin() as session:
        await session.execute(insert(Collection).values(id=collection_id, name=str(collection_id)))
        values = {
            "file_name": "a.md",
            "content_sha256": b"",
            "size_bytes": 0,
            "status": "ready",
            "text": TEXT,
        }
        await session.execute(insert(Document).values(id=document_id, collection_id=collection_id, **values))
        start = 0
        for ordinal, (sentence, heading) in enumerate(zip(SENTENCES, headings, strict=True)):
            await session.execute(
                insert(Chunk).values(
                    document_id=document_id,
                    collection_id=collection_id,
                    ordinal=ordinal,
                    start_offset=start,
                    end_offset=start + len(sentence),
                    page_label=str(1 + ordinal // 2),
                    heading=heading,
                    text=sentence,
                    embedding=EMBEDDER.embed(sentence),
                )
            )
            start += len(sentence) + len(GAP)
    return collection_id


async def widened(
    sessions: Sessions, collection_id: UUID, question: str, *, budget: int, limit: int = 1
) -> list[Hit]:
    async with sessions.read() as session:
        hits = await chunks.search(
            session,
            embedding=EMBEDDER.embed(question),
            question=question,
            collection_ids=[collection_id],
            chunk_count=6,
            depth=50,
            limit=limit,
            similarity_cutoff=-1,
        )
        wide = await neighbours.widen(session, hits, budget=budget)
    for hit in wide:
        assert hit.text == TEXT[hit.start : hit.end]
    return wide


@pytest.mark.parametrize(
    ("budget", "sentences", "label"),
    [
        (10, SENTENCES[2:3], "2"),
        (80, SENTENCES[2:4], "2"),
        (120, SENTENCES[1:4], "1-2"),
        (10_000, SENTENCES, "1-3"),
    ],
)
async def test_a_passage_grows_behind_and_before_itself_as_far_as_the_budget_goes(
    sessions: Sessions, budget: int, sentences: tuple[str, ...], label: str
):
    collection_id = await add_document(sessions)

    (hit,) = await widened(sessions, collection_id, "topic2", budget=budget)

    assert hit.text == GAP.join(sentences)
    assert hit.page_label == label


async def test_a_passage_does_not_grow_into_another_section(sessions: Sessions):
    collection_id = await add_document(sessions, ("A", "B", "B", "C", "B", "B"))

    (hit,) = await widened(sessions, collection_id, "topic2", budget=10_000)

    assert hit.text == GAP.join(SENTENCES[1:3])


async def test_no_sentence_is_given_twice(sessions: Sessions):
    collection_id = await add_document(sessions)

    hits = await widened(sessions, collection_id, "topic2 topic3 topic5", budget=120, limit=3)

    places = sorted((hit.start, hit.end) for hit in hits)
    assert len(hits) > 1
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
