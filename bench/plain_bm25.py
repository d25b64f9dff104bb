"""BM25 of the package bm25s, to compare the words half of the search with, where it is installed beside the project."""

import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.rag.evaluation import JudgedQuestion

_K1, _B = 1.2, 0.75
_DEPTH = 1_000
# Of languages that have no blanks between words, pairs of characters; of Hindi, whose vowels are no letters, all but blanks.
_SCRIPT = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff"
_RUNS = re.compile(rf"[{_SCRIPT}]+|[^\W{_SCRIPT}]+")
_STOP_WORDS = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "portuguese": "pt",
    "italian": "it",
}


def is_there() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("bm25s", "Stemmer"))


def rankings(
    texts: Sequence[str],
    documents: Sequence[str],
    questions: Sequence[JudgedQuestion],
    *,
    language: str,
) -> dict[str, dict[str, float]]:
    """Scores of documents, by question. `documents` is whose text each is: it counts by its best."""
    bm25s: Any = importlib.import_module("bm25s")
    index = bm25s.BM25(method="lucene", k1=_K1, b=_B)
    index.index(_tokens(bm25s, texts, language), show_progress=False)
    asked = _tokens(bm25s, [question.text for question in questions], language)
    found, scores = index.retrieve(asked, k=min(len(texts), _DEPTH), show_progress=False)
    return {
        question.id: _best(documents, zip(places, of_these, strict=True))
        for question, places, of_these in zip(questions, found, scores, strict=True)
    }


def _best(documents: Sequence[str], scored: Iterable[tuple[int, float]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for place, score in scored:
        if score > 0:
            document = documents[place]
            best[document] = max(float(score), best.get(document, 0.0))
    return best


def _tokens(bm25s: Any, texts: Sequence[str], language: str) -> Any:
    if language == "simple":
        return [_pairs(text) for text in texts]
    stemmers: Any = importlib.import_module("Stemmer")
    stemmer = stemmers.Stemmer(language) if language in stemmers.algorithms() else None
    options: Mapping[str, Any] = {"token_pattern": r"[^\s।,.?!\"()\-]+"} if language == "hindi" else {}
    return bm25s.tokenize(
        texts,
        stopwords=_STOP_WORDS.get(language),
        stemmer=stemmer,
        show_progress=False,
        return_ids=False,
        **options,
    )


def _pairs(text: str) -> list[str]:
    tokens: list[str] = []
    for run in _RUNS.findall(text.lower()):
        of_script = re.match(rf"[{_SCRIPT}]", run) is not None
        tokens += [run[place : place + 2] for place in range(len(run) - 1)] or [run] if of_script else [run]
    return tokens
