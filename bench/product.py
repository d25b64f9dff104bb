"""Freshet as its users start it, on a directory of its own and with the fake upstream as its model."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from app.db.embedded import EmbeddedPostgres
from bench.servers import PROJECT, DidNotStart, Server, answers, free_port, running

_STARTING_S = 300.0
_DATABASE_STOPPING_S = 10.0
_NOT_OURS = ("DATABASE_URL", "EMBEDDING_MODEL", "SECRET_KEY")
_FRESHET = (sys.executable, "-P", "-m", "app")
_ADMIN = "bench@example.com"


@contextmanager
def product(
    upstream_server: Server, data_directory: Path, log: Path, extra_environment: Mapping[str, str]
) -> Generator[Server]:
    """`freshet serve`, ready to answer. A later one on the same directory finds what the first has stored.

    Settings of the caller's own Freshet are kept away from it: its environment, and its `.env` by another directory.
    """
    port = free_port()
    environment = {
        # Answers outlive their readers, and nobody waits for those of the load that has left.
        "SHUTDOWN_GRACE_S": "1",
        **_environment(data_directory, extra_environment),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "OPENAI_BASE_URL": f"{upstream_server.url}/v1",
        "OPENAI_API_KEY": "bench",
        "CHAT_MODEL": "bench",
    }
    try:
        with running(
            "freshet",
            [*_FRESHET, "serve"],
            port=port,
            log=log,
            ready=lambda server: answers(server, "/readyz"),
            environment=environment,
            directory=data_directory,
            limit_s=_STARTING_S,
        ) as server:
            yield server
    finally:
        _end_databases(data_directory)


def database_url(data_directory: Path, extra_environment: Mapping[str, str]) -> str:
    """Of the product that runs on this directory."""
    return extra_environment.get("DATABASE_URL") or EmbeddedPostgres(data_directory / "postgres").start()


def admin_token(data_directory: Path, extra_environment: Mapping[str, str]) -> str:
    """Of a user made for it, for the product that runs on this directory."""
    environment = _environment(data_directory, extra_environment)

    def freshet(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*_FRESHET, *arguments]
        return subprocess.run(
            command, cwd=data_directory, env=environment, capture_output=True, text=True, check=False
        )

    # A database that was measured before has the user.
    adding = freshet("user", "add", _ADMIN, "--admin")
    issued = freshet("token", _ADMIN)
    if issued.returncode != 0:
        raise DidNotStart(f"There is no administrator to measure with:\n{adding.stderr}{issued.stderr}")
    return issued.stdout.strip()


def _environment(data_directory: Path, extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    return {**kept, **extra, "FRESHET_DATA_DIR": str(data_directory), "PYTHONPATH": str(PROJECT)}


def _end_databases(data_directory: Path) -> None:
    """Ends what a killed product could not: a PostgreSQL under its directory, which it has as its working directory."""
    for note in data_directory.rglob("postmaster.pid"):
        pid = int(note.read_text().split()[0])
        for how in (signal.SIGINT, signal.SIGQUIT):
            if _works_in(pid, note.parent):
                os.kill(pid, how)
            give_up_at = time.monotonic() + _DATABASE_STOPPING_S
            while _works_in(pid, note.parent) and time.monotonic() < give_up_at:
                time.sleep(0.05)


def _works_in(pid: int, directory: Path) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink() == directory.resolve()
    return False
