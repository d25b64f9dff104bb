"""Freshet within a Python programme."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from app.services.accounts import AccountService
from app.settings import Settings
from freshet import Freshet, Progress, errors, events
from tests.conftest import ingesting
from tests.scripted_model import ScriptedModel, says
from tests.words_embedder import WordsEmbedder

ROOT = Path(__file__).parents[1]
WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n"


@pytest.fixture
async def freshet(settings: Settings, model: ScriptedModel) -> AsyncGenerator[Freshet]:
    async with Freshet(ingesting(settings), model=model, embedder=WordsEmbedder()) as opened:
        yield opened


async def test_the_example_of_its_page_runs_on_a_database_that_it_starts(tmp_path: Path):
    page = await anyio.Path(ROOT / "docs" / "doors" / "python.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    with anyio.fail_after(120):
        done = await anyio.run_process(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    assert "The Danube flows into the Black Sea. True\n" in done.stdout.decode()


async def test_what_is_ingested_is_found_and_answered_from(
    freshet: Freshet, model: ScriptedModel, tmp_path: Path
):
    model.script = lambda _: says("The Danube flows into", " the Black Sea [1].")
    seen: list[Progress] = []
    path = tmp_path / "waters.md"
    await anyio.Path(path).write_bytes(WATERS)
    document = await freshet.ingest(path, collection="waters", on_progress=seen.append)
    assert (document.status, document.file_name) == ("ready", "waters.md")
    assert (await freshet.ingest(WATERS, collection="waters", file_name="same.md")).id == document.id
    assert {"converting", "storing"} <= {progress.stage for progress in seen}
    (hit,) = await freshet.search("Where does the Danube flow?", collection="waters", similarity_cutoff=-1)
    assert (hit.text, hit.document_id) == (WATERS.decode().strip(), document.id)

    await freshet.assistant("waters", collections=["waters"], similarity_cutoff=-1)
    changed = await freshet.assistant("waters", instructions="Be brief.")
    assert (changed.name, changed.instructions, changed.collections[0].name) == (
        "waters",
        "Be brief.",
        "waters",
    )
    answer = await freshet.ask("Where does the Danube flow?", assistant="waters")
    assert (answer.text, answer.status) == ("The Danube flows into the Black Sea [1].", "completed")
    assert [source.name for source in answer.sources] == ["Waters"]
    assert [citation.quote for citation in answer.citations] == ["The Danube flows into the Black Sea."]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 13

    seen_events = [event async for event in freshet.stream("And then?", session_id=answer.session_id)]
    assert isinstance(seen_events[0], events.Start)
    assert isinstance(seen_events[-1], events.Done)
    assert {type(event) for event in seen_events} >= {
        events.Step,
        events.Sources,
        events.Tokens,
        events.Citation,
    }
    assert [message.content for message in model.prompts[-1].messages[1:2]] == ["Where does the Danube flow?"]

    attached = tmp_path / "lakes.txt"
    await anyio.Path(attached).write_text("Lake Constance lies in three countries.")
    with_file = await freshet.ask("Where is the lake?", attachments=[attached])
    assert {source.name for source in with_file.sources} == {"lakes.txt", "Waters"}


async def test_what_goes_wrong_is_an_error_of_its_own(
    freshet: Freshet, settings: Settings, accounts: AccountService, model: ScriptedModel
):
    with pytest.raises(errors.InvalidInput):
        await freshet.ask("Anybody?")
    with pytest.raises(errors.NotFound):
        await freshet.ask("Anybody?", assistant="nobody")
    with pytest.raises(errors.NotFound):
        await freshet.search("Anything?", collection="nowhere")
    with pytest.raises(errors.DocumentRefused) as refused:
        await freshet.ingest(b"\x00\x01\x02", file_name="noise.bin")
    assert refused.value.reason == "unsupported"
    with pytest.raises(errors.InvalidInput):
        await freshet.ingest(WATERS)
    await freshet.assistant("private", user_authentication=True)
    with pytest.raises(errors.Unauthenticated):
        await freshet.ask("Anybody?", assistant="private")
    await accounts.create_user("ada@example.com", "a password of the tests", "user")
    assert (await freshet.ask("Anybody?", assistant="private", user="ada@example.com")).text
    model.script = lambda _: [errors.ModelUnavailable("The language model did not answer.")]
    with pytest.raises(errors.ModelUnavailable):
        await freshet.ask("Anybody?", assistant="private", user="ada@example.com")
    async with aclosing(freshet.stream("Hello?", assistant="private", user="ada@example.com")) as stream:
        *_, last = [event async for event in stream]
    assert isinstance(last, events.Error)
    with pytest.raises(errors.StartupRefused, match="database_uri"):
        async with Freshet(database_uri="postgresql://"):
            pass
    with pytest.raises(errors.StartupRefused, match="PORT"):
        async with Freshet(port="many"):
            pass
    with pytest.raises(errors.InvalidInput):
        await Freshet(settings).ask("Too early?")
    with pytest.raises(errors.InvalidInput):
        Freshet(settings, port=1)


async def test_the_callers_own_error_leaves_the_block_as_it_is_and_the_answer_is_kept(
    settings: Settings, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda _: [["Half."], gate]
    session_id = ""

    async def begin() -> None:
        nonlocal session_id
        async with Freshet(settings, model=model, embedder=WordsEmbedder()) as freshet:
            await freshet.assistant("public")
            async with aclosing(freshet.stream("Why?")) as stream:
                async for event in stream:
                    if isinstance(event, events.Start):
                        session_id = event.session_id
                    if isinstance(event, events.Tokens):
                        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await begin()
    model.script = lambda _: says("Whole.")
    async with Freshet(settings, model=model, embedder=WordsEmbedder()) as freshet:
        await freshet.ask("Go on.", session_id=session_id)
    assert "Half." in [message.content for message in model.prompts[-1].messages]
