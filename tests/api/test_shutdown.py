import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import httpx
import pytest
from sqlalchemy import func, select, update

from app.db import conversations, runs
from app.db.conversations import NewRun
from app.db.engine import Sessions
from app.db.runs import AnswerEnd, NewLines
from app.db.sessions import open_session
from app.db.tables import Run as RunRow
from app.errors import Interrupted
from app.events import Done, Start, Tokens, TokenUsage, failure
from app.llm.protocols import Finish, Usage
from app.patience import Patience
from app.resources import open_resources
from app.runs.log import Reading, pack
from app.runs.runner import Run, Runner
from app.services.chat import Asked
from app.services.runs import Followed
from app.services.viewer import ANONYMOUS
from app.settings import Settings
from tests.api.turns import opened, resumed
from tests.conftest import RunningServer, Serve
from tests.db.test_conversations import blocked
from tests.scripted_model import ScriptedModel
from tests.words_embedder import WordsEmbedder

STREAM = "/api/v1/chat/stream"


def with_grace(settings: Settings, grace_s: float) -> Settings:
    server = settings.server.model_copy(update={"shutdown_grace_s": grace_s})
    return replace(settings, server=server)


def with_heartbeat(settings: Settings, every_s: float) -> Settings:
    return replace(settings, chat=settings.chat.model_copy(update={"process_heartbeat_s": every_s}))


@asynccontextmanager
async def answering(
    server: RunningServer, model: ScriptedModel, gate: anyio.Event
) -> AsyncGenerator[tuple[str, AsyncIterator[str]]]:
    """The id of a session whose answer waits for the gate after its first token, and the lines from there."""
    model.script = lambda prompt: [["The first"], gate, [" and the last."], Finish("stop", Usage(1, 2))]
    assistant = await server.resources.assistants.create(name="Public")
    body = {"message": "Go", "assistant_id": assistant.slug}
    async with (
        server.client() as client,
        client.stream("POST", STREAM, json=body) as response,
    ):
        lines = response.aiter_lines()
        async for line in lines:
            if json.loads(line)["type"] == "token":
                break
        yield response.headers["x-session-id"], lines


async def until_draining(server: RunningServer) -> None:
    with anyio.fail_after(5):
        while not server.resources.runner.draining:  # noqa: ASYNC110  # it tells nobody
            await anyio.sleep(0.005)


async def stored_answer(serve: Serve, settings: Settings, session_id: str) -> dict[str, Any]:
    """As another server on the same database shows it."""
    async with serve(settings) as another, another.client() as client:
        history = (await client.get(f"/api/v1/chat/{session_id}/history")).json()["messages"]
    assert len(history) == 2
    return history[1]


