"""The rules of keeping a collection in step, with real files, a real site and a real database."""

import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import text

from app.db.engine import Sessions
from app.db.queue import Job, Later
from app.db.syncs import SyncView
from app.errors import (
    Conflict,
    ConnectorRefused,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    SecretsUnreadable,
    SyncRunning,
)
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.kinds import FolderPlace, S3Place, Surroundings, WebPlace
from app.ingest.convert import Converter
from app.services.connectors import ConnectorService
from app.services.knowledge import KnowledgeService
from app.services.vault import Vault
from tests.conftest import SECRET
from tests.ingest.connectors.finding import Names
from tests.ingest.connectors.site import (
    HOST,
    TestBucket,
    TestSite,
    page,
    running_bucket,
    running_site,
)
from tests.words_embedder import WordsEmbedder

KEYS = {"access_key_id": "AKTEST", "secret_access_key": "the secret of the bucket"}


@pytest.fixture
async def converter() -> AsyncGenerator[Converter]:
    async with Converter() as converter:
        yield converter


@pytest.fixture
def knowledge(sessions: Sessions, converter: Converter) -> KnowledgeService:
    return KnowledgeService(sessions, WordsEmbedder(), converter, max_upload_bytes=100_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "allowed" / "documents"
    (root / "reports").mkdir(parents=True)
    (root / "a.md").write_text("# A\n\nAbout the Danube.")
    (root / "reports" / "b.txt").write_text("About the Rhine.")
    return root


Make = Callable[..., ConnectorService]


@pytest.fixture
def make(sessions: Sessions, knowledge: KnowledgeService, converter: Converter, tmp_path: Path) -> Make:
    """A service, as each process has one."""

    def make(*, secret: str = SECRET) -> ConnectorService:
        return ConnectorService(
            sessions,
            knowledge,
            Vault(SecretStr(secret)),
            Surroundings(
                Guard.allowing([HOST, "store.example.com"]),
                folders=(tmp_path / "allowed",),
                max_file_bytes=100_000,
                read_links=converter.links,
                resolver=Names({HOST: "127.0.0.1", "store.example.com": "127.0.0.1"}),
            ),
            told_every_s=0.02,
        )

    return make


@pytest.fixture
def service(make: Make) -> ConnectorService:
    return make()


def _folder(root: Path, **fields: Any) -> FolderPlace:
    return FolderPlace(kind="folder", path=str(root), **fields)


def _job(sync: SyncView) -> Job:
    return Job(1, sync.id.bytes, 0)


async def _synchronise(service: ConnectorService, name: str = "documents") -> SyncView:
    sync = await service.start(name)
    with anyio.fail_after(30):
        await service.sync_job(_job(sync))
    return await service.sync(sync.id)


async def _seen(service: ConnectorService, sync: SyncView, is_wanted: Callable[[SyncView], bool]) -> SyncView:
    """As soon as it is as wanted."""
    with anyio.fail_after(20):
        while True:
            seen = await service.sync(sync.id)
            if is_wanted(seen):
                return seen
            await anyio.sleep(0.01)


def _counts(sync: SyncView) -> dict[str, int]:
    names = ("added", "changed", "unchanged", "removed", "passed_over", "failed")
    return {name: count for name in names if (count := getattr(sync, name))}


async def _names(knowledge: KnowledgeService, collection: str = "documents") -> list[str]:
    found = await knowledge.documents(collection=collection, status=None, before=None, limit=100)
    return sorted(document.file_name for document in found)


async def test_new_changed_and_gone_files_are_followed(
    service: ConnectorService, knowledge: KnowledgeService, root: Path
) -> None:
    created = await service.create("documents", "documents", _folder(root))
    first = await _synchronise(service)
    assert (first.status, _counts(first)) == ("completed", {"added": 2})
    assert await _names(knowledge) == ["a.md", "b.txt"]

    (root / "a.md").write_text("# A\n\nAbout the Danube and its delta.")
    (root / "reports" / "b.txt").unlink()
    (root / "c.txt").write_text("About the Elbe.")
    second = await _synchronise(service)

    assert _counts(second) == {"added": 1, "changed": 1, "removed": 1}
    assert await _names(knowledge) == ["a.md", "c.txt"]
    assert _counts(await _synchronise(service)) == {"unchanged": 2}
    assert (await service.connector(str(created.id)))[0].item_count == 2


async def test_a_document_that_somebody_deleted_comes_back(
    service: ConnectorService, knowledge: KnowledgeService, root: Path
) -> None:
    await service.create("documents", "documents", _folder(root))
    await _synchronise(service)
    (first, _) = await knowledge.documents(collection="documents", status=None, before=None, limit=2)
    await knowledge.delete_document(first.id)

    assert _counts(await _synchronise(service)) == {"added": 1, "unchanged": 1}


async def test_a_listing_that_fails_removes_nothing(
    service: ConnectorService, knowledge: KnowledgeService, root: Path
) -> None:
    await service.create("documents", "documents", _folder(root))
    await _synchronise(service)
    shutil.move(root, root.with_name("elsewhere"))

    sync = await _synchronise(service)

    assert (sync.status, _counts(sync)) == ("failed", {})
    assert sync.message is not None
    assert "There is no folder" in sync.message
    assert await _names(knowledge) == ["a.md", "b.txt"]


async def test_a_folder_that_is_suddenly_empty_removes_nothing_of_many(
    service: ConnectorService, knowledge: KnowledgeService, root: Path, tmp_path: Path
) -> None:
    await service.create("documents", "documents", _folder(root))
    for number in range(20):
        (root / f"{number}.txt").write_text(f"Number {number}.")
    await _synchronise(service)
    shutil.move(root, tmp_path / "elsewhere")
    (tmp_path / "allowed" / "documents").mkdir()

    sync = await _synchronise(service)

    assert (sync.status, _counts(sync)) == ("incomplete", {})
    assert len(await _names(knowledge)) == 22


async def test_a_crawl_that_is_not_complete_removes_only_what_is_known_to_be_gone(
    service: ConnectorService, knowledge: KnowledgeService
) -> None:
    async with running_site(TestSite()) as site:
        site.pages = {"/": page("Start", "/a", "/b", "/c"), **{f"/{name}": page(name) for name in "abc"}}
        place = WebPlace(kind="web", url=f"{site.url}/", delay_s=0)
        await service.create("site", "site", place)
        assert _counts(await _synchronise(service, "site")) == {"added": 4}
        del site.pages["/a"]
        site.pages["/"] = page("Start, again", "/a", "/b")
        await service.change("site", place=place.model_copy(update={"max_pages": 2}))

        incomplete = await _synchronise(service, "site")
        assert (incomplete.status, _counts(incomplete)) == ("incomplete", {"changed": 1, "removed": 1})

        await service.change("site", place=place)
        assert _counts(await _synchronise(service, "site")) == {"unchanged": 2, "removed": 1}
    assert await _names(knowledge, "site") == ["b.html", f"{HOST}.html"]


async def test_a_page_that_asks_no_longer_to_be_indexed_is_removed(
    service: ConnectorService, knowledge: KnowledgeService
) -> None:
    async with running_site(TestSite()) as site:
        site.pages = {"/": page("Start", "/a"), "/a": page("A")}
        await service.create("site", "site", WebPlace(kind="web", url=f"{site.url}/", delay_s=0))
        await _synchronise(service, "site")
        site.pages["/a"] = page("A", head='<meta name="robots" content="noindex">')

        sync = await _synchronise(service, "site")

        assert _counts(sync) == {"unchanged": 1, "removed": 1, "passed_over": 1}
        assert _counts(await _synchronise(service, "site")) == {"unchanged": 1, "passed_over": 1}
        assert site.not_modified.count("/a") == 1
    assert await _names(knowledge, "site") == [f"{HOST}.html"]


async def test_one_bad_item_does_not_stop_the_rest_and_is_told(
    service: ConnectorService, knowledge: KnowledgeService, root: Path
) -> None:
    (root / "0.txt").write_bytes(b"")
    (root / "large.txt").write_bytes(b"a" * 100_001)
    await service.create("documents", "documents", _folder(root))

    sync = await _synchronise(service)

    assert (sync.status, _counts(sync)) == ("completed", {"added": 2, "failed": 2})
    assert {error.key: error.message for error in sync.errors} == {
        "0.txt": "The file is empty.",
        "large.txt": "The file is larger than 100,000 bytes.",
    }


async def test_the_log_of_errors_is_bounded(service: ConnectorService, root: Path) -> None:
    for number in range(150):
        (root / f"{number}.txt").write_bytes(b"")
    await service.create("documents", "documents", _folder(root))

    sync = await _synchronise(service)

    assert (sync.failed, len(sync.errors)) == (150, 100)


class Gate:
    """A page that is held until the test lets it go."""

    def __init__(self, content: str) -> None:
        self.asked = anyio.Event()
        self.may = anyio.Event()
        self._content = content

    async def __call__(self, _: web.Request) -> web.StreamResponse:
        self.asked.set()
        await self.may.wait()
        return web.Response(text=self._content, content_type="text/html")


@pytest.fixture
async def held(service: ConnectorService) -> AsyncGenerator[Gate]:
    """A page of the connector `site`, whose start can be had."""
    gate = Gate(page("Held"))
    async with running_site(TestSite()) as site:
        site.pages = {"/": page("Start", "/held"), "/held": gate}
        await service.create("site", "site", WebPlace(kind="web", url=f"{site.url}/", delay_s=0))
        yield gate
        gate.may.set()


async def test_two_processes_do_not_synchronise_one_connector_at_once(make: Make, held: Gate) -> None:
    here, there = make(), make()
    sync = await here.start("site")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.sync_job, _job(sync))
            await held.asked.wait()

            with pytest.raises(SyncRunning):
                await there.start("site")
            with pytest.raises(SyncRunning):
                await there.delete("site", with_documents=True)
            with pytest.raises(Later):
                await there.sync_job(_job(sync))
            held.may.set()

    assert _counts(await here.sync(sync.id)) == {"added": 2}
    # The queue may bring a job again whose end it has missed.
    await there.sync_job(_job(sync))
    assert _counts(await here.sync(sync.id)) == {"added": 2}


