"""A labelled set, measured with bars, told as a table."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from app.cli.database import reachable
from app.cli.terminal import Bar, Terminal
from app.resources import open_embedder
from app.services.evaluation import EvaluationService, Report, Stage
from app.settings import Settings

_STAGES: dict[Stage, tuple[str, str]] = {
    "embedding": ("Embedding", "documents"),
    "searching": ("Searching", "questions"),
}


def evaluate(set_dir: Path) -> None:
    terminal = Terminal()

    async def measure(settings: Settings) -> Report:
        url = settings.database.database_url
        assert url is not None
        with ExitStack() as bars:
            shown: dict[Stage, Bar] = {}

            def show(stage: Stage, done: int, total: int) -> None:
                doing, things = _STAGES[stage]
                if stage not in shown:
                    bars.close()
                    shown[stage] = bars.enter_context(terminal.bar(doing, total=total))
                shown[stage].show(done, f"{done:,}/{total:,} {things}")

            async with open_embedder(settings) as embedder:
                service = EvaluationService(
                    url.get_secret_value(),
                    settings.database,
                    embedder,
                    settings.database.freshet_data_dir / "embeddings",
                )
                return await service.evaluate(set_dir, show)

    with terminal.step("") as step, reachable(Settings.load()) as settings:
        report = asyncio.run(measure(settings))
        step.done = f"{report.name}: {report.documents:,} documents, {report.chunks:,} chunks, {report.questions:,} questions"
    terminal.console.print(_table(report))


def _table(report: Report) -> Table:
    table = Table("", "nDCG@10", "Recall@100", "MRR", box=None, pad_edge=False, header_style="bold")
    for name, figures in (("dense", report.dense), ("words", report.words), ("both", report.both)):
        table.add_row(name, f"{figures.ndcg_10:.3f}", f"{figures.recall_100:.3f}", f"{figures.mrr:.3f}")
    return table
