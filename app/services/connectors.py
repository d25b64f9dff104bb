"""Connectors: where documents of collections live, how they are made and changed, and when they are synchronised."""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack
from uuid import UUID

import anyio
from sqlalchemy.ext.asyncio import AsyncSession
from yarl import URL

from app.db import collections, connectors, syncs
from app.db.connectors import ConnectorView
from app.db.engine import Sessions
from app.db.identifiers import as_uuid
from app.db.queue import Job, Later
from app.db.syncs import Cause, SyncView
from app.errors import Conflict, FreshetError, InvalidInput, NotFound, SyncRunning
from app.ingest.connectors import kinds
from app.ingest.connectors.kinds import FolderPlace, S3Place, Surroundings, WebPlace
from app.services import schedules
from app.services.knowledge import LONGEST_NAME, NAME_PATTERN, KnowledgeService
from app.services.syncing import Syncing
from app.services.vault import Vault

logger = logging.getLogger(__name__)

Place = FolderPlace | WebPlace | S3Place

_DUE_AT_ONCE = 20
_LOOK_EVERY_S = 15.0
_TOLD_EVERY = 20
_NAME = re.compile(NAME_PATTERN)


class ConnectorChange(TypedDict, total=False):
    """`secrets` empty are none. `schedule` None is none: then it is synchronised when it is asked for."""

    name: str
    place: Place
    secrets: dict[str, str]
    schedule: str | None
    is_paused: bool


