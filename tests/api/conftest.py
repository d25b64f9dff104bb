from collections.abc import AsyncGenerator

import httpx
import pytest

from app.settings import Settings
from tests.conftest import RunningServer, Serve


@pytest.fixture
async def elsewhere(
    serve: Serve, settings: Settings, server: RunningServer
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a second process on the same database."""
    async with serve(settings) as another, another.client() as http:
        yield http
