"""What answers have taken, as a table."""

from datetime import date

from rich.table import Table

from app.cli.database import engine_of, with_database
from app.cli.terminal import Terminal
from app.db.engine import Sessions
from app.db.usage import By, Sum
from app.resources import secret_key
from app.services.accounts import AccountService
from app.services.usage import UsageReport, UsageService, Wanted
from app.settings import Settings


def usage(
    since: date | None, until: date | None, *, by: By, assistant: str | None, email: str | None
) -> None:
    async def told(settings: Settings) -> UsageReport:
        async with engine_of(settings) as engine:
            database = Sessions(engine)
            user_id = None
            if email is not None:
                accounts = AccountService(database, settings.security, secret_key(settings))
                user_id = (await accounts.find_user(email)).id
            return await UsageService(database).report(Wanted(since, until, by, assistant, user_id))

    report = with_database(told)
    terminal = Terminal()
    terminal.say(f"From {report.since} to {report.until}, days of UTC.", "dim")
    terminal.console.print(_table(report))
    unpriced = report.total.answers - report.total.priced_answers
    if report.total.priced_answers and unpriced:
        terminal.say(
            f"Of {unpriced:,} answers the price is not known: docs/operations.md, MODEL_PRICES.", "dim"
        )


def _table(report: UsageReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(report.by, overflow="fold")
    for head in ("answers", "read", "written", "embedded", "cost"):
        table.add_column(head, justify="right")
    for row in report.rows:
        table.add_row(row.name or row.key or "unknown", *_figures(row))
    if len(report.rows) != 1:
        table.add_row("all", *_figures(report.total), style="bold")
    return table


def _figures(row: Sum) -> tuple[str, ...]:
    counts = (row.answers, row.input_tokens, row.output_tokens, row.embedding_tokens)
    return (*(f"{count:,}" for count in counts), f"{row.cost:,.4f}" if row.cost is not None else "")
