"""Connectors, which keep collections in step with where documents live; for administrators."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictBool

from app.api.contract import Cursor, Limit, cut, problems
from app.api.deps import Admin, Connectors
from app.api.text import Text
from app.api.v1.documents import CollectionOfDocument
from app.db.connectors import ConnectorView, Kind
from app.db.syncs import Cause, Status, SyncView
from app.ingest.connectors.kinds import SECRETS, Place
from app.services.connectors import ConnectorChange
from app.services.knowledge import LONGEST_NAME, NAME_PATTERN

router = APIRouter(prefix="/connectors", tags=["connectors"])

_MASK = "********"

Identifier = Annotated[Text, Path(min_length=1, max_length=LONGEST_NAME, description="A name or an id.")]
Name = Annotated[str, Field(max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
Schedule = Annotated[
    Text,
    Field(
        max_length=100, description="A number with m, h or d, as `6h`, or the five fields of cron, in UTC."
    ),
]
_Secret = Annotated[SecretStr, Field(min_length=1, max_length=4_000)]


class Secrets(BaseModel):
    """`authorization` is the header of that name, for a site; the other two are for a bucket."""

    model_config = ConfigDict(extra="forbid")

    authorization: _Secret | None = None
    access_key_id: _Secret | None = None
    secret_access_key: _Secret | None = None

    def given(self) -> dict[str, str]:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value.get_secret_value() for name, value in fields.items() if value is not None}


class NewConnector(BaseModel):
    """`collection` is a name or an id; a name that there is none of makes a collection."""

    name: Name
    collection: Annotated[Text, Field(min_length=1, max_length=LONGEST_NAME)]
    place: Place
    secrets: Secrets = Secrets()
    schedule: Annotated[Schedule | None, Field(description="Without one, it is synchronised when asked.")] = (
        None
    )
    is_paused: StrictBool = False
    check: Annotated[StrictBool, Field(description="Whether the place is looked at before it is kept.")] = (
        True
    )


class ChangeOfConnector(BaseModel):
    """What is not sent stays as it is."""

    name: Name | None = None
    place: Place | None = None
    secrets: Annotated[Secrets | None, Field(description="`{}` takes them away.")] = None
    schedule: Schedule | None = None
    is_paused: StrictBool | None = None

    def given(self) -> ConnectorChange:
        fields = ConnectorChange()
        if self.name is not None:
            fields["name"] = self.name
        if self.place is not None:
            fields["place"] = self.place
        if self.secrets is not None:
            fields["secrets"] = self.secrets.given()
        if "schedule" in self.model_fields_set:
            fields["schedule"] = self.schedule
        if self.is_paused is not None:
            fields["is_paused"] = self.is_paused
        return fields


class ErrorOfItem(BaseModel):
    key: str
    message: str


class Sync(BaseModel):
    """Its counts are of items; `doing` is the one it is at. `errors` are the first hundred."""

    id: UUID
    connector_id: UUID
    status: Status
    cause: Cause
    added: int
    changed: int
    unchanged: int
    removed: int
    passed_over: int
    failed: int
    doing: str | None
    message: str | None
    errors: list[ErrorOfItem]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, view: SyncView) -> "Sync":
        return cls(**asdict(view))


class SyncPage(BaseModel):
    """`next` is the `cursor` of the page that follows, null at the end."""

    items: list[Sync]
    next: str | None


class Connector(BaseModel):
    """`item_count` is how many documents it keeps; `secrets` has the names of those there are; `last_sync` may be in progress."""

    id: UUID
    name: str
    kind: Kind
    collection: CollectionOfDocument
    place: Place
    secrets: dict[str, str]
    schedule: str | None
    is_paused: bool
    next_sync_at: datetime | None
    item_count: int
    last_sync: Sync | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, view: ConnectorView, last_sync: SyncView | None) -> "Connector":
        names = sorted(SECRETS[view.kind]) if view.secrets is not None else []
        fields: dict[str, Any] = asdict(view) | {"secrets": dict.fromkeys(names, _MASK)}
        return cls(
            **fields,
            collection=CollectionOfDocument(id=view.collection_id, name=view.collection_name),
            last_sync=Sync.of(last_sync) if last_sync is not None else None,
        )


class ConnectorPage(BaseModel):
    """`next` is the `cursor` of the page that follows, null at the end."""

    items: list[Connector]
    next: str | None


@router.post("", status_code=201, responses=problems(401, 403, 404, 409, 413, 422))
async def create_connector(body: NewConnector, connectors: Connectors, _: Admin) -> Connector:
    """One with a schedule is synchronised at once for the first time."""
    created = await connectors.create(
        body.name,
        body.collection,
        body.place,
        secrets=body.secrets.given(),
        schedule=body.schedule,
        is_paused=body.is_paused,
        check=body.check,
    )
    return Connector.of(created, None)


@router.get("", responses=problems(401, 403, 422))
async def list_connectors(
    connectors: Connectors, _: Admin, limit: Limit = 50, cursor: Annotated[Text | None, Cursor] = None
) -> ConnectorPage:
    """In the order of their names."""
    rows = await connectors.page(after=cursor, limit=limit + 1)
    rows, following = cut(rows, limit, lambda row: row[0].name)
    return ConnectorPage(items=[Connector.of(*row) for row in rows], next=following)


@router.get("/{connector}", responses=problems(401, 403, 404, 422))
async def get_connector(connector: Identifier, connectors: Connectors, _: Admin) -> Connector:
    return Connector.of(*await connectors.connector(connector))


@router.patch("/{connector}", responses=problems(401, 403, 404, 409, 413, 422))
async def change_connector(
    connector: Identifier, body: ChangeOfConnector, connectors: Connectors, _: Admin
) -> Connector:
    changed = await connectors.change(connector, **body.given())
    return Connector.of(*await connectors.connector(str(changed.id)))


@router.delete("/{connector}", status_code=204, responses=problems(401, 403, 404, 409, 422))
async def delete_connector(
    connector: Identifier,
    connectors: Connectors,
    _: Admin,
    documents: Annotated[
        bool, Query(description="Whether its documents go as well; else they stay in the collection.")
    ] = False,
) -> None:
    await connectors.delete(connector, with_documents=documents)


@router.post("/{connector}/test", status_code=204, responses=problems(401, 403, 404, 409, 422))
async def try_connector(connector: Identifier, connectors: Connectors, _: Admin) -> None:
    """Whether the place can be listed; if not, the error says what is wrong."""
    await connectors.test(connector)


@router.post("/{connector}/sync", status_code=202, responses=problems(401, 403, 404, 409, 422))
async def start_sync(connector: Identifier, connectors: Connectors, _: Admin) -> Sync:
    return Sync.of(await connectors.start(connector))


@router.post("/{connector}/cancel", status_code=202, responses=problems(401, 403, 404, 409, 422))
async def cancel_sync(connector: Identifier, connectors: Connectors, _: Admin) -> Sync:
    """It ends within moments; what it has done so far stays."""
    return Sync.of(await connectors.cancel(connector))


@router.get("/{connector}/syncs", responses=problems(401, 403, 404, 422))
async def list_syncs(
    connector: Identifier,
    connectors: Connectors,
    _: Admin,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(pattern="^[0-9]{1,18}$", description="The `next` of the page before.")
    ] = None,
) -> SyncPage:
    """The newest first; the last 200 are kept."""
    before = int(cursor) if cursor is not None else None
    rows = await connectors.syncs(connector, before=before, limit=limit + 1)
    rows, following = cut(rows, limit, lambda row: str(row.position))
    return SyncPage(items=[Sync.of(row) for row in rows], next=following)
