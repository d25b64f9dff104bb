"""The figures of each question of an evaluation, as JSON or as CSV."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.cli.evaluation_words import compared, names_of
from app.rag import measures
from app.services.evaluation import Report, Result, Run

_CHARACTERS_OF_A_PASSAGE = 300


def write(path: Path, report: Report) -> None:
    """CSV if it is named so, a row a question and run; else JSON, which has the passages too."""
    if path.suffix.lower() == ".csv":
        path.write_text(_as_csv(report), encoding="utf-8", newline="")
    else:
        path.write_text(json.dumps(_as_json(report), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _as_csv(report: Report) -> str:
    out = io.StringIO()
    rows = [
        {"setting": name, "id": result.question.id, "question": result.question.text}
        | _numbers(result)
        | {"first": " | ".join(hit.file_name for hit in result.passages)}
        for name, run in zip(names_of(report), report.runs, strict=True)
        for result in run.results
    ]
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _numbers(result: Result) -> dict[str, Any]:
    times = {"embedding_s": result.embedding_s, "searching_s": result.searching_s}
    return (
        {key: round(value, 6) for key, value in asdict(result.figures).items()}
        | {"found": result.found}
        | {key: round(value, 6) for key, value in times.items()}
    )


def _as_json(report: Report) -> dict[str, Any]:
    runs = [_run(name, run) for name, run in zip(names_of(report), report.runs, strict=True)]
    whole: dict[str, Any] = {"name": report.name, "recall_at": report.recall_depth, "runs": runs}
    if len(report.runs) == 2:
        whole["comparison_of_ndcg_10"] = asdict(compared(report, "ndcg_10"))
    return whole


def _run(name: str, run: Run) -> dict[str, Any]:
    return {
        "name": name,
        "setting": asdict(run.variant),
        "embedder": run.embedder,
        "documents": run.documents,
        "chunks": run.chunks,
        "passage_tokens": run.passage_tokens,
        "question_tokens": run.question_tokens,
        "figures": asdict(run.figures),
        "without_result": run.without_result,
        "embedding_s": asdict(run.embedding),
        "searching_s": asdict(run.searching),
        "questions": list(_questions(run)),
    }


def _questions(run: Run) -> Iterator[dict[str, Any]]:
    for result in run.results:
        question = result.question
        expected: dict[str, Any] = {"documents": dict(question.grades)}
        if question.answer is not None:
            expected["answer"] = question.answer
        passages = [
            {
                "file_name": hit.file_name,
                "heading": hit.heading,
                "similarity": round(hit.similarity, 4),
                "is_right": measures.is_right(question, hit),
                "text": hit.text[:_CHARACTERS_OF_A_PASSAGE],
            }
            for hit in result.passages
        ]
        entry = {"id": question.id, "question": question.text, "expected": expected} | _numbers(result)
        if result.answer is not None:
            entry["answer"] = asdict(result.answer)
        yield entry | {"passages": passages}
