"""Measures retrieval on all labelled sets of a directory: the first table of docs/retrieval.md, on standard output.

bm25s and PyStemmer are no dependencies of the project; its column is there if they are installed beside it.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import ir_measures

from app.cli.database import reachable
from app.ingest import language
from app.llm.protocols import Embedder
from app.rag import evaluation
from app.rag.evaluation import JudgedSet
from app.rag.measures import Figures
from app.rag.variants import Mode, Variant
from app.resources import open_embedder
from app.services.evaluation import EvaluationService
from app.settings import Settings
from bench import plain_bm25

_DEPTH = 500
_MODES: tuple[Mode, ...] = ("dense", "words", "both")


async def print_table(settings: Settings, directories: Sequence[Path]) -> None:
    url = settings.database.database_url
    assert url is not None
    async with open_embedder(settings) as embedder:

        @asynccontextmanager
        async def opened(model: str | None) -> AsyncGenerator[Embedder]:  # noqa: ARG001  # one for all
            yield embedder

        cache = settings.database.freshet_data_dir / "embeddings"
        service = EvaluationService(url.get_secret_value(), settings.database, opened, cache)
        print("nDCG@10 / Recall@100 / MRR@10; bm25s: nDCG@10 of whole documents.\n")
        print("| set | documents | passages | questions | by meaning | by words | both | bm25s |")
        print(f"|{' --- |' * 8}", flush=True)
        for directory in directories:
            print(await _row(service, directory), flush=True)
    if not plain_bm25.is_there():
        print("\nbm25s is not installed here, so that its column is empty.")


async def _row(service: EvaluationService, directory: Path) -> str:
    variants = [Variant(mode=mode, depth=_DEPTH) for mode in _MODES]
    report = await service.evaluate_set(directory, variants, _ignore)
    run = report.runs[0]
    cells = [
        report.name,
        f"{run.documents:,}",
        f"{run.chunks:,}",
        f"{len(run.results):,}",
        *(_cell(one.figures) for one in report.runs),
        _of_bm25s(evaluation.read(directory)) if plain_bm25.is_there() else "",
    ]
    return f"| {' | '.join(cells)} |"


def _ignore(stage: str, done: int, total: int) -> None:
    """How far it is goes with no table."""


def _cell(figures: Figures) -> str:
    return " / ".join(short(number) for number in (figures.ndcg_10, figures.recall, figures.mrr_10))


def short(number: float) -> str:
    """As figures below 1 are printed: without the zero."""
    return f"{number:.3f}".removeprefix("0").replace("1.000", "1")


def _of_bm25s(judged: JudgedSet) -> str:
    texts = [f"{document.title}\n{document.text}" for document in judged.documents]
    names = [document.id for document in judged.documents]
    spoken = language.detect("\n".join(text[:500] for text in texts[:50]))
    found = plain_bm25.rankings(texts, names, judged.questions, language=spoken)
    return short(ndcg_10(judged, found))


def ndcg_10(judged: JudgedSet, rankings: Mapping[str, Mapping[str, float]]) -> float:
    return _mean(ir_measures.nDCG @ 10, judged, rankings)


def recall_100(judged: JudgedSet, rankings: Mapping[str, Mapping[str, float]]) -> float:
    return _mean(ir_measures.R @ 100, judged, rankings)


def _mean(measure: Any, judged: JudgedSet, rankings: Mapping[str, Mapping[str, float]]) -> float:
    grades = {question.id: dict(question.grades) for question in judged.questions}
    # A question without any result has to be there, or the mean would be that of the others.
    run = {question.id: dict(rankings.get(question.id, {})) for question in judged.questions}
    return cast("Any", ir_measures.pytrec_eval).calc_aggregate([measure], grades, run)[measure]


def sets(data: Path, only: Sequence[str]) -> list[Path]:
    """The directories in `data` that hold a labelled set, or those that are named."""
    if only:
        return [data / name for name in only]
    found = [path.parent for path in data.glob("*/qrels.tsv")]
    return sorted({*found, *(path.parents[1] for path in data.glob("*/qrels/test.tsv"))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", action="append", default=[], help="instead of all; several may be given")
    arguments = parser.parse_args()
    with reachable(Settings.load()) as settings:
        asyncio.run(print_table(settings, sets(arguments.data, arguments.set)))


if __name__ == "__main__":
    sys.exit(main())
