"""uvicorn, set up as the answers need it, and told to drain the runs when it is asked to stop."""

import logging
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from app.resources import Resources
from app.settings import ServerSettings

logger = logging.getLogger(__name__)
logger.setLevel(logging.WARNING)

# A question of the most characters that one may have, each of the most bytes.
_MOST_BYTES_OF_A_FRAME = 200_000
_WRITTEN_AT_ONCE_BYTES = 2**16
# What the clean-up of the runs may take beyond the grace period, in seconds.
_CLEAN_UP_S = 10


class DrainingServer(uvicorn.Server):
    """Ends its runs before its connections, so that each reader gets the last line of its answer.

    Runs without a reader have the same grace period: it is waited for where the runner is left.
    """

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        resources: Any = self.lifespan.state.get("resources")
        if isinstance(resources, Resources):
            resources.drain()
        await super().shutdown(sockets)
        if self.force_exit and isinstance(resources, Resources):
            resources.runner.drain(0)


class ChatSocket(WebSocketsSansIOProtocol):
    """Writes the frames of one round of the event loop at once: each by itself would cost a call of the system, which is most of
    what a token costs. And logs no addresses, as those of sockets hold their tokens.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.logger = logger
        self._unwritten = bytearray()

    async def send(self, message: Any) -> None:
        if self.close_sent:
            # Closed by itself for what has come: the library would take this for a mistake of ours.
            raise ClientDisconnected
        text: str | None = message.get("text")
        if text is None:
            self._write()
            await super().send(message)
            return
        await self.writable.wait()
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            raise ClientDisconnected
        if not self._unwritten:
            self.loop.call_soon(self._write)
        self._unwritten += _text_frame(text.encode())
        if len(self._unwritten) > _WRITTEN_AT_ONCE_BYTES:
            self._write()

    def shutdown(self) -> None:
        self._write()
        super().shutdown()

    def _write(self) -> None:
        if self._unwritten and not self.transport.is_closing():
            self.transport.write(bytes(self._unwritten))
        self._unwritten.clear()


def _text_frame(payload: bytes) -> bytes:
    """RFC 6455, section 5.2: final, text, and not masked, as a server's are."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 2**16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


def config(app: Any, settings: ServerSettings, **overrides: Any) -> uvicorn.Config:
    """`app` is an application, or where to import its factory from, which several workers need."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        factory=isinstance(app, str),
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        backlog=8192,
        lifespan="on",
        ws=ChatSocket,
        ws_max_size=_MOST_BYTES_OF_A_FRAME,
        # Tokens are too short to be worth the window that each socket would keep.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) + _CLEAN_UP_S,
        **overrides,
    )
