"""Queries on collections of documents, which are named by their name or by their id.

That of a session's attachments has neither: it is found by its session alone, and for everything else there is none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.identifiers import as_uuid, unique
from app.db.tables import Collection, Document
from app.errors import NotFound

_QUIET: dict[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class CollectionView:
    id: UUID
    name: str
    description: str
    document_count: int
    chunk_count: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CollectionReach:
    """What a search needs to know."""

    ids: tuple[UUID, ...]
    chunk_count: int


_is_common = Collection.session_id.is_(None)
_view = select(
    Collection.id,
    Collection.name,
    Collection.description,
    select(func.count())
    .select_from(Document)
    .where(Document.collection_id == Collection.id)
    .scalar_subquery()
    .label("document_count"),
    Collection.chunk_count,
    Collection.created_at,
)


async def get(session: AsyncSession, identifier: str) -> CollectionView:
    """Raises `NotFound`."""
    row = (await session.execute(_view.where(_named(identifier)))).mappings().one_or_none()
    if row is None:
        raise NotFound("collection", identifier)
    return CollectionView(**row)


async def page(session: AsyncSession, *, after: str | None, limit: int) -> list[CollectionView]:
    """The `limit` collections whose names follow `after`, in the order of their names."""
    statement = _view.where(_is_common).order_by(Collection.name).limit(limit)
    if after is not None:
        statement = statement.where(Collection.name > after)
    return [CollectionView(**row) for row in (await session.execute(statement)).mappings()]


async def hold(session: AsyncSession, identifiers: Iterable[str]) -> list[UUID]:
    """Their ids, each once, in the order given; they cannot be deleted before the transaction ends. Raises `NotFound`."""
    ids: list[UUID] = []
    for identifier in identifiers:
        statement = select(Collection.id).where(_named(identifier)).with_for_update(read=True, key_share=True)
        found = (await session.execute(statement)).scalar_one_or_none()
        if found is None:
            raise NotFound("collection", identifier)
        ids.append(found)
    return list(dict.fromkeys(ids))


async def reach(session: AsyncSession, ids: Iterable[UUID]) -> CollectionReach:
    """Of those among them that there are."""
    statement = select(Collection.id, Collection.chunk_count).where(Collection.id.in_(list(ids)))
    rows = (await session.execute(statement)).all()
    return CollectionReach(tuple(row.id for row in rows), sum(row.chunk_count for row in rows))


async def of_session(session: AsyncSession, session_id: str) -> CollectionReach | None:
    """That of its attachments, if it has any."""
    statement = select(Collection.id, Collection.chunk_count).where(Collection.session_id == session_id)
    row = (await session.execute(statement)).one_or_none()
    return CollectionReach((row.id,), row.chunk_count) if row is not None else None


async def make_for_session(session: AsyncSession, session_id: str) -> UUID:
    """One for its attachments. The slash keeps its name out of the way of all others."""
    collection_id = uuid4()
    await session.execute(
        insert(Collection).values(
            id=collection_id, name=f"attachments/{collection_id}", session_id=session_id
        )
    )
    return collection_id


async def remove_of_session(session: AsyncSession, session_id: str) -> None:
    await session.execute(
        delete(Collection).where(Collection.session_id == session_id), execution_options=_QUIET
    )


async def insert_new(
    session: AsyncSession, name: str, description: str = "", *, collection_id: UUID | None = None
) -> bool:
    """False if the name is taken. Without an id it is given one."""
    statement = (
        insert(Collection)
        .values(id=collection_id or uuid4(), name=name, description=description)
        .on_conflict_do_nothing(index_elements=[Collection.name])
        .returning(Collection.id)
    )
    return (await session.execute(statement)).first() is not None


async def change(session: AsyncSession, identifier: str, fields: Mapping[str, Any]) -> UUID:
    """Raises `NotFound`, and `Conflict` if the name is taken."""
    statement = update(Collection).where(_named(identifier)).values(**fields).returning(Collection.id)
    with unique(f"There is a collection {fields.get('name')} already."):
        result = await session.execute(statement, execution_options={"synchronize_session": False})
    collection_id = result.scalar_one_or_none()
    if collection_id is None:
        raise NotFound("collection", identifier)
    return collection_id


async def remove(session: AsyncSession, identifier: str) -> bool:
    """With its documents."""
    statement = delete(Collection).where(_named(identifier)).returning(Collection.id)
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    return result.first() is not None


def _named(identifier: str) -> ColumnElement[bool]:
    collection_id = as_uuid(identifier)
    named = Collection.name == identifier if collection_id is None else Collection.id == collection_id
    return and_(named, _is_common)
