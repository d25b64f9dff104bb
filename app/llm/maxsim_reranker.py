"""Reranking without a server, by late interaction of the token vectors of the built-in embedder.

A passage's score is the mean, over the tokens of the question, of the best cosine among the tokens of the passage: MaxSim of
Khattab & Zaharia 2020 (ColBERT), section 3.2, without the training that they give their model for it.
"""

from collections.abc import Sequence

import anyio
import numpy as np
from anyio import to_thread

from app.errors import ModelSilent
from app.llm.minilm import MiniLM
from app.llm.protocols import Matrix, Vector


class MaxSimReranker:
    """Each question's passages are scored within `limit_s`, its wait for those before it included.

    Passages are read one at a time in a thread, so that a question that is called off or late costs no more than the one
    that is being read.
    """

    weight = 0.5

    def __init__(self, embedder: MiniLM, *, limit_s: float) -> None:
        self._embedder = embedder
        self._limit_s = limit_s
        # One question after the other: taking turns, many at once would all be too late.
        self._turn = anyio.Lock()

    @property
    def name(self) -> str:
        return f"{self._embedder.name}/maxsim"

    async def scores(self, question: str, passages: Sequence[str]) -> Vector:
        scores = np.zeros(len(passages), np.float32)
        try:
            with anyio.fail_after(self._limit_s):
                async with self._turn:
                    asked = await to_thread.run_sync(self._embedder.token_vectors, question)
                    for place, text in enumerate(passages):
                        scores[place] = await to_thread.run_sync(self._score, asked, text)
        except TimeoutError as error:
            raise ModelSilent("The built-in reranker was not ready in time.") from error
        return scores

    async def aclose(self) -> None:
        """The embedder belongs to whoever opened it."""

    def _score(self, question: Matrix, text: str) -> float:
        passage = self._embedder.token_vectors(text)
        if not len(question) or not len(passage):
            return 0
        return float((question @ passage.T).max(axis=1).mean())
