"""Reranking by a server that speaks the form of Cohere (`/v2/rerank`), of Jina (`/v1/rerank`), or of text-embeddings-inference (`/rerank`)."""

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import httpx2
import msgspec
import numpy as np

from app.errors import ModelFailed, ModelIncomplete, ModelRejected, ModelSilent, ModelUnavailable
from app.llm.protocols import Vector

Form = Literal["cohere", "jina", "tei"]

# What text-embeddings-inference takes at once unless it is told otherwise; the others take more.
_PASSAGES_A_REQUEST = 32
# About 2,000 tokens: beyond that these models read no passage, and some servers refuse it.
_LONGEST_PASSAGE = 8_000


class _Scored(msgspec.Struct):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Results(msgspec.Struct):
    results: list[_Scored]


_RESULTS = msgspec.json.Decoder(_Results)
_LIST = msgspec.json.Decoder(list[_Scored])


def form_of(url: str) -> Form:
    """What a server at this address speaks, as far as the path tells."""
    path = urlsplit(url).path.rstrip("/")
    if path.endswith("/v2/rerank"):
        return "cohere"
    return "jina" if path.endswith("/v1/rerank") else "tei"


class EndpointReranker:
    """All passages are scored within `limit_s`, in several requests where they are many."""

    weight = 1.0

    def __init__(
        self, url: str, form: Form, *, model: str | None, api_key: str | None, limit_s: float
    ) -> None:
        self._url = url
        self._form: Form = form
        self._model = model
        self._limit_s = limit_s
        headers = {"authorization": f"Bearer {api_key}"} if api_key is not None else {}
        self._client = httpx2.AsyncClient(headers=headers, timeout=limit_s)

    @property
    def name(self) -> str:
        return self._model or self._form

    async def scores(self, question: str, passages: Sequence[str]) -> Vector:
        scores = np.zeros(len(passages), np.float32)

        async def score(start: int) -> None:
            texts = [text[:_LONGEST_PASSAGE] for text in passages[start : start + _PASSAGES_A_REQUEST]]
            scores[start : start + len(texts)] = await self._score(question, texts)

        try:
            with anyio.fail_after(self._limit_s):
                async with anyio.create_task_group() as tasks:
                    for start in range(0, len(passages), _PASSAGES_A_REQUEST):
                        tasks.start_soon(score, start)
        except TimeoutError as error:
            raise ModelSilent("The reranker did not answer in time.") from error
        except ExceptionGroup as failures:
            # The first failure has cancelled the other requests.
            raise failures.exceptions[0] from failures.exceptions[0].__cause__  # noqa: ASYNC123  # its cause is what it has
        return scores

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _score(self, question: str, texts: Sequence[str]) -> Vector:
        try:
            response = await self._client.post(self._url, json=self._asked(question, texts))
        except httpx2.TimeoutException as error:
            raise ModelSilent("The reranker did not answer in time.") from error
        except httpx2.HTTPError as error:
            raise ModelUnavailable("The reranker could not be reached.") from error
        if response.status_code != 200:
            raise _refusal(response.status_code)
        try:
            answered = (
                _LIST.decode(response.content)
                if self._form == "tei"
                else _RESULTS.decode(response.content).results
            )
        except ValueError as error:
            raise ModelIncomplete("The reranker's answer is not a list of scores.") from error
        return _in_order(answered, len(texts))

    def _asked(self, question: str, texts: Sequence[str]) -> dict[str, Any]:
        if self._form == "tei":
            return {"query": question, "texts": texts, "truncate": True}
        asked = {"model": self._model, "query": question, "documents": texts, "top_n": len(texts)}
        return asked if self._form == "cohere" else asked | {"return_documents": False}


def _in_order(answered: Sequence[_Scored], count: int) -> Vector:
    """The scores in the order of the passages, of which there must be one for each."""
    by_index = {
        scored.index: scored.relevance_score if scored.score is None else scored.score for scored in answered
    }
    if len(answered) != count or by_index.keys() != set(range(count)):
        raise ModelIncomplete(
            f"The reranker was given {count} passages and scored {len(answered)}, or numbered them wrongly."
        )
    scores = np.array([by_index[index] for index in range(count)], np.float64)
    if not np.all(np.abs(scores) <= np.finfo(np.float32).max):
        raise ModelIncomplete("The reranker gave a score that is no number.")
    return scores.astype(np.float32)


def _refusal(status: int) -> ModelFailed:
    detail = {"status": status}
    if status >= 500 or status in (408, 409, 429):
        return ModelUnavailable(f"The reranker is overloaded or broken (status {status}).", detail=detail)
    return ModelRejected(
        f"The reranker refused the request (status {status}): check its key and its model.", detail=detail
    )
