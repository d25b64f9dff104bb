"""Commands that go on until they are stopped."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn


def run_until_stopped(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Ctrl-C and SIGTERM cancel `main`, and that is no failure."""

    async def stoppable() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with on_stop(lambda: loop.call_soon_threadsafe(task.cancel)):
            await main()

    loop_factory = uvicorn.Config("").get_loop_factory()
    with suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(stoppable())


@contextmanager
def on_stop(stop: Callable[[], Any]) -> Generator[None]:
    def react(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, react) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
