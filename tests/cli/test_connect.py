"""Connectors, as they are made and synchronised by commands."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from app.db.engine import Sessions, create_engine
from app.services.vault import Vault
from app.settings import DatabaseSettings
from tests.cli.conftest import Freshet
from tests.conftest import SECRET
from tests.ingest.connectors.site import TestBucket, TestSite, page, running_bucket, running_site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "rivers.md").write_text("# Rivers\n\nA freshet is the flood of a river from melted snow.")
    (folder / "empty.txt").write_text("")
    return folder


async def test_a_folder_is_connected_synchronised_and_listed(
    freshet: Freshet, on_new_database: None, folder: Path
) -> None:
    made = await freshet("connect", "folder", str(folder), "--every", "6h", "--exclude", "empty.*")

    assert made.exit_code == 0, made.output
    assert "handbook: 1 added" in made.output
    (folder / "seas.txt").write_text("The Danube flows into the Black Sea.")
    (folder / "rivers.md").unlink()
    again = await freshet("sync", "handbook", "--once")
    assert (again.exit_code, "1 added, 1 removed" in again.output) == (0, True)
    listed = await freshet("connectors")
    assert re.search(r"handbook +folder +handbook +1 +6h +completed", listed.output)


async def test_items_that_are_left_out_are_named_and_make_the_exit_code_1(
    freshet: Freshet, on_new_database: None, folder: Path
) -> None:
    made = await freshet("connect", "folder", str(folder), "--name", "papers", "--collection", "all")

    assert made.exit_code == 1
    assert "Connector papers keeps the collection all in step" in made.output
    assert "empty.txt: The file is empty." in made.output


async def test_a_site_that_whoever_runs_the_server_names_may_be_private(
    freshet: Freshet, on_new_database: None
) -> None:
    async with running_site(TestSite()) as site:
        site.pages = {"/": page("Start", "/a"), "/a": page("A")}
        made = await freshet("connect", "web", f"http://127.0.0.1:{site.port}/", "--delay", "0")

    assert made.exit_code == 0, made.output
    assert "127.0.0.1: 2 added" in made.output


async def test_keys_of_a_bucket_come_from_the_environment_and_are_not_shown(
    freshet: Freshet, on_new_database: None, monkeypatch: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    monkeypatch.setenv("CONNECT_ACCESS_KEY_ID", "AKTEST")
    monkeypatch.setenv("CONNECT_SECRET_ACCESS_KEY", "the secret of the bucket")
    async with running_bucket(TestBucket(objects={"a.txt": b"About the Oder."})) as store:
        endpoint = f"http://127.0.0.1:{store.port}"
        made = await freshet("connect", "s3", "reports", "--endpoint", endpoint, "--no-sync")
        synchronised = await freshet("sync", "--once")

    assert "reports: 1 added" in synchronised.output
    assert "secret" not in made.output + synchronised.output
    engine = create_engine(empty_database_url, DatabaseSettings())
    async with Sessions(engine).begin() as session:
        sealed = (await session.execute(text("SELECT secrets FROM connectors"))).scalar_one()
    await engine.dispose()
    assert Vault(SecretStr(SECRET)).open(sealed)["access_key_id"] == "AKTEST"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sync", "nobody", "--once"], "There is no connector nobody."),
        (["connect", "web", "example.com"], "must begin with http:// or https://"),
        (["connect", "s3", "a/b"], "bucket"),
        (["connect", "folder", "nowhere"], "does not exist"),
        (["connect", "web", "http://127.0.0.1:1/"], "The server cannot be reached."),
    ],
)
async def test_what_cannot_be_connected_is_told(
    freshet: Freshet, on_new_database: None, words: list[str], told: str
) -> None:
    result = await freshet(*words)

    assert result.exit_code != 0
    assert told in result.output
