"""An evaluation as a page: one file that needs no other, on any screen, in the light or the dark."""

from collections.abc import Iterator, Sequence
from html import escape

from app.cli import evaluation_words as words
from app.cli import plots
from app.cli.evaluation_words import Prices
from app.db.chunks import Hit
from app.rag import measures
from app.rag.evaluation import JudgedQuestion
from app.services.evaluation import Report, Result, Run

_MOST_QUESTIONS = 30
_PASSAGES = 5
_CHARACTERS_OF_A_PASSAGE = 400

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #f2f4f7; --line: #c9d0d9; --faint: #5b6572;
  --better: #1f7a4d; --worse: #b3402a; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --back: #14171b; --soft: #1e2329; --line: #3a424d;
  --faint: #9aa5b3; --better: #58c08d; --worse: #ec8a72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; color: var(--text); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; margin: 0; }
.wide { overflow-x: auto; white-space: nowrap; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.plots, .sides { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; } figcaption, .faint { color: var(--faint); font-size: .9rem; }
svg { width: 100%; height: auto; background: var(--soft); border-radius: .4rem; }
svg text { fill: var(--faint); font-size: 11px; } .axis { stroke: var(--line); fill: none; }
.better { fill: var(--better); } .worse { fill: var(--worse); } .equal { fill: var(--faint); }
circle { fill-opacity: .6; }
details { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; margin: .6rem 0; }
summary { cursor: pointer; }
ol { padding-left: 1.4rem; margin: .5rem 0; } li { margin-bottom: .5rem; }
.right::marker { color: var(--better); font-weight: bold; } .right b { color: var(--better); }
"""


def page(report: Report, prices: Prices, *, compare: bool) -> str:
    """Of several runs without a comparison, the questions are those of the last."""
    title = escape(f"Retrieval on {report.name}")
    parts = [f"<h1>{title}</h1>", f"<p class=faint>{escape(_about(report.runs[0]))}</p>", _summary(report)]
    parts += [f"<p class=faint>{escape(line)}</p>" for line in words.spent(report, prices)]
    if compare:
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in words.comparisons(report))
        parts += ["<h2>Which is better?</h2>", f"<ul>{said}</ul>"]
    parts += ["<h2>How are the figures spread?</h2>", f'<div class="plots">{_plots(report, compare)}</div>']
    parts += list(_pairs(report) if compare else _worst(report.runs[-1]))
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )


def _about(run: Run) -> str:
    return f"{run.documents:,} documents, {run.chunks:,} passages, {len(run.results):,} questions"


def _summary(report: Report) -> str:
    figures = [words.figure_name(figure, report) for figure in words.FIGURES]
    heads = ["", *figures, "no result", "embedding ms p50", "p95", "p99", "search ms p50", "p95", "p99"]
    rows = [
        [
            name,
            *(f"{getattr(run.figures, figure):.3f}" for figure in words.FIGURES),
            f"{run.without_result:,}",
            *(
                f"{time * 1e3:.0f}"
                for times in (run.embedding, run.searching)
                for time in (times.p50, times.p95, times.p99)
            ),
        ]
        for name, run in zip(words.names_of(report), report.runs, strict=True)
    ]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
        "<p class=faint>Searching is timed in both halves, whichever is taken.</p>"
    )


def _plots(report: Report, compare: bool) -> str:
    names = words.names_of(report)
    shown: list[tuple[str, str]] = []
    if compare:
        a, b = (_ndcg(run) for run in report.runs)
        differences = [x - y for x, y in zip(a, b, strict=True) if x != y]
        label = f"nDCG@10 of {names[0]} less that of {names[1]}, where it differs"
        shown.append((label, plots.histogram(differences, label=label, low=-1, high=1, signed=True)))
        points = [
            (x, y, f"{result.question.text}: {x:.3f} and {y:.3f}")
            for x, y, result in zip(b, a, report.runs[0].results, strict=True)
        ]
        label = f"nDCG@10 by question: {names[0]} upwards, {names[1]} across"
        shown.append((label, plots.scatter(points, label=label, across=names[1], up=names[0])))
    else:
        for name, run in zip(names, report.runs, strict=True):
            label = f"nDCG@10 of {name}, by question"
            shown.append((label, plots.histogram(_ndcg(run), label=label, low=0, high=1)))
    times = [result.searching_s * 1e3 for result in report.runs[0].results]
    label = "Searching, in ms, by question"
    longest = max(1.0, *times)
    shown.append((label, plots.histogram(times, label=label, low=0, high=longest)))
    return "".join(f"<figure>{svg}<figcaption>{escape(label)}</figcaption></figure>" for label, svg in shown)


def _ndcg(run: Run) -> list[float]:
    return [result.figures.ndcg_10 for result in run.results]


def _pairs(report: Report) -> Iterator[str]:
    """The questions that differ most, with what each run has found."""
    first, second = report.runs
    names = words.names_of(report)
    pairs = list(zip(first.results, second.results, strict=True))
    pairs.sort(key=lambda pair: -abs(_difference(*pair)))
    differing = [pair for pair in pairs if _difference(*pair)]
    yield f"<h2>Where do they differ most?</h2><p class=faint>{_of(len(differing), 'differ')}</p>"
    for a, b in differing[:_MOST_QUESTIONS]:
        yield _question(a.question, f"{_difference(a, b):+.3f}", list(zip(names, (a, b), strict=True)))


def _worst(run: Run) -> Iterator[str]:
    results = sorted(run.results, key=lambda result: result.figures.ndcg_10)
    imperfect = [result for result in results if result.figures.ndcg_10 < 1]
    yield f"<h2>Where is it worst?</h2><p class=faint>{_of(len(imperfect), 'are below 1')}</p>"
    for result in imperfect[:_MOST_QUESTIONS]:
        yield _question(result.question, f"{result.figures.ndcg_10:.3f}", [(run.variant.mode, result)])


def _of(count: int, doing: str) -> str:
    return f"{count:,} questions {doing}; {min(count, _MOST_QUESTIONS)} are shown."


def _difference(a: Result, b: Result) -> float:
    return a.figures.ndcg_10 - b.figures.ndcg_10


def _question(question: JudgedQuestion, figure: str, sides: Sequence[tuple[str, Result]]) -> str:
    wanted = ", ".join(name for name, grade in question.grades.items() if grade > 0)
    if question.answer is not None:
        wanted = " in ".join(filter(None, (f"“{question.answer}”", wanted)))
    found = "".join(
        f"<div><h3>{escape(name)}: {result.figures.ndcg_10:.3f}</h3>{_answer(result)}{_passages(question, result.passages)}</div>"
        for name, result in sides
    )
    return (
        f"<details><summary><b>{escape(figure)}</b> {escape(question.text)}</summary>"
        f'<p class=faint>Expected: {escape(wanted)}</p><div class="sides">{found}</div></details>'
    )


def _answer(result: Result) -> str:
    return "" if result.answer is None else f"<p>{escape(_shortened(result.answer.text))}</p>"


def _passages(question: JudgedQuestion, hits: Sequence[Hit]) -> str:
    if not hits:
        return "<p>Nothing was found.</p>"
    items = "".join(
        f'<li class="{"right" if measures.is_right(question, hit) else ""}"><b>{escape(_place(hit))}</b> '
        f"{escape(_shortened(hit.text))}</li>"
        for hit in hits[:_PASSAGES]
    )
    return f"<ol>{items}</ol>"


def _place(hit: Hit) -> str:
    return " > ".join(filter(None, (hit.file_name, hit.page_label, hit.heading)))


def _shortened(text: str) -> str:
    return text if len(text) <= _CHARACTERS_OF_A_PASSAGE else f"{text[:_CHARACTERS_OF_A_PASSAGE]}…"
