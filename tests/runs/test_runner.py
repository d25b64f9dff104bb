import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

import anyio
import pytest

from app.errors import AtCapacity, ModelSilent, ShuttingDown
from app.events import Done, Event, Tokens, TokenUsage
from app.patience import Patience
from app.runs.log import RunLog
from app.runs.runner import Run, Runner

DONE = Done(status="completed", message_id="m", finish_reason="stop", usage=TokenUsage(1, 1, 2))


def new_run() -> Run:
    return Run(uuid4(), "session", uuid4())


async def playing(*events: Event | anyio.Event | Exception) -> AsyncGenerator[Event]:
    for event in events:
        if isinstance(event, anyio.Event):
            await event.wait()
        elif isinstance(event, Exception):
            raise event
        else:
            yield event


async def collected(runner: Runner, run: Run, after: int = 0) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    with anyio.fail_after(5):
        async with aclosing(runner.follow(run, after=after)) as batches:
            async for batch in batches:
                lines += [json.loads(line) for line in batch.lines]
    return lines


def new_runner(limit: int = 10, silence_s: float = 30) -> Runner:
    return Runner(limit=limit, silence_s=silence_s)


async def test_any_number_of_readers_get_the_same_lines_from_any_place():
    gate = anyio.Event()
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(Tokens(["a", "b"]), gate, Tokens(["c"]), DONE))
        results: list[list[dict[str, object]]] = []

        async def read(after: int) -> None:
            results.append(await collected(runner, run, after))

        async with anyio.create_task_group() as readers:
            for after in (0, 0, 1, 3):
                readers.start_soon(read, after)
            gate.set()
        whole = await collected(runner, run)
    assert [line["seq"] for line in whole] == [1, 2, 3, 4]
    assert sorted(results, key=len) == [whole[3:], whole[1:], whole, whole]


async def test_a_reader_that_leaves_changes_nothing():
    gate = anyio.Event()
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(Tokens(["a"]), gate, Tokens(["b"]), DONE))
        async with aclosing(runner.follow(run, after=0)) as batches:
            await anext(batches)
        gate.set()
        assert [line["type"] for line in await collected(runner, run)] == ["token", "token", "done"]


async def test_a_failure_is_the_last_line_and_is_told_in_our_words():
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(Tokens(["a"]), ModelSilent("It took too long.")))
        *_, last = await collected(runner, run)
    assert last == {
        "type": "error",
        "seq": 2,
        "code": "model_timeout",
        "message": "It took too long.",
        "error": "It took too long.",
        "retryable": True,
    }
    assert isinstance(run.failure, ModelSilent)


async def test_an_unexpected_error_ends_the_stream_without_its_words():
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(ZeroDivisionError("secret")))
        *_, last = await collected(runner, run)
    assert last["code"] == "internal_error"
    assert "secret" not in str(last)


async def test_events_that_stop_without_an_end_are_a_failure():
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(Tokens(["a"])))
        *_, last = await collected(runner, run)
    assert last["type"] == "error"


async def test_there_is_a_place_again_when_a_run_has_ended():
    gate = anyio.Event()
    async with new_runner(limit=1) as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(gate, DONE))
        with pytest.raises(AtCapacity) as refused, runner.reserve():
            pass
        assert refused.value.retry_after_s > 0
        gate.set()
        await collected(runner, run)
        assert run.task is not None
        await run.task
        with runner.reserve():
            pass


async def test_a_place_that_is_not_used_is_given_back():
    async with new_runner(limit=1) as runner:
        with pytest.raises(LookupError), runner.reserve():
            raise LookupError
        with runner.reserve():
            pass


async def test_a_draining_runner_takes_nothing_new_and_ends_what_outlasts_its_grace():
    stored = anyio.Event()

    async def endless() -> AsyncGenerator[Event]:
        try:
            yield Tokens(["a"])
            await anyio.sleep_forever()
        finally:
            stored.set()

    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), endless())
        runner.drain(0.01)
        with pytest.raises(ShuttingDown), runner.reserve():
            pass
        *_, last = await collected(runner, run)
    assert last["code"] == "interrupted"
    assert stored.is_set()


async def test_leaving_the_runner_ends_every_run_with_a_last_line():
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(Tokens(["a"]), anyio.Event()))
        async with aclosing(runner.follow(run, after=0)) as batches:
            await anext(batches)
    assert run.log.closed
    assert [line["type"] for line in await collected(runner, run)] == ["token", "error"]


async def test_silence_is_reported_and_the_lines_after_it_are_not_lost():
    log = RunLog()
    with anyio.fail_after(5):
        async with aclosing(log.follow(after=0, patience=Patience(tick_s=0.01), silence_s=0.02)) as batches:
            assert (await anext(batches)).lines == []
            log.append(Tokens(["a"]))
            assert len((await anext(batches)).lines) == 1


def test_nothing_follows_the_terminal_event():
    log = RunLog()
    log.append(DONE)
    with pytest.raises(RuntimeError):
        log.append(Tokens(["a"]))
