"""An answer that is given again: to whom, and to whom not."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from sqlalchemy import text

from app.db.engine import Sessions
from app.services.accounts import AccountService
from tests.api.test_chat import lines_of, signed_in
from tests.api.test_conversation import payload_of, steps_of
from tests.conftest import RunningServer
from tests.scripted_model import ScriptedModel, says

QUESTION = "Where does the Danube flow?"
RIVERS = b"The Danube flows into the Black Sea.\n"


@pytest.fixture
async def assistant(server: RunningServer, model: ScriptedModel) -> str:
    model.script = lambda _: says("Into the ", "Black Sea [1].")
    await server.resources.knowledge.ingest_now("waters", "rivers.md", RIVERS)
    return await made(server)


async def made(server: RunningServer, **fields: Any) -> str:
    given: dict[str, Any] = {
        "name": "Guide",
        "collections": ["waters"],
        "similarity_cutoff": -1,
        "answer_cache_s": 60.0,
        "answer_cache_similarity": 0.5,
    }
    return (await server.resources.assistants.create(**(given | fields))).slug


async def ask(client: httpx.AsyncClient, slug: str, message: str = QUESTION, **body: Any) -> bool:
    """Whether the answer was one that had been given before."""
    lines = await lines_of(client, assistant_id=slug, message=message, **body)
    assert lines[-1]["type"] == "done"
    lookups = [step for step in steps_of(lines, "cache_lookup") if step["status"] == "completed"]
    return bool(lookups) and lookups[-1]["payload"]["hit"]


async def kept(sessions: Sessions) -> int:
    async with sessions.begin() as session:
        return (await session.execute(text("SELECT count(*) FROM kept_answers"))).scalar_one()


async def test_the_same_question_is_given_the_same_answer_without_the_model(
    client: httpx.AsyncClient, model: ScriptedModel, assistant: str
) -> None:
    first = await lines_of(client, assistant_id=assistant, message=QUESTION)
    again = await lines_of(client, assistant_id=assistant, message="where does the danube flow")

    assert payload_of(first, "cache_lookup") == {"hit": False}
    assert payload_of(first, "cache_update") == {"stored": True}
    found = payload_of(again, "cache_lookup")
    assert (found["hit"], found["similarity"]) == (True, 1.0)
    assert 0 <= found["age_s"] < 60
    said = [
        [{**line, "seq": 0} for line in lines if line["type"] in ("sources", "token", "citation")]
        for lines in (first, again)
    ]
    assert said[0] == said[1]
    assert {line["type"] for line in said[0]} == {"sources", "token", "citation"}
    assert again[-1]["usage"] == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert steps_of(again, "retrieval") == steps_of(again, "synthesis") == []
    assert len(model.prompts) == 1


async def test_a_question_that_asks_for_the_same_in_other_words_is_given_the_answer(
    client: httpx.AsyncClient, assistant: str
) -> None:
    await ask(client, assistant)
    lines = await lines_of(client, assistant_id=assistant, message="Where would a Danube flow to?")

    found = payload_of(lines, "cache_lookup")
    assert found["hit"]
    assert 0.5 <= found["similarity"] < 1
    assert [step["parent_id"] for step in steps_of(lines, "vectorization")] == [
        step["step_id"] for step in steps_of(lines, "cache_lookup")[:1] * 2
    ]


async def test_a_question_that_is_close_but_not_the_same_is_not(
    client: httpx.AsyncClient, assistant: str
) -> None:
    await ask(client, assistant)

    assert not await ask(client, assistant, "Where does the Danube not flow?")
    assert not await ask(client, assistant, "Where does the Danube flow in 1838?")
    assert not await ask(client, assistant, "Where does the Inn flow?")


async def test_an_answer_of_one_assistant_is_not_given_by_another(
    server: RunningServer, client: httpx.AsyncClient, assistant: str
) -> None:
    other = await made(server, slug="other")
    await ask(client, assistant)

    assert not await ask(client, other)


@pytest.mark.parametrize(
    "change",
    [
        {"instructions": "Rhyme."},
        {"model": "other"},
        {"model_parameters": {"temperature": 0.5}},
        {"language": "de"},
        {"top_k": 1},
        {"collections": ["waters", "lakes"]},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_answer_is_not_given_by_an_assistant_that_has_changed(
    server: RunningServer,
    sessions: Sessions,
    client: httpx.AsyncClient,
    assistant: str,
    change: dict[str, Any],
) -> None:
    await server.resources.knowledge.create_collection("lakes")
    await ask(client, assistant)
    await server.resources.assistants.change(assistant, **change)

    assert await kept(sessions) == 0
    assert not await ask(client, assistant)


async def add_a_document(server: RunningServer, _: UUID) -> None:
    await server.resources.knowledge.ingest_now("waters", "lakes.md", b"Lake Constance.\n")


async def delete_the_document(server: RunningServer, document_id: UUID) -> None:
    await server.resources.knowledge.delete_document(document_id)


async def delete_the_collection(server: RunningServer, _: UUID) -> None:
    await server.resources.knowledge.delete_collection("waters")


async def rename_the_document(server: RunningServer, document_id: UUID) -> None:
    async with server.resources.database.begin() as session:
        await session.execute(
            text("UPDATE documents SET title = 'Streams' WHERE id = :id"), {"id": document_id}
        )


@pytest.mark.parametrize(
    "change", [add_a_document, delete_the_document, delete_the_collection, rename_the_document]
)
async def test_an_answer_is_forgotten_when_its_documents_change(
    server: RunningServer,
    sessions: Sessions,
    client: httpx.AsyncClient,
    assistant: str,
    change: Callable[[RunningServer, UUID], Awaitable[None]],
) -> None:
    lines = await lines_of(client, assistant_id=assistant, message=QUESTION)
    (source,) = next(line["data"] for line in lines if line["type"] == "sources")
    assert await kept(sessions) == 1

    await change(server, UUID(source["metadata"]["document_id"]))

    assert await kept(sessions) == 0
    assert not await ask(client, assistant)


async def test_documents_of_other_collections_change_nothing(
    server: RunningServer, client: httpx.AsyncClient, assistant: str
) -> None:
    await ask(client, assistant)
    await server.resources.knowledge.ingest_now("lakes", "lakes.md", b"Lake Constance.\n")

    assert await ask(client, assistant)


async def test_an_answer_made_while_its_documents_changed_is_not_kept(
    server: RunningServer, sessions: Sessions, client: httpx.AsyncClient, model: ScriptedModel, assistant: str
) -> None:
    changed = anyio.Event()
    model.script = lambda _: [["Into the Black Sea [1]."], changed, *says(" Yes.")]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, assistant)
            await model.asked.wait()
            await add_a_document(server, UUID(int=0))
            changed.set()

    assert await kept(sessions) == 0
    model.script = lambda _: says("Into the Black Sea [1].")
    assert not await ask(client, assistant)


async def test_an_answer_is_not_kept_while_its_documents_are_just_being_changed(
    sessions: Sessions, client: httpx.AsyncClient, assistant: str
) -> None:
    with anyio.fail_after(10):
        async with sessions.begin() as session:
            await session.execute(text("UPDATE collections SET chunk_count = chunk_count + 1"))
            lines = await lines_of(client, assistant_id=assistant, message=QUESTION)

    assert payload_of(lines, "cache_update") == {"stored": False}
    assert not await ask(client, assistant)


async def test_an_answer_in_one_language_is_not_given_to_who_wants_another(
    client: httpx.AsyncClient, assistant: str
) -> None:
    await ask(client, assistant, language="en")

    assert not await ask(client, assistant, language="de")
    assert await ask(client, assistant, language="en")


async def test_users_and_strangers_do_not_share_answers(
    server: RunningServer, accounts: AccountService, client: httpx.AsyncClient, assistant: str
) -> None:
    async with signed_in(server, accounts, "ada@example.com") as user:
        await ask(user, assistant)
        assert not await ask(client, assistant)
        assert await ask(user, assistant)


async def test_an_assistant_for_users_gives_no_answer_to_a_stranger(
    server: RunningServer, accounts: AccountService, client: httpx.AsyncClient, assistant: str
) -> None:
    closed = await made(server, slug="closed", user_authentication=True)
    async with signed_in(server, accounts, "ada@example.com") as user:
        await ask(user, closed)

    response = await client.post("/api/v1/chat/stream", json={"assistant_id": closed, "message": QUESTION})
    assert response.status_code == 401


async def test_a_question_with_a_conversation_is_neither_looked_up_nor_kept(
    sessions: Sessions, client: httpx.AsyncClient, assistant: str
) -> None:
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    asked = await lines_of(client, assistant_id=assistant, message=QUESTION, history=before)
    assert await kept(sessions) == 0
    first = await client.post("/api/v1/chat", json={"assistant_id": assistant, "message": QUESTION})
    second = await lines_of(
        client, assistant_id=assistant, message=QUESTION, session_id=first.json()["session_id"]
    )

    for lines in (asked, second):
        assert steps_of(lines, "cache_lookup") == steps_of(lines, "cache_update") == []


async def test_an_answer_that_is_wanted_again_is_made_anew(
    client: httpx.AsyncClient, model: ScriptedModel, assistant: str
) -> None:
    first = await client.post("/api/v1/chat", json={"assistant_id": assistant, "message": QUESTION})
    session_id = first.json()["session_id"]

    response = await client.post(f"/api/v1/chat/{session_id}/regenerate", json={})

    assert response.status_code == 200
    assert "cache_lookup" not in response.text
    assert len(model.prompts) == 2


@pytest.mark.parametrize(
    "answer", [says("I do not know."), says("Into [1]", reason="length")], ids=["no source", "cut"]
)
async def test_an_answer_that_is_not_grounded_or_not_whole_is_not_kept(
    sessions: Sessions, client: httpx.AsyncClient, model: ScriptedModel, assistant: str, answer: list[Any]
) -> None:
    model.script = lambda _: answer
    await ask(client, assistant)

    assert await kept(sessions) == 0


async def test_two_who_ask_at_once_are_both_answered_and_one_answer_is_kept(
    sessions: Sessions, client: httpx.AsyncClient, assistant: str
) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask, client, assistant)

    assert await kept(sessions) == 1
    assert await ask(client, assistant)


async def test_an_answer_is_given_for_as_long_as_the_assistant_says(
    sessions: Sessions, client: httpx.AsyncClient, assistant: str
) -> None:
    await ask(client, assistant)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE kept_answers SET created_at = now() - interval '61 seconds'"))

    assert not await ask(client, assistant)
    await ask(client, assistant, "Where is the Black Sea?")
    assert await kept(sessions) == 2


async def test_without_a_time_to_keep_them_answers_are_not_kept(
    server: RunningServer, sessions: Sessions, client: httpx.AsyncClient, assistant: str
) -> None:
    plain = await made(server, slug="plain", answer_cache_s=None)

    lines = await lines_of(client, assistant_id=plain, message=QUESTION)

    assert steps_of(lines, "cache_lookup") == []
    assert await kept(sessions) == 0
