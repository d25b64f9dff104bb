"""What a channel is to a pipeline, under the names that the `chatsky` package has for it."""

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, cast

from anyio import to_thread

from app.errors import FreshetError
from app.messengers.message import Attachment, Message

logger = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0

_T = TypeVar("_T")
Request = tuple[Message, Hashable]
"""What was said, and the id of the conversation that it was said in."""


@dataclass(slots=True)
class Context:
    """A conversation after a turn. `misc` is what the channel knows of it."""

    id: Hashable
    last_request: Message
    last_response: Message
    misc: dict[str, Any] = field(default_factory=dict[str, Any])


class PipelineRunner(Protocol):
    async def __call__(
        self,
        message: Message,
        ctx_id: Hashable | None = None,
        update_ctx_misc: dict[str, Any] | None = None,
    ) -> Context:
        """Answers in the conversation of this id, or without one in a new one. Raises `FreshetError`."""
        ...


class MessengerInterface(ABC):
    @abstractmethod
    async def connect(self, pipeline_runner: PipelineRunner) -> None:
        """Let the pipeline answer what comes over this channel."""


class MessengerInterfaceWithAttachments(MessengerInterface):
    supported_request_attachment_types: ClassVar[set[type[Attachment]]] = set()
    supported_response_attachment_types: ClassVar[set[type[Attachment]]] = set()

    @abstractmethod
    async def get_attachment_bytes(self, source: str) -> bytes:
        """The file that the channel knows by this id. Raises `FreshetError`."""


class PollingMessengerInterface(MessengerInterface):
    """Asks for what has been said, has it answered, and tells the answers, for as long as it is connected.

    `_request` and `_respond` are coroutines, or plain functions, which may take their time: these are called in a thread.
    """

    @abstractmethod
    def _request(self) -> list[Request] | Awaitable[list[Request]]: ...

    @abstractmethod
    def _respond(self, responses: list[Context]) -> Awaitable[None] | None: ...

    def _on_exception(self, e: BaseException) -> None:
        """Called when a round fails, before the wait that goes before the next, and when polling is given up."""
        if isinstance(e, Exception):
            logger.warning("%s failed and begins again: %r", type(self).__name__, e)
        else:
            logger.info("%s has stopped polling", type(self).__name__)

    async def connect(
        self,
        pipeline_runner: PipelineRunner,
        loop: Callable[[], bool] = lambda: True,
        timeout: float = 0,  # noqa: ASYNC109  # the name that it has there
    ) -> None:
        """Polls while `loop` says so, every `timeout` seconds; after a failure with growing waits."""
        wait_s = _FIRST_WAIT_S
        while loop():
            try:
                await self._polling_loop(pipeline_runner)
            except Exception as error:  # noqa: BLE001  # a channel may fail in its library's many ways, and begins again
                self._on_exception(error)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            except BaseException as error:  # told of being called off as well, and ended by it
                self._on_exception(error)
                raise
            else:
                wait_s = _FIRST_WAIT_S
                await asyncio.sleep(timeout)

    async def _polling_loop(self, pipeline_runner: PipelineRunner) -> None:
        requests = await _called(self._request)
        responses = [await _answered(pipeline_runner, message, ctx_id) for message, ctx_id in requests]
        await _called(self._respond, responses)


class CallbackMessengerInterface(MessengerInterface):
    """Is called with what has been said, and returns what is answered."""

    _pipeline_runner: PipelineRunner | None = None

    async def connect(self, pipeline_runner: PipelineRunner) -> None:
        self._pipeline_runner = pipeline_runner

    async def on_request_async(
        self,
        request: Message,
        ctx_id: Hashable | None = None,
        update_ctx_misc: dict[str, Any] | None = None,
    ) -> Context:
        if self._pipeline_runner is None:
            raise RuntimeError(f"{type(self).__name__} is not connected")
        return await self._pipeline_runner(request, ctx_id, update_ctx_misc)

    def on_request(
        self,
        request: Message,
        ctx_id: Hashable | None = None,
        update_ctx_misc: dict[str, Any] | None = None,
    ) -> Context:
        """The same for those who have no event loop, with a pipeline that is bound to none either."""
        return asyncio.run(self.on_request_async(request, ctx_id, update_ctx_misc))


async def _answered(pipeline_runner: PipelineRunner, message: Message, ctx_id: Hashable) -> Context:
    """What cannot be answered is told as the answer: who asks is not left in silence."""
    try:
        return await pipeline_runner(message, ctx_id)
    except FreshetError as error:
        return Context(ctx_id, message, Message(text=error.message, misc={"error": error.code}))


async def _called(function: Callable[..., _T | Awaitable[_T]], *arguments: Any) -> _T:
    if inspect.iscoroutinefunction(function):
        return cast("_T", await function(*arguments))
    return cast("_T", await to_thread.run_sync(function, *arguments))
