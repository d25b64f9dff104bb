"""Queries on answers that are kept to be given again. One is found only in its own scope, and while the documents are those
that it was drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    BindParameter,
    Double,
    Integer,
    LargeBinary,
    Text,
    Uuid,
    bindparam,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

_MOST_AN_ASSISTANT = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    events: list[dict[str, Any]]
    age_s: float
    similarity: float


def _parameters(**types: Any) -> list[BindParameter[Any]]:
    return [bindparam(name, type_=kind) for name, kind in types.items()]


_IDS = ARRAY(Uuid(as_uuid=True))
# The sum grows with each change of any of them, so that it is the same only if none has changed.
_CURRENT = "(SELECT coalesce(sum(version), 0) FROM collections WHERE id = ANY (:collection_ids))"
_IN_SCOPE = f"""scope = :scope AND corpus_version = :corpus_version AND corpus_version = {_CURRENT}
    AND created_at > now() - make_interval(secs => :max_age_s)"""
_WHERE_IT_IS = _parameters(
    scope=LargeBinary, corpus_version=BigInteger, collection_ids=_IDS, max_age_s=Double
)
_SAME = text(
    f"""
    SELECT events, extract(epoch FROM now() - created_at)::float8, 1::float8 FROM kept_answers
    WHERE {_IN_SCOPE} AND md5(question) = md5(:question) AND question = :question
    """
).bindparams(*_WHERE_IT_IS, *_parameters(question=Text))
_CLOSE = text(
    f"""
    SELECT events, age_s, similarity FROM (
        SELECT events, extract(epoch FROM now() - created_at)::float8 AS age_s,
            1 - (embedding <=> (SELECT CAST(CAST(:embedding AS real[]) AS halfvec))) AS similarity
        FROM kept_answers WHERE {_IN_SCOPE} AND guard = :guard
    ) kept WHERE similarity >= :least_similarity ORDER BY similarity DESC LIMIT 1
    """
).bindparams(*_WHERE_IT_IS, *_parameters(guard=Text, embedding=ARRAY(REAL), least_similarity=Double))
# Held, so that whoever changes one of them forgets this answer after it was kept; one that is just being changed is not waited for.
_KEEP = text(
    """
    WITH held AS (SELECT version FROM collections WHERE id = ANY (:collection_ids) FOR SHARE SKIP LOCKED)
    INSERT INTO kept_answers (id, assistant_id, scope, question, guard, embedding, corpus_version, events)
    SELECT :id, :assistant_id, :scope, :question, :guard, CAST(CAST(:embedding AS real[]) AS halfvec), :corpus_version, :events
    WHERE (SELECT count(*) = :collection_count AND sum(version) = :corpus_version FROM held)
    ON CONFLICT (scope, md5(question)) DO UPDATE SET guard = excluded.guard, embedding = excluded.embedding,
        corpus_version = excluded.corpus_version, events = excluded.events, created_at = excluded.created_at
    RETURNING id
    """
).bindparams(
    *_parameters(
        id=Uuid(as_uuid=True),
        assistant_id=Uuid(as_uuid=True),
        scope=LargeBinary,
        question=Text,
        guard=Text,
        embedding=ARRAY(REAL),
        corpus_version=BigInteger,
        events=JSONB,
        collection_ids=_IDS,
        collection_count=Integer,
    )
)
_CLEAR = text(
    """
    DELETE FROM kept_answers WHERE id IN (
        SELECT id FROM kept_answers WHERE assistant_id = :assistant_id AND id NOT IN (
            SELECT id FROM kept_answers
            WHERE assistant_id = :assistant_id AND created_at > now() - make_interval(secs => :max_age_s)
            ORDER BY created_at DESC, id LIMIT :most
        ) FOR UPDATE SKIP LOCKED
    )
    """
).bindparams(*_parameters(assistant_id=Uuid(as_uuid=True), max_age_s=Double, most=Integer))
_FORGET = text("DELETE FROM kept_answers WHERE assistant_id = :assistant_id").bindparams(
    *_parameters(assistant_id=Uuid(as_uuid=True))
)


async def same(
    session: AsyncSession,
    *,
    scope: bytes,
    corpus_version: int,
    collection_ids: Sequence[UUID],
    max_age_s: float,
    question: str,
) -> Found | None:
    """The answer to this very question."""
    values = {
        "scope": scope,
        "corpus_version": corpus_version,
        "collection_ids": list(collection_ids),
        "max_age_s": max_age_s,
        "question": question,
    }
    row = (await session.execute(_SAME, values)).one_or_none()
    return Found(*row) if row is not None else None


async def closest(
    session: AsyncSession,
    *,
    scope: bytes,
    corpus_version: int,
    collection_ids: Sequence[UUID],
    max_age_s: float,
    guard: str,
    embedding: NDArray[np.float32],
    least_similarity: float,
) -> Found | None:
    """The answer to the question that is closest, of those with the same guard that are so similar."""
    values = {
        "scope": scope,
        "corpus_version": corpus_version,
        "collection_ids": list(collection_ids),
        "max_age_s": max_age_s,
        "guard": guard,
        "embedding": embedding.tolist(),
        "least_similarity": least_similarity,
    }
    row = (await session.execute(_CLOSE, values)).one_or_none()
    return Found(*row) if row is not None else None


async def keep(
    session: AsyncSession,
    *,
    assistant_id: UUID,
    scope: bytes,
    corpus_version: int,
    collection_ids: Sequence[UUID],
    question: str,
    guard: str,
    embedding: NDArray[np.float32],
    events: Sequence[Mapping[str, Any]],
) -> bool:
    """In place of an older answer to the same question. False if a collection has changed since that version, or is being changed."""
    values = {
        "id": uuid4(),
        "assistant_id": assistant_id,
        "scope": scope,
        "corpus_version": corpus_version,
        "collection_ids": list(collection_ids),
        "collection_count": len(collection_ids),
        "question": question,
        "guard": guard,
        "embedding": embedding.tolist(),
        "events": [dict(event) for event in events],
    }
    return (await session.execute(_KEEP, values)).first() is not None


async def clear(session: AsyncSession, assistant_id: UUID, *, max_age_s: float) -> None:
    """What is too old goes, and of the rest all but the newest."""
    await session.execute(
        _CLEAR, {"assistant_id": assistant_id, "max_age_s": max_age_s, "most": _MOST_AN_ASSISTANT}
    )


async def forget(session: AsyncSession, assistant_id: UUID) -> None:
    await session.execute(_FORGET, {"assistant_id": assistant_id})
