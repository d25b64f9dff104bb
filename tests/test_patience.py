import asyncio

import anyio
import anyio.lowlevel
import pytest

from app.patience import Patience


async def test_what_comes_in_time_is_given():
    patience = Patience(tick_s=0.01)
    assert await patience.wait(asyncio.sleep(0, "an answer"), 5) == "an answer"


async def test_what_takes_too_long_is_cancelled_and_said_so():
    cancelled = anyio.Event()

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    with anyio.fail_after(5):
        with pytest.raises(TimeoutError):
            await Patience(tick_s=0.01).wait(forever(), 0.02)
    assert cancelled.is_set()


async def test_the_task_goes_on_unharmed_after_a_limit():
    patience = Patience(tick_s=0.01)
    with anyio.fail_after(5):
        with pytest.raises(TimeoutError):
            await patience.wait(anyio.sleep_forever(), 0.02)
        await anyio.lowlevel.checkpoint()
        assert await patience.wait(asyncio.sleep(0, 2), 1) == 2


async def test_a_cancellation_from_outside_is_not_taken_for_the_limit():
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(Patience(tick_s=0.01).wait(anyio.sleep_forever(), 60))
        await asyncio.sleep(0)
        waiting.cancel()
    assert waiting.cancelled()


async def test_an_error_of_the_awaited_is_passed_on():
    async def failing() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await Patience().wait(failing(), 1)
