"""Retrieval, measured with bars, told as a table, and written to files."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from app.cli import evaluation_files, evaluation_report
from app.cli.database import engine_of, reachable, with_database
from app.cli.evaluation_words import comparisons, latencies, names_of, tokens
from app.cli.terminal import Bar, Terminal
from app.db.engine import Sessions
from app.errors import InvalidInput
from app.llm.protocols import Embedder
from app.rag.variants import Mode, Variant, parse
from app.resources import open_embedder
from app.services.evaluation import EvaluationService, OnProgress, Report, Stage
from app.settings import Settings

_STAGES: dict[Stage, tuple[str, str]] = {
    "embedding": ("Embedding", "documents"),
    "searching": ("Searching", "questions"),
}
_MODES: tuple[Mode, ...] = ("dense", "words", "both")
# A document counts by its best passage, so that many more passages than documents have to be found.
_DEPTH_OF_A_SET = 500


def evaluate(
    data: Path,
    *,
    collection: str | None,
    changes: tuple[str | None, str | None],
    recall_depth: int,
    report: Path | None,
    results: Path | None,
) -> None:
    """`changes` are what is set, and what is set besides in the variant to compare with."""
    if data.is_dir() == (collection is not None):
        raise InvalidInput(
            "A labelled set brings its own documents: leave --collection out."
            if data.is_dir()
            else "The questions of a table are asked of a collection: name it with --collection."
        )
    variants = _variants(Variant(depth=_DEPTH_OF_A_SET) if data.is_dir() else Variant(), changes)
    terminal = Terminal()

    async def measure(settings: Settings) -> Report:
        with ExitStack() as bars:
            service = _service(settings, recall_depth)
            on_progress = _shown_in(bars, terminal)
            if collection is None:
                return await service.evaluate_set(data, variants, on_progress)
            async with engine_of(settings) as engine:
                return await service.evaluate_table(data, Sessions(engine), collection, variants, on_progress)

    with terminal.step("") as step:
        measured = _with_server(measure) if collection is None else with_database(measure)
        run = measured.runs[0]
        step.done = f"{measured.name}: {run.documents:,} documents, {run.chunks:,} chunks, {len(run.results):,} questions"
    _tell(terminal, measured, compare=changes[1] is not None)
    if report is not None:
        page = evaluation_report.page(measured, compare=changes[1] is not None)
        report.write_text(page, encoding="utf-8")
        terminal.verdict(f"The report is {report}.", good=True)
    if results is not None:
        evaluation_files.write(results, measured)
        terminal.verdict(f"Each question's figures are in {results}.", good=True)


def _with_server(measure: Callable[[Settings], Coroutine[None, None, Report]]) -> Report:
    """Its database may be empty: what is measured has one of its own."""
    with reachable(Settings.load()) as settings:
        return asyncio.run(measure(settings))


def _variants(base: Variant, changes: tuple[str | None, str | None]) -> list[Variant]:
    first, second = changes
    if first is None and second is None:
        return [replace(base, mode=mode) for mode in _MODES]
    a = parse(first or "", base)
    if second is None:
        return [a]
    b = parse(second, a)
    if a == b:
        raise InvalidInput(f"Both settings are the same: {a}.")
    return [a, b]


def _service(settings: Settings, recall_depth: int) -> EvaluationService:
    url = settings.database.database_url
    assert url is not None

    @asynccontextmanager
    async def open_named(model: str | None) -> AsyncGenerator[Embedder]:
        named = settings.embedding.model_copy(update={"embedding_model": model} if model is not None else {})
        if not named.is_built_in and not settings.model.uses_openai:
            raise InvalidInput(
                f"There is no server to ask for {model}: set OPENAI_API_KEY or OPENAI_BASE_URL."
            )
        async with open_embedder(replace(settings, embedding=named)) as embedder:
            yield embedder

    return EvaluationService(
        url.get_secret_value(),
        settings.database,
        open_named,
        settings.database.freshet_data_dir / "embeddings",
        recall_depth=recall_depth,
    )


def _shown_in(bars: ExitStack, terminal: Terminal) -> OnProgress:
    shown: dict[Stage, Bar] = {}

    def show(stage: Stage, done: int, total: int) -> None:
        doing, things = _STAGES[stage]
        if done == 0 or stage not in shown:
            bars.close()
            shown[stage] = bars.enter_context(terminal.bar(doing, total=total))
        shown[stage].show(done, f"{done:,}/{total:,} {things}")

    return show


def _tell(terminal: Terminal, report: Report, *, compare: bool) -> None:
    terminal.console.print(_table(report))
    for line in (*latencies(report), tokens(report)):
        terminal.say(line, "dim")
    if compare:
        for sentence in comparisons(report):
            terminal.say(sentence)


def _table(report: Report) -> Table:
    heads = ("", "nDCG@10", f"Recall@{report.recall_depth}", "MRR@10", "Hit@10", "no result")
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for name, run in zip(names_of(report), report.runs, strict=True):
        figures = run.figures
        numbers = (figures.ndcg_10, figures.recall, figures.mrr_10, figures.hit_10)
        table.add_row(name, *(f"{number:.3f}" for number in numbers), f"{run.without_result:,}")
    return table
