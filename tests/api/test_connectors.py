from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from app.settings import ConnectorSettings, Settings
from tests.conftest import RunningServer, ingesting
from tests.ingest.connectors.site import (
    TestBucket,
    TestSite,
    page,
    redirect,
    running_bucket,
    running_site,
    serving,
)

KEYS = {"access_key_id": "AKTEST", "secret_access_key": "the secret of the bucket"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Loopback is what the tests have."""
    allowed = settings.connectors.model_copy(update={"connector_allow_private": ("127.0.0.1",)})
    return replace(ingesting(settings), connectors=allowed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folders" / "documents"
    folder.mkdir(parents=True)
    (folder / "rivers.md").write_text("# Rivers\n\nA freshet is the flood of a river from melted snow.")
    return folder


async def _make(admin: httpx.AsyncClient, place: dict[str, Any], **fields: Any) -> httpx.Response:
    body = {"name": "documents", "collection": "documents", "place": place, **fields}
    return await admin.post("/api/v1/connectors", json=body)


def _folder(path: Path) -> dict[str, Any]:
    return {"kind": "folder", "path": str(path)}


async def _ended(admin: httpx.AsyncClient, name: str = "documents") -> dict[str, Any]:
    """Its newest sync, as soon as that is over."""
    with anyio.fail_after(20):
        while True:
            connector = (await admin.get(f"/api/v1/connectors/{name}")).json()
            if connector["last_sync"] is not None and connector["last_sync"]["ended_at"] is not None:
                return connector
            await anyio.sleep(0.01)


async def test_what_a_connector_brings_is_found_in_its_collection(
    admin_client: httpx.AsyncClient, folder: Path
) -> None:
    created = await _make(admin_client, _folder(folder))
    assert created.status_code == 201
    assert (created.json()["last_sync"], created.json()["item_count"]) == (None, 0)

    started = await admin_client.post("/api/v1/connectors/documents/sync")

    assert (started.status_code, started.json()["status"]) == (202, "queued")
    connector = await _ended(admin_client)
    assert (connector["item_count"], connector["last_sync"]["status"]) == (1, "completed")
    assert connector["collection"]["name"] == "documents"
    found = await _found(admin_client)
    assert found["text"].endswith("melted snow.")
    log = (await admin_client.get(f"/api/v1/connectors/{connector['id']}/syncs")).json()
    assert [(one["id"], one["added"]) for one in log["items"]] == [(started.json()["id"], 1)]


async def _found(admin: httpx.AsyncClient) -> dict[str, Any]:
    """The best passage, as soon as there is one."""
    body = {"question": "what is a freshet", "collections": ["documents"]}
    with anyio.fail_after(20):
        while True:
            if items := (await admin.post("/api/v1/search", json=body)).json()["items"]:
                return items[0]
            await anyio.sleep(0.01)


async def test_connectors_are_for_administrators(client: httpx.AsyncClient, folder: Path) -> None:
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", "/a"),
        ("PATCH", "/a"),
        ("DELETE", "/a"),
        ("POST", "/a/sync"),
        ("POST", "/a/cancel"),
        ("POST", "/a/test"),
        ("GET", "/a/syncs"),
    ):
        response = await client.request(method, f"/api/v1/connectors{path}", json={})
        assert response.status_code == 401, (method, path)


async def test_secrets_are_named_and_never_told(admin_client: httpx.AsyncClient, caplog: Any) -> None:
    async with running_bucket(TestBucket()) as store:
        place = {"kind": "s3", "bucket": "reports", "endpoint": f"http://127.0.0.1:{store.port}"}
        answers = [
            await _make(admin_client, place, secrets=KEYS),
            await admin_client.get("/api/v1/connectors/documents"),
            await admin_client.get("/api/v1/connectors"),
            await admin_client.patch("/api/v1/connectors/documents", json={"is_paused": True}),
            await admin_client.patch(
                "/api/v1/connectors/documents", json={"secrets": {"authorization": "s3cr3t"}}
            ),
            await admin_client.post("/api/v1/connectors/documents/test"),
        ]

    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 422, 204]
    assert answers[1].json()["secrets"] == {"access_key_id": "********", "secret_access_key": "********"}
    told = "".join(answer.text for answer in answers) + caplog.text
    assert not [secret for secret in (*KEYS.values(), "s3cr3t") if secret in told]


async def test_what_is_wrong_with_a_place_is_told_before_it_is_kept(
    admin_client: httpx.AsyncClient, folder: Path, tmp_path: Path
) -> None:
    async with running_bucket(TestBucket()) as store, running_site(TestSite()) as site:
        site.pages = {
            "/robots.txt": "User-agent: *\nDisallow: /private",
            "/moved": redirect("https://example.com/"),
        }
        endpoint, address = f"http://127.0.0.1:{store.port}", f"http://127.0.0.1:{site.port}"
        reasons = {
            "missing": [_folder(folder / "nowhere"), {"kind": "web", "url": f"{address}/gone"}],
            "forbidden": [_folder(tmp_path), {"kind": "s3", "bucket": "reports", "endpoint": endpoint}],
            "robots": [{"kind": "web", "url": f"{address}/private"}],
            "redirect": [{"kind": "web", "url": f"{address}/moved"}],
            "unreachable": [{"kind": "web", "url": "http://127.0.0.1:1/"}],
            "address": [
                {"kind": "web", "url": "http://169.254.169.254/latest"},
                {"kind": "web", "url": "http://2130706434/"},
                {"kind": "s3", "bucket": "reports", "endpoint": "http://10.0.0.1:9000"},
            ],
        }
        for reason, places in reasons.items():
            for place in places:
                response = await _make(admin_client, place)
                assert (response.status_code, response.json()["code"]) == (422, "connector_refused"), place
                assert response.json()["detail"]["reason"] == reason, place
        missing = await _make(
            admin_client, {"kind": "s3", "bucket": "other", "endpoint": endpoint}, secrets=KEYS
        )

    assert missing.json()["message"] == "There is no bucket other at this endpoint."
    assert (await admin_client.get("/api/v1/connectors")).json()["items"] == []
    assert (await admin_client.get("/api/v1/collections")).json()["items"] == []


async def test_a_site_is_not_led_inside_by_its_redirects(admin_client: httpx.AsyncClient) -> None:
    asked: list[str] = []

    async def inside(request: Any) -> Any:
        asked.append(request.path)
        raise AssertionError

    async with serving(inside) as port, running_site(TestSite()) as site:
        site.pages = {
            "/": page("Start", "/a", "/b"),
            "/a": redirect(f"http://127.0.0.2:{port}/"),
            "/b": page("B"),
        }
        await _make(
            admin_client,
            {"kind": "web", "url": f"http://127.0.0.1:{site.port}/", "delay_s": 0},
            schedule="1h",
        )
        await admin_client.post("/api/v1/connectors/documents/sync")
        connector = await _ended(admin_client)

    assert asked == []
    assert connector["last_sync"]["added"] == 2
    assert connector["next_sync_at"] is not None


@pytest.mark.parametrize(
    "change",
    [
        {"place": {"kind": "ftp", "url": "ftp://example.com"}},
        {"place": {"kind": "web", "url": "example.com"}},
        {"place": {"kind": "web", "url": "https://example.com", "depth": 51}},
        {"place": {"kind": "web", "url": "https://example.com", "bucket": "x"}},
        {"place": {"kind": "s3", "bucket": "a/b"}},
        {"place": {"kind": "folder", "path": "a\x00b"}},
        {"name": "a/b"},
        {"schedule": "often"},
        {"secrets": {"password": "x"}},
        {"secrets": {"access_key_id": "x"}},
    ],
)
async def test_what_cannot_be_meant_is_refused(
    admin_client: httpx.AsyncClient, folder: Path, change: dict[str, Any]
) -> None:
    body = {"name": "documents", "collection": "documents", "place": _folder(folder), **change}

    assert (await admin_client.post("/api/v1/connectors", json=body)).status_code == 422


async def test_a_connector_is_changed_and_deleted(
    admin_client: httpx.AsyncClient, server: RunningServer, folder: Path
) -> None:
    await _make(admin_client, _folder(folder), schedule="6h", is_paused=True)
    await admin_client.post("/api/v1/connectors/documents/sync")
    await _ended(admin_client)

    changed = await admin_client.patch(
        "/api/v1/connectors/documents", json={"name": "rivers", "schedule": None}
    )
    assert (changed.json()["name"], changed.json()["schedule"], changed.json()["is_paused"]) == (
        "rivers",
        None,
        True,
    )
    other_kind = {"place": {"kind": "web", "url": "https://example.com"}}
    assert (await admin_client.patch("/api/v1/connectors/rivers", json=other_kind)).status_code == 422
    assert (await admin_client.post("/api/v1/connectors/rivers/cancel")).status_code == 409
    assert (await admin_client.delete("/api/v1/connectors/rivers?documents=true")).status_code == 204
    assert (await admin_client.get("/api/v1/connectors/rivers")).status_code == 404
    assert (await admin_client.get("/api/v1/documents")).json()["items"] == []


async def test_a_second_process_sees_the_sync_and_starts_none_beside_it(
    admin_client: httpx.AsyncClient, elsewhere: httpx.AsyncClient
) -> None:
    may = anyio.Event()
    asked = anyio.Event()

    async def held(_: Any) -> Any:
        asked.set()
        await may.wait()
        return await redirect("/")(_)

    headers = {"authorization": admin_client.headers["authorization"]}
    async with running_site(TestSite()) as site:
        site.pages = {"/": page("Start", "/held"), "/held": held}
        await _make(admin_client, {"kind": "web", "url": f"http://127.0.0.1:{site.port}/", "delay_s": 0})
        await admin_client.post("/api/v1/connectors/documents/sync")
        with anyio.fail_after(20):
            await asked.wait()

        second = await elsewhere.post("/api/v1/connectors/documents/sync", headers=headers)
        seen = (await elsewhere.get("/api/v1/connectors/documents", headers=headers)).json()["last_sync"]
        cancelled = await elsewhere.post("/api/v1/connectors/documents/cancel", headers=headers)
        ended = await _ended(admin_client)
        may.set()

    assert (second.status_code, second.json()["code"]) == (409, "sync_running")
    assert seen["status"] == "running"
    assert cancelled.status_code == 202
    assert ended["last_sync"]["status"] == "cancelled"


def test_folders_of_the_setting_begin_at_the_root() -> None:
    with pytest.raises(ValueError, match="root"):
        ConnectorSettings(connector_folders=(Path("documents"),))
