"""What the processes tell each other through the database, heard on a connection of its own."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

logger = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0


def listening_engine(engine: AsyncEngine) -> AsyncEngine:
    """Connects as `engine` does, but to connections that are nobody else's: one that listens is held for good."""
    return create_async_engine(
        engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True
    )


async def listen(
    engine: AsyncEngine,
    channel: str,
    *,
    heard: Callable[[str], None],
    connected: Callable[[], None],
    check_every_s: float,
) -> None:
    """Listens for good. `heard` is called with each message, `connected` each time that messages come again: what was said before
    may have been missed. A connection that is silent is asked every `check_every_s` whether it still is one."""
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            async with engine.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                try:
                    lost = asyncio.Event()
                    driver.add_termination_listener(partial(_lost, lost))
                    await driver.add_listener(channel, partial(_heard, heard))
                    wait_s = _FIRST_WAIT_S
                    connected()
                    await _until_lost(driver, lost, check_every_s)
                finally:
                    # Closing it would say good-bye to a server that may not be there; and it would be awaited in clean-up.
                    driver.terminate()
                    await connection.invalidate()  # noqa: ASYNC102  # the driver's connection is closed: nothing is waited for
        except Exception as error:  # noqa: BLE001  # a server that goes shows in the driver's many ways: none may cost the process
            logger.info("listening to the other processes was interrupted: %r", error)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


async def _until_lost(driver: Any, lost: asyncio.Event, check_every_s: float) -> None:
    while not lost.is_set():
        try:
            async with asyncio.timeout(check_every_s):
                await lost.wait()
        except TimeoutError:
            async with asyncio.timeout(check_every_s):
                await driver.fetchval("SELECT 1")


def _lost(lost: asyncio.Event, _connection: object) -> None:
    lost.set()


def _heard(heard: Callable[[str], None], _connection: object, _pid: int, _channel: str, message: str) -> None:
    heard(message)
