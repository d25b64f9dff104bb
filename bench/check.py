"""Checks the measuring kit by itself: every fault of the upstream must be noticed, and nothing else be called one."""

import argparse
import asyncio
import json
import os
import sys
import time

from bench.client import Format
from bench.load import Load, closed_loop
from bench.machine import cpu_s, run_until_stopped
from bench.upstream import Upstream

_TOKENS = 20
_BUSY_S = 0.3

# The part of the behaviour's name, and what the load generator has to say of every answer; nothing if it is whole.
EXPECTED = {
    "": "",
    "ts": "",
    "c4": "",
    "w16": "",
    "r200": "",
    "t20": "",
    "drip": "",
    "e503": "HTTP 503",
    "e429": "HTTP 429",
    "cut5": "connection closed before the end",
    "rst5": "connection closed before the end",
    "fin5": "incomplete",
    "garb5": "bad line",
    "serr5": "error in the stream",
    "long8": "",
    "hang": "no end within the limit",
    "hanghdr": "no end within the limit",
    "stall5": "no end within the limit",
}


async def failures() -> list[str]:
    found: list[str] = []
    async with Upstream.serve() as upstream:
        for part, expected in EXPECTED.items():
            fault = await _fault(upstream, f"fake-n{_TOKENS}" + (f"-{part}" if part else ""))
            if not (fault.startswith(expected) if expected else not fault):
                found.append(f"{part or 'plain'}: {fault!r} where {expected!r} was expected")
        async with asyncio.timeout(5):
            await upstream.until(lambda stats: stats.open == 0)
        if upstream.stats.abandoned != sum(said == "no end within the limit" for said in EXPECTED.values()):
            found.append(f"{upstream.stats.abandoned} abandoned streams were counted")
    return found


async def _fault(upstream: Upstream, behaviour: str, stream_format: Format = "openai") -> str:
    body = json.dumps({"model": behaviour, "stream": True, "messages": []})
    load = Load(
        f"{upstream.url}/chat/completions", [body], format=stream_format, expected_tokens=_TOKENS, limit_s=0.3
    )
    measured = await closed_loop(load, clients=1, requests=1)
    return next(iter(measured["faults"]), "")


def cpu_error() -> float:
    """How far the CPU time read from /proc is from this process's own account, over some tenths of a second."""
    own_before, read_before = time.process_time(), cpu_s([os.getpid()])
    while time.process_time() - own_before < _BUSY_S:
        pass
    return cpu_s([os.getpid()]) - read_before - (time.process_time() - own_before)


async def _check() -> None:
    found = await failures()
    if abs(error := cpu_error()) > 0.03:
        found.append(f"CPU time from /proc is {error:.3f} s off")
    await asyncio.sleep(0)
    print("\n".join(found) or "The measuring kit measures right.")
    if found:
        sys.exit(1)


def main() -> None:
    argparse.ArgumentParser(prog="python -m bench.check", description=__doc__).parse_args()
    run_until_stopped(_check())


if __name__ == "__main__":
    main()
