"""Plays a programme: its clients and its disturbances at their times, until all has settled."""

import asyncio
import signal
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from bench.chaos_clients import Clients
from bench.chaos_journal import Journal, now
from bench.chaos_plan import LASTS_S, Conversation, Disturbance, Programme
from bench.chaos_servers import Server, waited_for_processor_s
from bench.chaos_world import SILENCE_S, World

LIMIT_S = LASTS_S + 14.0
"""When whoever still follows an answer gives up."""
_SETTLING_S = 20.0
_ENDING_S = 25.0
_WATCH_EVERY_S = 0.15
_TRIES = 5
# Of the time after which a process counts as gone.
_SAMPLES = round(SILENCE_S / _WATCH_EVERY_S)
_STARVED_S = SILENCE_S / 2

_TWO_AT_ONCE = "SELECT session_id FROM runs WHERE status = 'running' GROUP BY session_id HAVING count(*) > 1"
_OPEN = """
    SELECT runs.id, runs.status, now() - heartbeat_at AS silent FROM runs LEFT JOIN processes ON processes.id = process_id
    WHERE status IN ('queued', 'running')
"""
_OPEN_OF = "SELECT id::text FROM runs WHERE status IN ('queued', 'running') AND id::text = ANY ($1)"
_DATABASE_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@dataclass(frozen=True, slots=True)
class Done:
    """A disturbance that came about: of the process `pid`, from when to when."""

    what: Disturbance
    pid: int
    began: float
    ended: float


@dataclass(slots=True)
class Played:
    """`problems` are those that can be seen only while it is going on."""

    programme: Programme
    journal: Journal
    disturbances: list[Done] = field(default_factory=list[Done])
    problems: list[str] = field(default_factory=list[str])
    starved: set[int] = field(default_factory=set[int])
    """Servers that waited so long for a processor that others may have taken them for dead."""
    interrupted_for_want_of_a_processor: int = 0
    two_at_once: set[str] = field(default_factory=set[str])
    """Sessions in which two answers were made at once."""
    began: float = 0.0

    @property
    def database_was_away(self) -> bool:
        return any(done.what.kind == "database" for done in self.disturbances)


