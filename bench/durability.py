"""What it costs that answers outlive their process, and how soon others know: `python -m bench.durability`.

The cost is that of the same streams in two servers on one PostgreSQL, in turns: one that writes checkpoints and one that does not.
The times are from a request, or a kill, to what it brings about, seen by clients and by the model.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import aiohttp
import asyncpg

from bench.chaos_plan import assistant_of
from bench.chaos_servers import Server, spent_cpu_s
from bench.chaos_world import World, world
from bench.machine import run_until_stopped
from bench.servers import DidNotStart

_LEVELS = (1, 100, 1000)
# A token each 200 ms and stream: a thousand of them are what two cores can do beside the rest.
_RATE = 5
_SETTLING_S = 3.0
_ENDING_S = 120.0
_PACED = f"fake-n100000-r{_RATE}"
_SPEAKING = "fake-n2000-r50"
_ENDED = "fake-n300"
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_DEFAULT = {"PROCESS_HEARTBEAT_S": "2.5", "HEARTBEAT_S": "15", "MODEL_SILENCE_S": "30", "DB_POOL_SIZE": "10"}
_WITHOUT = {**_DEFAULT, "CHECKPOINT_S": "3600"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Over a window, in which so many tokens came."""

    tokens: int
    seconds: float
    server_s: float
    postgres_s: float
    wal_bytes: int

    def figures(self) -> dict[str, float]:
        return {
            "server, µs a token": self.server_s / self.tokens * 1e6,
            "PostgreSQL, µs a token": self.postgres_s / self.tokens * 1e6,
            "server, % of a core": self.server_s / self.seconds * 100,
            "PostgreSQL, % of a core": self.postgres_s / self.seconds * 100,
            "WAL, kB a second": self.wal_bytes / self.seconds / 1000,
        }


class _Stream(asyncio.Protocol):
    """Asks, and takes what comes without looking at it."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)


async def _cost(made: World, server: Server, streams: int, window_s: float) -> Cost:
    loop, upstream = asyncio.get_running_loop(), made.upstream
    before = upstream.stats.open
    open_streams: list[asyncio.BaseTransport] = []
    sessions = [str(uuid4()) for _ in range(streams)]
    for session_id in sessions:
        body = json.dumps({"message": "Go", "assistant_id": assistant_of(_PACED), "session_id": session_id})
        request = f"POST /api/v1/chat/stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        transport, _ = await loop.create_connection(
            lambda request=request: _Stream(request.encode()), "127.0.0.1", server.port
        )
        open_streams.append(transport)
    async with asyncio.timeout(_ENDING_S):
        await upstream.until(lambda stats: stats.open >= before + streams)
    await asyncio.sleep(_SETTLING_S)
    async with made.connection() as connection:
        first = await _now(made, server, connection)
        await asyncio.sleep(window_s)
        last = await _now(made, server, connection)
        # A thousand stops would take longer than the measurement, and leave their rows to the next.
        server.send(signal.SIGKILL)
        await server.ended(_ENDING_S)
        await connection.execute("DELETE FROM sessions")
    for transport in open_streams:
        transport.close()
    if not await made.started(server):
        raise DidNotStart(server.tail_of_log())
    async with asyncio.timeout(_ENDING_S):
        await upstream.until(lambda stats: stats.open <= before)
    tokens, seconds, server_s, postgres_s, written = (b - a for a, b in zip(first, last, strict=True))
    return Cost(int(tokens), seconds, server_s, postgres_s, int(written))


async def _now(
    made: World, server: Server, connection: "asyncpg.Connection[asyncpg.Record]"
) -> tuple[int, float, float, float, int]:
    written = int(
        await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
    )
    spent = spent_cpu_s([server]), _postgres_s(made.postgres.pid)
    return made.upstream.stats.tokens, time.monotonic(), *spent, written


def _postgres_s(postmaster: int) -> float:
    """Processor time of the database's server and of all its processes, also of those that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid = int(path.parent.name)
            fields = path.read_text().rpartition(")")[2].split()
            if pid == postmaster:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == postmaster:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_A_SECOND


async def _stop(http: aiohttp.ClientSession, server: Server, session_id: str) -> None:
    async with http.post(f"{server.url}/api/v1/chat/{session_id}/stop") as response:
        await response.read()


class _Answer:
    """An answer that has begun to be spoken, and its first reader."""

    def __init__(self, http: aiohttp.ClientSession, server: Server, behaviour: str) -> None:
        self._http = http
        self._body = {"message": "Go", "assistant_id": assistant_of(behaviour), "session_id": str(uuid4())}
        self._server = server
        self.session_id = self._body["session_id"]

    async def __aenter__(self) -> "_Answer":
        self.response = await self._http.post(f"{self._server.url}/api/v1/chat/stream", json=self._body)
        async for line in self.response.content:
            if b'"token"' in line:
                return self
        raise AssertionError("the answer ended before it began")

    async def __aexit__(self, *_: object) -> None:
        self.response.close()


async def _stopped_after(made: World, http: aiohttp.ClientSession, owner: Server, asked: Server) -> float:
    async with _Answer(http, owner, _SPEAKING) as answer:
        open_now = made.upstream.stats.open
        async with asyncio.TaskGroup() as tasks:
            began = time.perf_counter()
            tasks.create_task(_stop(http, asked, answer.session_id))
            await made.upstream.until(lambda stats: stats.open < open_now)
            ended = time.perf_counter()
        return ended - began


