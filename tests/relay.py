"""A line to the database that a test can cut."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
from sqlalchemy import make_url


class Relay:
    """Stands between us and the database, and can cut the line."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._host = parsed.host or str(parsed.query["host"])
        self._port = parsed.port or int(str(parsed.query.get("port", 5432)))
        self._parsed = parsed
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self.refused = anyio.Event()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = self._parsed.set(host="127.0.0.1", port=port, query={})
            self.url = url.render_as_string(hide_password=False)
            yield
            self.cut()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        self._is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.refused.set()
            writer.close()
            return
        if self._host.startswith("/"):
            opened = asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            opened = asyncio.open_connection(self._host, self._port)
        their_reader, their_writer = await opened
        if self._is_cut:
            # It was cut in between, when there was nothing to close yet.
            self.refused.set()
            writer.close()
            their_writer.close()
            return
        self._writers |= {writer, their_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while content := await source.read(65_536):
                    sink.write(content)
            sink.close()

        await asyncio.gather(pump(reader, their_writer), pump(their_reader, writer))
