"""Any OpenAI-compatible server as the chat model.

The `openai` package makes the request and its retries; the lines of the answer are split and decoded here. Its own chunks are
pydantic models, and building one costs about 200 µs a token, more than all the rest of an answer's way together.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from httpx2 import ConnectTimeout, HTTPError, Limits, Timeout, TimeoutException
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAioHttpClient,
    OpenAIError,
)

from app.errors import ModelFailed, ModelIncomplete, ModelRejected, ModelSilent, ModelUnavailable
from app.llm.protocols import ChatMessage, Finish, Prompt, ToolCall, Usage
from app.patience import Patience
from app.settings import ModelSettings

_CONNECT_TIMEOUT_S = 10.0
# How long the transport may take to notice that the answer is over, so that the connection can be used again.
_END_OF_BODY_S = 0.5
_REJECTING = {400, 401, 403, 404, 405, 409, 413, 422}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def create_client(
    settings: ModelSettings, *, connections: int, timeout_s: float | None = None
) -> AsyncOpenAI:
    """A client of the configured server; its transport holds up to `connections` open at once (its own default is 100).

    `timeout_s` is how long a read may take. Without one, whoever reads limits his own waits: a timer of the transport's would
    be set anew for each token.
    """
    key = settings.openai_api_key
    return AsyncOpenAI(
        # A server of one's own mostly wants no key, the client always wants one.
        api_key=key.get_secret_value() if key is not None else "none",
        base_url=settings.openai_base_url,
        max_retries=settings.model_retries,
        timeout=Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
        http_client=DefaultAioHttpClient(
            limits=Limits(max_connections=connections, max_keepalive_connections=connections)
        ),
    )


class OpenAIModel:
    provider = "openai"
    can_write = True
    notice = None

    def __init__(self, client: AsyncOpenAI, settings: ModelSettings) -> None:
        self._client = client
        self._settings = settings
        self._patience = Patience()

    @property
    def name(self) -> str:
        return self._settings.chat_model

    async def aclose(self) -> None:
        await self._client.close()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[list[str] | Finish]:
        """An answer that breaks off before its first token is asked for again, `model_retries` times; later it is the reader's."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.model_first_token_s
        with self._patience.limiting() as limit:
            for attempt in itertools.count(1):
                answer = _Answer()
                async with AsyncExitStack() as stack:
                    try:
                        with _failures():
                            reads = await limit.wait(self._open(prompt, stack), give_up_at - loop.time())
                            while not answer.ended:
                                left_s = (
                                    self._settings.model_silence_s
                                    if answer.begun
                                    else give_up_at - loop.time()
                                )
                                if pieces := answer.feed(await limit.wait(anext(reads, b""), left_s)):
                                    yield pieces
                    except ModelIncomplete as failure:
                        answer.fail(failure)
                    else:
                        if answer.failure is None:
                            with contextlib.suppress(TimeoutError, HTTPError):
                                while await limit.wait(anext(reads, b""), _END_OF_BODY_S):
                                    pass
                            yield answer.finish()
                            return
                assert answer.failure is not None
                wait_s = min(8.0, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.75, 1.0)  # noqa: S311  # spreads load, guards nothing
                if (
                    answer.begun
                    or attempt > self._settings.model_retries
                    or loop.time() + wait_s >= give_up_at
                ):
                    raise answer.failure
                await asyncio.sleep(wait_s)

    async def _open(self, prompt: Prompt, stack: AsyncExitStack) -> AsyncIterator[bytes]:
        """The answer's bytes, a read at a time; closing `stack` ends the request."""
        response = await stack.enter_async_context(
            self._client.chat.completions.with_streaming_response.create(
                model=prompt.model or self.name,
                messages=[_message(message) for message in prompt.messages],
                stream=True,
                stream_options={"include_usage": True},
                extra_headers={"accept-encoding": "identity"},
                extra_body={**prompt.parameters, **_form(prompt), **_tools(prompt)},
            )
        )
        return response.http_response.aiter_raw()


