"""One round of a connector: what is new or changed is put into its collection, and what has gone is taken out."""

import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import anyio

from app.db import connectors, syncs
from app.db.connectors import ConnectorView
from app.db.engine import Sessions
from app.db.queue import Later
from app.db.syncs import Claim, ItemError, Status
from app.errors import DatabaseUnavailable, FreshetError, InvalidInput, TooLarge
from app.ingest.connectors import (
    Changed,
    Driver,
    Failed,
    Found,
    Gone,
    Incomplete,
    PassedOver,
    State,
    Unchanged,
)
from app.services.knowledge import KnowledgeService

logger = logging.getLogger(__name__)

_TOLD_EVERY_S = 1.0
_MARKED_AT_ONCE = 200
_MOST_ERRORS = 100
_LONGEST_KEY = 2_000
_GIVE_BACK_GRACE_S = 2.0
_WITHOUT_DATABASE = timedelta(seconds=10)
# A share that is not mounted looks like an empty folder; a few documents may well have been all there were.
_SUSPICIOUS = 10


@dataclass(slots=True)
class Counts:
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    passed_over: int = 0
    failed: int = 0


@dataclass(slots=True)
class Round:
    """`stopped` is why it was, if it was."""

    connector: ConnectorView
    claim: Claim
    counts: Counts = field(default_factory=Counts)
    errors: list[ItemError] = field(default_factory=list[ItemError])
    doing: str | None = None
    incomplete: str | None = None
    stopped: str | None = None
    seen: list[str] = field(default_factory=list[str])

    def error(self, key: str, message: str) -> None:
        self.counts.failed += 1
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(ItemError(key[:_LONGEST_KEY], message))

    @property
    def fields(self) -> dict[str, Any]:
        return {**asdict(self.counts), "errors": [asdict(error) for error in self.errors]}


