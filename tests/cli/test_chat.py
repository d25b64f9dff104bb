"""`freshet chat`, beside what the console is tested for by itself: it starts, reads a pipe and ends."""

import os
import sys
from pathlib import Path

import anyio
import pytest

from app.db.engine import Sessions, create_engine
from app.services.assistants import AssistantService
from app.settings import DatabaseSettings
from tests.cli.conftest import Freshet
from tests.conftest import SECRET


@pytest.mark.usefixtures("on_new_database")
async def test_the_command_answers_a_pipe(freshet: Freshet, tmp_path: Path) -> None:
    url = os.environ["DATABASE_URL"]
    engine = create_engine(url, DatabaseSettings())
    await AssistantService(Sessions(engine)).create(name="Nobody's", slug="nobodys", first_message="Hello.")
    await engine.dispose()
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "SECRET_KEY": SECRET}
    root = Path(__file__).parents[2]
    with anyio.fail_after(60):
        ended = await anyio.run_process(
            [sys.executable, "-m", "app", "chat", "nobodys"],
            input=b"Thank you!\n",
            env={**environment, "PYTHONPATH": str(root)},
            cwd=tmp_path,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    greeting, answer = ended.stdout.decode().splitlines()
    assert greeting == "Hello."
    assert answer
