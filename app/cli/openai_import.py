"""An export of OpenAI's Assistants API, imported with a bar, and told as a report."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from app import json_text
from app.cli.database import with_resources
from app.cli.terminal import Terminal
from app.errors import FreshetError
from app.ingest.openai_export import Export, read
from app.resources import Resources
from app.services.importing import Importer, Remark, Report
from app.services.viewer import ANONYMOUS, Viewer

_OUTCOMES = ("made", "changed", "unchanged")


class _SomeRefused(FreshetError):
    """What was refused has been shown; this is for the exit code."""


def import_export(directory: Path, *, email: str | None, dry_run: bool, as_json: bool) -> None:
    terminal = Terminal(aside=as_json)
    export = read(directory)

    async def do(resources: Resources) -> Report:
        viewer = Viewer(await resources.accounts.find_user(email)) if email is not None else ANONYMOUS
        return await _imported(resources, export, viewer, terminal, dry_run=dry_run)

    report = with_resources(do)
    if as_json:
        click.echo(json_text.encode(_as_json(report, dry_run=dry_run)))
    else:
        _tell(terminal, report, dry_run=dry_run)
    if report.refused:
        raise _SomeRefused(f"{len(report.refused):,} refused.")


async def _imported(
    resources: Resources, export: Export, viewer: Viewer, terminal: Terminal, *, dry_run: bool
) -> Report:
    importer = Importer(resources.database, resources.knowledge, export, viewer, dry_run=dry_run)
    with terminal.bar("Importing", total=1) as bar:
        return await importer.run(
            lambda done, total: bar.show(done, f"{done:,}/{total:,} things", total=total)
        )


def _as_json(report: Report, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "counts": {
            kind: {name: counter[name] for name in _OUTCOMES} for kind, counter in report.counts.items()
        },
        "citations_kept_as_sources": report.cited,
        "refused": [asdict(remark) for remark in report.refused],
        "notes": [asdict(remark) for remark in report.notes],
    }


def _tell(terminal: Terminal, report: Report, *, dry_run: bool) -> None:
    if dry_run:
        terminal.say("Nothing was changed. This is what would be done.")
    table = Table("", *_OUTCOMES, box=None, pad_edge=False, header_style="bold")
    for kind, counter in report.counts.items():
        table.add_row(kind, *(f"{counter[name]:,}" for name in _OUTCOMES))
    terminal.console.print(table)
    if report.cited:
        terminal.say(
            f"{report.cited:,} citations are kept as sources, without a place in the document.", "dim"
        )
    _list(terminal, "left out", report.notes)
    _list(terminal, "refused", report.refused)


def _list(terminal: Terminal, heading: str, remarks: Sequence[Remark]) -> None:
    if not remarks:
        return
    table = Table(heading, "in", "why", box=None, pad_edge=False, header_style="bold")
    for remark in remarks:
        table.add_row(*(Text(cell) for cell in (remark.id, remark.file, remark.text)))
    terminal.console.print(table)
