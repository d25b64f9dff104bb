import asyncio

import anyio
import anyio.lowlevel
import pytest

from app.patience import Patience


async def test_what_comes_in_time_is_given():
    with Patience(tick_s=0.01).limiting() as limit:
        assert await limit.wait(asyncio.sleep(0, "an answer"), 5) == "an answer"


async def test_what_takes_too_long_is_cancelled_and_said_so():
    cancelled = anyio.Event()

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    with anyio.fail_after(5), Patience(tick_s=0.01).limiting() as limit, pytest.raises(TimeoutError):
        await limit.wait(forever(), 0.02)
    assert cancelled.is_set()


async def test_the_task_goes_on_unharmed_after_a_limit():
    with anyio.fail_after(5), Patience(tick_s=0.01).limiting() as limit:
        with pytest.raises(TimeoutError):
            await limit.wait(anyio.sleep_forever(), 0.02)
        await anyio.lowlevel.checkpoint()
        assert await limit.wait(asyncio.sleep(0, 2), 1) == 2
        with pytest.raises(TimeoutError):
            await limit.wait(anyio.sleep_forever(), 0.02)


async def test_between_waits_no_limit_runs():
    with anyio.fail_after(5), Patience(tick_s=0.01).limiting() as limit:
        await limit.wait(asyncio.sleep(0), 0.02)
        await anyio.sleep(0.1)


async def test_a_cancellation_from_outside_is_not_taken_for_the_limit():
    async def waiting() -> None:
        with Patience(tick_s=0.01).limiting() as limit:
            await limit.wait(anyio.sleep_forever(), 60)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(waiting())
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_an_error_of_the_awaited_is_passed_on():
    async def failing() -> None:
        raise LookupError

    with Patience().limiting() as limit, pytest.raises(LookupError):
        await limit.wait(failing(), 1)
