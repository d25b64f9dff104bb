"""The command as a newcomer meets it: on nothing, in a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

import httpx
import pytest

_ROOT = Path(__file__).parents[2]
_LIMIT_S = 120

_README = """\
# Freshet

Freshet is a server that answers questions from your own documents, streamed token by token.
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with a documentation that is ingested at once."""
    checkout = tmp_path_factory.mktemp("checkout")
    for part in ("app", "alembic"):
        shutil.copytree(_ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "README.md").write_text(_README)
    (checkout / "docs").mkdir()
    (checkout / "docs" / "operations.md").write_text("# Operations\n\nPORT is the port to listen at.\n")
    return checkout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    data = tmp_path_factory.mktemp("data")
    return {"PATH": os.environ["PATH"], "FRESHET_DATA_DIR": str(data), "HOST": "127.0.0.1", "PORT": "0"}


class Server:
    """`said` is what it printed until it was ready."""

    def __init__(self, checkout: Path, environment: Mapping[str, str], *command: str, ready: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", *command],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._data = Path(environment["FRESHET_DATA_DIR"])
        self._alarm = threading.Timer(_LIMIT_S, self.process.kill)
        self._alarm.start()
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if ready in line:
                return
        raise AssertionError(f"It ended before it was ready, and said:\n{self.said}")

    def stop(self, number: signal.Signals) -> int:
        """Its exit code; its PostgreSQL is gone as well."""
        postgres = int((self._data / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postgres, 0)
        self.process.send_signal(number)
        self.process.communicate()
        self._alarm.cancel()
        with pytest.raises(ProcessLookupError):
            os.kill(postgres, 0)
        return self.process.returncode

    def end(self) -> None:
        self._alarm.cancel()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def server(checkout: Path, environment: dict[str, str]) -> Generator[Server]:
    server = Server(checkout, environment, "run", ready="Ctrl-C stops the server")
    yield server
    server.end()


def _freshet(
    checkout: Path, environment: Mapping[str, str], *command: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )


def _pasted(server: Server) -> str:
    """What a shell prints for the lines that the server offers."""
    lines = [line for line in server.said.splitlines() if line.startswith(("curl -N", "TOKEN="))]
    assert len(lines) == 3
    return subprocess.run(
        ["sh", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=_LIMIT_S, check=True
    ).stdout


def test_the_first_start_and_the_next_ones(
    checkout: Path, environment: dict[str, str], server: Server
) -> None:
    """One test, as each step needs the one before, and a start takes seconds."""
    assert "2 documents" in server.said
    assert re.search(r"admin@example\.com, password \S{20}", server.said)

    events = [json.loads(line) for line in _pasted(server).splitlines()]
    assert [event["type"] for event in events if event["type"] in {"start", "done"}] == [
        "start",
        "done",
        "start",
        "done",
    ]
    answer = "".join(event["content"] for event in events if event["type"] == "token")
    assert "answers questions from your own documents" in answer

    asked = _freshet(checkout, environment, "ask", "What is Freshet?")
    assert "answers questions from your own documents" in asked.stdout
    assert "[1] Freshet" in asked.stderr
    assert server.stop(signal.SIGTERM) == 0

    (checkout / "README.md").write_text(_README + "\nIt is also a fine word for a flood.\n")
    (checkout / "docs" / "operations.md").unlink()
    again = Server(checkout, environment, "run", ready="Ctrl-C stops the server")
    try:
        assert "1 documents (1 in all" in again.said
        assert "password as shown at the first start" in again.said
        gone = _freshet(checkout, environment, "ask", "Which port to listen at?")
        assert "Operations" not in gone.stderr
        assert again.stop(signal.SIGINT) == 0
    finally:
        again.end()


def test_several_workers_answer_on_one_port_and_end_together(
    checkout: Path, environment: dict[str, str], server: Server
) -> None:
    server.end()
    workers = Server(checkout, environment, "serve", "--workers", "2", ready="startup complete")
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+", workers.said)
        assert address is not None
        assert httpx.get(f"{address[0]}/readyz", timeout=_LIMIT_S).status_code == 200
        assert workers.stop(signal.SIGTERM) == 0
    finally:
        workers.end()