class ConnectorService:
    def __init__(
        self,
        sessions: Sessions,
        knowledge: KnowledgeService,
        vault: Vault,
        around: Surroundings,
        *,
        told_every_s: float = 1.0,
    ) -> None:
        self._sessions = sessions
        self._knowledge = knowledge
        self._vault = vault
        self._around = around
        self._syncing = Syncing(sessions, knowledge, told_every_s=told_every_s)

    async def create(
        self,
        name: str,
        collection: str,
        place: Place,
        *,
        secrets: Mapping[str, str] | None = None,
        schedule: str | None = None,
        is_paused: bool = False,
        is_trusted: bool = False,
        check: bool = True,
    ) -> ConnectorView:
        """A collection that there is none of is made. With `check`, the place is looked at first: raises `ConnectorRefused`.

        `is_trusted`: whoever runs the server names the place.
        """
        secrets = dict(secrets or {})
        _check(name, place, secrets, schedule)
        if check:
            await self._look(place, secrets, is_trusted=is_trusted)
        if as_uuid(collection) is None:
            with suppress(Conflict):
                await self._knowledge.create_collection(collection)
        async with self._sessions.begin() as session:
            (collection_id,) = await collections.hold(session, [collection])
            fields = {
                "name": name,
                "kind": place.kind,
                "collection_id": collection_id,
                "place": place.model_dump(mode="json"),
                "secrets": self._vault.seal(secrets),
                "schedule": schedule,
                "is_paused": is_paused,
                "is_trusted": is_trusted,
                "next_sync_at": datetime.now(UTC) if schedule is not None else None,
            }
            connector_id = await connectors.insert_new(session, fields)
            return await connectors.get(session, str(connector_id))

    async def change(self, identifier: str, **fields: Unpack[ConnectorChange]) -> ConnectorView:
        """What is not named stays as it is. Whoever changes the place through here is not who runs the server."""
        async with self._sessions.begin() as session:
            before = await connectors.hold(session, identifier)
            changed = self._changed(before, fields)
            if changed:
                await connectors.change(session, before.id, changed)
            return await connectors.get(session, str(before.id))

    def _changed(self, before: ConnectorView, fields: ConnectorChange) -> dict[str, Any]:
        place = fields.get("place")
        if place is not None and place.kind != before.kind:
            raise InvalidInput(f"This connector is of the kind {before.kind}: make another for {place.kind}.")
        schedule = fields.get("schedule", before.schedule)
        secrets = fields.get("secrets")
        _check(
            fields.get("name", before.name), place or kinds.as_place(before.place), secrets or {}, schedule
        )
        changed: dict[str, Any] = {}
        if "name" in fields:
            changed["name"] = fields["name"]
        if "is_paused" in fields:
            changed["is_paused"] = fields["is_paused"]
        if place is not None and place.model_dump(mode="json") != before.place:
            if (
                before.secrets is not None
                and secrets is None
                and _address(place) != _address(kinds.as_place(before.place))
            ):
                # Or else whoever may change a connector could have its secrets sent to himself.
                raise InvalidInput("The secrets are for another address: give them anew with this one.")
            changed |= {"place": place.model_dump(mode="json"), "is_trusted": False}
        if secrets is not None:
            changed["secrets"] = self._vault.seal(secrets)
        if "schedule" in fields and schedule != before.schedule:
            changed |= {"schedule": schedule, "next_sync_at": datetime.now(UTC) if schedule else None}
        return changed

    async def delete(self, identifier: str, *, with_documents: bool) -> None:
        """Raises `SyncRunning` while it is being synchronised."""
        async with self._sessions.begin() as session:
            connector = await connectors.hold(session, identifier)
            # As long as it is open, nobody else puts documents into the collection.
            sync_id = await _begin(session, connector.id, "removal")
            keys = await connectors.unseen(session, connector.id, None) if with_documents else []
            claim = await syncs.claim(session, sync_id)
        assert isinstance(claim, syncs.Claim)
        for number, key in enumerate(keys):
            await self._syncing.forget(connector, key)
            if number % _TOLD_EVERY == 0:
                async with self._sessions.begin() as session:
                    await syncs.tell(session, claim, {"doing": key, "removed": number + 1})
        async with self._sessions.begin() as session:
            await connectors.remove(session, connector.id)

    async def connector(self, identifier: str) -> tuple[ConnectorView, SyncView | None]:
        """With its newest sync."""
        async with self._sessions.begin() as session:
            found = await connectors.get(session, identifier)
            return found, (await syncs.last_of(session, [found.id])).get(found.id)

    async def page(self, *, after: str | None, limit: int) -> list[tuple[ConnectorView, SyncView | None]]:
        """In the order of names, those that follow `after`; each with its newest sync."""
        async with self._sessions.begin() as session:
            found = await connectors.page(session, after=after, limit=limit)
            last = await syncs.last_of(session, [one.id for one in found])
        return [(one, last.get(one.id)) for one in found]

    async def test(self, identifier: str) -> None:
        """Raises `ConnectorRefused` with what is wrong, and `SecretsUnreadable`."""
        found, _ = await self.connector(identifier)
        secrets = self._vault.open(found.secrets)
        await self._look(kinds.as_place(found.place), secrets, is_trusted=found.is_trusted)

    async def start(self, identifier: str) -> SyncView:
        """A sync that any process takes up. Raises `SyncRunning` if there is an open one."""
        async with self._sessions.begin() as session:
            connector = await connectors.hold(session, identifier)
            sync_id = await _begin(session, connector.id, "manual")
            await syncs.enqueue(session, sync_id)
            return await _stored(session, sync_id)

    async def cancel(self, identifier: str) -> SyncView:
        """Raises `Conflict` if it is not being synchronised."""
        async with self._sessions.begin() as session:
            connector = await connectors.get(session, identifier)
            sync_id = await syncs.cancel(session, connector.id)
            if sync_id is None:
                raise Conflict("This connector is not being synchronised.")
            return await _stored(session, sync_id)

    async def sync(self, sync_id: UUID) -> SyncView:
        async with self._sessions.read() as session:
            return await _stored(session, sync_id)

    async def syncs(self, identifier: str, *, before: int | None, limit: int) -> list[SyncView]:
        """The newest first, those that began before the position `before`."""
        async with self._sessions.begin() as session:
            connector = await connectors.get(session, identifier)
            return await syncs.page(session, connector.id, before=before, limit=limit)

    async def sync_job(self, job: Job) -> None:
        """Does what waits in the queue. Raises `Later` if another process is at it, or there is no database."""
        sync_id = UUID(bytes=job.payload)
        async with self._sessions.begin() as session:
            claim = await syncs.claim(session, sync_id)
            if isinstance(claim, timedelta):
                raise Later(claim)
            if claim is None:
                return
            connector = await connectors.get(session, str(claim.connector_id))
        try:
            driver = kinds.open_driver(
                kinds.as_place(connector.place),
                self._vault.open(connector.secrets),
                self._around,
                trusted=connector.is_trusted,
            )
            async with driver as looking:
                await self._syncing.run(connector, claim, looking)
        except FreshetError as error:
            await self._syncing.fail(claim, error)

    async def start_due(self) -> int:
        """Puts into the queue what the schedules want now; how many there were."""
        async with self._sessions.begin() as session:
            due = await connectors.hold_due(session, limit=_DUE_AT_ONCE)
            for connector in due:
                assert connector.schedule is not None
                following = schedules.following(connector.schedule, datetime.now(UTC))
                await connectors.change(session, connector.id, {"next_sync_at": following})
                # One that is still at it is left alone.
                if (sync_id := await syncs.begin(session, connector.id, "schedule")) is not None:
                    await syncs.enqueue(session, sync_id)
        return len(due)

    async def keep_schedules(self) -> None:
        """For good."""
        while True:
            try:
                await self.start_due()
            except FreshetError as error:
                logger.warning("Looking for connectors that are due failed: %s", error.message)
            except Exception:  # a bug must cost one look, not the process
                logger.exception("Looking for connectors that are due failed.")
            await anyio.sleep(_LOOK_EVERY_S)

    async def _look(self, place: Place, secrets: dict[str, str], *, is_trusted: bool) -> None:
        async with kinds.open_driver(place, secrets, self._around, trusted=is_trusted) as driver:
            await driver.check()


async def _begin(session: AsyncSession, connector_id: UUID, cause: Cause) -> UUID:
    sync_id = await syncs.begin(session, connector_id, cause)
    if sync_id is None:
        raise SyncRunning
    return sync_id


async def _stored(session: AsyncSession, sync_id: UUID) -> SyncView:
    found = await syncs.get(session, sync_id)
    if found is None:
        raise NotFound("sync", sync_id)
    return found


def _address(place: Place) -> str | None:
    if isinstance(place, WebPlace):
        return str(URL(place.url).origin())
    return place.endpoint if isinstance(place, S3Place) else None


def _check(name: str, place: Place, secrets: dict[str, str], schedule: str | None) -> None:
    if (
        len(name) > LONGEST_NAME
        or not _NAME.fullmatch(name)
        or name in {".", ".."}
        or as_uuid(name) is not None
    ):
        raise InvalidInput(
            f"The name of a connector is 1 to {LONGEST_NAME} characters, without slashes, control characters, or blanks around it, "
            "and no id."
        )
    kinds.check_secrets(place.kind, secrets)
    if schedule is not None:
        schedules.check(schedule)
