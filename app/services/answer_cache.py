"""Answers that are kept to be given again, in transactions of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.db import answer_cache
from app.db.engine import Sessions
from app.llm.protocols import Vector
from app.rag.cache import Kept, Key


class AnswerCacheService:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def look_up(self, key: Key, embedding: Vector | None) -> Kept | None:
        place: dict[str, Any] = {
            "scope": key.scope,
            "corpus_version": key.corpus_version,
            "collection_ids": key.collection_ids,
            "max_age_s": key.max_age_s,
        }
        async with self._sessions.read() as session:
            if embedding is None:
                found = await answer_cache.same(session, **place, question=key.question)
            else:
                found = await answer_cache.closest(
                    session,
                    **place,
                    guard=key.guard,
                    embedding=embedding,
                    least_similarity=key.least_similarity,
                )
        return Kept(found.events, found.age_s, found.similarity) if found is not None else None

    async def keep(self, key: Key, embedding: Vector, events: Sequence[Mapping[str, Any]]) -> bool:
        async with self._sessions.begin() as session:
            is_kept = await answer_cache.keep(
                session,
                assistant_id=key.assistant_id,
                scope=key.scope,
                corpus_version=key.corpus_version,
                collection_ids=key.collection_ids,
                question=key.question,
                guard=key.guard,
                embedding=embedding,
                events=events,
            )
            await answer_cache.clear(session, key.assistant_id, max_age_s=key.max_age_s)
        return is_kept
