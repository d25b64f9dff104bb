"""Turns what was measured into tables, as Markdown."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.scenarios import AT_ONCE, HELD, INGEST, SCENARIOS, Held, Ingest, Scenario

Report = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Sequence[Report]]]
"""Scenario, then target, then one report a round."""

_EMBEDDER_STEP, _RETRIEVAL_STEP = "vectorization", "retrieval"

_STREAMS_EXPLAINED = """\
- `source`: bare ASGI under uvicorn, which makes the tokens itself.
- `pass_through`: the least that a proxy can do, under uvicorn too: it asks the fake model server and sends its tokens on.
- `upstream`: that fake model server, asked directly.
- `freshet`: one process of Freshet in front of it. PostgreSQL and the load generator run on the same machine.
- **CPU µs/token**, **CPU ms/request**: processor time of the server's processes, without PostgreSQL's, divided by the tokens and by the requests; the median of the rounds, with the lowest and the highest.
- **tokens/s**: of all streams together, as many as the machine gave while everything ran on it.
- **first token ms**: from the request's first byte to the first token's arrival.
- **in transit ms**: from the moment the upstream (or the source) wrote a token to its arrival.
- **whole**: answers that had every token, in order, and ended well."""
_SEARCHING_EXPLAINED = """\
- The assistant searches {chunks:,} chunks, by meaning and by words; each question is new, and made of the words of the chunks.
- **embedder**, **search**: the medians of what Freshet says of its own steps: embedding the question, with the wait for its turn, and searching, with the wait for a connection.
- **beyond the upstream**: p50 less that of `upstream` in the same rounds; **and the embedder**: less the embedder as well."""
_HELD_EXPLAINED = """\
- **KiB a stream**: what the resident memory of the server's processes grew by, divided by the streams."""
_INGEST_EXPLAINED = """\
- `freshet` takes the files over HTTP, converts, splits, embeds and stores them: from the first upload until the last can be searched; `embedder` embeds the same passages in one process, and does nothing else.
- **CPU ms/chunk**: processor time, without PostgreSQL's."""


def tables(results: Results, *, chunks: int, quick: bool) -> str:
    """`chunks` is how many were searched."""
    closed = [s for s in (*SCENARIOS, AT_ONCE) if s.name in results and not s.searches]
    searching = [s for s in SCENARIOS if s.name in results and s.searches]
    parts = [f"Measured {machine()}, with `make bench`. Figures are medians over the rounds."]
    if quick:
        parts.append("This was a quick run, of shorter loads than it says below: it tells whether it works.")
    if closed or searching:
        parts.append(_STREAMS_EXPLAINED)
    parts += [closed_table(scenario, results[scenario.name]) for scenario in closed]
    if searching:
        parts += [first_token_table(scenario, results[scenario.name]) for scenario in searching]
        parts.append(_SEARCHING_EXPLAINED.format(chunks=chunks))
    if HELD.name in results:
        parts += [held_table(HELD, results[HELD.name]), _HELD_EXPLAINED]
    if INGEST.name in results:
        parts += [ingest_table(INGEST, results[INGEST.name]), _INGEST_EXPLAINED]
    return "\n\n".join(parts) + "\n"


def short(report: Report) -> str:
    """One line while it is measured."""
    if "kib_per_stream" in report:
        return f"{report['kib_per_stream']} KiB a stream"
    if "chunks_per_s" in report:
        return f"{report['documents_per_s']} documents a second, {report['chunks_per_s']} chunks a second"
    per_token, first = report["server_cpu_us_per_token"], report["first_token_ms"].get("p50")
    return f"{per_token} µs a token, first token {first} ms, {report['whole']} of {report['requests']} whole"


def missing(report: Report) -> str:
    """What failed of it; empty if nothing did."""
    if "levels" in report:
        closed = [f"{level['open']} of {level['streams']} open" for level in report["levels"]]
        fell = [
            level["open"] < level["streams"] or level["started"] < level["streams"]
            for level in report["levels"]
        ]
        return ", ".join(text for text, short_of in zip(closed, fell, strict=True) if short_of)
    if report.get("whole") == report.get("requests"):
        return ""
    why = f" {report.get('faults', '')} {report.get('error_example', '')}".rstrip()
    return f"{report['whole']} of {report['requests']} whole{why}"


