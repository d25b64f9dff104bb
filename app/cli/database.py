"""Reaching the database from a command: the one that is named, or the embedded one, with the schema of this version."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TypeVar

import asyncpg
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.terminal import Terminal
from app.db import migrations
from app.db.embedded import EmbeddedPostgres
from app.db.engine import Sessions, create_engine
from app.errors import DatabaseUnavailable, StartupRefused
from app.resources import Resources, open_resources
from app.settings import Settings

_T = TypeVar("_T")


def embedded_server(settings: Settings) -> EmbeddedPostgres:
    return EmbeddedPostgres(settings.database.freshet_data_dir / "postgres")


def with_url(settings: Settings, url: str) -> Settings:
    named = settings.database.model_copy(update={"database_url": SecretStr(url)})
    return replace(settings, database=named)


@contextmanager
def reachable(settings: Settings) -> Generator[Settings]:
    """The settings with the URL of the database. The embedded server is started if nobody runs it, and then ends with the block."""
    if settings.database.database_url is not None:
        yield settings
        return
    with embedded_server(settings) as url:
        yield with_url(settings, url)


@asynccontextmanager
async def engine_of(settings: Settings) -> AsyncGenerator[AsyncEngine]:
    """Of settings with a URL. In the block, a database that cannot be used is a `StartupRefused` that says why."""
    url = settings.database.database_url
    assert url is not None
    try:
        engine = create_engine(url.get_secret_value(), settings.database)
    except ArgumentError as error:
        raise StartupRefused(
            "DATABASE_URL is no URL of a database: postgresql://user:password@host:5432/name."
        ) from error
    try:
        yield engine
    except DatabaseUnavailable as error:
        reason = f" ({error.__cause__})" if error.__cause__ is not None else ""
        raise StartupRefused(
            f"The database of DATABASE_URL cannot be reached{reason}. Is it running, and is the URL right?"
        ) from error
    except (DBAPIError, asyncpg.PostgresError) as error:
        said = error.orig if isinstance(error, DBAPIError) else error
        raise StartupRefused(f"The database of DATABASE_URL cannot be used. It says: {said}") from error
    finally:
        await engine.dispose()


async def revision_of(engine: AsyncEngine) -> str | None:
    async with Sessions(engine).read() as session:
        return await migrations.current(session)


async def bring_up_to_date(settings: Settings, target: str = "head") -> bool:
    """False if there was nothing to do."""
    async with engine_of(settings) as engine:
        revision = await revision_of(engine)
        if revision == (None if target == "base" else migrations.newest()):
            return False
        await migrations.migrate(engine, target)
        return True


async def require_current(settings: Settings) -> None:
    """Raises `StartupRefused` when the schema is not this version's."""
    async with engine_of(settings) as engine:
        revision = await revision_of(engine)
    if revision != migrations.newest():
        raise StartupRefused(
            f"The database's schema is {'at ' + revision if revision else 'empty'}, and this version needs "
            f"{migrations.newest()}. Run `freshet migrate`."
        )


async def ready_schema(loaded: Settings, reached: Settings) -> None:
    """The embedded database is brought up to date; one that is named is its owner's, and only looked at."""
    if loaded.database.database_url is None:
        await bring_up_to_date(reached)
    else:
        await require_current(reached)


def with_database(work: Callable[[Settings], Awaitable[_T]]) -> _T:
    """Runs `work` with settings that have the URL of a database whose schema is ready."""
    loaded = Settings.load()

    async def prepared(reached: Settings) -> _T:
        await ready_schema(loaded, reached)
        return await work(reached)

    with reachable(loaded) as reached:
        return asyncio.run(prepared(reached))


def with_resources(work: Callable[[Resources], Awaitable[_T]], *, works: bool = False) -> _T:
    """If it `works`, the jobs of the queue are done here as well."""

    async def opened(settings: Settings) -> _T:
        async with open_resources(settings, works=works) as resources:
            return await work(resources)

    return with_database(opened)


def migrate(*, check: bool, target: str) -> None:
    terminal = Terminal()
    with reachable(Settings.load()) as settings:
        if check:
            asyncio.run(require_current(settings))
            terminal.verdict("The schema is this version's.", good=True)
        elif asyncio.run(bring_up_to_date(settings, target)):
            words = "All tables are gone." if target == "base" else "The schema is now this version's."
            terminal.verdict(words, good=True)
        else:
            terminal.verdict("There was nothing to do.", good=True)
