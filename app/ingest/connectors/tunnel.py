"""A proxy on loopback for a library that makes its connections itself: it may reach what the guard allows, and nothing else."""

import base64
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from app.errors import ConnectorRefused
from app.ingest.connectors.addresses import Guard, GuardedResolver

_LONGEST_HEAD = 65_536
_CONNECT_S = 10.0
_NO_MORE = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_BROKEN = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
)


@dataclass(slots=True)
class Tunnel:
    """`url` holds the password that the proxy wants, so that others on this machine cannot use it. `refusal` is the last."""

    url: str
    refusal: ConnectorRefused | None = None


@asynccontextmanager
async def open_tunnel(guard: Guard, *, resolver: AbstractResolver | None = None) -> AsyncGenerator[Tunnel]:
    password = secrets.token_urlsafe(24)
    credential = base64.b64encode(f"freshet:{password}".encode())
    failure: Exception | None = None
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        _, port = listener.extra(SocketAttribute.local_address)  # noqa: S610  # not Django's
        tunnel = Tunnel(f"http://freshet:{password}@127.0.0.1:{port}")
        gate = _Gate(guard, GuardedResolver(guard, resolver or ThreadedResolver()), credential, tunnel)
        tasks.start_soon(listener.serve, gate.serve)
        try:
            yield tunnel
        except Exception as error:  # noqa: BLE001  # raised again outside of the task group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _Gate:
    guard: Guard
    resolver: GuardedResolver
    credential: bytes
    tunnel: Tunnel

    async def serve(self, near: SocketStream) -> None:
        """One connection. Each ends when either side has ended it."""
        async with near:
            try:
                await self._serve(near)
            except (ConnectorRefused, OSError, TimeoutError, ValueError, *_BROKEN) as error:
                if isinstance(error, ConnectorRefused):
                    self.tunnel.refusal = error
                with suppress(*_BROKEN):
                    await near.send(b"HTTP/1.1 421 Misdirected Request" + _NO_MORE)

    async def _serve(self, near: SocketStream) -> None:
        reader = BufferedByteReceiveStream(near)
        head = await reader.receive_until(b"\r\n\r\n", _LONGEST_HEAD)
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.decode("ascii").split(" ", 2)
        if not any(self._is_credential(line) for line in lines):
            await near.send(b"HTTP/1.1 407 Proxy Authentication Required" + _NO_MORE)
            return
        async with await self._connect(f"https://{target}" if method == "CONNECT" else target) as far:
            if method == "CONNECT":
                await near.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [line for line in lines if not line.lower().startswith(b"proxy-")]
                await far.send(b"\r\n".join([first, *kept, b"", b""]))
            await far.send(reader.buffer)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_pipe, near, far, tasks.cancel_scope)
                tasks.start_soon(_pipe, far, near, tasks.cancel_scope)

    def _is_credential(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        scheme, _, given = value.strip().partition(b" ")
        return (
            name.lower() == b"proxy-authorization"
            and scheme.lower() == b"basic"
            and secrets.compare_digest(given.strip(), self.credential)
        )

    async def _connect(self, address: str) -> SocketStream:
        """To an address that has been checked, by the number that was checked."""
        url = self.guard.check(address)
        assert url.host is not None
        assert url.port is not None
        with anyio.fail_after(_CONNECT_S):
            found = await self.resolver.resolve(url.host, url.port, socket.AF_UNSPEC)
            failure = OSError("The name has no address.")
            for one in found:
                try:
                    return await anyio.connect_tcp(one["host"], url.port)
                except OSError as error:
                    failure = error
        raise failure


async def _pipe(source: SocketStream, target: SocketStream, both: anyio.CancelScope) -> None:
    with suppress(*_BROKEN):
        async for piece in source:
            await target.send(piece)
    both.cancel()