async def test_a_sync_is_cancelled_from_any_process_and_tells_how_far_it_has_come(
    make: Make, held: Gate, knowledge: KnowledgeService
) -> None:
    here, there = make(), make()
    sync = await here.start("site")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.sync_job, _job(sync))
        seen = await _seen(there, sync, lambda seen: seen.added > 0)
        assert (seen.status, seen.ended_at) == ("running", None)
        await there.cancel("site")

    seen = await _seen(there, sync, lambda seen: seen.ended_at is not None)
    assert (seen.status, _counts(seen)) == ("cancelled", {"added": 1})
    assert await _names(knowledge, "site") == [f"{HOST}.html"]
    with pytest.raises(Conflict):
        await there.cancel("site")


async def test_a_sync_that_nobody_has_taken_up_is_cancelled_at_once(
    service: ConnectorService, root: Path
) -> None:
    await service.create("documents", "documents", _folder(root))
    sync = await service.start("documents")

    assert (await service.cancel("documents")).status == "cancelled"

    await service.sync_job(_job(sync))
    assert _counts(await service.sync(sync.id)) == {}


async def test_a_sync_whose_process_is_silent_is_taken_over_and_the_silent_one_stops(
    make: Make, held: Gate, sessions: Sessions
) -> None:
    here, there = make(), make()
    sync = await here.start("site")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.sync_job, _job(sync))
            await held.asked.wait()
            async with sessions.begin() as session:
                # As it was when the process fell asleep: nothing of it arrives from here on.
                await session.execute(
                    text(
                        "UPDATE connector_syncs SET updated_at = now() - interval '1 minute', claim_id = gen_random_uuid()"
                    )
                )
        assert (await there.sync(sync.id)).status == "running"
        held.may.set()
        await there.sync_job(_job(sync))

    ended = await there.sync(sync.id)
    assert (ended.status, _counts(ended)) == ("completed", {"added": 1, "unchanged": 1})


