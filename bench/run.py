"""Measures Freshet beside the least that its work can cost, on this machine, and prints the tables.

Every server is a process of its own; the rounds go through all of them in turn, so that a busy moment of the machine
meets each. Closed loops come first, then memory, a thousand streams at once and ingestion, in servers started anew.
Exit code 1 if a request failed.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import FrameType

import asyncpg
import httpx2

from bench import content, ingestion, made_up, report, scenarios, servers
from bench.machine import allow_many_sockets
from bench.product import admin_token, database_url, product
from bench.report import Report
from bench.scenarios import AT_ONCE, HELD, INGEST, NAMES, QUESTIONS, SCENARIOS, Held, Ingest, Scenario, Target
from bench.servers import PROJECT, Server

_ROUNDS = 5
_CHUNKS, _CHUNKS_QUICK = 100_000, 2_000
_WARM_UP = 2
_LOAD_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    quick: bool
    chunks: int
    targets: Sequence[Target]
    product_environment: Mapping[str, str]


@dataclass
class Outcome:
    """`failures` are of all that was asked, also of what does not count."""

    results: dict[str, dict[str, list[Report]]] = field(default_factory=dict[str, dict[str, list[Report]]])
    failures: list[str] = field(default_factory=list[str])


@dataclass
class Bench:
    """The upstream that runs, a directory for all that is written, and the outcome so far."""

    upstream: Server
    directory: Path
    options: Options
    outcome: Outcome
    questions: Iterator[str] = field(default_factory=made_up.questions)

    def start(self, target: Target) -> AbstractContextManager[Server]:
        log = self.directory / f"{target}.log"
        if target != "freshet":
            return servers.limit(target, self.upstream, log)
        return product(self.upstream, self.data, log, self.options.product_environment)

    @property
    def data(self) -> Path:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        return data

    def prepare(self, names: Sequence[str]) -> None:
        """Gives the product what will be asked for; it is started for it, as only then it has a database."""
        if "freshet" not in self.options.targets:
            return
        searches = any(scenario.searches for scenario in SCENARIOS if scenario.name in names)
        with self.start("freshet"):
            url = database_url(self.data, self.options.product_environment)
            asyncio.run(content.prepare(url, self.options.chunks if searches else None))

    def wanted(self, targets: Sequence[Target]) -> list[Target]:
        return [target for target in targets if target in self.options.targets or target == "upstream"]

    def closed(self, wanted: Sequence[Scenario]) -> None:
        """All servers side by side; one round that does not count, then the rounds, every second in reverse."""
        if not wanted:
            return
        with ExitStack() as stack:
            running: dict[Target, Server] = {"upstream": self.upstream}
            for target in self.wanted(("source", "pass_through", "freshet")):
                running[target] = stack.enter_context(self.start(target))
            for number in range(1 if self.options.quick else 0, self.options.rounds + 1):
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

    def ingest(self, ingest: Ingest) -> None:
        """The product, then the embedder alone, on new documents each round."""
        if "freshet" not in self.options.targets:
            return
        with self.start("freshet") as server:
            environment = self.options.product_environment
            token, url = admin_token(self.data, environment), database_url(self.data, environment)
            count = ingest.documents // 5 if self.options.quick else ingest.documents
            warm_up = {"warm-up.md": next(made_up.markdown(1, ingest.chunks, seed=0))}
            asyncio.run(ingestion.through_product(server, token, url, warm_up))
            for number in range(1, (1 if self.options.quick else ingest.rounds) + 1):
                texts = made_up.markdown(count, ingest.chunks, seed=number)
                documents = {f"document-{at}.md": text for at, text in enumerate(texts, 1)}
                done = asyncio.run(ingestion.through_product(server, token, url, documents))
                self.check(ingest, "freshet", done.report)
                self.note(ingest, "freshet", done.report)
                alone = asyncio.run(ingestion.embedder_alone(count, done.passages))
                self.note(ingest, "embedder", alone)

    def ask(self, scenario: Scenario, target: Target, server: Server) -> Report:
        arguments = [
            "--expect",
            scenario.tokens,
            "--clients",
            scenario.clients,
            "--requests",
            scenario.requests,
        ]
        return self.load(scenario, target, server, [*arguments, "--warmup", _WARM_UP])

    def hold(self, held: Held, target: Target, server: Server) -> Report:
        self.load(_shorter(SCENARIOS[0]), target, server, ["--clients", 10])
        levels = [level // 5 for level in held.levels] if self.options.quick else held.levels
        window = ["--settle", 1, "--window", 2] if self.options.quick else []
        return self.load(held, target, server, ["--hold", ",".join(map(str, levels)), *window])

    def load(
        self, scenario: Scenario | Held, target: Target, server: Server, arguments: Sequence[str | int]
    ) -> Report:
        servers.set_behaviour(self.upstream, scenario.behaviour)
        bodies = self.directory / f"{target}.bodies"
        assistant, questions = content.PLAIN, iter(QUESTIONS)
        if isinstance(scenario, Scenario) and scenario.searches:
            assistant = content.filled(self.options.chunks)
            questions = islice(self.questions, scenario.clients * scenario.requests + _WARM_UP)
        bodies.write_text("\n".join(scenarios.bodies(target, assistant, questions)))
        command = [sys.executable, "-m", "bench.load", server.url + scenarios.path(target, scenario)]
        command += ["--bodies", str(bodies), "--format", "openai" if target == "upstream" else "ndjson"]
        command += ["--pids", str(server.pid), *map(str, arguments)]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, timeout=_LOAD_LIMIT_S, check=True)
        measured = json.loads(done.stdout)
        self.check(scenario, target, measured)
        return measured

    def check(self, scenario: Scenario | Held | Ingest, target: str, measured: Report) -> None:
        if what := report.missing(measured):
            self.outcome.failures.append(f"{scenario.name}, {target}: {what}")

    def note(self, scenario: Scenario | Held | Ingest, target: str, measured: Report) -> None:
        self.outcome.results.setdefault(scenario.name, {}).setdefault(target, []).append(measured)
        print(f"{scenario.name:16} {target:14} {report.short(measured)}", file=sys.stderr, flush=True)


def _shorter(scenario: Scenario) -> Scenario:
    return replace(scenario, requests=max(1, scenario.requests // 5), tokens=min(scenario.tokens, 100))


def _environment_entry(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("NAME=VALUE is wanted")
    return name, value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = parser.add_argument
    add(
        "--quick", action="store_true", help="one round of shorter loads: whether it works, not what it costs"
    )
    add("--only", action="append", choices=NAMES, help="this scenario; may be given again")
    add(
        "--target",
        action="append",
        choices=["source", "pass_through", "freshet"],
        help="this server; may be given again",
    )
    add("--rounds", type=int, default=_ROUNDS)
    add(
        "--chunks",
        type=int,
        help=f"that are searched (default: {_CHUNKS:,}, or {_CHUNKS_QUICK:,} with --quick)",
    )
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


def measure(options: Options, names: Sequence[str], outcome: Outcome) -> None:
    """Adds to the outcome. Raises DidNotStart, and what a part of it fails with. Whatever happens, nothing that was started is left."""
    with tempfile.TemporaryDirectory(prefix="freshet-bench-") as name:
        directory = Path(name)
        with servers.upstream(directory / "upstream.log") as upstream:
            bench = Bench(upstream, directory, options, outcome)
            bench.prepare(names)
            bench.closed([scenario for scenario in SCENARIOS if scenario.name in names])
            for scenario in (HELD, AT_ONCE):
                if scenario.name in names:
                    bench.alone(scenario)
            if INGEST.name in names:
                bench.ingest(INGEST)


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    allow_many_sockets()
    options = Options(
        rounds=1 if arguments.quick else arguments.rounds,
        quick=arguments.quick,
        chunks=arguments.chunks or (_CHUNKS_QUICK if arguments.quick else _CHUNKS),
        targets=arguments.target or ["source", "pass_through", "freshet"],
        product_environment=dict(arguments.env),
    )
    outcome = Outcome()
    try:
        measure(options, arguments.only or NAMES, outcome)
    except (
        servers.DidNotStart,
        subprocess.SubprocessError,
        httpx2.HTTPError,
        asyncpg.PostgresError,
    ) as error:
        outcome.failures.append(f"Broken off: {type(error).__name__}: {error}")
    tables = report.tables(outcome.results, chunks=options.chunks, quick=options.quick)
    print(tables)
    if arguments.out:
        arguments.out.write_text(tables)
        arguments.out.with_suffix(".json").write_text(json.dumps(outcome.results, indent=1))
    if outcome.failures:
        sys.exit("\n".join(["Failures:", *outcome.failures]))


def _exit_on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    main()
