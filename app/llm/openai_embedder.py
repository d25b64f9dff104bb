"""Embeddings of any server that speaks OpenAI's `/embeddings`."""

import math
from base64 import b64decode
from collections.abc import Sequence

import msgspec
import numpy as np
from anyio import CapacityLimiter, create_task_group
from httpx2 import ConnectTimeout
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, omit

from app.errors import ModelFailed, ModelIncomplete, ModelRejected, ModelSilent, ModelUnavailable
from app.llm.protocols import Matrix, Vector

# Servers take more. An answer is decoded on the event loop, which 32 rows of 1,536 decimals keep for 10 to 15 ms, and base64 for 2.
_TEXTS_A_REQUEST = 32
_REQUESTS_AT_ONCE = 4


def _tokens_by_byte() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """About how many tokens a byte of UTF-8 is the start of."""
    tokens = np.ones(256, np.float32)  # punctuation and symbols
    tokens[list(b" \n\r\tabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = 0.25
    tokens[list(b"0123456789")] = 0.5
    tokens[0x80:0xC0] = 0  # within a character
    tokens[0xC0:0xE0] = 0.75  # accents, Greek, Cyrillic, Hebrew, Arabic
    tokens[0xE0:0xF0] = 1.25  # Chinese, Japanese, Korean, the scripts of India
    tokens[0xF0:] = 2.5  # emoji
    return tokens


_TOKENS_BY_BYTE = _tokens_by_byte()


class _Row(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Answer(msgspec.Struct):
    data: list[_Row]


_ANSWERS = msgspec.json.Decoder(_Answer)


class OpenAIEmbedder:
    """Retries, limits of time and the key are the client's, which belongs to whoever made it.

    `dimensions` is asked of the server where given, for models that can shorten their vectors; else `connect` finds
    out how many there are, and nothing else works before it has.
    """

    max_tokens = 512
    """A passage of more than some paragraphs has no one meaning, and many a model behind this protocol reads no more.

    What is longer is cut, so that a request stays below every server's limit.
    """

    def __init__(self, client: AsyncOpenAI, model: str, dimensions: int | None = None) -> None:
        self._client = client
        self._model = model
        self._asked_dimensions = dimensions
        self._dimensions = dimensions
        self._requests = CapacityLimiter(_REQUESTS_AT_ONCE)

    async def connect(self) -> None:
        """Raises `ModelFailed`."""
        if self._dimensions is None:
            (row,) = await self._rows(["dimensions"])
            if not len(row):
                raise ModelIncomplete("The embedding model gave a vector of no dimensions.")
            self._dimensions = len(row)

    @property
    def name(self) -> str:
        return f"{self._model}/{self.dimensions}"

    @property
    def dimensions(self) -> int:
        if self._dimensions is None:
            raise ModelUnavailable("The embedding model has not been asked for its dimensions yet.")
        return self._dimensions

    def count_tokens(self, text: str) -> int:
        """An estimate: the tokenizer is the server's secret.

        It rounds up what byte-pair vocabularies of 100,000 tokens need: a quarter of a token a Latin letter, half a
        digit, one a sign, more for other scripts. It is right for English prose and up to twice too many elsewhere.
        """
        return math.ceil(_TOKENS_BY_BYTE[np.frombuffer(text.encode(), np.uint8)].sum())

    async def embed_question(self, question: str) -> Vector:
        return (await self._embed([question]))[0]

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        vectors = np.empty((len(passages), self.dimensions), np.float32)

        async def embed(start: int) -> None:
            async with self._requests:
                end = start + _TEXTS_A_REQUEST
                vectors[start:end] = await self._embed(passages[start:end])

        try:
            async with create_task_group() as tasks:
                for start in range(0, len(passages), _TEXTS_A_REQUEST):
                    tasks.start_soon(embed, start)
        except ExceptionGroup as failures:
            # The first failure has cancelled the other requests.
            raise failures.exceptions[0] from failures.exceptions[0].__cause__  # noqa: ASYNC123  # its cause is what it has
        return vectors

    async def aclose(self) -> None:
        """Nothing of its own is open."""

    async def _embed(self, texts: Sequence[str]) -> Matrix:
        rows = await self._rows([self._readable(text) for text in texts])
        for row in rows:
            if len(row) != self.dimensions:
                raise ModelIncomplete(
                    f"The embedding model gave a vector of {len(row)} dimensions instead of {self.dimensions}."
                )
        vectors = np.stack(rows)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise ModelIncomplete("The embedding model gave a vector that has no direction.")
        return vectors / lengths

    async def _rows(self, texts: Sequence[str]) -> list[Vector]:
        """As the server gives them, in the order of the texts."""
        try:
            # Not parsed by the client, which makes a list of Python's floats of each row.
            response = await self._client.embeddings.with_raw_response.create(
                model=self._model,
                input=list(texts),
                dimensions=omit if self._asked_dimensions is None else self._asked_dimensions,
                encoding_format="base64",
            )
        except (APIConnectionError, APIStatusError) as error:
            raise _in_our_words(error) from error
        try:
            answered = sorted(_ANSWERS.decode(response.content).data, key=lambda row: row.index)
            rows = [_decoded(row.embedding) for row in answered]
        except ValueError as error:
            raise ModelIncomplete("The embedding model's answer is not a list of vectors.") from error
        if [row.index for row in answered] != list(range(len(texts))):
            raise ModelIncomplete(
                f"The embedding model was given {len(texts)} texts and answered with {len(answered)} vectors,"
                " or numbered them wrongly."
            )
        return rows

    def _readable(self, text: str) -> str:
        """No longer than `max_tokens`, and not empty, which servers refuse."""
        content = text.encode()
        tokens = np.cumsum(_TOKENS_BY_BYTE[np.frombuffer(content, np.uint8)])
        end = int(np.searchsorted(tokens, self.max_tokens, side="right"))
        return content[:end].decode(errors="ignore") or " "


def _decoded(embedding: str | list[float]) -> Vector:
    """A server that knows base64 sends the bytes of little-endian floats, another one decimals."""
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding, validate=True), "<f4")
    return np.array(embedding, np.float32)


def _in_our_words(error: APIConnectionError | APIStatusError) -> ModelFailed:
    # The client's aiohttp transport calls every failed connection a timeout of it, a refused one as well.
    if isinstance(error, APITimeoutError) and not isinstance(error.__cause__, ConnectTimeout):
        return ModelSilent("The embedding model did not answer in time.")
    if isinstance(error, APIConnectionError):
        return ModelUnavailable("The embedding model could not be reached.")
    status = error.status_code
    detail = {"status": status}
    if status >= 500 or status in (408, 409, 429):
        return ModelUnavailable(
            f"The embedding model is overloaded or broken (status {status}).", detail=detail
        )
    return ModelRejected(
        f"The embedding model refused the request (status {status}): check its key, its name and its dimensions.",
        detail=detail,
    )
