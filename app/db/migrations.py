"""The schema's version: what it is, what it should be, and getting from one to the other."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

_SCRIPTS = Path(__file__).resolve().parents[2] / "alembic"

# Any number that no other user of the database takes for its advisory locks.
_LOCK = 0x4672_6573_6865_74


@cache
def newest() -> str:
    head = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    assert head is not None
    return head


async def current(session: AsyncSession) -> str | None:
    """The revision that the database is at; None when it has no tables of ours."""
    connection = await session.connection()
    return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Bring the schema to `revision`, up or down to `base`. Processes that start together take turns."""

    def run(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = Config()
        config.set_main_option("script_location", str(_SCRIPTS))
        config.attributes["connection"] = connection
        (command.downgrade if revision == "base" else command.upgrade)(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(run)