@contextlib.contextmanager
def _failures() -> Generator[None]:
    """What can go wrong at the other end, in our words."""
    try:
        yield
    except (TimeoutError, TimeoutException, APITimeoutError) as error:
        # The aiohttp transport calls a refused connection a timeout as well.
        if isinstance(error.__cause__, ConnectTimeout):
            raise ModelUnavailable("The language model cannot be reached.") from error
        raise ModelSilent("The language model did not answer in time.") from error
    except APIStatusError as error:
        raise _rejection(error) from error
    except APIConnectionError as error:
        raise ModelUnavailable("The language model cannot be reached.") from error
    except HTTPError as error:
        raise ModelIncomplete("The connection to the language model broke off in its answer.") from error
    except OpenAIError as error:
        raise ModelUnavailable("The language model did not answer.") from error


class _Answer:
    """One answer as it comes in: takes reads that may end anywhere, gives the texts that they completed."""

    __slots__ = ("_calls", "_finish_reason", "_rest", "_usage", "begun", "ended", "failure")

    def __init__(self) -> None:
        self._rest = b""
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._calls: dict[int, ToolCall] = {}
        self.begun = False
        self.ended = False
        self.failure: ModelIncomplete | None = None

    def feed(self, read: bytes) -> list[str]:
        """An empty read is the end of the stream. What came before a failure is still given."""
        lines = (self._rest + (read or b"\n")).split(b"\n")
        self._rest = lines.pop()
        texts: list[str] = []
        try:
            for line in lines:
                if line.startswith(b"data:") and (text := self._chunk(line[5:].strip())):
                    texts.append(text)
                    self.begun = True
            if not read:
                self._end()
        except ModelIncomplete as failure:
            self.fail(failure)
        return texts

    def fail(self, failure: ModelIncomplete) -> None:
        if not self.ended:
            self.failure = failure
            self.ended = True

    def finish(self) -> Finish:
        return Finish(self._finish_reason or "stop", self._usage, tuple(self._calls.values()))

    def _chunk(self, data: bytes) -> str | None:
        if data == b"[DONE]":
            self._end()
            return None
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelIncomplete("The language model sent something that is not an answer.") from error
        if chunk.error:
            raise ModelIncomplete("The language model reported an error in the middle of its answer.")
        if chunk.usage is not None:
            self._usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason
        delta = choice.delta
        if delta is None:
            return None
        if not delta.content and delta.tool_calls:
            self._add_calls(delta.tool_calls)
        return delta.content

    def _add_calls(self, deltas: list[_CallDelta]) -> None:
        """Pieces of calls: of each the id and the name come once, and the arguments as they are written."""
        self.begun = True
        for delta in deltas:
            known = self._calls.get(delta.index) or ToolCall("", "", "")
            function = delta.function or _Function()
            self._calls[delta.index] = ToolCall(
                known.id or delta.id or f"call_{delta.index}",
                known.name or function.name or "",
                known.arguments + (function.arguments or ""),
            )

    def _end(self) -> None:
        if self._finish_reason is None:
            raise ModelIncomplete("The language model broke off before the end of its answer.")
        if self._finish_reason == "stop" and not self.begun:
            raise ModelIncomplete("The language model answered with nothing.")
        self.ended = True


def _message(message: ChatMessage) -> Any:
    if message.calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
        return {"role": message.role, "content": message.content or None, "tool_calls": calls}
    if message.answers is not None:
        return {"role": message.role, "content": message.content, "tool_call_id": message.answers}
    return {"role": message.role, "content": message.content}


def _tools(prompt: Prompt) -> dict[str, Any]:
    if not prompt.tools:
        return {}
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in prompt.tools
    ]
    return {"tools": tools, "tool_choice": "none"} if prompt.calls_are_over else {"tools": tools}


def _form(prompt: Prompt) -> dict[str, Any]:
    if prompt.schema is None:
        return {}
    held_to = {"name": "answer", "schema": prompt.schema, "strict": prompt.is_strict}
    return {"response_format": {"type": "json_schema", "json_schema": held_to}}


def _rejection(error: APIStatusError) -> ModelFailed:
    if error.status_code in {401, 403}:
        return ModelRejected(
            "The language model refused the server's key. Its administrator should check OPENAI_API_KEY."
        )
    if error.status_code in _REJECTING:
        return ModelRejected(
            f"The language model refused the request (status {error.status_code}): the model's name or a parameter may be wrong."
        )
    if error.status_code == 429:
        return ModelUnavailable(
            "The language model has too much to do, or its quota is used up. Ask again later."
        )
    return ModelUnavailable(f"The language model failed (status {error.status_code}).")
