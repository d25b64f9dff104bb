"""A load of streamed answers: every stream is checked to be whole and in order, and the server's cost read from /proc.

Closed loop: each of --clients asks --requests times, the next when the last has ended. With --hold, opens streams up
to each level instead, and reads memory and CPU while they are open. The token texts must be the fake upstream's.
"""

import argparse
import asyncio
import gc
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from bench.client import Answer, Connection, Format, Timings
from bench.machine import cpu_s, rss_bytes, run_until_stopped

Report = dict[str, Any]
_CONNECT_ATTEMPTS = 20
_OPENED_TOGETHER = 50
_OPENING_PAUSE_S = 0.05


@dataclass
class Load:
    """What is asked, where; `bodies` are taken in turn, and `$I` in them is the number of the request."""

    url: str
    bodies: Sequence[str]
    format: Format = "ndjson"
    expected_tokens: int | None = None
    limit_s: float | None = 120.0
    pids: Sequence[int] = ()
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self._numbers = zip(count(), cycle(self.bodies), strict=False)
        parts = urlsplit(self.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def connect(self) -> Connection:
        """Tries for some seconds, since a server's queue of connections may be full when a thousand come at once."""
        loop = asyncio.get_running_loop()
        for attempt in range(1, _CONNECT_ATTEMPTS):
            try:
                return await self._connect_once(loop)
            except OSError:
                await asyncio.sleep(0.05 * attempt)
        return await self._connect_once(loop)

    async def _connect_once(self, loop: asyncio.AbstractEventLoop) -> Connection:
        _, connection = await loop.create_connection(
            lambda: Connection(self.format, self.timings), self._host, self._port
        )
        return connection

    def request(self) -> bytes:
        number, template = next(self._numbers)
        body = template.replace("$I", str(number)).encode()
        head = (
            f"POST {self._target} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Accept: {'text/event-stream' if self.format == 'sse' else '*/*'}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def ask(self, connection: Connection | None = None) -> tuple[Connection, Answer]:
        if connection is None or not connection.usable:
            connection = await self.connect()
        return connection, await connection.ask(self.request(), limit_s=self.limit_s)


async def closed_loop(load: Load, *, clients: int, requests: int, warmup: int = 0) -> Report:
    """The figures of `clients` x `requests` answers, after `warmup` answers that count for nothing."""
    connection = None
    for _ in range(warmup):
        connection, _ = await load.ask(connection)
    load.timings.clear()
    gc.collect()
    gc.freeze()

    async def client() -> list[Answer]:
        connection = await load.connect()
        answers: list[Answer] = []
        for _ in range(requests):
            connection, answer = await load.ask(connection)
            answers.append(answer)
        connection.transport.close()
        return answers

    cpu_before, started_at = cpu_s(load.pids), perf_counter()
    answers = [
        answer for some in await asyncio.gather(*(client() for _ in range(clients))) for answer in some
    ]
    wall_s = perf_counter() - started_at
    return _report(load, answers, wall_s=wall_s, server_cpu_s=cpu_s(load.pids) - cpu_before)


def _report(load: Load, answers: Sequence[Answer], *, wall_s: float, server_cpu_s: float) -> Report:
    faults = Counter(fault for answer in answers if (fault := answer.fault(load.expected_tokens)))
    tokens = sum(len(answer.indexes()) for answer in answers)
    report: Report = {
        "url": load.url,
        "requests": len(answers),
        "whole": len(answers) - faults.total(),
        "faults": dict(faults),
        "error_example": next((answer.error_line for answer in answers if answer.error_line), ""),
        "wall_s": round(wall_s, 3),
        "tokens": tokens,
        "tokens_per_s": round(tokens / wall_s, 1),
        "tokens_per_event": round(tokens / max(1, sum(answer.events for answer in answers)), 2),
        "requests_per_s": round(len(answers) / wall_s, 1),
        "headers_ms": _percentiles_ms([a.headers_at - a.asked_at for a in answers if a.headers_at]),
        "first_token_ms": _percentiles_ms(
            [a.first_token_at - a.asked_at for a in answers if a.first_token_at]
        ),
        "total_ms": _percentiles_ms([a.ended_at - a.asked_at for a in answers]),
        "gap_ms": _percentiles_ms(load.timings.gaps_s),
        "one_way_ms": _percentiles_ms(load.timings.one_way_s),
        "step_ms": _step_medians_ms(answers),
        "load_cpu_s": round(process_time(), 3),
    }
    if load.pids:
        report |= {
            "server_cpu_s": round(server_cpu_s, 3),
            "server_cpu_us_per_token": round(1e6 * server_cpu_s / max(1, tokens), 2),
            "server_cpu_ms_per_request": round(1e3 * server_cpu_s / len(answers), 3),
            "server_rss_mib": round(rss_bytes(load.pids) / 2**20, 1),
        }
    return report


def _percentiles_ms(seconds: "Sequence[float] | array[float]") -> Mapping[str, float]:
    """p50, p90, p99 and the largest; nothing of nothing."""
    if not len(seconds):
        return {}
    p50, p90, p99, largest = (float(value) for value in np.percentile(np.asarray(seconds), [50, 90, 99, 100]))
    return {
        name: round(value * 1e3, 3)
        for name, value in (("p50", p50), ("p90", p90), ("p99", p99), ("max", largest))
    }


def _step_medians_ms(answers: Sequence[Answer]) -> Mapping[str, float]:
    """The server's own account of its steps, where it gives one."""
    names = {name for answer in answers for name in answer.step_s}
    return {
        name: round(1e3 * float(np.median([a.step_s[name] for a in answers if name in a.step_s])), 3)
        for name in sorted(names)
    }


async def hold(
    load: Load, levels: Sequence[int], *, settle_s: float, window_s: float, opening_limit_s: float
) -> Report:
    """Opens streams up to each level, waits until all have had a token and `settle_s` more, then measures `window_s`."""
    streams: list[asyncio.Task[tuple[Connection, Answer]]] = []
    rows: list[Report] = []
    try:
        for level in levels:
            opening_at = perf_counter()
            while len(streams) < level:
                more = min(_OPENED_TOGETHER, level - len(streams))
                streams += [asyncio.create_task(load.ask()) for _ in range(more)]
                await asyncio.sleep(_OPENING_PAUSE_S)
            while load.timings.started < level and perf_counter() - opening_at < opening_limit_s:  # noqa: ASYNC110  # a count, not an event
                await asyncio.sleep(0.1)
            opening_s = perf_counter() - opening_at
            await asyncio.sleep(settle_s)
            rows.append(await _level(load, window_s))
            rows[-1] |= {
                "streams": level,
                "open": sum(not stream.done() for stream in streams),
                "opening_s": round(opening_s, 2),
            }
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    first, last = rows[0], rows[-1]
    grown_kib = (last["rss_mib"] - first["rss_mib"]) * 1024
    return {
        "url": load.url,
        "levels": rows,
        "kib_per_stream": round(grown_kib / max(1, last["streams"] - first["streams"]), 1),
    }


async def _level(load: Load, window_s: float) -> Report:
    tokens_before, cpu_before, started_at = len(load.timings.gaps_s), cpu_s(load.pids), perf_counter()
    await asyncio.sleep(window_s)
    wall_s = perf_counter() - started_at
    cpu = cpu_s(load.pids) - cpu_before
    tokens = len(load.timings.gaps_s) - tokens_before
    return {
        "started": load.timings.started,
        "rss_mib": round(rss_bytes(load.pids) / 2**20, 2),
        "cpu_percent": round(100 * cpu / wall_s, 1),
        "tokens_per_s": round(tokens / wall_s, 1),
        "cpu_us_per_token": round(1e6 * cpu / max(1, tokens), 1),
        "gap_ms": _percentiles_ms(load.timings.gaps_s[tokens_before:]),
    }


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    add = parser.add_argument
    add("url")
    add("--body", default="{}", help="JSON; $I becomes the number of the request")
    add("--bodies", type=Path, help="a file with one JSON body a line, taken in turn, instead of --body")
    add("--format", choices=["ndjson", "sse", "openai"], default="ndjson")
    add("--expect", type=int, metavar="N", help="the tokens of every answer, 0 to N-1")
    add("--clients", type=int, default=1)
    add("--requests", type=int, default=1, help="of each client")
    add("--warmup", type=int, default=0, help="requests before it begins to count")
    add("--limit", type=float, default=120.0, help="seconds for one answer")
    add(
        "--pids",
        type=_numbers,
        default=[],
        help="the server's, by comma; with what they started, without PostgreSQL",
    )
    add("--hold", type=_numbers, metavar="LEVELS", help="open streams at each level, as 0,1000")
    add("--settle", type=float, default=2.0, help="seconds of rest before each level is measured")
    add("--window", type=float, default=6.0, help="seconds that each level is measured")
    add(
        "--opening",
        type=float,
        default=90.0,
        help="seconds at most for all streams of a level to have a token",
    )
    add("--out", type=Path, help="a file for the JSON that is printed")
    return parser


async def _run(arguments: argparse.Namespace) -> None:
    bodies = arguments.bodies.read_text().splitlines() if arguments.bodies else [arguments.body]
    load = Load(
        arguments.url,
        bodies,
        format=arguments.format,
        expected_tokens=arguments.expect,
        limit_s=arguments.limit,
        pids=arguments.pids,
    )
    if arguments.hold:
        load.limit_s = None
        report = await hold(
            load,
            arguments.hold,
            settle_s=arguments.settle,
            window_s=arguments.window,
            opening_limit_s=arguments.opening,
        )
    else:
        report = await closed_loop(
            load, clients=arguments.clients, requests=arguments.requests, warmup=arguments.warmup
        )
    written = msgspec.json.encode(report)
    if arguments.out:
        arguments.out.write_bytes(written)
    print(written.decode())


def main() -> None:
    gc.set_threshold(100_000, 50, 50)
    run_until_stopped(_run(_parser().parse_args()))


if __name__ == "__main__":
    main()
