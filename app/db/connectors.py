"""Queries on connectors, which are named by their name or by their id, and on what they have seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, RowMapping, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.identifiers import as_uuid, unique
from app.db.tables import Collection, Connector, ConnectorItem
from app.errors import NotFound

Kind = Literal["folder", "web", "s3"]

_QUIET: dict[str, Any] = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class ConnectorView:
    """`secrets` are encrypted."""

    id: UUID
    name: str
    kind: Kind
    collection_id: UUID
    collection_name: str
    place: dict[str, Any]
    secrets: bytes | None
    schedule: str | None
    is_paused: bool
    is_trusted: bool
    next_sync_at: datetime | None
    item_count: int
    created_at: datetime
    updated_at: datetime


_view = select(
    Connector.id,
    Connector.name,
    Connector.kind,
    Connector.collection_id,
    Collection.name.label("collection_name"),
    Connector.place,
    Connector.secrets,
    Connector.schedule,
    Connector.is_paused,
    Connector.is_trusted,
    Connector.next_sync_at,
    select(func.count())
    .select_from(ConnectorItem)
    .where(ConnectorItem.connector_id == Connector.id, ConnectorItem.document_id.is_not(None))
    .scalar_subquery()
    .label("item_count"),
    Connector.created_at,
    Connector.updated_at,
).join(Collection, Collection.id == Connector.collection_id)


async def get(session: AsyncSession, identifier: str) -> ConnectorView:
    """Raises `NotFound`."""
    row = (await session.execute(_view.where(_named(identifier)))).mappings().one_or_none()
    if row is None:
        raise NotFound("connector", identifier)
    return _as_view(row)


async def page(session: AsyncSession, *, after: str | None, limit: int) -> list[ConnectorView]:
    """The `limit` connectors whose names follow `after`, in the order of their names."""
    statement = _view.order_by(Connector.name).limit(limit)
    if after is not None:
        statement = statement.where(Connector.name > after)
    return [_as_view(row) for row in (await session.execute(statement)).mappings()]


async def insert_new(session: AsyncSession, fields: Mapping[str, Any]) -> UUID:
    """Raises `Conflict` if the name is taken."""
    connector_id = uuid4()
    with unique(f"There is a connector {fields['name']} already."):
        await session.execute(insert(Connector).values(id=connector_id, **fields))
    return connector_id


async def hold(session: AsyncSession, identifier: str) -> ConnectorView:
    """As nobody else can change or delete it before the transaction ends. Raises `NotFound`."""
    statement = select(Connector.id).where(_named(identifier)).with_for_update()
    connector_id = (await session.execute(statement)).scalar_one_or_none()
    if connector_id is None:
        raise NotFound("connector", identifier)
    return await get(session, str(connector_id))


async def change(session: AsyncSession, connector_id: UUID, fields: Mapping[str, Any]) -> None:
    """Raises `Conflict` if the name is taken."""
    statement = update(Connector).where(Connector.id == connector_id).values(**fields, updated_at=func.now())
    with unique(f"There is a connector {fields.get('name')} already."):
        await session.execute(statement, execution_options=_QUIET)


async def remove(session: AsyncSession, connector_id: UUID) -> None:
    await session.execute(delete(Connector).where(Connector.id == connector_id), execution_options=_QUIET)


async def hold_due(session: AsyncSession, *, limit: int) -> list[ConnectorView]:
    """Those whose schedule wants them now, but for those that others are just looking at; held to the end of the transaction."""
    due = (
        select(Connector.id)
        .where(Connector.next_sync_at <= func.now(), Connector.is_paused.is_(False))
        .order_by(Connector.next_sync_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = (await session.execute(due)).scalars().all()
    rows = (await session.execute(_view.where(Connector.id.in_(ids)))).mappings() if ids else ()
    return [_as_view(row) for row in rows]


async def states(session: AsyncSession, connector_id: UUID) -> dict[str, dict[str, Any]]:
    """Of its items, by key; without those whose document somebody has deleted, which are to be had anew."""
    statement = select(ConnectorItem.key, ConnectorItem.state).where(
        ConnectorItem.connector_id == connector_id,
        ConnectorItem.document_id.is_not(None) | ConnectorItem.is_document.is_(False),
    )
    return {row.key: row.state for row in await session.execute(statement)}


async def keep_item(
    session: AsyncSession,
    connector_id: UUID,
    key: str,
    *,
    document_id: UUID | None,
    state: Mapping[str, Any],
    sync_id: UUID,
) -> None:
    """`document_id` None is an item that is no document."""
    fields = {
        "document_id": document_id,
        "is_document": document_id is not None,
        "state": dict(state),
        "seen_in": sync_id,
    }
    statement = insert(ConnectorItem).values(connector_id=connector_id, key=key, **fields)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[ConnectorItem.connector_id, ConnectorItem.key], set_=fields
        )
    )


async def renew_state(session: AsyncSession, connector_id: UUID, key: str, state: Mapping[str, Any]) -> None:
    statement = update(ConnectorItem).where(_item(connector_id, [key])).values(state=dict(state))
    await session.execute(statement, execution_options=_QUIET)


async def mark_seen(session: AsyncSession, connector_id: UUID, keys: Sequence[str], sync_id: UUID) -> None:
    statement = update(ConnectorItem).where(_item(connector_id, keys)).values(seen_in=sync_id)
    await session.execute(statement, execution_options=_QUIET)


async def unseen(session: AsyncSession, connector_id: UUID, sync_id: UUID | None) -> list[str]:
    """The keys of what that sync has not seen, of all without one; documents and others."""
    statement = select(ConnectorItem.key).where(ConnectorItem.connector_id == connector_id)
    if sync_id is not None:
        statement = statement.where(ConnectorItem.seen_in != sync_id)
    return [*(await session.execute(statement.order_by(ConnectorItem.key))).scalars()]


async def forget_item(session: AsyncSession, connector_id: UUID, key: str) -> None:
    await session.execute(delete(ConnectorItem).where(_item(connector_id, [key])), execution_options=_QUIET)


def _item(connector_id: UUID, keys: Sequence[str]) -> ColumnElement[bool]:
    return (ConnectorItem.connector_id == connector_id) & ConnectorItem.key.in_(keys)


def _named(identifier: str) -> ColumnElement[bool]:
    connector_id = as_uuid(identifier)
    return Connector.name == identifier if connector_id is None else Connector.id == connector_id


def _as_view(row: RowMapping) -> ConnectorView:
    return ConnectorView(**row)
