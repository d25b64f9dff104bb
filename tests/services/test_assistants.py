from uuid import uuid4

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.db import assistants as queries
from app.db.assistants import AssistantForTurn
from app.db.engine import Sessions
from app.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from app.services.assistants import AssistantService
from app.services.viewer import ANONYMOUS, Account, Viewer

ADMIN = Viewer(Account(uuid4(), "admin@example.com", "", "admin"))
USER = Viewer(Account(uuid4(), "user@example.com", "", "user"))


@pytest.fixture
def assistants(sessions: Sessions) -> AssistantService:
    return AssistantService(sessions)


async def _collection(sessions: Sessions, name: str, chunk_count: int = 0) -> str:
    statement = text(
        "INSERT INTO collections (id, name, chunk_count) VALUES (gen_random_uuid(), :name, :count) RETURNING id"
    )
    async with sessions.begin() as session:
        return str((await session.execute(statement, {"name": name, "count": chunk_count})).scalar_one())


async def _for_turn(sessions: Sessions, identifier: str) -> AssistantForTurn | None:
    async with sessions.read() as session:
        return await queries.for_turn(session, identifier)


async def test_a_turn_finds_an_assistant_by_its_slug_and_by_its_id(
    assistants: AssistantService, sessions: Sessions
):
    made = await assistants.create(name="Docs", instructions="Be brief.", top_k=3)

    by_slug = await _for_turn(sessions, "docs")

    assert by_slug is not None
    assert (by_slug.id, by_slug.instructions, by_slug.top_k) == (made.id, "Be brief.", 3)
    assert await _for_turn(sessions, str(made.id)) == by_slug


@pytest.mark.parametrize(
    "identifier",
    ["docs-2", "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90", "", "no slug", "\x00", "\ud800", "a" * 65, "DOCS"],
)
async def test_a_turn_finds_no_assistant_by_anything_else(
    assistants: AssistantService, sessions: Sessions, identifier: str
):
    await assistants.create(name="Docs")

    assert await _for_turn(sessions, identifier) is None


async def test_a_turn_knows_how_many_chunks_the_collections_of_its_assistant_have_together(
    assistants: AssistantService, sessions: Sessions
):
    first, second = await _collection(sessions, "a", 3), await _collection(sessions, "b", 4)
    await _collection(sessions, "c", 5)
    await assistants.create(name="Docs", collections=["b", first])

    found = await _for_turn(sessions, "docs")

    assert found is not None
    assert [str(collection) for collection in found.collection_ids] == [first, second]
    assert found.chunk_count == 7


async def test_an_assistant_without_collections_answers_from_none(
    assistants: AssistantService, sessions: Sessions
):
    await assistants.create(name="Docs")

    found = await _for_turn(sessions, "docs")

    assert found is not None
    assert (found.collection_ids, found.chunk_count) == ((), 0)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("The Café's Dócs!", "the-cafe-s-docs"),
        ("知識", "assistant"),
        ("--", "assistant"),
        ("a" * 200, "a" * 64),
        ("c0ffee00c0ffee00c0ffee00c0ffee00", "assistant-c0ffee00c0ffee00c0ffee00c0ffee00"),
    ],
)
async def test_a_slug_is_made_from_the_name(assistants: AssistantService, name: str, slug: str):
    assert (await assistants.create(name=name)).slug == slug


async def test_assistants_of_one_name_made_at_once_get_slugs_of_their_own(assistants: AssistantService):
    slugs: list[str] = []

    async def create() -> None:
        slugs.append((await assistants.create(name="a" * 64)).slug)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(create)

    assert sorted(slugs) == [f"{'a' * 60}-{number}" for number in range(2, 6)] + ["a" * 64]


@pytest.mark.parametrize(
    "slug",
    [
        "",
        "A",
        "a b",
        "é",
        "a" * 65,
        "a\n",
        "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90",
        "8c7d0a525f0b4f6e9f431f6a2d8a3b90",
    ],
)
async def test_a_slug_that_is_malformed_or_reads_as_an_id_is_refused(assistants: AssistantService, slug: str):
    made = await assistants.create(name="Docs")

    with pytest.raises(InvalidInput):
        await assistants.create(name="Docs", slug=slug)
    with pytest.raises(InvalidInput):
        await assistants.change(made.slug, slug=slug)