async def _resumed_after(http: aiohttp.ClientSession, owner: Server, asked: Server, *, ended: bool) -> float:
    """From the request to the first event."""
    async with _Answer(http, owner, _ENDED if ended else _SPEAKING) as answer:
        if ended:
            await answer.response.read()
        else:
            # So that there is something in the database.
            await asyncio.sleep(0.4)
        began = time.perf_counter()
        async with http.get(f"{asked.url}/api/v1/chat/{answer.session_id}/stream") as response:
            await response.content.readany()
            took_s = time.perf_counter() - began
        await _stop(http, owner, answer.session_id)
        return took_s


async def _known_after_kill(made: World, http: aiohttp.ClientSession, owner: Server, asked: Server) -> float:
    """From kill -9 to the last event at a reader of another process."""
    async with _Answer(http, owner, _SPEAKING) as answer:
        async with http.get(f"{asked.url}/api/v1/chat/{answer.session_id}/stream") as response:
            await response.content.readany()
            owner.send(signal.SIGKILL)
            began = time.perf_counter()
            last = b""
            async for line in response.content:
                last = line
            took_s = time.perf_counter() - began
        assert b'"interrupted"' in last, last
    await owner.ended(_ENDING_S)
    assert await made.started(owner)
    return took_s


async def _times(made: World, tries: int, kills: int) -> dict[str, list[float]]:
    owner, other, _ = made.servers
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        wanted: dict[str, tuple[int, Callable[[], Awaitable[float]]]] = {
            "stop to the model's connection closed, same process": (
                tries,
                lambda: _stopped_after(made, http, owner, owner),
            ),
            "stop to the model's connection closed, another process": (
                tries,
                lambda: _stopped_after(made, http, owner, other),
            ),
            "resume to the first event, same process": (
                tries,
                lambda: _resumed_after(http, owner, owner, ended=False),
            ),
            "resume to the first event, another process": (
                tries,
                lambda: _resumed_after(http, owner, other, ended=False),
            ),
            "resume to the first event, ended": (
                tries,
                lambda: _resumed_after(http, owner, other, ended=True),
            ),
            "kill -9 to the last event, another process": (
                kills,
                lambda: _known_after_kill(made, http, owner, other),
            ),
        }
        times: dict[str, list[float]] = {}
        for name, (count, measure) in wanted.items():
            times[name] = [await measure() for _ in range(count)]
            _say(name)
    return times


async def _costs(
    made: World, rounds: int, window_s: float, levels: Sequence[int]
) -> dict[int, dict[str, list[Cost]]]:
    with_checkpoints, _, without = made.servers
    costs: dict[int, dict[str, list[Cost]]] = {}
    for streams in levels:
        costs[streams] = {"with": [], "without": []}
        for number in range(rounds):
            turns = [("with", with_checkpoints), ("without", without)]
            for name, server in turns if number % 2 == 0 else reversed(turns):
                costs[streams][name].append(await _cost(made, server, streams, window_s))
                _say(f"{streams} streams, {name} checkpoints")
    return costs


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


def _cost_table(costs: dict[int, dict[str, list[Cost]]]) -> str:
    rows = ["| streams | what | with checkpoints | without | ratio |", "| ---: | --- | ---: | ---: | ---: |"]
    for streams, by_name in costs.items():
        figures = {name: [cost.figures() for cost in several] for name, several in by_name.items()}
        for what in figures["with"][0]:
            a, b = (statistics.median(one[what] for one in figures[name]) for name in ("with", "without"))
            ratio = f"{a / b:.2f}" if b > 0 else "–"
            rows.append(f"| {streams:,} | {what} | {a:.1f} | {b:.1f} | {ratio} |")
    return "\n".join(rows)


def _time_table(times: dict[str, list[float]]) -> str:
    rows = ["| from … to | tries | median, ms | 95th percentile, ms |", "| --- | ---: | ---: | ---: |"]
    for name, several in times.items():
        p95 = sorted(several)[min(len(several) - 1, int(len(several) * 0.95))]
        rows.append(f"| {name} | {len(several)} | {statistics.median(several) * 1e3:.1f} | {p95 * 1e3:.1f} |")
    return "\n".join(rows)


async def _main(arguments: argparse.Namespace) -> None:
    behaviours = (_PACED, _SPEAKING, _ENDED)
    with tempfile.TemporaryDirectory(prefix="freshet-durability-") as name:
        settings: list[dict[str, Any]] = [_DEFAULT, _DEFAULT, _WITHOUT]
        async with world(Path(name), settings=settings, behaviours=behaviours) as made:
            if arguments.only != "costs":
                print(_time_table(await _times(made, arguments.tries, arguments.kills)), flush=True)
            if arguments.only == "times":
                return
            costs = await _costs(made, arguments.rounds, arguments.window, arguments.streams or _LEVELS)
            print(_cost_table(costs))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.durability", description=__doc__)
    parser.add_argument("--only", choices=("times", "costs"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, default=8.0, help="seconds of each measurement")
    parser.add_argument(
        "--streams", type=int, action="append", help="in place of 1, 100 and 1,000; may be given again"
    )
    parser.add_argument("--tries", type=int, default=60)
    parser.add_argument("--kills", type=int, default=8)
    run_until_stopped(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
