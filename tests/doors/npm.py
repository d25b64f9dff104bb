"""The clients from npm that knock on the doors, in node."""

import json
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shutil import copy, which
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from tests.node import NODE, absent, install

_PROJECT = Path(__file__).parent / "js"
_CACHE = Path(__file__).parents[2] / ".cache" / "doors"


@dataclass(frozen=True, slots=True)
class Npm:
    """The scripts of tests/doors/js, beside the packages that they import."""

    scripts: Path

    async def run(self, script: str, url: str, *, limit_s: float = 30, **environment: str) -> Any:
        """The JSON that the script prints; it finds the server's URL in `SERVER_URL`. Fails with all that it said otherwise."""
        # As links the scripts are of the folder with the packages.
        as_links = ("--preserve-symlinks", "--preserve-symlinks-main")
        with anyio.fail_after(limit_s):
            ended = await anyio.run_process(
                [NODE, *as_links, self.scripts / script],
                env={"SERVER_URL": url, **environment},
                check=False,
            )
        if ended.returncode:
            pytest.fail((ended.stdout + ended.stderr).decode(errors="replace"), pytrace=False)
        return json.loads(ended.stdout)


@pytest.fixture(scope="session")
def npm() -> Npm:
    """Installed once for each lock."""
    lock = _PROJECT / "package-lock.json"
    installed = _CACHE / sha256(lock.read_bytes()).hexdigest()[:16]
    if not installed.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=_CACHE) as directory:
            made = Path(directory) / "made"
            made.mkdir()
            for name in ("package.json", "package-lock.json", ".npmrc"):
                copy(_PROJECT / name, made)
            install(made)
            (made / "scripts").symlink_to(_PROJECT)
            # Another run of the tests may have been faster.
            with suppress(OSError):
                made.rename(installed)
    return Npm(installed / "scripts")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Its programme, under one of the names that it goes by."""
    found = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        absent("There is no Chromium. On Debian and Ubuntu: apt install chromium")
    return found
