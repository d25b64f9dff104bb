import asyncio
from dataclasses import replace
from typing import Any, cast
from uuid import uuid4

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, text

from app.db import migrations
from app.db.engine import Sessions, create_engine
from app.db.tables import Table
from app.errors import DatabaseUnavailable, StartupRefused
from app.resources import open_resources
from app.settings import DatabaseSettings, Settings
from tests.words_embedder import WordsEmbedder

_OF_OURS = text(
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    " UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'"
    " UNION SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace"
    " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"
)


def _is_of_ours(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "table" or not (name or "").startswith("pgqueuer")


def differences(connection: Connection) -> list[Any]:
    """What would have to be done to make the database look like the tables."""
    context = MigrationContext.configure(
        connection,
        opts={"compare_type": True, "compare_server_default": True, "include_name": _is_of_ours},
    )
    return cast("list[Any]", compare_metadata(context, Table.metadata))


async def test_the_schema_goes_up_down_and_up_again_and_is_that_of_the_tables(empty_database_url: str):
    engine = create_engine(empty_database_url, DatabaseSettings())
    sessions = Sessions(engine)

    async def left() -> set[str]:
        async with sessions.read() as session:
            return set((await session.execute(_OF_OURS)).scalars())

    try:
        await migrations.migrate(engine)
        up = await left()
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        async with sessions.read() as session:
            assert await migrations.current(session) == migrations.newest()
        await migrations.migrate(engine, "base")
        assert {name for name in await left() if not name.startswith("alembic_version")} == set()
        async with sessions.read() as session:
            assert await migrations.current(session) is None
        await migrations.migrate(engine)
        assert await left() == up
    finally:
        await engine.dispose()


async def test_chunks_from_before_their_words_were_counted_are_counted(empty_database_url: str):
    engine = create_engine(empty_database_url, DatabaseSettings())
    rows = (
        "INSERT INTO collections (id, name) VALUES (:collection, 'leases')",
        """INSERT INTO documents (id, collection_id, file_name, content_sha256, size_bytes, status)
        VALUES (:document, :collection, 'lease.md', '', 0, 'ready')""",
        """INSERT INTO chunks (document_id, collection_id, ordinal, start_offset, end_offset, text, embedding)
        SELECT :document, :collection, n, 0, 0, 'The lease of ' || n, '[1]' FROM generate_series(1, 3) n""",
    )
    ids = {"collection": uuid4(), "document": uuid4()}
    await migrations.migrate(engine, "0001")
    async with engine.begin() as connection:
        for statement in rows:
            await connection.execute(text(statement), ids)
    await migrations.migrate(engine)

    async with engine.begin() as connection:
        lexemes = text("SELECT lexeme, chunk_count FROM lexemes ORDER BY lexeme")
        languages = text("SELECT language, chunk_count, word_count FROM languages")
        assert (await connection.execute(lexemes)).all() == [("1", 1), ("2", 1), ("3", 1), ("leas", 3)]
        assert (await connection.execute(languages)).all() == [("english", 3, 6)]

    await migrations.migrate(engine, "base")
    await engine.dispose()


async def test_a_column_that_is_not_in_the_tables_is_noticed(empty_database_url: str):
    engine = create_engine(empty_database_url, DatabaseSettings())
    await migrations.migrate(engine)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE users ADD COLUMN shoe_size integer"))
        assert len(await connection.run_sync(differences)) == 1
    await engine.dispose()


async def test_migrating_what_is_new_changes_nothing(sessions: Sessions, database_url: str):
    engine = create_engine(database_url, DatabaseSettings())
    await migrations.migrate(engine)
    async with sessions.read() as session:
        assert await migrations.current(session) == migrations.newest()
    await engine.dispose()


async def test_those_who_migrate_at_once_take_turns(empty_database_url: str):
    engines = [create_engine(empty_database_url, DatabaseSettings()) for _ in range(3)]
    with anyio.fail_after(20):
        await asyncio.gather(*(migrations.migrate(engine) for engine in engines))
    async with Sessions(engines[0]).read() as session:
        assert await migrations.current(session) == migrations.newest()
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("revision", ["9999", None])
async def test_a_schema_of_another_version_is_not_ready_and_says_what_to_do(
    settings: Settings, sessions: Sessions, revision: str | None
):
    async with open_resources(settings, embedder=WordsEmbedder()) as resources:
        await resources.check_ready()
        async with sessions.begin() as session:
            if revision is None:
                await session.execute(text("DROP TABLE alembic_version"))
            else:
                await session.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
        with pytest.raises(DatabaseUnavailable, match="freshet migrate"):
            await resources.check_ready()


async def test_on_a_database_without_tables_nothing_starts_and_what_to_do_is_told(
    settings: Settings, empty_database_url: str
):
    database = settings.database.model_copy(update={"database_url": SecretStr(empty_database_url)})
    with pytest.raises(StartupRefused, match="freshet migrate"):
        async with open_resources(replace(settings, database=database), embedder=WordsEmbedder()):
            pytest.fail("there are no tables")
