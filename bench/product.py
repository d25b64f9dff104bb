"""Freshet as its users start it, on a directory of its own and with the fake upstream as its model."""

import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.servers import Server, answers, free_port, running

_STARTING_S = 300.0
_DATABASE_STOPPING_S = 10.0
_NOT_OURS = ("DATABASE_URL", "EMBEDDING_MODEL", "SECRET_KEY")


@contextmanager
def product(
    upstream_server: Server, data_directory: Path, log: Path, extra_environment: Mapping[str, str]
) -> Generator[Server]:
    """`freshet serve`, ready to answer. A later one on the same directory finds what the first has stored.

    Settings of the caller's own Freshet are kept away from it: its environment, and its `.env` by another directory.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    environment |= {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "FRESHET_DATA_DIR": str(data_directory),
        "OPENAI_BASE_URL": f"{upstream_server.url}/v1",
        "OPENAI_API_KEY": "bench",
        "CHAT_MODEL": "bench",
        **extra_environment,
    }
    try:
        with running(
            "freshet",
            [Path(sys.executable).with_name("freshet"), "serve"],
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
