"""Random programmes against Freshet: clients that come, leave and resume, while processes and the database are killed and frozen.

Each is drawn from its seed: two or three servers on one PostgreSQL, a model with faults, and a few seconds of what
clients and accidents do. After each, all that was seen and stored is checked. Exit code 1 if a promise was broken; the seed of the
programme that found it is printed, and runs alone with `--seed N --count 1`.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos_breaks import DROPPED_INDEXES, RULES
from bench.chaos_checks import problems
from bench.chaos_plan import draw
from bench.chaos_play import Play
from bench.chaos_processes import Processes
from bench.chaos_tally import count, table
from bench.chaos_world import World, world
from bench.machine import run_until_stopped

_RESTARTING_S = 120.0


@dataclass(slots=True)
class Result:
    """`violations` by the seed of the programme."""

    programmes: int = 0
    violations: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    counts: Counter[str] = field(default_factory=Counter[str])


async def run(
    seeds: Sequence[int],
    *,
    rule: str | None = None,
    sought: str = "",
    keep_going: bool = False,
    out: Path | None = None,
) -> Result:
    """Plays the programmes one after the other, in the same processes as far as they live, up to the first violation that says
    what is `sought`."""
    result = Result()
    with tempfile.TemporaryDirectory(prefix="freshet-chaos-") as name:
        directory = Path(name)
        async with world(directory, rule=rule) as made:
            processes = Processes(made)
            for seed in seeds:
                began = time.monotonic()
                found = await _programme(made, seed, rule, processes, result.counts)
                result.programmes += 1
                print(
                    f"{seed:6} {time.monotonic() - began:5.1f} s  {len(found)} violations",
                    file=sys.stderr,
                    flush=True,
                )
                if found:
                    result.violations[seed] = found
                    print("\n".join(f"       {what}" for what in draw(seed).disturbances), file=sys.stderr)
                    print("\n".join(f"       {what}" for what in found[:12]), file=sys.stderr, flush=True)
                    if out is not None:
                        _keep_logs(directory, out / str(seed))
                    if not keep_going and any(sought in what for what in found):
                        break
            print("\n".join(processes.summary()), file=sys.stderr)
    return result


async def _programme(
    made: World, seed: int, rule: str | None, processes: Processes, counts: Counter[str]
) -> list[str]:
    await _all_running(made)
    if rule in DROPPED_INDEXES:
        async with made.connection() as connection:
            await connection.execute(f"DROP INDEX IF EXISTS {DROPPED_INDEXES[rule]}")
    play = Play(made, draw(seed))
    try:
        played = await play.run()
        found = await problems(play)
        count(played, counts)
    finally:
        await play.clients.close()
    await _all_running(made)
    found += await processes.problems()
    async with made.connection() as connection:
        await connection.execute("DELETE FROM sessions")
    return found


async def _all_running(made: World) -> None:
    async with asyncio.timeout(_RESTARTING_S):
        started = await asyncio.gather(*made.restarts)
    made.restarts.clear()
    if not all(started):
        raise RuntimeError("a server could not be started again")


def _keep_logs(directory: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for log in directory.glob("*.log"):
        (out / log.name).write_bytes(log.read_bytes())


async def _main(arguments: argparse.Namespace) -> None:
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    began = time.monotonic()
    result = await run(seeds, rule=arguments.rule, keep_going=arguments.keep_going, out=arguments.out)
    print(table(result.counts, result.programmes, time.monotonic() - began))
    if result.violations:
        print("Violated by the programmes " + ", ".join(map(str, result.violations)))
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first programme; the next has the next number"
    )
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument(
        "--break", dest="rule", choices=sorted(RULES), help="break this guard in every server"
    )
    parser.add_argument("--keep-going", action="store_true", help="also after a violation")
    parser.add_argument(
        "--out", type=Path, help="where to keep the servers' logs of programmes that found something"
    )
    run_until_stopped(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