async def test_a_sync_that_is_broken_off_is_given_back(make: Make, held: Gate) -> None:
    here, there = make(), make()
    sync = await here.start("site")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.sync_job, _job(sync))
        await held.asked.wait()
        tasks.cancel_scope.cancel()
    assert (await here.sync(sync.id)).status == "queued"
    held.may.set()

    await there.sync_job(_job(sync))

    assert (await there.sync(sync.id)).status == "completed"


async def test_a_sync_without_a_database_is_tried_again_later(
    service: ConnectorService, root: Path, monkeypatch: pytest.MonkeyPatch, knowledge: KnowledgeService
) -> None:
    await service.create("documents", "documents", _folder(root))
    sync = await service.start("documents")

    async def without(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("The database is away.", retry_after_s=1)

    with monkeypatch.context() as patch:
        patch.setattr(knowledge, "put", without)
        with pytest.raises(Later):
            await service.sync_job(_job(sync))

    assert (await service.sync(sync.id)).ended_at is None


async def test_schedules_start_what_is_due_and_leave_alone_what_is_paused_or_at_it(
    service: ConnectorService, root: Path, sessions: Sessions
) -> None:
    await service.create("often", "documents", _folder(root), schedule="30m")
    await service.create("nightly", "documents", _folder(root), schedule="0 3 * * *")
    await service.create("paused", "documents", _folder(root), schedule="1h", is_paused=True)
    await service.create("asked", "documents", _folder(root))

    assert await service.start_due() == 2
    assert await service.start_due() == 0

    found = {
        connector.name: (connector, last) for connector, last in await service.page(after=None, limit=10)
    }
    due = {name: last.cause for name, (_, last) in found.items() if last is not None}
    assert due == {"often": "schedule", "nightly": "schedule"}
    often, nightly = found["often"][0], found["nightly"][0]
    assert often.next_sync_at is not None
    assert nightly.next_sync_at is not None
    assert 29 * 60 < (often.next_sync_at - often.created_at).total_seconds() < 31 * 60
    assert (nightly.next_sync_at.hour, nightly.next_sync_at.minute) == (3, 0)
    async with sessions.begin() as session:
        await session.execute(text("UPDATE connectors SET next_sync_at = now() WHERE schedule IS NOT NULL"))
    assert await service.start_due() == 2
    assert len(await service.syncs("often", before=None, limit=10)) == 1


@pytest.mark.parametrize(
    "schedule", ["", "often", "0m", "5 s", "* * * *", "61 * * * *", "* * * * * *", "@daily"]
)
async def test_a_schedule_that_cannot_be_meant_is_refused(
    service: ConnectorService, root: Path, schedule: str
) -> None:
    with pytest.raises(InvalidInput, match="schedule"):
        await service.create("documents", "documents", _folder(root), schedule=schedule)


async def test_secrets_are_unreadable_in_the_table_and_open_under_their_key_alone(
    make: Make, sessions: Sessions
) -> None:
    async with running_bucket(TestBucket(objects={"a.txt": b"About the Oder."})) as store:
        place = S3Place(kind="s3", bucket="reports", endpoint=store.endpoint)
        service = make()
        await service.create("bucket", "bucket", place, secrets=KEYS)
        assert _counts(await _synchronise(service, "bucket")) == {"added": 1}

        async with sessions.begin() as session:
            rows = (await session.execute(text("SELECT connectors::text, secrets FROM connectors"))).all()
        assert KEYS["secret_access_key"] not in rows[0][0]
        assert KEYS["access_key_id"].encode() not in rows[0][1]

        other = make(secret="another secret of the tests, long enough too")
        with pytest.raises(SecretsUnreadable):
            await other.test("bucket")
        sync = await _synchronise(other, "bucket")
        assert (sync.status, sync.message) == ("failed", SecretsUnreadable().message)
        await other.change("bucket", secrets=KEYS)
        assert _counts(await _synchronise(other, "bucket")) == {"unchanged": 1}


async def test_secrets_are_not_sent_to_an_address_that_they_were_not_given_for(
    service: ConnectorService,
) -> None:
    async with running_bucket(TestBucket()) as store:
        place = S3Place(kind="s3", bucket="reports", endpoint=store.endpoint)
        await service.create("bucket", "bucket", place, secrets=KEYS)
        elsewhere = place.model_copy(update={"endpoint": "https://elsewhere.example.com"})

        with pytest.raises(InvalidInput, match="secrets"):
            await service.change("bucket", place=elsewhere)

        await service.change("bucket", place=place.model_copy(update={"prefix": "2026"}))
        await service.change("bucket", place=elsewhere, secrets={})


async def test_the_header_for_a_site_is_sent_to_that_site_alone(service: ConnectorService) -> None:
    async with running_site(TestSite()) as other, running_site(TestSite()) as site:
        site.pages = {
            "/robots.txt": f"Sitemap: {other.url}/sitemap.xml\nSitemap: {site.url}/sitemap.xml",
            "/sitemap.xml": "<urlset/>",
            "/": page("Start"),
        }
        other.pages = {"/sitemap.xml": "<urlset/>"}
        place = WebPlace(kind="web", url=f"{site.url}/", delay_s=0)

        await service.create("site", "site", place, secrets={"authorization": "Bearer secret"})

    assert {headers.get("Authorization") for headers in site.seen} == {"Bearer secret"}
    assert [headers.get("Authorization") for headers in other.seen] == [None]


@pytest.mark.parametrize(
    ("place", "secrets"),
    [
        (WebPlace(kind="web", url="https://example.com"), KEYS),
        (S3Place(kind="s3", bucket="reports"), {"access_key_id": "a"}),
        (FolderPlace(kind="folder", path="/documents"), {"authorization": "a"}),
    ],
)
async def test_secrets_that_a_kind_has_no_use_for_are_refused(
    service: ConnectorService, place: Any, secrets: dict[str, str]
) -> None:
    with pytest.raises(ConnectorRefused) as refused:
        await service.create("documents", "documents", place, secrets=secrets)

    assert refused.value.reason == "malformed"


async def test_through_the_api_a_folder_lies_below_those_that_are_allowed(
    service: ConnectorService, root: Path, tmp_path: Path
) -> None:
    (root / "link").symlink_to(tmp_path)
    for path in (tmp_path, root / "link", root / ".." / "..", Path("documents")):
        with pytest.raises(ConnectorRefused):
            await service.create("documents", "documents", FolderPlace(kind="folder", path=str(path)))
    with pytest.raises(NotFound):
        await service.connector("documents")

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    await service.create("mine", "documents", _folder(tmp_path / "mine"), is_trusted=True)
    assert _counts(await _synchronise(service, "mine")) == {"added": 1}
    # Another place is named by somebody else.
    await service.change("mine", place=_folder(tmp_path))
    assert (await _synchronise(service, "mine")).status == "failed"


async def test_a_connector_is_deleted_with_its_documents_or_without(
    service: ConnectorService, knowledge: KnowledgeService, root: Path
) -> None:
    for name in ("kept", "gone"):
        await service.create(name, name, _folder(root))
        await _synchronise(service, name)
    await knowledge.add("gone", "own.txt", b"Of somebody else.")

    await service.delete("kept", with_documents=False)
    await service.delete("gone", with_documents=True)

    assert await _names(knowledge, "kept") == ["a.md", "b.txt"]
    assert await _names(knowledge, "gone") == ["own.txt"]
    assert await service.page(after=None, limit=10) == []


async def test_two_connectors_have_the_same_file_without_getting_in_each_others_way(
    service: ConnectorService, knowledge: KnowledgeService, root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "allowed" / "copy"
    shutil.copytree(root, copy)
    await service.create("one", "documents", _folder(root))
    await service.create("two", "documents", _folder(copy))
    for name in ("one", "two"):
        assert _counts(await _synchronise(service, name)) == {"added": 2}

    await service.delete("two", with_documents=True)

    assert await _names(knowledge) == ["a.md", "b.txt"]


async def test_a_connector_goes_with_its_collection(
    service: ConnectorService, knowledge: KnowledgeService, root: Path
) -> None:
    await service.create("documents", "documents", _folder(root))
    sync = await service.start("documents")
    await knowledge.delete_collection("documents")

    await service.sync_job(_job(sync))

    assert await service.page(after=None, limit=10) == []


@pytest.mark.parametrize("name", ["", "a/b", " a", "..", "5c9b4ee4-1d20-4ab5-90a9-9a3cd5f11d5f", "a" * 101])
async def test_a_name_that_no_address_leads_to_is_refused(
    service: ConnectorService, root: Path, name: str
) -> None:
    with pytest.raises(InvalidInput):
        await service.create(name, "documents", _folder(root))


async def test_a_name_is_given_once(service: ConnectorService, root: Path) -> None:
    await service.create("one", "documents", _folder(root))
    await service.create("two", "documents", _folder(root))

    with pytest.raises(Conflict):
        await service.create("one", "documents", _folder(root))
    with pytest.raises(Conflict):
        await service.change("two", name="one")


async def test_the_log_keeps_the_newest_syncs(
    service: ConnectorService, root: Path, sessions: Sessions
) -> None:
    connector = await service.create("documents", "documents", _folder(root))
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO connector_syncs (id, connector_id, status, cause, ended_at) "
                "SELECT gen_random_uuid(), :id, 'completed', 'manual', now() FROM generate_series(1, 300)"
            ),
            {"id": connector.id},
        )

    last = await _synchronise(service)

    kept = await service.syncs("documents", before=None, limit=400)
    assert (len(kept), kept[0].id) == (200, last.id)
