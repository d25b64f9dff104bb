"""A recorded stream, held against the protocol."""

from typing import BinaryIO

from app import conformance
from app.cli.terminal import Terminal
from app.errors import FreshetError

_FORMS: dict[conformance.Form, str] = {"ndjson": "NDJSON", "sse": "server-sent events"}


class _BreaksTheProtocol(FreshetError):
    """Where has been said; this is for the exit code."""


def conform(recorded: BinaryIO, *, after: int, prefix: bool) -> None:
    terminal = Terminal()
    report = conformance.check(recorded.read(), after=after, prefix=prefix)
    for problem in report.problems:
        terminal.say(str(problem))
    counted = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
    if report.problems:
        raise _BreaksTheProtocol(f"{len(report.problems):,} problems in {counted or 'no event'}.")
    terminal.verdict(f"{_FORMS[report.form]} as the protocol has it: {counted or 'no event'}", good=True)
