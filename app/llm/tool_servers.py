"""Tools of other servers, by the Model Context Protocol over streamable HTTP.

A connection lasts for one call, in the task that makes it: nothing is kept open between two calls, or has to end with an answer.
"""

import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from app.llm.protocols import Offer, ServedTool, ToolResult
from app.settings import ToolServer, ToolSettings

logger = logging.getLogger(__name__)

# Listing tools is waited for before an answer begins, so it may take less long than a call; both in seconds.
_LISTING_S = 10.0
_LIST_COUNTS_S = 300.0
_FAILURE_COUNTS_S = 30.0
_MOST_PAGES = 20
_LONGEST_DESCRIPTION = 2_000
# What a server may send for one call, before it is unpacked and read.
_MOST_BYTES = 8 * 2**20

_WORDS = {
    "unreachable": "The tool's server could not be reached, or broke off.",
    "timeout": "The tool took too long, and was given up.",
    "too_large": "The tool gave more than can be read.",
    "unknown_server": "There is no such server.",
}

# What a server says of a call that it does not take; by other numbers, connections fail as well.
_REFUSING = {INVALID_PARAMS, METHOD_NOT_FOUND}

T = TypeVar("T")


class _TooLong(httpx2.ReadError):
    """Beyond `_MOST_BYTES`."""


@dataclass(slots=True)
class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, which breaks off where it is too long."""

    stream: httpx2.AsyncByteStream
    left: int = _MOST_BYTES

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async for piece in self.stream:
            self.left -= len(piece)
            if self.left < 0:
                raise _TooLong("The answer is too long.")
            yield piece

    async def aclose(self) -> None:
        await self.stream.aclose()


@dataclass(slots=True)
class _Listed:
    """The tools of a server, or why there are none, until that is asked for again."""

    tools: dict[str, ServedTool]
    error: str | None
    until: float


@dataclass(slots=True)
class _Failed(Exception):
    """`error` is a stable word."""

    error: str
    text: str


@dataclass(slots=True)
class ToolServers:
    """`proxy` is what all connections are made through, which lets those pass that may be made."""

    settings: ToolSettings
    proxy: str
    _listed: dict[str, _Listed] = field(default_factory=dict[str, _Listed])

    @property
    def rounds(self) -> int:
        return self.settings.tool_rounds

    async def offered(self, paths: Sequence[str]) -> Offer:
        wanted: dict[str, list[str]] = {}
        for path in paths:
            server, _, name = path.partition("/")
            wanted.setdefault(server, []).append(name)
        async with anyio.create_task_group() as tasks:
            for server in wanted:
                tasks.start_soon(self._list, server)
        listed = {server: self._listed[server] for server in wanted}
        return Offer(
            [
                one.tools[name]
                for server, one in listed.items()
                for name in wanted[server]
                if name in one.tools
            ],
            {server: one.error for server, one in listed.items() if one.error is not None},
        )

    async def call(self, tool: ServedTool, arguments: Mapping[str, Any]) -> ToolResult:
        async def ask(client: Client) -> CallToolResult:
            params = CallToolRequestParams(name=tool.name, arguments=dict(arguments))
            # Not by `call_tool`, which would list the tools once more, to compare the result with what was promised.
            return await client.session.send_request(CallToolRequest(params=params), CallToolResult)

        try:
            result = await self._asked(tool.server, self.settings.tool_call_s, ask)
        except _Failed as failed:
            return ToolResult(self._cut(failed.text), failed.error)
        return ToolResult(self._cut(_text_of(result)), "tool_failed" if result.is_error else None)

    async def _list(self, server: str) -> None:
        known = self._listed.get(server)
        if known is not None and time.monotonic() < known.until:
            return
        try:
            tools = await self._asked(server, _LISTING_S, _all_tools(server))
            self._listed[server] = _Listed(tools, None, time.monotonic() + _LIST_COUNTS_S)
        except _Failed as failed:
            self._listed[server] = _Listed({}, failed.error, time.monotonic() + _FAILURE_COUNTS_S)

    async def _asked(self, server: str, limit_s: float, ask: Callable[[Client], Awaitable[T]]) -> T:
        """Raises `_Failed`."""
        try:
            address = self.settings.tool_servers[server]
        except KeyError as error:
            raise _Failed("unknown_server", _WORDS["unknown_server"]) from error
        try:
            with anyio.fail_after(limit_s):
                async with self._connected(address) as client:
                    return await ask(client)
        except TimeoutError as error:
            raise _Failed("timeout", _WORDS["timeout"]) from error
        except Exception as error:  # what a foreign server brings about comes in groups of many shapes
            if (told := _told(error)) is not None:
                raise told from error
            logger.warning("the tool server %s could not be asked", server, exc_info=error)
            raise _Failed("unreachable", _WORDS["unreachable"]) from error

    @asynccontextmanager
    async def _connected(self, address: ToolServer) -> AsyncGenerator[Client]:
        async def bound(response: httpx2.Response) -> None:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream)

        headers = {name: value.get_secret_value() for name, value in address.headers.items()}
        async with httpx2.AsyncClient(
            headers={**headers, "accept-encoding": "identity"},
            proxy=self.proxy,
            trust_env=False,
            timeout=self.settings.tool_call_s,
            event_hooks={"response": [bound]},
        ) as http:
            transport = streamable_http_client(address.url, http_client=http, max_sse_event_size=_MOST_BYTES)
            async with Client(transport, cache=None) as client:
                yield client

    def _cut(self, text: str) -> str:
        encoded = text.encode(errors="replace")
        if len(encoded) <= self.settings.tool_result_bytes:
            return text
        kept = encoded[: self.settings.tool_result_bytes].decode(errors="ignore")
        return f"{kept}\n[Cut off here: {len(kept):,} of {len(text):,} characters.]"


def _all_tools(server: str) -> Callable[[Client], Awaitable[dict[str, ServedTool]]]:
    async def ask(client: Client) -> dict[str, ServedTool]:
        tools: dict[str, ServedTool] = {}
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                description = (tool.description or tool.title or "")[:_LONGEST_DESCRIPTION]
                tools[tool.name] = ServedTool(server, tool.name, description, tool.input_schema)
            cursor = page.next_cursor
            if cursor is None:
                break
        return tools

    return ask


def _told(error: Exception) -> _Failed | None:
    """What is known of why a call was not answered."""
    if isinstance(error, MCPError) and error.code in _REFUSING:
        return _Failed("refused", error.message)
    if isinstance(error, _TooLong):
        return _Failed("too_large", _WORDS["too_large"])
    if isinstance(error, ExceptionGroup):
        told = map(_told, cast("ExceptionGroup[Exception]", error).exceptions)
        return next((one for one in told if one is not None), None)
    return None


def _text_of(result: CallToolResult) -> str:
    parts: list[str] = []
    for block in result.content:
        match block:
            case TextContent():
                parts.append(block.text)
            case ResourceLink():
                parts.append(f"{block.name}: {block.uri}")
            case EmbeddedResource(resource=TextResourceContents() as resource):
                parts.append(resource.text)
            case _:
                parts.append(f"[{block.type}, which cannot be shown here]")
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts) or "(nothing)"
