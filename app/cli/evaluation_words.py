"""What is said of an evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from app.rag import measures, significance
from app.rag.measures import Times
from app.rag.significance import Comparison
from app.services.evaluation import Report, Run

FIGURES = ("ndcg_10", "recall", "mrr_10", "hit_10")
# By the convention of the field.
_UNLIKELY = 0.05


def figure_name(figure: str, report: Report) -> str:
    names = {"ndcg_10": "nDCG@10", "recall": f"Recall@{report.recall_depth}", "mrr_10": "MRR@10"}
    return names.get(figure, "Hit@10")


def names_of(report: Report) -> list[str]:
    """Of its runs: in what they differ from each other."""
    settings = [
        asdict(run.variant) | {"embedding_model": run.embedder, "top_k": run.variant.top_k or "all"}
        for run in report.runs
    ]
    different = [key for key in settings[0] if len({of_run[key] for of_run in settings}) > 1] or ["mode"]
    if different == ["mode"]:
        return [run.variant.mode for run in report.runs]
    return [",".join(f"{key}={of_run[key]}" for key in different) for of_run in settings]


def compared(report: Report, figure: str) -> Comparison:
    """The first run against the second."""
    a, b = ([getattr(result.figures, figure) for result in run.results] for run in report.runs[:2])
    return significance.compare(a, b)


def comparisons(report: Report) -> Iterator[str]:
    a, b = names_of(report)[:2]
    for figure in FIGURES:
        yield sentence(a, b, figure_name(figure, report), compared(report, figure))


def sentence(a: str, b: str, figure: str, comparison: Comparison) -> str:
    """The better of the two first."""
    if comparison.difference < 0:
        a, b = b, a
        comparison = Comparison(
            difference=-comparison.difference,
            low=-comparison.high,
            high=-comparison.low,
            p=comparison.p,
            better=comparison.worse,
            worse=comparison.better,
            equal=comparison.equal,
        )
    counts = f"{comparison.better:,} questions better, {comparison.worse:,} worse, {comparison.equal:,} equal"
    if comparison.difference == 0:
        return f"{figure}: {a} and {b} are equal; {counts}."
    verdict = "is better than" if comparison.p < _UNLIKELY else "is ahead of"
    chance = "" if comparison.p < _UNLIKELY else ", which may be chance"
    return (
        f"{figure}: {a} {verdict} {b} by {comparison.difference:.3f}{chance}: p = {_probability(comparison.p)}, "
        f"95 % interval {_signed(comparison.low)} to {_signed(comparison.high)}; {counts}."
    )


def _probability(p: float) -> str:
    return f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _signed(number: float) -> str:
    """Zero has no sign, however little is below it."""
    return f"{round(number, 3) + 0.0:.3f}"


def latencies(report: Report) -> Iterator[str]:
    """The median, and what 95 and 99 of 100 questions stay below; once for runs that were searched together."""
    shared: dict[tuple[Times, Times], list[str]] = {}
    for name, run in zip(names_of(report), report.runs, strict=True):
        shared.setdefault((run.embedding, run.searching), []).append(name)
    for (embedding, searching), names in shared.items():
        parts = (
            f"{what} {times.p50 * 1e3:.0f} / {times.p95 * 1e3:.0f} / {times.p99 * 1e3:.0f} ms"
            for what, times in (("embedding", embedding), ("search in both halves", searching))
        )
        yield f"{' and '.join(names)}, p50 / p95 / p99: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens each, in one currency; None where it is not known."""

    embedded: float | None
    read: float | None
    written: float | None


def spent(report: Report, prices: Prices) -> Iterator[str]:
    """Tokens, and what they cost if their price is known. The same embedder is counted once."""
    by_embedder = {run.embedder: (run.passage_tokens, run.question_tokens) for run in report.runs}
    for name, (passages, questions) in by_embedder.items():
        cost = _cost([(passages + questions, prices.embedded)])
        yield f"{name}: {passages:,} tokens of passages, {questions:,} of questions{cost}"
    for name, run in zip(names_of(report), report.runs, strict=True):
        if run.answers:
            read = sum(answer.usage.input_tokens for answer in run.answers)
            written = sum(answer.usage.output_tokens for answer in run.answers)
            times = measures.percentiles([answer.took_s for answer in run.answers])
            cost = _cost([(read, prices.read), (written, prices.written)])
            yield (
                f"{name}: answering took {times.p50:.1f} / {times.p95:.1f} / {times.p99:.1f} s; "
                f"{read:,} tokens read, {written:,} written{cost}{_held(run)}"
            )


def _held(run: Run) -> str:
    expected = [answer.holds_expected for answer in run.answers if answer.holds_expected is not None]
    return f"; {sum(expected):,} of {len(expected):,} answers hold what was expected" if expected else ""


def _cost(counted: Sequence[tuple[int, float | None]]) -> str:
    known = [count * price / 1e6 for count, price in counted if price is not None]
    return f", which cost {sum(known):.4f}" if len(known) == len(counted) else ""