async def test_an_answer_that_ends_within_the_grace_period_is_whole(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    gate = anyio.Event()
    with anyio.fail_after(15):
        async with serve(settings) as server, answering(server, model, gate) as (session_id, lines):
            server.stop()
            await until_draining(server)
            gate.set()
            rest = [json.loads(line) async for line in lines]
        assert rest[-1]["type"] == "done"
        answer = await stored_answer(serve, settings, session_id)
    assert (answer["status"], answer["text"]) == ("completed", "The first and the last.")


async def test_an_answer_that_does_not_end_in_time_ends_with_its_reader_told_and_what_was_said_kept(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    settings = with_grace(settings, 0.05)
    with anyio.fail_after(15):
        async with (
            serve(settings) as server,
            answering(server, model, anyio.Event()) as (session_id, lines),
        ):
            server.stop()
            rest = [json.loads(line) async for line in lines]
        assert [line["type"] for line in rest].count("error") == 1
        assert (rest[-1]["type"], rest[-1]["code"], rest[-1]["retryable"]) == ("error", "interrupted", True)
        answer = await stored_answer(serve, settings, session_id)
    assert (answer["status"], answer["error_code"], answer["text"]) == ("failed", "interrupted", "The first")


async def test_an_answer_without_a_reader_has_the_same_grace_period(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    gate = anyio.Event()
    with anyio.fail_after(15):
        async with serve(settings) as server:
            async with answering(server, model, gate) as (session_id, _):
                pass
            server.stop()
            await until_draining(server)
            gate.set()
        answer = await stored_answer(serve, settings, session_id)
    assert (answer["status"], answer["text"]) == ("completed", "The first and the last.")


async def test_an_answer_without_a_reader_that_does_not_end_in_time_keeps_what_was_said(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    settings = with_grace(settings, 0.05)
    with anyio.fail_after(15):
        async with serve(settings) as server:
            async with answering(server, model, anyio.Event()) as (session_id, _):
                pass
            server.stop()
        answer = await stored_answer(serve, settings, session_id)
    assert (answer["status"], answer["error_code"], answer["text"]) == ("failed", "interrupted", "The first")


async def test_a_server_that_is_about_to_stop_takes_no_new_turns_and_says_when_to_ask_again(
    client: httpx.AsyncClient, server: RunningServer
):
    await server.resources.assistants.create(name="Public")
    server.resources.drain()
    for path in (STREAM, "/api/v1/chat"):
        response = await client.post(path, json={"message": "Go", "assistant_id": "public"})
        assert response.status_code == 503
        assert response.json()["code"] == "shutting_down"
        assert int(response.headers["retry-after"]) > 0
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200


async def test_a_server_that_has_stopped_leaves_no_task(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    before = asyncio.all_tasks()
    with anyio.fail_after(15):
        async with serve(with_grace(settings, 0.05)) as server, answering(server, model, anyio.Event()):
            server.stop()
        left = asyncio.all_tasks() - before
    assert not left


def new_runner() -> Runner:
    return Runner(limit=1, reading=Reading(Patience(), 30, max_behind_bytes=10**6, stall_s=30))


async def test_whoever_leaves_a_draining_runner_waits_for_its_grace_period():
    gate = anyio.Event()
    run = Run(uuid4(), "session", uuid4())

    async def make(run: Run) -> None:
        await gate.wait()
        usage = TokenUsage(1, 1, 2)
        run.log.append(Done(status="completed", message_id="m", finish_reason="stop", usage=usage))

    async def serve_and_leave() -> None:
        async with new_runner() as runner:
            with runner.reserve() as place:
                place.start(run, make)
            runner.drain(3600)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_and_leave)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not run.log.closed
            gate.set()
    assert run.log.closed
    assert run.ending is None


async def test_an_answer_that_is_being_stored_when_the_process_is_ended_in_earnest_is_stored(
    settings: Settings, model: ScriptedModel, sessions: Sessions
):
    """The row is held meanwhile, so that storing has to wait, and is cancelled while it does."""
    gate = anyio.Event()
    model.script = lambda prompt: [["All of it."], gate, Finish("stop", Usage(1, 2))]
    storing = anyio.Event()

    async def serve_and_end() -> None:
        async with open_resources(settings, model=model, embedder=WordsEmbedder()) as resources:
            assistant = await resources.assistants.create(name="Public")
            followed.append(await resources.chat.begin(Asked("Go", assistant.slug), ANONYMOUS))
            await storing.wait()
            raise ZeroDivisionError

    followed: list[Followed] = []
    with anyio.fail_after(15):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails_with, ZeroDivisionError, serve_and_end)
            await model.asked.wait()
            async with sessions.begin() as session:
                await session.execute(
                    select(RunRow.id).where(RunRow.id == followed[0].run_id).with_for_update()
                )
                gate.set()
                while not await blocked(session):  # noqa: ASYNC110  # the database tells nobody
                    await anyio.sleep(0.01)
                storing.set()
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
    async with sessions.read() as session:
        stored = await conversations.get_message(session, followed[0].message_id)
    assert stored is not None
    assert (stored.status, stored.text) == ("completed", "All of it.")


async def fails_with(kind: type[Exception], work: Callable[[], Awaitable[None]]) -> None:
    with pytest.RaisesGroup(kind, allow_unwrapped=True, flatten_subgroups=True):
        await work()


async def accept_elsewhere(
    sessions: Sessions, server: RunningServer, session_id: str, *, ago: timedelta, had_begun: bool = True
) -> UUID:
    """The run, of a process that has never shown a heartbeat and has kept what it said."""
    assistant = await server.resources.assistants.create(name="Public")
    run = NewRun(uuid4(), uuid4(), session_id, assistant.id, uuid4(), uuid4(), None, "running")
    start = Start(
        run_id=str(run.id),
        session_id=session_id,
        message_id=str(run.answer_id),
        user_message_id=str(run.question_id),
        protocol=1,
    )
    said = [*start.lines(1), *Tokens(["Half ", "of it"]).lines(2)] if had_begun else []
    async with sessions.begin() as session:
        await open_session(session, session_id, user_id=None, assistant_id=assistant.id)
        await conversations.add_turn(session, run, "Are you there?")
        if said:
            await runs.add_lines(session, [NewLines(run.id, 1, len(said), b"".join(said))])
        await session.execute(update(RunRow).values(started_at=func.now() - ago))
    return run.id


async def test_the_runs_of_a_process_that_was_killed_are_ended_by_another_and_their_sessions_are_free(
    serve: Serve, settings: Settings, sessions: Sessions
):
    session_id = str(uuid4())
    settings = with_heartbeat(settings, 0.05)
    with anyio.fail_after(15):
        async with serve(settings) as server, server.client() as client:
            run_id = await accept_elsewhere(sessions, server, session_id, ago=timedelta(hours=1))
            # One that follows it meanwhile is told.
            followed = await resumed(client, session_id)
            again_from = {
                after: await resumed(client, session_id, after=after, run_id=run_id) for after in (3, 4, 9)
            }
            answer = (await client.get(f"/api/v1/chat/{session_id}/history")).json()["messages"][1]
            body = {"message": "Go", "assistant_id": "public", "session_id": session_id}
            again = await client.post(STREAM, json=body)
    assert (answer["status"], answer["error_code"]) == ("failed", "interrupted")
    assert answer["text"] == "Half of it"
    assert [event["type"] for event in followed] == ["start", "token", "token", "error"]
    assert followed[-1]["code"] == "interrupted"
    # It may have sent four lines of which it had stored three, or more.
    assert again_from == {3: followed[3:], 4: followed[3:], 9: followed[3:]}
    assert json.loads(again.text.splitlines()[-1])["type"] == "done"


async def test_an_answer_that_was_interrupted_before_anything_was_stored_is_a_whole_stream_all_the_same(
    serve: Serve, settings: Settings, sessions: Sessions
):
    session_id = str(uuid4())
    with anyio.fail_after(15):
        async with serve(with_heartbeat(settings, 0.05)) as server, server.client() as client:
            run_id = await accept_elsewhere(
                sessions, server, session_id, ago=timedelta(hours=1), had_begun=False
            )
            start, error = await resumed(client, session_id)
    assert (start["type"], start["run_id"], error["code"]) == ("start", str(run_id), "interrupted")


@pytest.mark.parametrize("signal", ["first", "second"])
async def test_whoever_asks_twice_does_not_wait_for_the_grace_period(signal: str):
    """`drain` again with less time counts: the runs end at once."""

    async def make(run: Run) -> None:
        with run.making:
            await anyio.sleep_forever()
        run.log.append(failure(Interrupted()))

    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(Run(uuid4(), "session", uuid4()), make)
        with anyio.fail_after(5):
            if signal == "second":
                runner.drain(3600)
            runner.drain(0)
            while not run.log.closed:
                await anyio.lowlevel.checkpoint()
    assert run.hurried


async def test_who_follows_an_answer_elsewhere_is_told_its_end_when_its_process_stops(
    serve: Serve, settings: Settings, model: ScriptedModel
):
    """Also when that is stored just before the process is gone."""
    slow = replace(settings, chat=settings.chat.model_copy(update={"checkpoint_s": 60}))
    with anyio.fail_after(20):
        async with (
            serve(settings) as reading,
            reading.client() as client,
            serve(with_grace(slow, 0.05)) as server,
        ):
            async with answering(server, model, anyio.Event()) as (session_id, _):
                pass
            async with opened(client, "GET", f"/api/v1/chat/{session_id}/stream") as stream:
                server.stop()
                assert (await stream.rest())[-1]["code"] == "interrupted"


async def test_who_follows_an_answer_of_a_process_that_died_before_it_could_tell_the_end_is_told_it(
    serve: Serve, settings: Settings, sessions: Sessions
):
    session_id = str(uuid4())
    with anyio.fail_after(20):
        async with serve(with_heartbeat(settings, 0.1)) as server, server.client() as client:
            run_id = await accept_elsewhere(sessions, server, session_id, ago=timedelta(0))
            async with opened(client, "GET", f"/api/v1/chat/{session_id}/stream") as stream:
                await stream.until("token")
                async with sessions.begin() as session:
                    said = (await runs.lines_of(session, [run_id]))[run_id]
                    log = await pack([*said, *failure(Interrupted()).lines(4)])
                    assert await runs.end(session, run_id, AnswerEnd("failed", "Half", log=log, last_seq=4))
                assert (await stream.rest())[-1]["code"] == "interrupted"
