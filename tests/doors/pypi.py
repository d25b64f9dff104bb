"""The clients from PyPI that knock on the doors, in an environment of their own: some want other versions than we do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from tests.node import absent

_SCRIPTS = Path(__file__).parent / "python"
_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / "requirements-clients.lock"
_CACHE = _ROOT / ".cache" / "clients"
# Importing one of them takes up to six seconds of a core, and at first, when it is compiled, several times that.
_LIMIT_S = 240


@dataclass(frozen=True, slots=True)
class PyPI:
    """Runs the scripts of tests/doors/python."""

    python: Path

    async def run(self, script: str, environment: Mapping[str, str], home: Path) -> Any:
        """The JSON in the last line that the script prints, which may write to `home`. Fails with all that it said otherwise."""
        with anyio.fail_after(_LIMIT_S):
            ended = await anyio.run_process(
                [self.python, _SCRIPTS / script], env={**environment, "HOME": str(home)}, check=False
            )
        if ended.returncode:
            pytest.fail((ended.stdout + ended.stderr).decode(errors="replace"), pytrace=False)
        return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def pypi() -> PyPI:
    """Installed once for each lock, for the Python that runs the tests; what an older lock had is cleared away."""
    name = sha256(_LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    python = _CACHE / name / "bin" / "python"
    if not (_CACHE / name).exists():
        shutil.rmtree(_CACHE, ignore_errors=True)
        _CACHE.mkdir(parents=True)
        with TemporaryDirectory(dir=_CACHE) as directory:
            _install(Path(directory) / "made")
            # Another run of the tests may have been faster.
            with suppress(OSError):
                (Path(directory) / "made").rename(_CACHE / name)
    return PyPI(python)


def _install(environment: Path) -> None:
    locked = ["--no-deps", "--require-hashes", "-r", str(_LOCK)]
    uv = shutil.which("uv")
    if uv is not None:
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, environment],
            [uv, "pip", "install", "--quiet", "--python", environment, *locked],
        ]
    else:
        quietly = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"]
        commands = [
            [sys.executable, "-m", "venv", environment],
            [environment / "bin" / "python", "-m", "pip", "install", *quietly, *locked],
        ]
    for command in commands:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if ended.returncode:
            absent("The clients from PyPI cannot be had from here.", ended.stderr)
