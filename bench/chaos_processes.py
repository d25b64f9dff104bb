"""Whether a process leaves something behind: tasks, files and sockets, connections to the database, memory."""

import asyncio
from collections.abc import Iterator

from bench.chaos_servers import Life, Server, open_files, tasks_of
from bench.chaos_world import POOL, World
from bench.machine import rss_bytes

# Of the pool, and one each to listen for runs and for the queue's jobs; they are opened when they are first needed.
_CONNECTIONS_OF_ONE = POOL + 2
_FILES_SLACK = _CONNECTIONS_OF_ONE + 1
# What is being done at any moment: a beat, a read for the mirrors.
_TASKS_SLACK = 4
_MEMORY_FACTOR = 2.0
_SETTLING_TRIES = 60


_FAILED = (" ERROR ", " CRITICAL ", "Exception Group Traceback")
# What the pool says of a connection whose closing was broken off by one more signal to stop.
_CLOSING = "Exception closing connection"
_CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class Processes:
    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[int, Life] = {}
        self._memory: dict[int, int] = {}

    async def problems(self) -> list[str]:
        """When nothing goes on."""
        found: list[str] = []
        # Connections to the model that are kept for the next call are none that was left behind.
        for connection in list(self._world.upstream.connections):
            connection.transport.close()
        for server in self._world.servers:
            found += self._of_log(server)
            life = server.life
            if server.has_ended_by_itself:
                await self._world.started(server)
            elif life is not None:
                found += await self._of_process(server, life)
            found += [f"server {server.number}: {said}" for said in server.surprises]
            server.surprises.clear()
        connections = await self._connections()
        if connections > (most := len(self._world.servers) * _CONNECTIONS_OF_ONE):
            found.append(f"{connections} connections to the database are open, more than {most}")
        return found

    async def _of_process(self, server: Server, life: Life) -> list[str]:
        pid = life.process.pid
        life.programmes += 1
        self._seen[pid] = life
        files = tasks = 0
        for _ in range(_SETTLING_TRIES):
            files, tasks = open_files(pid), await tasks_of(server)
            if files <= life.files_at_first + _FILES_SLACK and tasks <= life.tasks_at_first + _TASKS_SLACK:
                break
            await asyncio.sleep(0.05)
        else:
            began = f"{life.files_at_first} and {life.tasks_at_first}"
            now = f"{files} open files and {tasks} tasks after {life.programmes} programmes"
            return [f"server {server.number} has {now}, and began with {began}"]
        self._memory[pid] = rss_bytes([pid])
        if life.programmes > 1 and self._memory[pid] > _MEMORY_FACTOR * life.memory_at_first:
            return [
                f"server {server.number} has grown from {life.memory_at_first} to {self._memory[pid]} bytes"
            ]
        return []

    def _of_log(self, server: Server) -> Iterator[str]:
        lines = server.new_lines_of_log()
        for place, line in enumerate(lines):
            if any(word in line for word in _FAILED) and _CLOSING not in line:
                rest = "\n".join(lines[place : place + 60])
                yield f"server {server.number} says: {rest}"
                return

    async def _connections(self) -> int:
        async with self._world.connection() as connection:
            return int(await connection.fetchval(_CONNECTIONS))

    def summary(self) -> Iterator[str]:
        for pid, life in self._seen.items():
            if life.programmes > 1:
                yield (
                    f"process {pid}: {life.programmes} programmes, {life.memory_at_first / 2**20:.0f} MiB at first,"
                    f" {self._memory.get(pid, 0) / 2**20:.0f} MiB at last"
                )
