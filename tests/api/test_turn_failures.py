"""What goes wrong around a turn: the database goes away and comes back, there is too much to do, a reader is slow."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import httpx
import pytest
from anyio import to_thread
from pydantic import SecretStr
from sqlalchemy import text

from app.db import migrations
from app.db.embedded import EmbeddedPostgres
from app.db.engine import Sessions, create_engine
from app.errors import DatabaseUnavailable
from app.events import Tokens
from app.llm.protocols import Finish, Usage, Vector
from app.patience import Patience
from app.resources import open_resources
from app.runs.log import Reading, RunLog
from app.services.chat import Asked
from app.services.viewer import ANONYMOUS
from app.settings import ChatSettings, DatabaseSettings, Settings
from tests.api.turns import answered, asked, gated, opened, public, resumed
from tests.conftest import RunningServer, Serve
from tests.scripted_model import ScriptedModel, says
from tests.words_embedder import WordsEmbedder

STREAM = "/api/v1/chat/stream"
NOTHING_LISTENS = "postgresql://postgres@127.0.0.1:9/freshet"


class Postgres:
    """A server of these tests alone, to be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self._embedded = EmbeddedPostgres(
            directory, settings={"fsync": "off", "full_page_writes": "off", "max_connections": "20"}
        )
        self.url = ""
        self._runs = False

    async def start(self) -> None:
        if not self._runs:
            self.url = await to_thread.run_sync(self._embedded.start)
            self._runs = True

    async def stop(self) -> None:
        await to_thread.run_sync(self._embedded.stop)
        self._runs = False


@pytest.fixture(scope="module")
def postgres_directory() -> Generator[Path]:
    with TemporaryDirectory(prefix="freshet-tests-") as directory:
        yield Path(directory)


@pytest.fixture
async def postgres(postgres_directory: Path) -> AsyncGenerator[Postgres]:
    server = Postgres(postgres_directory)
    await server.start()
    engine = create_engine(server.url, DatabaseSettings())
    await migrations.migrate(engine)
    await engine.dispose()
    yield server
    await server.stop()


@pytest.fixture
def of_its_own(settings: Settings, postgres: Postgres) -> Settings:
    """On the server that can be stopped, with a small pool and short waits."""
    database = settings.database.model_copy(
        update={"database_url": SecretStr(postgres.url), "db_pool_size": 2}
    )
    chat = ChatSettings(heartbeat_s=0.2, process_heartbeat_s=0.1, store_retry_s=20)
    return replace(settings, database=database, chat=chat)


async def question(server: RunningServer, **rest: Any) -> dict[str, Any]:
    assistant = await server.resources.assistants.create(name="Public", slug=f"public-{uuid4().hex}")
    return {"message": "Go", "assistant_id": assistant.slug, "session_id": str(uuid4()), **rest}


async def next_of(lines: AsyncIterator[str], kind: str) -> tuple[dict[str, Any], list[str]]:
    """The next line of this kind, and the kinds of those before it."""
    before: list[str] = []
    with anyio.fail_after(20):
        async for line in lines:
            event = json.loads(line)
            if event["type"] == kind:
                return event, before
            before.append(event["type"])
    pytest.fail(f"the stream ended without {kind!r}, after {before}")


