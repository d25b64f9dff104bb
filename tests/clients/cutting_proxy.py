"""A network that fails: a TCP proxy whose connections end after a few bytes, wherever these are in a request or an answer."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

# A request with its headers is shorter, the head of an answer is not.
_MOST_BYTES_UP = 500
_MOST_BYTES_DOWN = 2_000


class CuttingProxy:
    """Cuts the next `cuts` connections, and lets all later ones be. `on_answer` is called when a part of an answer has been let through."""

    def __init__(self, server_url: str, cuts: int, seed: int) -> None:
        self.cuts_left = cuts
        self.on_answer: Callable[[], None] = lambda: None
        self.url = ""
        self._server = urlsplit(server_url)
        self._random = Random(seed)

    async def handle(self, reader: SocketStream) -> None:
        assert self._server.hostname is not None
        assert self._server.port is not None
        up = down = 2**30
        if self.cuts_left > 0:
            self.cuts_left -= 1
            down = self._random.randint(0, _MOST_BYTES_DOWN)
            if self._random.random() < 0.25:
                up = self._random.randint(0, _MOST_BYTES_UP)
            if self._random.random() < 0.5:
                _break_when_closed(reader)
        async with (
            reader,
            await anyio.connect_tcp(self._server.hostname, self._server.port) as server,
            anyio.create_task_group() as directions,
        ):

            async def pass_on(source: SocketStream, target: SocketStream, limit: int) -> None:
                try:
                    async for data in source:
                        await target.send(data[:limit])
                        limit -= len(data)
                        if source is server:
                            self.on_answer()
                        if limit <= 0:
                            break
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                directions.cancel_scope.cancel()

            directions.start_soon(pass_on, reader, server, up)
            directions.start_soon(pass_on, server, reader, down)


def _break_when_closed(stream: SocketStream) -> None:
    """The other side then sees an error in place of an end, and may lose what was sent last."""
    socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # of a socket, not of a query
    socket.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))


@asynccontextmanager
async def cutting_proxy(server_url: str, *, cuts: int, seed: int) -> AsyncGenerator[CuttingProxy]:
    proxy = CuttingProxy(server_url, cuts, seed)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # of a socket, not of a query
        proxy.url = f"http://127.0.0.1:{port}"
        serving.start_soon(listener.serve, proxy.handle)
        yield proxy
        serving.cancel_scope.cancel()