def machine() -> str:
    """One line that tells where and when this was measured."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = models[0] if models else platform.machine()
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{when} on {os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def closed_table(scenario: Scenario, by_target: Mapping[str, Sequence[Report]]) -> str:
    """One row a target: medians over the rounds, and the range of the CPU a token."""
    rows = [
        _row(
            "", "CPU µs/token", "lowest to highest", "CPU ms/request", "tokens/s", "first token ms p50", "p99"
        )
        + " in transit ms p50 | p99 | whole |",
        "| --- |" + " ---: |" * 9,
    ]
    for target, reports in by_target.items():
        per_token = [report["server_cpu_us_per_token"] for report in reports]
        rows.append(
            _row(
                target,
                _cell(median(per_token)),
                f"{min(per_token):.1f} to {max(per_token):.1f}",
                _cell(_median(reports, lambda report: report["server_cpu_ms_per_request"]), 2),
                _cell(_median(reports, lambda report: report["tokens_per_s"]), 0),
                _cell(_median(reports, _percentile("first_token_ms", "p50"))),
                _cell(_median(reports, _percentile("first_token_ms", "p99"))),
                _cell(_median(reports, _percentile("one_way_ms", "p50")), 2),
                _cell(_median(reports, _percentile("one_way_ms", "p99")), 2),
                _whole(reports),
            )
        )
    return "\n".join([_title(scenario), "", *rows, *_faults(by_target)])


def first_token_table(scenario: Scenario, by_target: Mapping[str, Sequence[Report]]) -> str:
    """One row a target: medians over the rounds."""
    rows = [
        _row("", "first token ms p50", "p90", "p99", "embedder ms", "search ms", "beyond the upstream ms")
        + " and the embedder ms | CPU ms/request | whole |",
        "| --- |" + " ---: |" * 9,
    ]
    direct = _median(by_target.get("upstream", ()), _percentile("first_token_ms", "p50"))
    for target, reports in by_target.items():
        p50, p90, p99 = (
            _median(reports, _percentile("first_token_ms", name)) for name in ("p50", "p90", "p99")
        )
        embedder = _median(reports, _percentile("step_ms", _EMBEDDER_STEP))
        retrieval = _median(reports, _percentile("step_ms", _RETRIEVAL_STEP))
        beyond = None if p50 is None or direct is None or target == "upstream" else p50 - direct
        rows.append(
            _row(
                target,
                _cell(p50, 2),
                _cell(p90, 2),
                _cell(p99, 2),
                _cell(embedder, 2),
                _cell(None if retrieval is None or embedder is None else retrieval - embedder, 2),
                _cell(beyond, 2),
                _cell(None if beyond is None or embedder is None else beyond - embedder, 2),
                _cell(_median(reports, lambda report: report["server_cpu_ms_per_request"]), 2),
                _whole(reports),
            )
        )
    return "\n".join([_title(scenario), "", *rows, *_faults(by_target)])


def ingest_table(ingest: Ingest, by_target: Mapping[str, Sequence[Report]]) -> str:
    rows = [
        "| | documents/s | chunks/s | CPU ms/chunk | documents | chunks |",
        "| --- |" + " ---: |" * 5,
    ]
    speeds: dict[str, float] = {}
    for target, reports in by_target.items():
        speeds[target] = median(report["chunks_per_s"] for report in reports)
        rows.append(
            _row(
                target,
                _cell(_median(reports, lambda report: report["documents_per_s"]), 2),
                _cell(speeds[target]),
                _cell(_median(reports, lambda report: report["cpu_ms_per_chunk"])),
                str(sum(report["documents"] for report in reports)),
                str(sum(report["chunks"] for report in reports)),
            )
        )
    ratio: list[str] = []
    if {"freshet", "embedder"} <= speeds.keys():
        share = speeds["freshet"] / speeds["embedder"]
        ratio = ["", f"Freshet ingests at {share:.0%} of the speed of the embedder alone."]
    return "\n".join([_title(ingest), "", *rows, *ratio])


def held_table(held: Held, by_target: Mapping[str, Sequence[Report]]) -> str:
    rows = [
        "| | KiB a stream | open | MiB without streams | MiB with | CPU % | opened in s |",
        "| --- |" + " ---: |" * 6,
    ]
    for target, reports in by_target.items():
        last, first = reports[-1]["levels"][-1], reports[-1]["levels"][0]
        kib = _median(reports, lambda report: report["kib_per_stream"])
        opened = f"{last['open']} of {last['streams']}"
        rows.append(
            f"| {target} | {_cell(kib)} | {opened} | {first['rss_mib']} | {last['rss_mib']} | {last['cpu_percent']} | {last['opening_s']} |"
        )
    return "\n".join([_title(held), "", *rows])


def _title(scenario: Scenario | Held | Ingest) -> str:
    return f"### {scenario.name}: {scenario.title}" + (f"\n\nGoal: {scenario.goal}." if scenario.goal else "")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _faults(by_target: Mapping[str, Sequence[Report]]) -> list[str]:
    lines = [
        f"{target}: {what}"
        for target, reports in by_target.items()
        for report in reports
        if (what := missing(report))
    ]
    return ["", *lines] if lines else []


def _whole(reports: Sequence[Report]) -> str:
    whole, requests = (sum(report[name] for report in reports) for name in ("whole", "requests"))
    return f"{whole:,} of {requests:,}"


def _percentile(of: str, name: str) -> Callable[[Report], float | None]:
    return lambda report: report[of].get(name)


def _median(reports: Sequence[Report], of: Callable[[Report], float | None]) -> float | None:
    values = [value for report in reports if (value := of(report)) is not None]
    return median(values) if values else None


def _cell(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
