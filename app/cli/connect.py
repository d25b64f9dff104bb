"""Connectors: made, listed, and synchronised while one watches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from rich.table import Table

from app.cli.database import with_resources
from app.cli.terminal import Bar, Terminal
from app.db.connectors import ConnectorView
from app.db.syncs import SyncView
from app.errors import FreshetError, NotFound, SyncRunning
from app.ingest.connectors.kinds import FolderPlace, S3Place, WebPlace
from app.resources import Resources

_LOOK_EVERY_S = 0.3
_PAGE = 200
_SHOWN_ERRORS = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is said of a new connector beside its place."""

    name: str | None
    collection: str | None
    schedule: str | None
    secrets: dict[str, str]
    sync: bool


def connect(place: FolderPlace | WebPlace | S3Place, wanted: Wanted) -> None:
    """Makes it, and synchronises it for the first time."""
    terminal = Terminal()
    name = wanted.name or _name_of(place)

    async def work(resources: Resources) -> bool:
        created = await resources.connectors.create(
            name,
            wanted.collection or name,
            place,
            secrets=wanted.secrets,
            schedule=wanted.schedule,
            is_trusted=True,
        )
        terminal.verdict(
            f"Connector {created.name} keeps the collection {created.collection_name} in step", good=True
        )
        return not wanted.sync or await _synchronise(resources, [created], terminal)

    if not with_resources(work, works=True):
        raise SystemExit(1)


def list_connectors() -> None:
    terminal = Terminal()

    async def work(resources: Resources) -> list[tuple[ConnectorView, SyncView | None]]:
        return await _all(resources)

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "kind", "collection", "documents", "schedule", "last sync", "next"):
        table.add_column(heading)
    for connector, last in with_resources(work):
        table.add_row(
            connector.name,
            connector.kind,
            connector.collection_name,
            str(connector.item_count),
            "paused" if connector.is_paused else connector.schedule or "when asked",
            f"{last.status}, {last.created_at:%Y-%m-%d %H:%M}" if last is not None else "never",
            f"{connector.next_sync_at:%Y-%m-%d %H:%M}" if connector.next_sync_at is not None else "",
        )
    if table.row_count:
        terminal.console.print(table)
    else:
        terminal.say("There are no connectors. `freshet connect --help` tells how to make one.")


def sync(names: Sequence[str], *, once: bool) -> None:
    terminal = Terminal()

    async def work(resources: Resources) -> bool:
        chosen = [connector for connector, _ in await _all(resources)]
        if names:
            chosen = [await _named(chosen, name) for name in names]
        good = await _synchronise(resources, chosen, terminal)
        if once or not any(connector.schedule for connector in chosen):
            return good
        terminal.say("Going on by their schedules. Ctrl-C ends it.", "dim")
        await anyio.sleep_forever()
        return good

    if not with_resources(work, works=True):
        raise SystemExit(1)


async def _all(resources: Resources) -> list[tuple[ConnectorView, SyncView | None]]:
    found: list[tuple[ConnectorView, SyncView | None]] = []
    while page := await resources.connectors.page(after=found[-1][0].name if found else None, limit=_PAGE):
        found += page
    return found


async def _named(connectors: Sequence[ConnectorView], name: str) -> ConnectorView:
    for connector in connectors:
        if name in (connector.name, str(connector.id)):
            return connector
    raise NotFound("connector", name)


async def _synchronise(resources: Resources, connectors: Sequence[ConnectorView], terminal: Terminal) -> bool:
    """One after the other. Whether all went well."""
    good = True
    for connector in connectors:
        try:
            ended = await _watch(resources, connector, terminal)
        except FreshetError as error:
            terminal.verdict(f"{connector.name}: {error.message}", good=False)
            good = False
            continue
        _report(connector, ended, terminal)
        good = good and ended.status == "completed" and ended.failed == 0
    await _wait_for_documents(resources, connectors, terminal)
    return good


async def _watch(resources: Resources, connector: ConnectorView, terminal: Terminal) -> SyncView:
    """A sync that somebody else has started is watched to its end."""
    try:
        sync = await resources.connectors.start(str(connector.id))
    except SyncRunning:
        _, last = await resources.connectors.connector(str(connector.id))
        assert last is not None
        sync = last
    with terminal.bar(connector.name, total=max(connector.item_count, 1)) as bar:
        while sync.ended_at is None:
            await anyio.sleep(_LOOK_EVERY_S)
            sync = await resources.connectors.sync(sync.id)
            _show(bar, connector, sync)
    return sync


def _show(bar: Bar, connector: ConnectorView, sync: SyncView) -> None:
    seen = sync.added + sync.changed + sync.unchanged + sync.passed_over + sync.failed
    bar.show(seen, f"{seen} seen  {sync.doing or sync.status}", total=max(connector.item_count, seen + 1))


def _report(connector: ConnectorView, sync: SyncView, terminal: Terminal) -> None:
    counts = ("added", "changed", "unchanged", "removed", "passed_over", "failed")
    told = ", ".join(
        f"{getattr(sync, count)} {count.replace('_', ' ')}" for count in counts if getattr(sync, count)
    )
    terminal.verdict(f"{connector.name}: {told or 'nothing there'}", good=sync.status == "completed")
    if sync.message is not None:
        terminal.say(f"  {sync.status}: {sync.message}")
    for error in sync.errors[:_SHOWN_ERRORS]:
        terminal.say(f"  {error.key}: {error.message}")
    if sync.failed > _SHOWN_ERRORS:
        terminal.say(f"  and {sync.failed - _SHOWN_ERRORS} more")


async def _wait_for_documents(
    resources: Resources, connectors: Sequence[ConnectorView], terminal: Terminal
) -> None:
    """Until what was put into the collections can be found: this process may be the only one that ingests."""
    most = 1
    with terminal.bar("Ingesting", total=1) as bar:
        while left := await _waiting(resources, connectors):
            most = max(most, left)
            bar.show(most - left, f"{left} documents left", total=most)
            await anyio.sleep(_LOOK_EVERY_S)


async def _waiting(resources: Resources, connectors: Sequence[ConnectorView]) -> int:
    count = 0
    for collection_id in {connector.collection_id for connector in connectors}:
        for status in ("pending", "processing"):
            page = await resources.knowledge.documents(
                collection=str(collection_id), status=status, before=None, limit=_PAGE
            )
            count += len(page)
    return count


def _name_of(place: FolderPlace | WebPlace | S3Place) -> str:
    if isinstance(place, FolderPlace):
        return Path(place.path).name or "folder"
    return place.bucket if isinstance(place, S3Place) else place.url.split("/")[2].partition(":")[0]