async def test_a_slug_that_is_taken_is_a_conflict_and_changes_nothing(assistants: AssistantService):
    await assistants.create(name="Docs")
    await assistants.create(name="Other")

    with pytest.raises(Conflict):
        await assistants.create(name="Third", slug="docs")
    with pytest.raises(Conflict):
        await assistants.change("other", slug="docs", name="Renamed")

    assert [one.name for one in await assistants.page(ADMIN, after=None, limit=9)] == ["Docs", "Other"]


async def test_what_the_database_refuses_for_another_reason_is_no_conflict(assistants: AssistantService):
    await assistants.create(name="Docs")

    with pytest.raises(IntegrityError, match="top_k"):
        await assistants.change("docs", top_k=51)


async def test_a_change_leaves_what_it_does_not_name(assistants: AssistantService, sessions: Sessions):
    await _collection(sessions, "a")
    made = await assistants.create(
        name="Docs", description="About.", collections=["a"], model_parameters={"temperature": 0.5}
    )

    changed = await assistants.change("docs", name="Documents")

    assert (changed.name, changed.slug, changed.description) == ("Documents", "docs", "About.")
    assert changed.model_parameters == {"temperature": 0.5}
    assert changed.collections == made.collections
    assert changed.updated_at > made.updated_at


async def test_collections_are_replaced_as_a_whole(assistants: AssistantService, sessions: Sessions):
    for name in "abc":
        await _collection(sessions, name)
    await assistants.create(name="Docs", collections=["a", "b"])

    changed = await assistants.change("docs", collections=["c", "b", "b"])

    assert [collection.name for collection in changed.collections] == ["b", "c"]
    assert (await assistants.change("docs", collections=[])).collections == ()


@pytest.mark.parametrize("unknown", ["nowhere", "8c7d0a52-5f0b-4f6e-9f43-1f6a2d8a3b90"])
async def test_an_unknown_collection_is_named_in_the_refusal(assistants: AssistantService, unknown: str):
    await assistants.create(name="Docs")

    with pytest.raises(InvalidInput, match=unknown):
        await assistants.create(name="Other", collections=[unknown])
    with pytest.raises(InvalidInput, match=unknown):
        await assistants.change("docs", collections=[unknown])


async def test_a_disabled_assistant_is_there_for_administrators_only(assistants: AssistantService):
    await assistants.create(name="Docs", is_enabled=False)

    for viewer in (ANONYMOUS, USER):
        with pytest.raises(NotFound):
            await assistants.get("docs", viewer)
        with pytest.raises(NotFound):
            await assistants.usable("docs", viewer)
        assert await assistants.page(viewer, after=None, limit=9) == []
    assert (await assistants.get("docs", ADMIN)).slug == "docs"
    assert (await assistants.usable("docs", ADMIN)).slug == "docs"


async def test_an_assistant_that_asks_for_a_user_answers_no_one_else(assistants: AssistantService):
    await assistants.create(name="Members", user_authentication=True)

    with pytest.raises(Unauthenticated, match="needs a user"):
        await assistants.usable("members", ANONYMOUS)
    with pytest.raises(Unauthenticated, match="has expired"):
        await assistants.usable("members", Viewer(refusal="The token has expired."))
    assert (await assistants.usable("members", USER)).slug == "members"


async def test_what_is_deleted_is_gone(assistants: AssistantService):
    made = await assistants.create(name="Docs")

    await assistants.delete(str(made.id))

    for identifier in ("docs", str(made.id), "no slug"):
        with pytest.raises(NotFound):
            await assistants.delete(identifier)
        with pytest.raises(NotFound):
            await assistants.get(identifier, ADMIN)
        with pytest.raises(NotFound):
            await assistants.change(identifier, name="Other")
