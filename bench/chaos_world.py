"""What a programme of chaos happens to: a PostgreSQL, servers started as their users start them, and the fake upstream."""

import asyncio
import io
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg

from app.db import migrations
from app.db.engine import Sessions, create_engine
from app.services.assistants import AssistantService
from app.settings import DatabaseSettings
from bench.chaos_nursery import nursery
from bench.chaos_plan import BEHAVIOURS, GROUNDED, assistant_of
from bench.chaos_servers import STARTING_S, Postgres, Server, open_files, settled_tasks_of
from bench.fill import fill
from bench.machine import rss_bytes
from bench.servers import PROJECT, DidNotStart, free_port
from bench.upstream import Upstream

HEARTBEAT_S = 0.4
"""Of a process; it counts as gone after four of them."""
SILENCE_S = 4 * HEARTBEAT_S
GRACE_S = 1
POOL = 6

_CHUNKS = 200
_TRIES = 3
_WARM = "fake-n1"
_EMBEDDER = "fake-embedder"
_DIMENSIONS = 1536
# Without fsync a crash of its processes loses nothing, only one of the machine would.
_FAST_POSTGRES = {"fsync": "off", "shared_buffers": "128MB"}
_SETTINGS = {
    "SECRET_KEY": "a key for programmes of chaos, and for nothing else",
    "OPENAI_API_KEY": "chaos",
    "CHAT_MODEL": "fake",
    "EMBEDDING_MODEL": _EMBEDDER,
    "MODEL_FIRST_TOKEN_S": "3",
    "MODEL_SILENCE_S": "1.5",
    "PROCESS_HEARTBEAT_S": str(HEARTBEAT_S),
    "HEARTBEAT_S": "0.5",
    "STORE_RETRY_S": "20",
    "SHUTDOWN_GRACE_S": str(GRACE_S),
    "READER_MAX_BEHIND_BYTES": str(2**16),
    "READER_STALL_S": "3",
    "DB_POOL_SIZE": str(POOL),
    "DB_POOL_TIMEOUT_S": "5",
    "DB_CONNECT_TIMEOUT_S": "3",
    "LOG_LEVEL": "warning",
}


@dataclass(slots=True)
class World:
    postgres: Postgres
    url: str
    upstream: Upstream
    servers: list[Server]
    tasks: asyncio.TaskGroup
    """For what may outlast a programme."""
    restarts: list["asyncio.Task[bool]"] = field(default_factory=list["asyncio.Task[bool]"])

    @asynccontextmanager
    async def connection(self) -> "AsyncGenerator[asyncpg.Connection[asyncpg.Record]]":
        connection = await asyncpg.connect(_plain(self.url))
        try:
            yield connection
        finally:
            # The database may be away: nobody says good-bye to it.
            connection.terminate()

    async def started(self, server: Server) -> bool:
        """Ready, and warm: what a process imports for its first answer takes longer on a busy machine than others wait for its heartbeat."""
        server.start()
        if not await server.ready():
            return False
        answer = b""
        for _ in range(_TRIES):
            if b'"type":"done"' in (answer := await _first_answer(server)):
                break
            # The database may have been taken away just now.
            await asyncio.sleep(1)
        else:
            server.surprises.append(f"it answers its first question with {answer!r}")
        await self.note_first(server)
        return True

    async def note_first(self, server: Server) -> None:
        life = server.life
        assert life is not None
        life.files_at_first = open_files(life.process.pid)
        life.memory_at_first = rss_bytes([life.process.pid])
        life.tasks_at_first = await settled_tasks_of(server)
        life.is_ready = True


def _plain(url: str) -> str:
    """As asyncpg takes it."""
    return url.replace("postgresql+asyncpg://", "postgresql://")


@asynccontextmanager
async def world(
    directory: Path,
    *,
    rule: str | None = None,
    settings: Sequence[Mapping[str, str]] = ({}, {}, {}),
    of_postgres: Mapping[str, str] = _FAST_POSTGRES,
    behaviours: Sequence[str] = BEHAVIOURS,
) -> AsyncGenerator[World]:
    """All of it, ready: a server for each of the `settings`, which go over those chosen here. `rule` is a guard to break, see
    `bench.chaos_breaks`. Nothing that was started is left at the end."""
    async with AsyncExitStack() as stack:
        postgres = Postgres(directory / "postgres", of_postgres)
        url = await postgres.start()
        stack.push_async_callback(postgres.stop)
        upstream = await stack.enter_async_context(Upstream.serve())
        upstream.received = deque()
        await _prepare(url, behaviours)
        environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
            **_SETTINGS,
            "PYTHONPATH": str(PROJECT),
            "DATABASE_URL": url,
            "OPENAI_BASE_URL": upstream.url,
            "FRESHET_DATA_DIR": str(directory),
        }
        running: list[Server] = []
        born_in = stack.enter_context(nursery(rule or "nothing"))
        for number, own in enumerate(settings):
            port = free_port()
            running.append(
                Server(number, port, directory, {**environment, **own, "PORT": str(port)}, born_in)
            )
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        made = World(postgres, url, upstream, running, tasks)
        stack.callback(_end, running)
        stack.callback(_cancel, made.restarts)
        await asyncio.gather(*map(made.started, running))
        for server in running:
            if server.life is None or not server.life.is_ready:
                raise DidNotStart(f"server {server.number} did not start:\n{server.tail_of_log()}")
        yield made


def _end(servers: list[Server]) -> None:
    for server in servers:
        server.send(signal.SIGCONT)
        server.send(signal.SIGKILL)
        if server.life is not None:
            server.life.process.wait()


def _cancel(tasks: Sequence["asyncio.Task[bool]"]) -> None:
    for task in tasks:
        task.cancel()


async def _prepare(url: str, behaviours: Sequence[str]) -> None:
    """The schema, and an assistant for each behaviour of the model."""
    engine = create_engine(url, DatabaseSettings())
    try:
        await migrations.migrate(engine)
        assistants = AssistantService(Sessions(engine))
        for behaviour in {_WARM, *behaviours}:
            await assistants.create(name=behaviour, slug=assistant_of(behaviour), model=behaviour)
    finally:
        await engine.dispose()
    with redirect_stderr(io.StringIO()):
        await fill(url, _CHUNKS, assistant_of(GROUNDED), f"{_EMBEDDER}/{_DIMENSIONS}", _DIMENSIONS)
    connection = await asyncpg.connect(_plain(url))
    await connection.execute(
        "UPDATE assistants SET model = $1 WHERE slug = $2", GROUNDED, assistant_of(GROUNDED)
    )
    await connection.close()


async def _first_answer(server: Server) -> bytes:
    body = {"message": "Good morning", "assistant_id": assistant_of(_WARM)}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STARTING_S)) as http:
        try:
            async with http.post(f"{server.url}/api/v1/chat/stream", json=body) as response:
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return repr(error).encode()
