"""Measures Freshet beside the least that its work can cost, on this machine, and prints the tables.

Every server is a process of its own; the rounds go through all of them in turn, so that a busy moment of the machine
meets each. Closed loops come first, then memory and a thousand streams at once, in servers started anew.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from bench import report, scenarios, servers
from bench.machine import allow_many_sockets
from bench.product import product
from bench.report import Report
from bench.scenarios import AT_ONCE, HELD, SCENARIOS, Held, Scenario, Target
from bench.servers import PROJECT, Server

_ROUNDS = 5
_LOAD_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    quick: bool
    assistant: str
    targets: Sequence[Target]
    product_environment: Mapping[str, str]


@dataclass
class Bench:
    """The upstream that runs, a directory for all that is written, and the results so far."""

    upstream: Server
    directory: Path
    options: Options
    results: dict[str, dict[str, list[Report]]] = field(default_factory=dict[str, dict[str, list[Report]]])

    def start(self, target: Target) -> AbstractContextManager[Server]:
        log = self.directory / f"{target}.log"
        if target != "freshet":
            return servers.limit(target, self.upstream, log)
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        return product(self.upstream, data, log, self.options.product_environment)

    def wanted(self, targets: Sequence[Target]) -> list[Target]:
        return [target for target in targets if target in self.options.targets or target == "upstream"]

    def closed(self, wanted: Sequence[Scenario]) -> None:
        """All servers side by side; one round that does not count, then the rounds, every second in reverse."""
        with ExitStack() as stack:
            running: dict[Target, Server] = {"upstream": self.upstream}
            for target in self.wanted(("source", "pass_through", "freshet")):
                running[target] = stack.enter_context(self.start(target))
            for number in range(self.options.rounds + 1):
                for scenario in wanted:
                    targets = self.wanted(scenario.targets)
                    for target in targets if number % 2 else reversed(targets):
                        counted = _shorter(scenario) if self.options.quick or number == 0 else scenario
                        measured = self.ask(counted, target, running[target])
                        if number:
                            self.note(scenario, target, measured)

    def alone(self, scenario: Scenario | Held) -> None:
        """Each target in a process of its own start."""
        for target in self.wanted(("pass_through", "freshet")):
            with self.start(target) as server:
                if isinstance(scenario, Scenario):
                    self.note(scenario, target, self.ask(scenario, target, server))
                else:
                    self.note(scenario, target, self.hold(scenario, target, server))

    def ask(self, scenario: Scenario, target: Target, server: Server) -> Report:
        arguments = [
            "--expect",
            scenario.tokens,
            "--clients",
            scenario.clients,
            "--requests",
            scenario.requests,
        ]
        return self.load(scenario, target, server, [*arguments, "--warmup", 2])

    def hold(self, held: Held, target: Target, server: Server) -> Report:
        self.load(_shorter(SCENARIOS[0]), target, server, ["--clients", 10])
        return self.load(held, target, server, ["--hold", ",".join(map(str, held.levels))])

    def load(
        self, scenario: Scenario | Held, target: Target, server: Server, arguments: Sequence[str | int]
    ) -> Report:
        servers.set_behaviour(self.upstream, scenario.behaviour)
        bodies = self.directory / f"{target}.bodies"
        bodies.write_text("\n".join(scenarios.bodies(target, self.options.assistant)))
        command = [sys.executable, "-m", "bench.load", server.url + scenarios.path(target, scenario)]
        command += ["--bodies", str(bodies), "--format", "openai" if target == "upstream" else "ndjson"]
        command += ["--pids", str(server.pid), *map(str, arguments)]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, timeout=_LOAD_LIMIT_S, check=True)
        return json.loads(done.stdout)

    def note(self, scenario: Scenario | Held, target: Target, measured: Report) -> None:
        self.results.setdefault(scenario.name, {}).setdefault(target, []).append(measured)
        print(f"{scenario.name:16} {target:14} {_short(measured)}", file=sys.stderr, flush=True)


def _shorter(scenario: Scenario) -> Scenario:
    return replace(scenario, requests=max(1, scenario.requests // 5), tokens=min(scenario.tokens, 100))


def _short(measured: Report) -> str:
    if "kib_per_stream" in measured:
        return f"{measured['kib_per_stream']} KiB a stream"
    per_token, first = measured["server_cpu_us_per_token"], measured["first_token_ms"].get("p50")
    return (
        f"{per_token} µs a token, first token {first} ms, {measured['whole']} of {measured['requests']} whole"
    )


def _tables(results: Mapping[str, Mapping[str, Sequence[Report]]]) -> str:
    parts = [f"Measured {report.machine()}."]
    parts += [report.closed_table(s, results[s.name]) for s in (*SCENARIOS, AT_ONCE) if s.name in results]
    if HELD.name in results:
        parts.append(report.held_table(HELD, results[HELD.name]))
    return "\n\n".join(parts) + "\n"


def _environment_entry(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("NAME=VALUE is wanted")
    return name, value


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in (*SCENARIOS, HELD, AT_ONCE)]
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = parser.add_argument
    add(
        "--quick", action="store_true", help="one round of shorter loads: whether it works, not what it costs"
    )
    add("--only", action="append", choices=names, help="this scenario; may be given again")
    add(
        "--target",
        action="append",
        choices=["source", "pass_through", "freshet"],
        help="this server; may be given again",
    )
    add("--rounds", type=int, default=_ROUNDS)
    add("--assistant", default="freshet-docs", help="the slug of the assistant that is asked")
    add(
        "--env",
        action="append",
        default=[],
        type=_environment_entry,
        metavar="NAME=VALUE",
        help="for Freshet",
    )
    add("--out", type=Path, help="the tables as Markdown, and beside them all figures as .json")
    return parser.parse_args()


def measure(options: Options, names: Sequence[str]) -> dict[str, dict[str, list[Report]]]:
    """Raises DidNotStart. Whatever happens, nothing that was started is left."""
    with tempfile.TemporaryDirectory(prefix="freshet-bench-") as name:
        directory = Path(name)
        with servers.upstream(directory / "upstream.log") as upstream:
            bench = Bench(upstream, directory, options)
            bench.closed([scenario for scenario in SCENARIOS if scenario.name in names])
            for scenario in (HELD, AT_ONCE):
                if scenario.name in names:
                    bench.alone(scenario)
        return bench.results


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    allow_many_sockets()
    options = Options(
        rounds=1 if arguments.quick else arguments.rounds,
        quick=arguments.quick,
        assistant=arguments.assistant,
        targets=arguments.target or ["source", "pass_through", "freshet"],
        product_environment=dict(arguments.env),
    )
    names = arguments.only or [scenario.name for scenario in (*SCENARIOS, HELD, AT_ONCE)]
    try:
        results = measure(options, names)
    except servers.DidNotStart as error:
        sys.exit(str(error))
    tables = _tables(results)
    print(tables)
    if arguments.out:
        arguments.out.write_text(tables)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1))


def _exit_on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    main()