def assert_away(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.json()["code"] == "database_unavailable"
    assert int(response.headers["retry-after"]) > 0


async def test_without_a_database_nothing_starts_and_the_reason_is_told(settings: Settings):
    database = settings.database.model_copy(update={"database_url": SecretStr(NOTHING_LISTENS)})
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"), anyio.fail_after(10):
        async with open_resources(replace(settings, database=database), embedder=WordsEmbedder()):
            pytest.fail("there is no database")


async def test_while_the_database_is_away_everything_says_so_and_works_again_without_a_restart(
    serve: Serve, of_its_own: Settings, postgres: Postgres
):
    with anyio.fail_after(40):
        async with serve(of_its_own) as server, server.client() as client:
            body = await question(server)
            session = f"/api/v1/chat/{body['session_id']}"
            assert (await client.post(STREAM, json=body)).status_code == 200
            await postgres.stop()
            for path in (STREAM, "/api/v1/chat"):
                assert_away(await client.post(path, json=body))
            assert_away(await client.get(f"{session}/history"))
            assert_away(await client.delete(session))
            assert_away(await client.get("/readyz"))
            assert (await client.get("/healthz")).status_code == 200
            await postgres.start()
            again = await client.post(STREAM, json=body)
            assert json.loads(again.text.splitlines()[-1])["type"] == "done"
            assert len((await client.get(f"{session}/history")).json()["messages"]) == 4
            assert (await client.get("/readyz")).status_code == 200


async def test_an_answer_goes_on_while_the_database_is_away_and_ends_when_it_could_be_stored(
    serve: Serve, of_its_own: Settings, postgres: Postgres, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["Before"], gate, [" and after."], Finish("stop", Usage(1, 2))]
    with anyio.fail_after(40):
        async with serve(of_its_own) as server, server.client() as client:
            body = await question(server)
            async with client.stream("POST", STREAM, json=body) as response:
                lines = response.aiter_lines()
                await next_of(lines, "token")
                await postgres.stop()
                gate.set()
                token, _ = await next_of(lines, "token")
                assert token["content"] == " and after."
                # Nothing but signs of life comes for as long as the end is not stored.
                for _ in range(3):
                    _, before = await next_of(lines, "heartbeat")
                    assert set(before) <= {"step"}
                await postgres.start()
                _, before = await next_of(lines, "done")
                assert "error" not in before
                assert [line async for line in lines] == []
            history = (await client.get(f"/api/v1/chat/{body['session_id']}/history")).json()["messages"]
    assert (history[1]["status"], history[1]["text"]) == ("completed", "Before and after.")


async def test_an_answer_that_cannot_be_stored_ends_with_an_error_and_its_session_is_free_again(
    serve: Serve, of_its_own: Settings, postgres: Postgres, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["Before"], gate, Finish("stop", Usage(1, 1))]
    settings = replace(of_its_own, chat=of_its_own.chat.model_copy(update={"store_retry_s": 0.3}))
    with anyio.fail_after(40):
        async with serve(settings) as server, server.client() as client:
            body = await question(server)
            async with client.stream("POST", STREAM, json=body) as response:
                lines = response.aiter_lines()
                await next_of(lines, "token")
                await postgres.stop()
                gate.set()
                error, before = await next_of(lines, "error")
                assert error["code"] == "answer_not_stored"
                assert "done" not in before
                assert [line async for line in lines] == []
            await postgres.start()
            # Ended by the heartbeat, in its own time.
            while (again := await client.post(STREAM, json=body)).status_code == 409:  # noqa: ASYNC110  # seen from outside
                await anyio.sleep(0.05)
            assert json.loads(again.text.splitlines()[-1])["type"] == "done"


class _PausingEmbedder(WordsEmbedder):
    """Says when it has been asked, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self.gate = anyio.Event()

    async def embed_question(self, question: str) -> Vector:
        self.asked.set()
        await self.gate.wait()
        return self.embed(question)


async def test_a_database_that_goes_between_the_steps_is_told_by_the_last_line(
    of_its_own: Settings, postgres: Postgres, model: ScriptedModel
):
    embedder = _PausingEmbedder()
    settings = replace(of_its_own, chat=of_its_own.chat.model_copy(update={"store_retry_s": 0.3}))
    lines: list[dict[str, Any]] = []
    with anyio.fail_after(40):
        async with open_resources(settings, model=model, embedder=embedder) as resources:
            await resources.knowledge.ingest_now(
                "waters", "waters.md", b"The Danube flows into the Black Sea."
            )
            slug = f"waters-{uuid4().hex}"
            await resources.assistants.create(name="Waters", slug=slug, collections=["waters"])
            run = await resources.chat.begin(Asked("Where does the Danube flow?", slug), ANONYMOUS)
            await embedder.asked.wait()
            await postgres.stop()
            embedder.gate.set()
            async with aclosing(run.follow(after=0)) as batches:
                async for batch in batches:
                    lines += [json.loads(line) for line in batch.lines]
    assert (lines[-1]["type"], lines[-1]["code"]) == ("error", "database_unavailable")
    assert [line["type"] for line in lines].count("error") == 1
    failed = [line for line in lines if line["type"] == "step" and line["status"] == "failed"]
    assert [step["step_type"] for step in failed] == ["retrieval"]
    assert not model.prompts


async def test_beyond_the_bound_on_running_answers_a_turn_is_put_off_and_works_afterwards(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    gate = anyio.Event()
    model.script = lambda prompt: [["Wait"], gate, Finish("stop", None)]
    settings = replace(settings, chat=ChatSettings(max_running_runs=1))
    with anyio.fail_after(15):
        async with serve(settings) as server, server.client() as client:
            first, second = await question(server), await question(server)
            async with client.stream("POST", STREAM, json=first) as response:
                lines = response.aiter_lines()
                await next_of(lines, "token")
                refused = await client.post(STREAM, json=second)
                assert (refused.status_code, refused.json()["code"]) == (503, "at_capacity")
                assert int(refused.headers["retry-after"]) > 0
                history = await client.get(f"/api/v1/chat/{second['session_id']}/history")
                assert history.json()["messages"] == []
                gate.set()
                await next_of(lines, "done")
            model.script = lambda prompt: says("Now")
            again = await client.post(STREAM, json=second)
            assert json.loads(again.text.splitlines()[-1])["type"] == "done"


async def test_two_hundred_turns_at_once_are_answered_with_ten_connections(
    client: httpx.AsyncClient, server: RunningServer, settings: Settings, model: ScriptedModel
):
    assert settings.database.db_pool_size == 10
    gate = anyio.Event()
    model.script = lambda prompt: [["All"], gate, [" at once"], Finish("stop", None)]
    body = await question(server)
    limits = httpx.Limits(max_connections=250)
    ends: list[str] = []
    asked = 0

    async def ask(http: httpx.AsyncClient) -> None:
        nonlocal asked
        async with http.stream("POST", STREAM, json={**body, "session_id": str(uuid4())}) as response:
            lines = response.aiter_lines()
            await next_of(lines, "token")
            asked += 1
            if asked == 200:
                gate.set()
            ends.append(json.loads([line async for line in lines][-1])["type"])

    with anyio.fail_after(60):
        async with (
            server.client(timeout=60, limits=limits) as http,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(200):
                tasks.start_soon(ask, http)
    assert ends == ["done"] * 200
    assert not server.resources.runner.run_ids


async def test_a_reader_that_does_not_read_slows_down_neither_the_answer_nor_another_reader(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    """As much as that is what a reader may be behind."""
    settings = replace(settings, chat=ChatSettings(reader_max_behind_bytes=20_000_000))
    text = "x" * 1000
    model.script = lambda prompt: [*([text] * 100 for _ in range(100)), Finish("stop", None)]
    async with serve(settings) as server, server.client() as client:
        await _read_beside_one_who_does_not(server, client)


async def _read_beside_one_who_does_not(server: RunningServer, client: httpx.AsyncClient) -> None:
    stuck = await question(server)
    body = json.dumps(stuck).encode()
    address = urlsplit(server.url)
    head = f"POST {STREAM} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with anyio.fail_after(20):
        async with AsyncExitStack() as stack:
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await to_thread.run_sync(reader.connect, (address.hostname, address.port))
            reader.sendall(head.encode() + body)
            history = f"/api/v1/chat/{stuck['session_id']}/history"
            while not (messages := (await client.get(history)).json()["messages"]):  # noqa: ASYNC110  # seen from outside
                await anyio.sleep(0.02)
            other = await client.post(STREAM, json=await question(server))
            assert json.loads(other.text.splitlines()[-1])["type"] == "done"
            while messages[1]["status"] == "running":
                await anyio.sleep(0.02)
                messages = (await client.get(history)).json()["messages"]
            assert (messages[1]["status"], len(messages[1]["text"])) == ("completed", 10_000_000)
            # It may still read all of it.
            received = 0
            reader.setblocking(True)
            reader.settimeout(5)
            while part := await to_thread.run_sync(reader.recv, 2**20):
                received += len(part)
                if part.endswith(b"0\r\n\r\n"):
                    break
    assert received > 10_000_000


async def test_a_line_that_comes_with_the_end_of_the_readers_patience_is_not_lost():
    log = RunLog()
    reading = Reading(Patience(tick_s=0.01), 0.005, max_behind_bytes=10**6, stall_s=30)
    follower = log.follow(after=0, reading=reading)
    with anyio.fail_after(5):
        async with aclosing(follower) as batches, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(anext(batches))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.02, log.append, Tokens(["a"]))
            # Held up like this, the loop finds both timers due at once, that of the patience first.
            threading.Event().wait(0.05)
            assert len((await first).lines) == 1


async def test_a_restart_of_the_database_costs_no_reader_a_line(
    serve: Serve, of_its_own: Settings, postgres: Postgres, model: ScriptedModel
):
    """Neither here nor in another process, which listens again by itself."""
    gate, last = gated(model, "One", " two", " three")
    with anyio.fail_after(40):
        async with (
            serve(of_its_own) as server,
            serve(of_its_own) as another,
            server.client() as client,
            another.client() as elsewhere,
            asked(client, await public(server)) as stream,
        ):
            seen = await stream.until("token")
            url = f"/api/v1/chat/{stream.session_id}/stream"
            async with opened(elsewhere, "GET", url) as other:
                assert await other.until("token") == seen
                await postgres.stop()
                gate.set()
                middle = await stream.until("token", content=" two")
                await postgres.start()
                assert await other.until("token", content=" two") == middle
                last.set()
                rest = await stream.rest()
                assert await other.rest() == rest
            assert await resumed(client, stream.session_id) == [*seen, *middle, *rest]
    assert rest[-1]["type"] == "done"


@pytest.mark.parametrize(
    "refusal",
    [
        "could not extend file: No space left on device' USING ERRCODE = 'disk_full",
        "cannot execute UPDATE in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction",
    ],
)
async def test_an_answer_that_the_database_refuses_ends_with_an_error_or_is_kept_when_it_takes_it(
    serve: Serve, settings: Settings, sessions: Sessions, model: ScriptedModel, refusal: str
):
    chat = settings.chat.model_copy(update={"store_retry_s": 0.3})
    async with sessions.begin() as session:
        await session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
                f" BEGIN RAISE EXCEPTION '{refusal}'; END $$"
            )
        )
    refuse = "CREATE TRIGGER refusal BEFORE UPDATE ON messages EXECUTE FUNCTION refuse()"
    with anyio.fail_after(20):
        async with serve(replace(settings, chat=chat)) as server, server.client() as client:
            slug = await public(server)
            async with sessions.begin() as session:
                await session.execute(text(refuse))
            error = (await answered(client, slug))[-1]
            assert (error["type"], error["code"]) == ("error", "answer_not_stored")
            async with sessions.begin() as session:
                await session.execute(text("ALTER TABLE messages DISABLE TRIGGER refusal"))
            assert (await answered(client, slug))[-1]["type"] == "done"
            async with sessions.begin() as session:
                await session.execute(text("DROP TRIGGER refusal ON messages"))
                await session.execute(
                    text("CREATE TRIGGER refusal BEFORE INSERT ON messages EXECUTE FUNCTION refuse()")
                )
            assert_away(await client.post(STREAM, json={"message": "Go", "assistant_id": slug}))
