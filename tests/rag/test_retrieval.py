from uuid import uuid4

from app.db.engine import Sessions
from app.rag import retrieval
from app.rag.retrieval import Hit, Prepared, Query
from tests.db.test_chunks import PASSAGES, add_collection
from tests.words_embedder import WordsEmbedder

EMBEDDER = WordsEmbedder()


async def search(sessions: Sessions, query: Query) -> list[Hit]:
    embedding = await EMBEDDER.embed_question(query.question)
    async with sessions.read() as session:
        return await retrieval.search(session, Prepared(embedding), query)


async def test_the_best_come_first_and_no_more_than_asked_for(sessions: Sessions):
    collection_id = await add_collection(sessions, PASSAGES)

    query = Query("From when to when runs the heating in October?", (collection_id,), len(PASSAGES), 2, -1)
    hits = await search(sessions, query)

    assert hits[0].text == PASSAGES[7]
    assert len(hits) == 2
    assert hits[0].score > hits[1].score


async def test_as_many_as_there_are_may_be_asked_for(sessions: Sessions):
    collection_id = await add_collection(sessions, [f"the rent of flat {n}" for n in range(60)])

    assert len(await search(sessions, Query("the rent", (collection_id,), 60, 60, -1))) == 60


async def test_nothing_relevant_gives_nothing(sessions: Sessions):
    collection_id = await add_collection(sessions, PASSAGES)

    query = Query("Qui a construit cette cathédrale?", (collection_id,), len(PASSAGES), 6, 0.25)
    assert await search(sessions, query) == []


async def test_nothing_to_search_and_nothing_wanted_give_nothing(sessions: Sessions):
    collection_id = await add_collection(sessions, PASSAGES)

    for query in (
        Query("rent", (), 0, 6, -1),
        Query("rent", (collection_id,), len(PASSAGES), 0, -1),
        Query("rent", (uuid4(),), 0, 6, -1),
    ):
        assert await search(sessions, query) == []


async def test_what_was_found_by_words_beforehand_makes_no_difference(sessions: Sessions):
    collection_id = await add_collection(sessions, PASSAGES)
    query = Query("the notice of the landlord", (collection_id,), len(PASSAGES), 6, -1)
    embedding = await EMBEDDER.embed_question(query.question)

    async with sessions.read() as session:
        prepared = Prepared(embedding, await retrieval.match(session, query))
        hits = await retrieval.search(session, prepared, query)

    assert hits == await search(sessions, query)
