"""Starts servers as processes of their own, waits until they answer, and ends them with all that they started."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.machine import process_tree, started_at

PROJECT = Path(__file__).resolve().parent.parent
_STOPPING_S = 20.0
_POLL_S = 0.05
_LOG_TAIL_BYTES = 3000


class DidNotStart(Exception):
    """A server ended, or answered nothing within its limit; the text is the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    pid: int
    url: str
    """Without a slash at the end."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    name: str,
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    ready: Callable[[Server], bool],
    environment: Mapping[str, str],
    directory: Path = PROJECT,
    limit_s: float = 30.0,
) -> Generator[Server]:
    """Raises DidNotStart. The process has a session of its own, so that Ctrl-C reaches it only through us."""
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdout=output, stderr=output, start_new_session=True
            )
    except OSError as error:
        raise DidNotStart(f"{name} cannot be started: {error}") from error
    try:
        server = Server(name, process.pid, f"http://127.0.0.1:{port}")
        _wait_until(ready, server, process, limit_s=limit_s, log=log)
        yield server
    finally:
        _end(process)


def _wait_until(
    ready: Callable[[Server], bool],
    server: Server,
    process: subprocess.Popen[bytes],
    *,
    limit_s: float,
    log: Path,
) -> None:
    give_up_at = time.monotonic() + limit_s
    while not ready(server):
        if process.poll() is not None or time.monotonic() > give_up_at:
            written = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
            raise DidNotStart(f"{server.name} did not start:\n{written}")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process; after it, or after its limit, SIGKILL to what is left of its tree, except PostgreSQL."""
    tree = {pid: started_at(pid) for pid in process_tree([process.pid])}
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOPPING_S)
    for pid, born in tree.items():
        if born is not None and started_at(pid) == born:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def accepts(server: Server) -> bool:
    """Whether something listens on the server's port."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def answers(server: Server, path: str) -> bool:
    """Whether GET answers with a success."""
    with (
        suppress(urllib.error.URLError, OSError),
        urllib.request.urlopen(server.url + path, timeout=2) as response,
    ):
        return 200 <= response.status < 300
    return False


@contextmanager
def upstream(log: Path) -> Generator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "bench.upstream", "--port", str(port)]
    with running("upstream", command, port=port, log=log, ready=accepts, environment=os.environ) as server:
        yield server


def set_behaviour(upstream_server: Server, behaviour: str) -> None:
    """What the model named `bench` does from now on."""
    with urllib.request.urlopen(f"{upstream_server.url}/set/{behaviour}", timeout=5) as response:
        response.read()


@contextmanager
def limit(name: str, upstream_server: Server, log: Path) -> Generator[Server]:
    """`name` is an application of `bench.limits`."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        f"bench.limits:{name}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--loop", "uvloop", "--http", "httptools", "--backlog", "8192"]
    command += ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "1"]
    environment = {**os.environ, "OPENAI_BASE_URL": f"{upstream_server.url}/v1", "PYTHONPATH": str(PROJECT)}
    with running(name, command, port=port, log=log, ready=accepts, environment=environment) as server:
        yield server
