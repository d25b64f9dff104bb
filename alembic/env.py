"""How alembic reaches the database: on a connection it is given, or at `DATABASE_URL` when called by its own command."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db.engine import normal_url
from app.db.tables import Table
from app.settings import Settings


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Table.metadata)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_migrate() -> None:
    url = Settings.load().database.database_url
    if url is None:
        raise SystemExit("Set DATABASE_URL, or use `freshet migrate`, which knows the embedded server.")
    engine = create_async_engine(normal_url(url.get_secret_value()), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is None:
    asyncio.run(connect_and_migrate())
else:
    migrate(given)
