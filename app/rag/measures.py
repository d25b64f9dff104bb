"""The figures of a search on questions whose answers are known."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast

import ir_measures
import numpy as np

from app.db.chunks import Hit
from app.rag.evaluation import JudgedQuestion

# What stands for the passage with the answer in a ranking; no file is named so.
_ANSWER = "\0"
# Of scripts without blanks, each character is a word.
_WORDS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff]+"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Each in [0, 1]: of one question, or the mean over several. `hit_10` is whether anything right is among the first
    ten; `recall` is the share of all that is right among as many as were asked for."""

    ndcg_10: float
    recall: float
    mrr_10: float
    hit_10: float


@dataclass(frozen=True, slots=True)
class Times:
    """In seconds."""

    p50: float
    p95: float
    p99: float


def mean(figures: Iterable[Figures]) -> Figures:
    ndcg_10, recall, mrr_10, hit_10 = np.mean([astuple(one) for one in figures], axis=0).tolist()
    return Figures(ndcg_10, recall, mrr_10, hit_10)


def percentiles(times_s: Sequence[float]) -> Times:
    p50, p95, p99 = np.percentile(times_s, [50, 95, 99]).tolist()
    return Times(p50, p95, p99)


def is_right(question: JudgedQuestion, hit: Hit) -> bool:
    grade = question.grades.get(document_key(question, hit), 0)
    if question.answer is None:
        return grade > 0
    return (grade > 0 or not question.grades) and contains(hit.text, question.answer)


def document_key(question: JudgedQuestion, hit: Hit) -> str:
    """Documents are named by their file or by their id."""
    document_id = str(hit.document_id)
    return document_id if document_id in question.grades else hit.file_name


def by_question(
    questions: Sequence[JudgedQuestion], found: Mapping[str, Sequence[Hit]], *, recall_depth: int
) -> list[Figures]:
    """`found` are the passages by question, best first. A document counts at the place of its best passage, and an answer
    at that of the first passage that contains it.

    nDCG has the grades as gains and a logarithmic discount, as in trec_eval. A question without results counts 0.
    """
    runs: dict[str, dict[str, float]] = {}
    judgements: dict[str, dict[str, int]] = {}
    for question in questions:
        ranking = dict.fromkeys(_key(question, hit) for hit in found.get(question.id, ()))
        runs[question.id] = {key: float(-place) for place, key in enumerate(ranking)}
        judgements[question.id] = {_ANSWER: 1} if question.answer is not None else dict(question.grades)
    ndcg, recall, hit, rr = (
        ir_measures.nDCG @ 10,
        ir_measures.R @ recall_depth,
        ir_measures.Success @ 10,
        ir_measures.RR,
    )
    values: dict[str, dict[Any, float]] = {question.id: {} for question in questions}
    calculated = cast("Any", ir_measures.pytrec_eval).iter_calc([ndcg, recall, hit, rr], judgements, runs)
    for metric in calculated:
        values[metric.query_id][metric.measure] = metric.value
    return [
        # trec_eval's reciprocal rank has no limit: what is below a tenth is beyond the tenth place.
        Figures(of[ndcg], of[recall], of[rr] if of[rr] > 1 / 11 else 0.0, of[hit])
        for of in values.values()
    ]


def contains(text: str, answer: str) -> bool:
    """In whole words, whatever their case, and whatever stands between them."""
    return f" {normalised(answer)} " in f" {normalised(text)} "


def normalised(text: str) -> str:
    """Its words in small letters, with one blank between them."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def _key(question: JudgedQuestion, hit: Hit) -> str:
    if question.answer is None:
        return document_key(question, hit)
    return _ANSWER if is_right(question, hit) else str(hit.chunk_id)
