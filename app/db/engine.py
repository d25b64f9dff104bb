"""The connection pool, and where services get their sessions from."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import asyncpg
import msgspec
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.errors import DatabaseUnavailable
from app.settings import DatabaseSettings

# Measured on 100,000 chunks: ef_search 100 keeps recall@10 at .998 for about 1.5 ms; relaxed order costs nothing, as the query sorts again.
_VECTOR_SETTINGS = {"hnsw.ef_search": "100", "hnsw.iterative_scan": "relaxed_order"}


def normal_url(url: str) -> str:
    """The URL as SQLAlchemy wants it: `postgres://` and `postgresql://`, as hosting providers give them, go through asyncpg."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgres", "postgresql"}:
        return f"postgresql+asyncpg://{rest}"
    return url


def create_engine(url: str, settings: DatabaseSettings, *, application_name: str = "freshet") -> AsyncEngine:
    """A pool of at most `db_pool_size` connections; one that the server has dropped is replaced unnoticed."""
    engine = create_async_engine(
        normal_url(url),
        pool_size=settings.db_pool_size,
        max_overflow=0,
        pool_timeout=settings.db_pool_timeout_s,
        pool_use_lifo=True,
        hide_parameters=True,
        json_serializer=_json_text,
        json_deserializer=msgspec.json.decode,
        connect_args={
            "timeout": settings.db_connect_timeout_s,
            "server_settings": {"application_name": application_name, "jit": "off", **_VECTOR_SETTINGS},
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_what_is_closed)
    return engine


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _refuse_what_is_closed(connection: Any, record: object, proxy: object) -> None:  # noqa: ARG001  # the event's signature
    """In place of a pre-ping, which costs three round trips: asyncpg is told by the socket when the server has gone."""
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError


class Sessions:
    """The second seam: where services get their sessions from. Says in our words that the database cannot be reached."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._transactional = async_sessionmaker(engine, expire_on_commit=False)
        self._reading = async_sessionmaker(
            engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False
        )

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncSession]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        with _database_errors():
            async with self._transactional.begin() as session:
                yield session

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncSession]:
        """For a read that is one statement: it needs no transaction around it, which saves two round trips."""
        with _database_errors():
            async with self._reading() as session:
                yield session


async def driver_of(session: AsyncSession) -> "asyncpg.Connection[asyncpg.Record]":
    """The driver's connection, in the session's transaction if it has one."""
    raw = await (await session.connection()).get_raw_connection()
    return cast("asyncpg.Connection[asyncpg.Record]", raw.driver_connection)


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    # What asyncpg says when the server goes while a statement is being prepared.
    asyncpg.InternalClientError,
    OSError,
)
# A full disk and the like, a database that is only to be read, a transaction that was in another's way: all of these pass.
_REFUSED = (
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


@contextmanager
def _database_errors() -> Generator[None]:
    """A database that cannot be reached, or takes nothing, is expected; every other error of it is a bug, and stays as it is."""
    try:
        yield
    except (exc.TimeoutError, exc.InterfaceError, *_LOST) as error:
        raise _unavailable() from error
    except exc.DBAPIError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        if error.connection_invalidated or isinstance(cause, _LOST):
            raise _unavailable() from error
        if isinstance(cause, _REFUSED):
            raise DatabaseUnavailable("The database takes nothing at the moment.", retry_after_s=5) from error
        raise


def _unavailable() -> DatabaseUnavailable:
    return DatabaseUnavailable("The database cannot be reached at the moment.", retry_after_s=5)
