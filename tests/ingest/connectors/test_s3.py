from collections.abc import AsyncGenerator
from functools import partial

import anyio
import pytest
from aiohttp import web
from pydantic import SecretStr

from app.errors import ConnectorRefused
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.patterns import Choice
from app.ingest.connectors.s3 import Keys, Place, open_bucket
from tests.ingest.connectors.finding import Kept, Names, Round
from tests.ingest.connectors.site import TestBucket, running_bucket, serving

STORE = "store.example.com"
KEYS = Keys("AKTEST", SecretStr("the secret of the bucket"))


@pytest.fixture
async def store() -> AsyncGenerator[TestBucket]:
    async with running_bucket(TestBucket()) as store:
        yield store


class Reading:
    """Of the test's store, which is reached by a name that is allowed."""

    def __init__(
        self,
        store: TestBucket,
        *,
        bucket: str = "reports",
        prefix: str = "",
        keys: Keys | None = KEYS,
        choice: Choice | None = None,
        guard: Guard | None = None,
        kept: Kept | None = None,
    ) -> None:
        self._kept = kept or Kept()
        self._bucket = partial(
            open_bucket,
            Place(bucket, prefix, store.endpoint, "eu-test-1", keys),
            choice or Choice(),
            guard or Guard.allowing([STORE]),
            max_file_bytes=1_000,
            resolver=Names({STORE: "127.0.0.1"}),
        )

    async def round(self) -> Round:
        with anyio.fail_after(20):
            async with self._bucket() as bucket:
                return await self._kept.round(bucket)

    async def check(self) -> None:
        with anyio.fail_after(20):
            async with self._bucket() as bucket:
                await bucket.check()


async def test_objects_that_have_changed_are_read_and_the_others_are_not(store: TestBucket) -> None:
    store.objects = {
        "a.txt": b"a",
        "2026/b c+d.txt": b"b",
        "2026/ü.md": "ü".encode(),
        "x.bin": b"x",
        "folder/": b"",
    }
    reading = Reading(store)

    first = await reading.round()

    assert first.is_complete
    assert {key: one.content for key, one in first.changed.items()} == {
        "a.txt": b"a",
        "2026/b c+d.txt": b"b",
        "2026/ü.md": "ü".encode(),
    }
    assert first.changed["2026/b c+d.txt"].file_name == "b c+d.txt"
    store.objects["a.txt"] = b"A"
    del store.objects["2026/ü.md"]
    store.asked.clear()

    second = await reading.round()

    assert (list(second.changed), second.unchanged) == (["a.txt"], ["2026/b c+d.txt"])
    assert [path for path in store.asked if "list-type" not in path] == ["/reports/a.txt"]
    assert all("eu-test-1/s3/aws4_request" in line for line in store.authorizations)


async def test_prefix_and_patterns_choose_among_the_objects(store: TestBucket) -> None:
    store.objects = {"2025/a.txt": b"a", "2026/b.txt": b"b", "2026/drafts/c.txt": b"c"}

    found = await Reading(store, prefix="2026", choice=Choice(exclude=["**/drafts/*"])).round()

    assert list(found.changed) == ["2026/b.txt"]


async def test_an_object_that_cannot_be_had_keeps_none_of_the_others(store: TestBucket) -> None:
    store.objects = {"a.txt": b"a", "b.txt": b"b", "c.txt": bytes(1_001)}
    store.broken = {"a.txt"}

    found = await Reading(store).round()

    assert list(found.changed) == ["b.txt"]
    assert found.failed == {
        "a.txt": "The object may not be read with these keys.",
        "c.txt": "The object is larger than 1,000 bytes.",
    }


async def test_a_listing_that_breaks_off_is_a_failed_one(store: TestBucket) -> None:
    store.objects = {f"{number}.txt": b"a" for number in range(6)}
    store.fails_after = 2

    found = await Reading(store).round()

    assert found.refusal is not None
    assert found.refusal.reason == "unreachable"


async def test_what_is_wrong_is_told(store: TestBucket) -> None:
    await Reading(store).check()
    with pytest.raises(ConnectorRefused, match="There is no bucket other") as missing:
        await Reading(store, bucket="other").check()
    with pytest.raises(ConnectorRefused, match="may not be listed with these keys") as forbidden:
        await Reading(store, keys=Keys("AKOTHER", SecretStr("secret"))).check()

    assert (missing.value.reason, forbidden.value.reason) == ("missing", "forbidden")


async def test_without_keys_a_request_is_not_signed_whatever_the_environment_holds(
    store: TestBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of the server")
    store.access_key = None
    store.objects = {"a.txt": b"a"}

    found = await Reading(store, keys=None).round()
    assert (list(found.changed), set(store.authorizations)) == (["a.txt"], {""})
    await Reading(store).round()
    assert "AKTEST" in store.authorizations[-1]
    assert "of the server" not in repr(store.seen)


async def test_an_endpoint_that_leads_to_a_private_address_is_not_asked(store: TestBucket) -> None:
    guard = Guard(ports=(store.port,))

    with pytest.raises(ConnectorRefused):
        await Reading(store, guard=guard).check()
    found = await Reading(store, guard=guard).round()

    assert found.refusal is not None
    assert store.asked == []


async def test_a_redirect_of_the_store_to_another_address_is_not_followed_inside(store: TestBucket) -> None:
    asked_inside: list[str] = []

    async def inside(request: web.Request) -> web.StreamResponse:
        asked_inside.append(request.path)
        return web.Response(text="secret")

    async with serving(inside) as port:

        async def redirect(_: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{port}/reports"})

        async with serving(redirect) as outside:
            store.port = outside
            found = await Reading(store).round()

    assert found.refusal is not None
    assert asked_inside == []