class Play:
    def __init__(self, world: World, programme: Programme) -> None:
        self.world = world
        self.clients = Clients(world.servers, now() + LIMIT_S)
        self.played = Played(programme, self.clients.journal, began=now())
        self._database_in_use = asyncio.Lock()
        self._over = asyncio.Event()

    async def run(self) -> Played:
        programme, played = self.played.programme, self.played
        self.world.upstream.set("fake")
        self.world.upstream.received.clear()
        async with asyncio.TaskGroup() as all_tasks:
            all_tasks.create_task(self._watch())
            all_tasks.create_task(self._watch_machine())
            async with asyncio.TaskGroup() as tasks:
                for number, conversation in enumerate(programme.conversations):
                    tasks.create_task(self._converse(conversation, f"[{programme.seed}.{number}"))
                for disturbance in programme.disturbances:
                    tasks.create_task(self._disturb(disturbance))
            await self._until_settled()
            self._over.set()
        return played

    async def _converse(self, conversation: Conversation, name: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, turn in enumerate(conversation.turns):
                await self._until(turn.at_s)
                tasks.create_task(self.clients.ask(conversation, turn, f"{name}.{number}]"))
            if conversation.end is not None:
                at_s, server, purge = conversation.end
                await self._until(at_s)
                await self.clients.remove(conversation.session_id, server, purge=purge)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self.played.began + at_s - now()))

    async def _disturb(self, what: Disturbance) -> None:
        await self._until(what.at_s)
        if what.kind == "database":
            await self._take_the_database_away(what)
            return
        server = self.world.servers[what.server]
        life = server.life
        if life is None or not (life.is_ready and server.running) or server.frozen or life.expected_to_end:
            return
        began, pid = now(), life.process.pid
        match what.kind:
            case "kill":
                server.send(signal.SIGKILL)
                await server.ended(_ENDING_S)
                self._restart(server)
            case "term":
                await self._terminate(server, what)
                self._restart(server)
            case _:
                server.send(signal.SIGSTOP)
                await asyncio.sleep(what.lasts_s)
                server.send(signal.SIGCONT)
        self.played.disturbances.append(Done(what, pid, began, now()))

    async def _take_the_database_away(self, what: Disturbance) -> None:
        async with self._database_in_use:
            began = now()
            await self.world.postgres.stop(crash=what.crash)
            await asyncio.sleep(what.lasts_s)
            await self.world.postgres.start()
            self.played.disturbances.append(Done(what, 0, began, now()))

    async def _terminate(self, server: Server, what: Disturbance) -> None:
        """With the signals behind the first; when it has ended in order, no run of it may be left open."""
        life, began = server.life, now()
        assert life is not None
        server.send(signal.SIGTERM)
        for after_s in what.signals:
            await asyncio.sleep(max(0.0, began + after_s - now()))
            server.send(signal.SIGTERM)
        if not await server.ended(_ENDING_S):
            self.played.problems.append(
                f"server {server.number} does not end within {_ENDING_S} s of SIGTERM"
            )
            server.send(signal.SIGKILL)
            await server.ended(_ENDING_S)
            return
        if life.process.returncode not in (0, -signal.SIGTERM):
            self.played.problems.append(
                f"server {server.number} ended with {life.process.returncode} after SIGTERM: {server.tail_of_log()}"
            )
        taken = {
            request.run_id
            for question in self.played.journal.questions
            for request in question.requests
            if request.run_id and request.life == life.process.pid and len(question.requests) == 1
        }
        away = any(done.what.kind == "database" and done.ended > began for done in self.played.disturbances)
        if away or not self.world.postgres.up:
            return
        with suppress(*_DATABASE_ERRORS):
            async with self.world.connection() as connection:
                left = [row[0] for row in await connection.fetch(_OPEN_OF, list(taken))]
            if left and self.world.postgres.up:
                self.played.problems.append(
                    f"server {server.number} ended in order and left runs open: {left}"
                )

    def _restart(self, server: Server) -> None:
        async def start() -> bool:
            for _ in range(_TRIES):
                if await self.world.started(server):
                    return True
                # The database may be away while it starts.
                await asyncio.sleep(0.5)
            return False

        self.world.restarts.append(self.world.tasks.create_task(start()))

    async def _watch(self) -> None:
        """Sees whether two answers are ever made in one session at once."""
        while not self._over.is_set():
            with suppress(*_DATABASE_ERRORS):
                async with self.world.connection() as connection:
                    while not self._over.is_set():
                        for row in await connection.fetch(_TWO_AT_ONCE):
                            self.played.two_at_once.add(row[0])
                        await asyncio.sleep(_WATCH_EVERY_S)
            await asyncio.sleep(_WATCH_EVERY_S)

    async def _watch_machine(self) -> None:
        waited: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_SAMPLES))
        while not self._over.is_set():
            for server in self.world.servers:
                if server.life is not None and (wait_s := waited_for_processor_s(server)) is not None:
                    samples = waited[server.life.process.pid]
                    samples.append(wait_s)
                    if samples[-1] - samples[0] > _STARVED_S:
                        self.played.starved.add(server.number)
            await asyncio.sleep(_WATCH_EVERY_S)

    async def _until_settled(self) -> None:
        """No run is open any more: those of dead processes have been ended by others."""
        give_up_at = time.monotonic() + _SETTLING_S
        async with self.world.connection() as connection:
            while rows := await connection.fetch(_OPEN):
                if time.monotonic() > give_up_at:
                    self.played.problems += [
                        f"run {row['id']} is still {row['status']}, its process was silent for {row['silent']}"
                        for row in rows
                    ]
                    return
                await asyncio.sleep(SILENCE_S / 16)
