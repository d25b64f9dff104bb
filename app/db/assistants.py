"""Queries on assistants. An assistant is named by its slug or by its id; no slug reads as an id."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, ColumnElement, RowMapping, bindparam, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.identifiers import as_uuid, unique
from app.db.tables import Assistant, AssistantCollection, Collection

Answerability = Literal["off", "normal", "strict"]

SLUG = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class AssistantForTurn:
    """What one turn needs. `chunk_count` is that of all its collections together, and `corpus_version` the sum of their versions."""

    id: UUID
    slug: str
    name: str
    instructions: str
    context: str
    first_message: str
    response_shape: dict[str, Any] | None
    goal: str
    language: str | None
    model: str | None
    model_parameters: dict[str, Any]
    tools: Sequence[str]
    user_authentication: bool
    is_enabled: bool
    top_k: int
    similarity_cutoff: float
    answerability: Answerability
    answer_cache_s: float | None
    answer_cache_similarity: float
    unread_limit_s: float | None
    collection_ids: tuple[UUID, ...]
    chunk_count: int
    corpus_version: int
    budget: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CollectionName:
    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class AssistantView:
    """All of an assistant; `collections` in the order of their names."""

    id: UUID
    slug: str
    name: str
    description: str
    instructions: str
    context: str
    first_message: str
    response_shape: dict[str, Any] | None
    goal: str
    model: str | None
    model_parameters: dict[str, Any]
    tools: Sequence[str]
    user_authentication: bool
    is_enabled: bool
    top_k: int
    similarity_cutoff: float
    answerability: Answerability
    answer_cache_s: float | None
    answer_cache_similarity: float
    language: str | None
    unread_limit_s: float | None
    budget: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    collections: tuple[CollectionName, ...] = ()


_table = Assistant.__table__.c
_reach = (
    select(
        func.array_agg(aggregate_order_by(Collection.id, Collection.name)).label("collection_ids"),
        func.sum(Collection.chunk_count).cast(BigInteger).label("chunk_count"),
        func.sum(Collection.version).cast(BigInteger).label("corpus_version"),
    )
    .join(AssistantCollection, AssistantCollection.collection_id == Collection.id)
    .where(AssistantCollection.assistant_id == Assistant.id)
    .lateral()
)
_for_turn = select(
    *(_table[field] for field in AssistantForTurn.__slots__ if field in _table), _reach
).join_from(Assistant, _reach, true())
_FOR_TURN_BY_ID = _for_turn.where(Assistant.id == bindparam("identifier"))
_FOR_TURN_BY_SLUG = _for_turn.where(Assistant.slug == bindparam("identifier"))
_view = select(*(_table[field] for field in AssistantView.__slots__ if field in _table))


async def for_turn(session: AsyncSession, identifier: str) -> AssistantForTurn | None:
    """Disabled ones too. One statement, with no statement at all for what can be neither slug nor id."""
    if (assistant_id := as_uuid(identifier)) is not None:
        result = await session.execute(_FOR_TURN_BY_ID, {"identifier": assistant_id})
    elif SLUG.fullmatch(identifier):
        result = await session.execute(_FOR_TURN_BY_SLUG, {"identifier": identifier})
    else:
        return None
    row = result.mappings().one_or_none()
    if row is None:
        return None
    reach: dict[str, Any] = {
        "collection_ids": tuple(row["collection_ids"] or ()),
        "chunk_count": row["chunk_count"] or 0,
        "corpus_version": row["corpus_version"] or 0,
    }
    return AssistantForTurn(**{**row, **reach})


async def oldest_public(session: AsyncSession) -> UUID | None:
    """Of the enabled assistants that are for everybody, the one that was made first."""
    statement = (
        select(Assistant.id)
        .where(Assistant.is_enabled, ~Assistant.user_authentication)
        .order_by(Assistant.created_at, Assistant.id)
        .limit(1)
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def get(session: AsyncSession, identifier: str) -> AssistantView | None:
    if (named := _named(identifier)) is None:
        return None
    views = await _views(session, (await session.execute(_view.where(named))).mappings().all())
    return views[0] if views else None


async def page(
    session: AsyncSession, *, after: str | None, limit: int, enabled_only: bool
) -> list[AssistantView]:
    """The `limit` assistants whose slugs follow `after`, in the order of their slugs."""
    statement = _view.order_by(Assistant.slug).limit(limit)
    if after is not None:
        statement = statement.where(Assistant.slug > after)
    if enabled_only:
        statement = statement.where(Assistant.is_enabled)
    return await _views(session, (await session.execute(statement)).mappings().all())


async def any_for_strangers(session: AsyncSession) -> bool:
    """Whether there is one that answers whoever asks."""
    open_to_all = select(Assistant.id).where(Assistant.is_enabled, Assistant.user_authentication.is_(False))
    return (await session.execute(open_to_all.limit(1))).first() is not None


async def insert_new(session: AsyncSession, fields: Mapping[str, Any]) -> UUID | None:
    """None if the slug is taken. Without an `id` it is given one."""
    statement = (
        insert(Assistant)
        .values({"id": uuid4(), **fields})
        .on_conflict_do_nothing(index_elements=[Assistant.slug])
        .returning(Assistant.id)
    )
    return (await session.execute(statement)).scalar_one_or_none()


async def lock(session: AsyncSession, identifier: str) -> UUID | None:
    if (named := _named(identifier)) is None:
        return None
    statement = select(Assistant.id).where(named).with_for_update()
    return (await session.execute(statement)).scalar_one_or_none()


async def change(session: AsyncSession, assistant_id: UUID, fields: Mapping[str, Any]) -> None:
    """Raises `Conflict` if the slug is taken."""
    statement = update(Assistant).where(Assistant.id == assistant_id).values(**fields, updated_at=func.now())
    with unique(f"There is an assistant {fields.get('slug')} already."):
        await session.execute(statement, execution_options={"synchronize_session": False})


async def set_collections(session: AsyncSession, assistant_id: UUID, collection_ids: Sequence[UUID]) -> None:
    await session.execute(
        delete(AssistantCollection).where(AssistantCollection.assistant_id == assistant_id),
        execution_options={"synchronize_session": False},
    )
    if collection_ids:
        rows = [
            {"assistant_id": assistant_id, "collection_id": collection_id}
            for collection_id in dict.fromkeys(collection_ids)
        ]
        await session.execute(insert(AssistantCollection).values(rows))


async def remove(session: AsyncSession, identifier: str) -> bool:
    if (named := _named(identifier)) is None:
        return False
    result = await session.execute(
        delete(Assistant).where(named).returning(Assistant.id),
        execution_options={"synchronize_session": False},
    )
    return result.first() is not None


def _named(identifier: str) -> ColumnElement[bool] | None:
    if (assistant_id := as_uuid(identifier)) is not None:
        return Assistant.id == assistant_id
    return Assistant.slug == identifier if SLUG.fullmatch(identifier) else None


async def _views(session: AsyncSession, rows: Sequence[RowMapping]) -> list[AssistantView]:
    if not rows:
        return []
    statement = (
        select(AssistantCollection.assistant_id, Collection.id, Collection.name)
        .join(Collection, Collection.id == AssistantCollection.collection_id)
        .where(AssistantCollection.assistant_id.in_([row["id"] for row in rows]))
        .order_by(Collection.name)
    )
    collections: dict[UUID, list[CollectionName]] = {}
    for assistant_id, collection_id, name in await session.execute(statement):
        collections.setdefault(assistant_id, []).append(CollectionName(collection_id, name))
    return [AssistantView(**row, collections=tuple(collections.get(row["id"], ()))) for row in rows]