class Syncing:
    def __init__(
        self, sessions: Sessions, knowledge: KnowledgeService, *, told_every_s: float = _TOLD_EVERY_S
    ) -> None:
        self._sessions = sessions
        self._knowledge = knowledge
        self._told_every_s = told_every_s

    async def run(self, connector: ConnectorView, claim: Claim, driver: Driver) -> None:
        """To its end, which is stored. Raises `Later` without a database; when it is cancelled, it is given back."""
        running = Round(connector, claim)
        try:
            status, message = await self._watched(running, driver)
            async with self._sessions.begin() as session:
                await syncs.end(session, claim, status, running.fields | {"message": message})
        except DatabaseUnavailable as error:
            raise Later(_WITHOUT_DATABASE) from error
        except BaseException:  # given back, then raised again
            with anyio.move_on_after(_GIVE_BACK_GRACE_S, shield=True):
                await self._give_back(claim)
            raise

    async def fail(self, claim: Claim, error: FreshetError) -> None:
        """Before anything could be looked at."""
        async with self._sessions.begin() as session:
            await syncs.end(session, claim, "failed", {"message": error.message})

    async def forget(self, connector: ConnectorView, key: str) -> bool:
        """The item, with its document. Whether there was one."""
        removed = await self._knowledge.remove_origin(str(connector.collection_id), _origin(connector, key))
        async with self._sessions.begin() as session:
            await connectors.forget_item(session, connector.id, key)
        return removed

    async def _watched(self, running: Round, driver: Driver) -> tuple[Status, str | None]:
        """How it ended, and what there is to say of that."""
        failure: FreshetError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell, running, tasks.cancel_scope)
            try:
                await self._sync(running, driver)
            except FreshetError as error:
                failure = error
            except (
                Exception
            ):  # a bug that one connector brings out must not keep the others from being synchronised
                logger.exception("Synchronising connector %s failed.", running.connector.id)
                failure = FreshetError("An error in Freshet kept the connector from being synchronised.")
            tasks.cancel_scope.cancel()
        if isinstance(failure, DatabaseUnavailable):
            raise failure
        if running.stopped is not None:
            return "cancelled", running.stopped
        if failure is not None:
            return "failed", failure.message
        return ("incomplete", running.incomplete) if running.incomplete else ("completed", None)

    async def _sync(self, running: Round, driver: Driver) -> None:
        async with self._sessions.read() as session:
            known = await connectors.states(session, running.connector.id)
        count = 0
        async with aclosing(driver.found(known)) as finding:
            async for found in finding:
                count += not isinstance(found, Incomplete | Gone)
                await self._take(running, found, known)
        await self._mark(running)
        if running.incomplete is None:
            await self._remove_unseen(running, is_empty=count == 0)

    async def _take(self, running: Round, found: Found, known: Mapping[str, State]) -> None:
        if isinstance(found, Incomplete):
            running.incomplete = found.why
            return
        running.doing = found.key[:_LONGEST_KEY]
        if isinstance(found, Changed):
            await self._put(running, found)
        elif isinstance(found, Unchanged):
            await self._unchanged(running, found, known)
        elif isinstance(found, Failed):
            running.error(found.key, found.why)
            await self._seen(running, found.key)
        elif isinstance(found, Gone):
            await self._remove(running, found.key)
        else:
            await self._pass_over(running, found)

    async def _put(self, running: Round, item: Changed) -> None:
        connector = running.connector
        try:
            if len(item.key.encode()) > _LONGEST_KEY:
                raise InvalidInput(f"The path is longer than {_LONGEST_KEY:,} bytes.")
            document, done = await self._knowledge.put(
                str(connector.collection_id),
                _origin(connector, item.key),
                item.file_name,
                item.content,
                item.declared_type,
                url=item.url,
            )
        except (InvalidInput, TooLarge) as refused:
            running.error(item.key, refused.message)
            await self._seen(running, item.key)
            return
        setattr(running.counts, done, getattr(running.counts, done) + 1)
        async with self._sessions.begin() as session:
            await connectors.keep_item(
                session,
                connector.id,
                item.key,
                document_id=document.id,
                state=item.state,
                sync_id=running.claim.sync_id,
            )

    async def _unchanged(self, running: Round, item: Unchanged, known: Mapping[str, State]) -> None:
        running.counts.unchanged += 1
        if item.state is not None and item.state != known.get(item.key):
            async with self._sessions.begin() as session:
                await connectors.renew_state(session, running.connector.id, item.key, item.state)
        await self._seen(running, item.key)

    async def _pass_over(self, running: Round, item: PassedOver) -> None:
        running.counts.passed_over += 1
        connector = running.connector
        if await self._knowledge.remove_origin(str(connector.collection_id), _origin(connector, item.key)):
            running.counts.removed += 1
        async with self._sessions.begin() as session:
            await connectors.keep_item(
                session,
                connector.id,
                item.key,
                document_id=None,
                state=item.state,
                sync_id=running.claim.sync_id,
            )

    async def _seen(self, running: Round, key: str) -> None:
        running.seen.append(key)
        if len(running.seen) >= _MARKED_AT_ONCE:
            await self._mark(running)

    async def _mark(self, running: Round) -> None:
        keys, running.seen = running.seen, []
        async with self._sessions.begin() as session:
            await connectors.mark_seen(session, running.connector.id, keys, running.claim.sync_id)

    async def _remove_unseen(self, running: Round, *, is_empty: bool) -> None:
        async with self._sessions.read() as session:
            keys = await connectors.unseen(session, running.connector.id, running.claim.sync_id)
        if is_empty and len(keys) > _SUSPICIOUS:
            running.incomplete = (
                f"There is nothing where {len(keys):,} items were. None was removed, as a place that is out of reach looks so; "
                "delete the connector with its documents if they are meant to go."
            )
            return
        for key in keys:
            running.doing = key
            await self._remove(running, key)

    async def _remove(self, running: Round, key: str) -> None:
        running.counts.removed += await self.forget(running.connector, key)

    async def _tell(self, running: Round, working: anyio.CancelScope) -> None:
        """Keeps the claim, and stops the work when it is lost or somebody wants it to end."""
        while True:
            await anyio.sleep(self._told_every_s)
            try:
                async with self._sessions.begin() as session:
                    told = await syncs.tell(session, running.claim, running.fields | {"doing": running.doing})
            except DatabaseUnavailable:
                logger.warning("The claim on connector %s could not be refreshed.", running.connector.id)
                continue
            if told is not False:
                running.stopped = "It was cancelled." if told else "Another process has taken it over."
                working.cancel()
                return

    async def _give_back(self, claim: Claim) -> None:
        try:
            async with self._sessions.begin() as session:
                await syncs.give_back(session, claim)
        except DatabaseUnavailable:
            logger.warning("The sync %s waits until its claim has lapsed.", claim.sync_id)


def _origin(connector: ConnectorView, key: str) -> str:
    return f"connector:{connector.id}:{key}"
