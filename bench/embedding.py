"""Embeddings without a model: texts that share words are near each other."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.frames import encode

Vector = NDArray[np.float32]
_DIMENSIONS = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS = 1536
_MAX_WORDS = 512


@lru_cache(100_000)
def _word_vector(word: str, dimensions: int) -> Vector:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(dimensions, dtype=np.float32)


@lru_cache(8192)
def embed(text: str, dimensions: int) -> Vector:
    """The normalised sum of one fixed random vector a word; the same text gives the same bytes in every process."""
    words: list[str] = re.findall(r"\w+", text.lower())[:_MAX_WORDS] or [""]
    total = np.zeros(dimensions, np.float32)
    for word in words:
        total += _word_vector(word, dimensions)
    return total / np.float32(np.linalg.norm(total))


def embeddings(request: Mapping[str, Any]) -> bytes:
    """Answers `POST /embeddings`: one text, texts, or token ids, as floats or as base64 of little-endian float32."""
    model = str(request.get("model", ""))
    dimensions = int(request.get("dimensions") or _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS))
    as_base64 = request.get("encoding_format") == "base64"
    texts = _texts(request.get("input", ""))
    rows = [
        {
            "object": "embedding",
            "index": i,
            "embedding": _written(embed(text, dimensions), as_base64=as_base64),
        }
        for i, text in enumerate(texts)
    ]
    read = sum(len(text.split()) for text in texts)
    counted = {"prompt_tokens": read, "total_tokens": read}
    return encode({"object": "list", "data": rows, "model": model, "usage": counted})


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    items: list[Any] = list(given)
    if items and isinstance(items[0], int):
        return [" ".join(map(str, items))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in items]


def _written(vector: Vector, *, as_base64: bool) -> str | list[float]:
    return base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()
