import json
from contextlib import aclosing
from uuid import uuid4

import anyio
import pytest

from app.errors import AtCapacity, Interrupted, ReaderTooSlow, ShuttingDown
from app.events import Done, Event, Tokens, TokenUsage, failure
from app.patience import Patience
from app.runs.log import Reading, RunLog, pack, unpack
from app.runs.runner import Make, Run, Runner

DONE = Done(status="completed", message_id="m", finish_reason="stop", usage=TokenUsage(1, 1, 2))


def new_run() -> Run:
    return Run(uuid4(), "session", uuid4())


def reading(silence_s: float = 30, tick_s: float = 0.1) -> Reading:
    return Reading(Patience(tick_s=tick_s), silence_s, max_behind_bytes=10**6, stall_s=30)


def playing(*events: Event | anyio.Event | Exception) -> Make:
    async def make(run: Run) -> None:
        end: Event = failure(Interrupted())
        with run.making:
            for event in events:
                if isinstance(event, anyio.Event):
                    await event.wait()
                elif isinstance(event, Exception):
                    raise event
                else:
                    run.log.append(event)
        if run.making.cancelled_caught:
            run.log.append(end)

    return make


async def collected(runner: Runner, run: Run, after: int = 0) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    with anyio.fail_after(5):
        async with aclosing(runner.follow(run, after=after)) as batches:
            async for batch in batches:
                lines += [json.loads(line) for line in batch.lines]
    return lines


def new_runner(limit: int = 10, silence_s: float = 30) -> Runner:
    return Runner(limit=limit, reading=reading(silence_s))


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
        with anyio.fail_after(5):
            while run.id in runner.run_ids:  # noqa: ASYNC110  # it tells nobody
                await anyio.sleep(0.001)
        with runner.reserve():
            pass


async def test_a_place_that_is_not_used_is_given_back():
    async with new_runner(limit=1) as runner:
        with pytest.raises(LookupError), runner.reserve():
            raise LookupError
        with runner.reserve():
            pass


async def test_a_draining_runner_takes_nothing_new_and_ends_what_outlasts_its_grace():
    async with new_runner() as runner:
        with runner.reserve() as place:
            run = place.start(new_run(), playing(Tokens(["a"]), anyio.Event()))
        runner.drain(0.01)
        with pytest.raises(ShuttingDown), runner.reserve():
            pass
        *_, last = await collected(runner, run)
    assert last["code"] == "interrupted"
    assert run.hurried


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
        async with aclosing(log.follow(after=0, reading=reading(0.02, 0.01))) as batches:
            assert not (await anext(batches)).lines
            log.append(Tokens(["a"]))
            assert len((await anext(batches)).lines) == 1


def test_nothing_follows_the_terminal_event():
    log = RunLog()
    log.append(DONE)
    with pytest.raises(RuntimeError):
        log.append(Tokens(["a"]))


async def seqs(log: RunLog, after: int) -> list[int]:
    found: list[int] = []
    async with aclosing(log.follow(after=after, reading=reading())) as batches:
        async for batch in batches:
            found += range(batch.first_seq, batch.first_seq + len(batch.lines))
    return found


async def test_what_was_stored_of_a_log_counts_and_who_is_ahead_of_it_gets_its_last_line():
    log = RunLog()
    log.append(Tokens(["a", "b", "c", "d"]))
    stored = [*log.lines_after(0)[:2], *failure(Interrupted()).lines(3)]
    found: dict[int, list[int]] = {}

    async def follow(after: int) -> None:
        found[after] = await seqs(log, after)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as readers:
            for after in (0, 3, 4):
                readers.start_soon(follow, after)
            await anyio.wait_all_tasks_blocked()
            log.settle(stored)
    assert found == {0: [1, 2, 3, 4, 3], 3: [4, 3], 4: [3]}
    assert log.closed


async def test_who_has_as_many_lines_as_what_was_stored_is_told_the_end_and_who_has_that_is_not():
    log = RunLog()
    log.append(Tokens(["a", "b", "c"]))
    stored = [*log.lines_after(0)[:2], *failure(Interrupted()).lines(3)]
    with anyio.fail_after(5):
        async with aclosing(log.follow(after=0, reading=reading())) as batches:
            assert len((await anext(batches)).lines) == 3
            log.settle(stored)
            assert (await anext(batches)) == (3, stored[2:])
            with pytest.raises(StopAsyncIteration):
                await anext(batches)
    assert await seqs(log, 3) == []
    assert await seqs(log, 2) == [3]


async def test_who_falls_behind_is_cut_off_and_who_comes_late_is_not():
    log = RunLog()
    log.append(Tokens(["x" * 1000] * 100))
    strict = Reading(Patience(), 30, max_behind_bytes=1000, stall_s=30)
    async with aclosing(log.follow(after=99, reading=strict)) as batches:
        await anext(batches)
        log.append(Tokens(["x" * 1000] * 600))
        with pytest.raises(ReaderTooSlow):
            await anext(batches)
    log.append(DONE)
    async with aclosing(log.follow(after=0, reading=strict)) as batches:
        assert sum([len(batch.lines) async for batch in batches]) == 701


async def test_who_comes_far_into_a_log_that_is_filled_later_is_not_behind():
    log = RunLog()
    strict = Reading(Patience(), 30, max_behind_bytes=1000, stall_s=30)
    found: list[int] = []

    async def read() -> None:
        async with aclosing(log.follow(after=600, reading=strict)) as batches:
            found.extend([batch.first_seq async for batch in batches])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            log.append(Tokens(["x" * 1000] * 602))
            await anyio.wait_all_tasks_blocked()
            log.append(DONE)
    assert found == [601, 603]


async def test_whoever_reads_a_log_that_is_broken_off_is_told_why():
    log = RunLog()
    log.append(Tokens(["a"]))
    log.break_off(ShuttingDown("Elsewhere.", retry_after_s=1))
    async with aclosing(log.follow(after=0, reading=reading())) as batches:
        assert len((await anext(batches)).lines) == 1
        with pytest.raises(ShuttingDown):
            await anext(batches)


@pytest.mark.parametrize("times", [1, 20_000])
async def test_a_packed_log_holds_the_same_lines(times: int):
    lines = [*Tokens(["a", "\n\u2028", "é"] * times).lines(1), *DONE.lines(3 * times + 1)]
    assert unpack(await pack(lines)) == lines
