"""Turns the reports of the load generator into tables."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.scenarios import Held, Scenario

Report = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Sequence[Report]]]
"""Scenario, then target, then one report a round."""

_EMBEDDER_STEP = "vectorization"


def machine() -> str:
    """One line that tells where and when this was measured."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = models[0] if models else platform.machine()
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{when}, Python {platform.python_version()}, {os.cpu_count()} cores, {model}"


def closed_table(scenario: Scenario, by_target: Mapping[str, Sequence[Report]]) -> str:
    """One row a target: medians over the rounds, and the range of the CPU a token."""
    rows = [
        "| | CPU µs/token | lowest to highest | CPU ms/request | tokens/s | first token ms p50 | p99 | beyond the upstream | and the embedder | in transit ms p50 | whole |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    direct = _median(by_target.get("upstream", ()), _first_token)
    for target, reports in by_target.items():
        per_token = [report["server_cpu_us_per_token"] for report in reports]
        first = _median(reports, _first_token)
        beyond = None if first is None or direct is None or target == "upstream" else first - direct
        embedder = _median(reports, lambda report: report["step_ms"].get(_EMBEDDER_STEP))
        cells = [
            target,
            _cell(median(per_token)),
            f"{min(per_token):.1f} to {max(per_token):.1f}",
            _cell(_median(reports, lambda report: report["server_cpu_ms_per_request"]), 2),
            _cell(_median(reports, lambda report: report["tokens_per_s"]), 0),
            _cell(first, 2),
            _cell(_median(reports, lambda report: report["first_token_ms"].get("p99")), 2),
            _cell(beyond, 2),
            _cell(None if beyond is None or embedder is None else beyond - embedder, 2),
            _cell(_median(reports, lambda report: report["one_way_ms"].get("p50")), 2),
            f"{sum(report['whole'] for report in reports)} of {sum(report['requests'] for report in reports)}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    faults = [
        f"{target}: {report['faults']} {report['error_example']}"
        for target, reports in by_target.items()
        for report in reports
        if report["faults"]
    ]
    return "\n".join([_title(scenario), "", *rows, *(["", *faults] if faults else [])])


def held_table(held: Held, by_target: Mapping[str, Sequence[Report]]) -> str:
    rows = [
        "| | KiB a stream | open | MiB without streams | MiB with | CPU % | opened in s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for target, reports in by_target.items():
        last, first = reports[-1]["levels"][-1], reports[-1]["levels"][0]
        kib = _median(reports, lambda report: report["kib_per_stream"])
        opened = f"{last['open']} of {last['streams']}"
        rows.append(
            f"| {target} | {_cell(kib)} | {opened} | {first['rss_mib']} | {last['rss_mib']} | {last['cpu_percent']} | {last['opening_s']} |"
        )
    return "\n".join([_title(held), "", *rows])


def _title(scenario: Scenario | Held) -> str:
    return f"### {scenario.name}: {scenario.title}" + (f"\n\nGoal: {scenario.goal}." if scenario.goal else "")


def _first_token(report: Report) -> float | None:
    return report["first_token_ms"].get("p50")


def _median(reports: Sequence[Report], of: Callable[[Report], float | None]) -> float | None:
    values = [value for report in reports if (value := of(report)) is not None]
    return median(values) if values else None


def _cell(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
