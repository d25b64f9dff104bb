"""Embeddings kept on disk, so that a set of passages that is evaluated again is embedded once."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread

from app.llm.protocols import Embedder, Matrix, Vector


class CachingEmbedder:
    """Passages come from the file of this embedder in `directory` if they were embedded before, and go there if not.

    The file is a sequence of records: the SHA-256 of the passage, then its vector. One process writes it at a time.
    The embedder is the caller's: closing this leaves it open.
    """

    def __init__(self, embedder: Embedder, directory: Path) -> None:
        self._embedder = embedder
        self.name = embedder.name
        self.dimensions = embedder.dimensions
        self.max_tokens = embedder.max_tokens
        plain_name = re.sub(r"[^A-Za-z0-9.-]+", "_", embedder.name)
        self._path = directory / f"{plain_name}-{embedder.dimensions}.vectors"
        self._record = np.dtype([("key", "V32"), ("vector", "<f4", (embedder.dimensions,))])
        self._known: dict[bytes, Vector] | None = None

    def count_tokens(self, text: str) -> int:
        return self._embedder.count_tokens(text)

    async def embed_question(self, question: str) -> Vector:
        return await self._embedder.embed_question(question)

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        known = await to_thread.run_sync(self._read)
        keys = [hashlib.sha256(passage.encode()).digest() for passage in passages]
        new = {key: passage for key, passage in zip(keys, passages, strict=True) if key not in known}
        if new:
            vectors = await self._embedder.embed_passages(list(new.values()))
            await to_thread.run_sync(self._append, list(new), vectors)
            known.update(zip(new, vectors, strict=True))
        return np.array([known[key] for key in keys], np.float32).reshape(len(keys), self.dimensions)

    async def aclose(self) -> None:
        """Nothing is open."""

    def _read(self) -> dict[bytes, Vector]:
        if self._known is None:
            content = self._path.read_bytes() if self._path.exists() else b""
            whole = len(content) - len(content) % self._record.itemsize
            if whole < len(content):
                # The process that wrote it was killed in the middle of a record.
                with self._path.open("r+b") as file:
                    file.truncate(whole)
            records: Any = np.frombuffer(content[:whole], self._record)
            keys = (bytes(key) for key in records["key"])
            self._known = dict(zip(keys, records["vector"], strict=True))
        return self._known

    def _append(self, keys: Sequence[bytes], vectors: Matrix) -> None:
        records = np.empty(len(keys), self._record)
        records["key"] = [np.void(key) for key in keys]
        records["vector"] = vectors
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(records.tobytes())
