"""The processes of a programme of chaos: servers that are killed, frozen and started again, and their PostgreSQL."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from app.db.embedded import EmbeddedPostgres
from bench.chaos_nursery import Nursery, Process
from bench.machine import cpu_s

STARTING_S = 90.0
_LOG_TAIL_BYTES = 3000
_SETTLING_S = 10.0


@dataclass(slots=True)
class Life:
    """One process of a server, from its start to its end. What it has open is told when nothing is going on."""

    process: Process
    is_ready: bool = False
    expected_to_end: bool = False
    files_at_first: int = 0
    tasks_at_first: int = 0
    memory_at_first: int = 0
    programmes: int = 0


@dataclass(slots=True)
class Server:
    """A server at a port that stays, whatever becomes of its processes."""

    number: int
    port: int
    directory: Path
    environment: dict[str, str]
    nursery: Nursery
    life: Life | None = None
    frozen: bool = False
    log_read_to: int = 0
    surprises: list[str] = field(default_factory=list[str])
    """What its processes did that nobody had asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / f"server-{self.number}.log"

    @property
    def running(self) -> bool:
        return self.life is not None and self.life.process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self.life is not None and self.life.is_ready and self.running

    @property
    def has_ended_by_itself(self) -> bool:
        """It had begun to serve, and nobody has ended it."""
        life = self.life
        return life is not None and life.is_ready and not life.expected_to_end and not self.running

    def start(self) -> None:
        """Ends the process that there is, if there is one."""
        if self.has_ended_by_itself:
            self.surprises.append(f"it has ended by itself:\n{self.tail_of_log()}")
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        if self.life is not None:
            self.life.process.wait()
        self.life = Life(self.nursery.start(self.environment, self.directory, self.log))

    def send(self, number: int) -> None:
        if self.life is not None and self.running:
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.life.expected_to_end = True
            self.frozen = {signal.SIGSTOP: True, signal.SIGCONT: False}.get(
                signal.Signals(number), self.frozen
            )
            self.life.process.send_signal(number)

    async def ended(self, within_s: float) -> bool:
        give_up_at = time.monotonic() + within_s
        while self.running:
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(0.01)
        return True

    async def ready(self, within_s: float = STARTING_S) -> bool:
        give_up_at = time.monotonic() + within_s
        while not await _is_ready(self.port):
            if not self.running or time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(0.05)
        return True

    def new_lines_of_log(self) -> list[str]:
        text = self.log.read_bytes()
        new, self.log_read_to = text[self.log_read_to :], len(text)
        return new.decode(errors="replace").splitlines()

    def tail_of_log(self) -> str:
        return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


class Postgres:
    """The database's server; `up` unless it has been stopped."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self._embedded = EmbeddedPostgres(directory, settings=settings)
        self._data = directory / "data"
        self.up = False

    async def start(self) -> str:
        url = await asyncio.to_thread(self._embedded.start)
        self.up = True
        return url

    async def stop(self, *, crash: bool = False) -> None:
        self.up = False
        if crash:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
        await asyncio.to_thread(self._embedded.stop)

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])


async def _is_ready(port: int) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with http.get(f"http://127.0.0.1:{port}/readyz") as response:
                return response.status == 200
    return False


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def tasks_of(server: Server) -> int:
    """How many tasks its event loop has; -1 if it does not tell. See `bench.chaos_breaks`."""
    life = server.life
    assert life is not None
    told = server.directory / f"tasks-{life.process.pid}"
    told.unlink(missing_ok=True)
    server.send(signal.SIGUSR1)
    for _ in range(200):
        await asyncio.sleep(0.01)
        with suppress(OSError, ValueError):
            return int(told.read_text())
    return -1


async def settled_tasks_of(server: Server) -> int:
    """How many they are once they have stayed as many for a second: a server answers before its queue has begun to listen."""
    tasks, since = -1, time.monotonic()
    give_up_at = since + _SETTLING_S
    while time.monotonic() < give_up_at and (tasks < 0 or time.monotonic() < since + 1):
        now = await tasks_of(server)
        if now != tasks:
            tasks, since = now, time.monotonic()
        await asyncio.sleep(0.05)
    return tasks


def spent_cpu_s(servers: Sequence[Server]) -> float:
    return cpu_s(server.life.process.pid for server in servers if server.life is not None)


def waited_for_processor_s(server: Server) -> float | None:
    """How long its main thread has been ready to run while others ran; None if the process is gone."""
    assert server.life is not None
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{server.life.process.pid}/schedstat").read_text().split()[1]) / 1e9
    return None
