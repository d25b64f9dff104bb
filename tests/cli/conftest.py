"""Commands, run beside the event loop of a test."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread
from click.testing import CliRunner, Result

from app.cli import main
from tests.conftest import SECRET

Freshet = Callable[..., Awaitable[Result]]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """With an environment that holds nothing of the developer's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRESHET_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SECRET_KEY", SECRET)
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "EMBEDDING_MODEL",
        "DATABASE_URL",
        "HOST",
        "PORT",
        "WORKERS",
    ):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


@pytest.fixture
def freshet(shell: CliRunner) -> Freshet:
    """Runs a command beside the event loop of the test; so not one that serves, as signals go to the main thread."""

    async def run(*words: str, typed: str | None = None) -> Result:
        invoke = partial(shell.invoke, main, list(words), input=typed, catch_exceptions=False)
        return await to_thread.run_sync(invoke)

    return run


@pytest.fixture
def on_database(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    """Migrated, and claimed by an embedder that is not the built-in one."""
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.fixture
async def on_new_database(monkeypatch: pytest.MonkeyPatch, empty_database_url: str, freshet: Freshet) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert (await freshet("migrate")).exit_code == 0
