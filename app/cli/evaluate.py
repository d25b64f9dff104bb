"""Retrieval, measured with bars, told as a table, and written to files."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.table import Table

from app.cli import evaluation_files, evaluation_report
from app.cli.database import engine_of, reachable, with_database
from app.cli.evaluation_words import Prices, comparisons, latencies, names_of, spent
from app.cli.terminal import Bar, Terminal
from app.db.engine import Sessions
from app.errors import InvalidInput
from app.llm.protocols import Embedder
from app.rag.variants import Mode, Variant, parse
from app.resources import create_model, create_reranker, open_embedder
from app.services.evaluation import Answerer, EvaluationService, OnProgress, Report, Stage
from app.settings import Settings

_STAGES: dict[Stage, tuple[str, str]] = {
    "embedding": ("Embedding", "documents"),
    "searching": ("Searching", "questions"),
    "reranking": ("Reranking", "questions"),
    "answering": ("Answering", "questions"),
}
_MODES: tuple[Mode, ...] = ("dense", "words", "both")
# A document counts by its best passage, so that many more passages than documents have to be found.
_DEPTH_OF_A_SET = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """`changes` are what is set, and what is set besides in the variant to compare with."""

    changes: tuple[str | None, str | None]
    recall_depth: int
    answers: bool
    report: Path | None
    results: Path | None

    @property
    def compare(self) -> bool:
        return self.changes[1] is not None


def evaluate(data: Path, collection: str | None, wanted: Wanted) -> None:
    if data.is_dir() == (collection is not None):
        raise InvalidInput(
            "A labelled set brings its own documents: leave --collection out."
            if data.is_dir()
            else "The questions of a table are asked of a collection: name it with --collection."
        )
    variants = _variants(Variant(depth=_DEPTH_OF_A_SET) if data.is_dir() else Variant(), wanted)
    terminal = Terminal()
    loaded = Settings.load()

    async def measure(settings: Settings) -> Report:
        async with _service(settings, wanted) as service:
            with ExitStack() as bars:
                on_progress = _shown_in(bars, terminal)
                if collection is None:
                    return await service.evaluate_set(data, variants, on_progress)
                async with engine_of(settings) as engine:
                    return await service.evaluate_table(
                        data, Sessions(engine), collection, variants, on_progress
                    )

    with terminal.step("") as step:
        report = _with_server(loaded, measure) if collection is None else with_database(measure)
        run = report.runs[0]
        step.done = f"{report.name}: {run.documents:,} documents, {run.chunks:,} chunks, {len(run.results):,} questions"
    prices = Prices(
        loaded.embedding.embedding_price, loaded.model.model_input_price, loaded.model.model_output_price
    )
    _tell(terminal, report, prices, compare=wanted.compare)
    _write(terminal, report, prices, wanted)


def _write(terminal: Terminal, report: Report, prices: Prices, wanted: Wanted) -> None:
    if wanted.report is not None:
        page = evaluation_report.page(report, prices, compare=wanted.compare)
        wanted.report.write_text(page, encoding="utf-8")
        terminal.verdict(f"The report is {wanted.report}.", good=True)
    if wanted.results is not None:
        evaluation_files.write(wanted.results, report)
        terminal.verdict(f"Each question's figures are in {wanted.results}.", good=True)


def _with_server(loaded: Settings, measure: Callable[[Settings], Coroutine[None, None, Report]]) -> Report:
    """Its database may be empty: what is measured has one of its own."""
    with reachable(loaded) as settings:
        return asyncio.run(measure(settings))


def _variants(base: Variant, wanted: Wanted) -> list[Variant]:
    """Without any change, each mode, as that costs nothing but answers."""
    first, second = wanted.changes
    if first is None and second is None and not wanted.answers:
        return [replace(base, mode=mode) for mode in _MODES]
    a = parse(first or "", base)
    if second is None:
        return [a]
    b = parse(second, a)
    if a == b:
        raise InvalidInput(f"Both settings are the same: {a}.")
    return [a, b]


@asynccontextmanager
async def _service(settings: Settings, wanted: Wanted) -> AsyncGenerator[EvaluationService]:
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

    answering = create_model(settings) if wanted.answers else None
    try:
        yield EvaluationService(
            url.get_secret_value(),
            settings.database,
            open_named,
            settings.database.freshet_data_dir / "embeddings",
            recall_depth=wanted.recall_depth,
            answerer=None if answering is None else Answerer(answering, settings.chat.context_tokens),
            reranker_of=partial(create_reranker, settings.retrieval),
            reranked=settings.retrieval.candidates,
        )
    finally:
        if answering is not None:
            await answering.aclose()


def _shown_in(bars: ExitStack, terminal: Terminal) -> OnProgress:
    shown: dict[Stage, Bar] = {}

    def show(stage: Stage, done: int, total: int) -> None:
        doing, things = _STAGES[stage]
        if done == 0 or stage not in shown:
            bars.close()
            shown[stage] = bars.enter_context(terminal.bar(doing, total=total))
        shown[stage].show(done, f"{done:,}/{total:,} {things}")

    return show


def _tell(terminal: Terminal, report: Report, prices: Prices, *, compare: bool) -> None:
    terminal.console.print(_table(report))
    for line in (*latencies(report), *spent(report, prices)):
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
