"""An embedder without a model: a text is the bag of its words, so texts that share words are near each other."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from app.llm.protocols import Matrix, Vector


class WordsEmbedder:
    """Each word counts in one of the dimensions, always the same; a text without words has a dimension of its own."""

    max_tokens = 254

    def __init__(self, name: str = "words", dimensions: int = 384) -> None:
        self.name = name
        self.dimensions = dimensions
        self.is_closed = False

    def count_tokens(self, text: str) -> int:
        return len(_words(text))

    async def embed_question(self, question: str) -> Vector:
        return self.embed(question)

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        rows = [self.embed(passage) for passage in passages]
        return np.array(rows, np.float32).reshape(len(rows), self.dimensions)

    async def aclose(self) -> None:
        self.is_closed = True

    def embed(self, text: str) -> Vector:
        vector = np.zeros(self.dimensions, np.float32)
        for word in _words(text) or [""]:
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            vector[int.from_bytes(digest, "little") % self.dimensions] += 1
        return vector / np.float32(np.linalg.norm(vector))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
