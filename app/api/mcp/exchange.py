"""One request and its answer: what the protocol's own package makes of it, for one viewer."""

from collections import deque
from typing import Any

import msgspec
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, jsonrpc_message_adapter
from pydantic import ValidationError
from sse_starlette.sse import AppStatus
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app import __version__
from app.api.errors import jsonrpc_error
from app.api.mcp import documents, tools
from app.api.mcp.caller import Caller
from app.resources import Resources
from app.services.viewer import Viewer

# Streams end when their answers do, for which these have the grace period of the server.
AppStatus.disable_automatic_graceful_drain()

_INSTRUCTIONS = """\
Answers from an organisation's own documents. `ask` an assistant for an answer with its sources; to go on with the conversation, \
give the session_id that came with the answer. `search` finds passages without an answer. The documents behind both are resources."""


class Exchange(Response):
    """Nothing is kept between two requests: which protocol version is spoken, and who asks, comes with each."""

    def __init__(self, resources: Resources, viewer: Viewer, body: bytes) -> None:
        self._caller = Caller(resources, viewer)
        self._body = body
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := _refusal(self._body)) is not None:
            await refusal(scope, receive, send)
            return
        read = deque[Message]([{"type": "http.request", "body": self._body, "more_body": False}])

        async def receive_again() -> Message:
            return read.popleft() if read else await receive()

        manager = StreamableHTTPSessionManager(
            _server(self._caller),
            stateless=True,
            # What is larger has been refused before.
            max_request_body_size=len(self._body) + 1,
        )
        async with manager.run():
            await manager.handle_request(scope, receive_again, send)


def _refusal(body: bytes) -> Response | None:
    """Of what is no message of the protocol. The package would answer some of it with its own exceptions' words."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return jsonrpc_error(400, PARSE_ERROR, "invalid_input", "The body is no JSON.")
    try:
        message = jsonrpc_message_adapter.validate_python(decoded, by_name=False)
    except ValidationError:
        message = None
    # With an id that is none, a request would be read as a notification, and whoever sent it would wait for its answer.
    if message is None or (isinstance(message, JSONRPCNotification) and "id" in decoded):
        why = "The body is not one request or notification of JSON-RPC 2.0."
        return jsonrpc_error(400, INVALID_REQUEST, "invalid_input", why)
    return None


def _server(caller: Caller) -> Server[Any]:
    return Server(
        "freshet",
        title="Freshet",
        version=__version__,
        instructions=_INSTRUCTIONS,
        get_tool_input_schema=tools.input_schema,
        on_list_tools=caller.handler(tools.listed),
        on_call_tool=caller.handler(tools.called),
        on_list_resources=caller.handler(documents.listed),
        on_list_resource_templates=caller.handler(documents.templates),
        on_read_resource=caller.handler(documents.read),
    )
