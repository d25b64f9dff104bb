"""What the operating system tells about processes, from Linux's /proc, and what a measuring process asks of it."""

import asyncio
import os
import resource
import signal
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

_PROC = Path("/proc")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_DATABASE = "postgres"


def process_tree(roots: Iterable[int]) -> list[int]:
    """The processes and all that descend from them, without PostgreSQL's and what descends from those."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    names: dict[int, str] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            names[int(entry.name)] = stat[0]
            children[int(stat[2])].append(int(entry.name))
    found: list[int] = []
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid in names and pid not in found and names[pid] != _DATABASE:
            found.append(pid)
            todo += children[pid]
    return found


def cpu_s(roots: Iterable[int]) -> float:
    """Processor time of the trees so far, in user mode and in the kernel, in steps of 10 ms."""
    stats = filter(None, map(_stat, process_tree(roots)))
    return sum(int(stat[12]) + int(stat[13]) for stat in stats) / _TICKS_A_SECOND


def rss_bytes(roots: Iterable[int]) -> int:
    """Resident memory of the trees; pages that processes share are counted for each."""
    total = 0
    for pid in process_tree(roots):
        with suppress(OSError):
            pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
            total += pages * resource.getpagesize()
    return total


def started_at(pid: int) -> int | None:
    """In ticks since the machine's start, which tells a process from a later one of the same number; None if gone."""
    stat = _stat(pid)
    return None if stat is None else int(stat[20])


def _stat(pid: int) -> Sequence[str] | None:
    """The name, then the fields of /proc/PID/stat from the state on, so that field 4 of proc(5) is at 2; None if gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    head, _, rest = text.rpartition(")")
    return [head.partition("(")[2], *rest.split()]


def allow_many_sockets() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run_until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Runs on uvloop until it returns; SIGTERM cancels it, as Ctrl-C does, so that every `finally` is run."""
    allow_many_sockets()
    with (
        suppress(KeyboardInterrupt, asyncio.CancelledError),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_cancelled_by_sigterm(main))


async def _cancelled_by_sigterm(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await main
