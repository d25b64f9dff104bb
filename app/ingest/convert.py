"""Documents to text, each read in a process of its own kind, so that a hostile file costs one job and never the server."""

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import msgspec
from anyio.abc import Process

from app.errors import DocumentRefused
from app.ingest import formats
from app.ingest.formats import Format, Kind
from app.ingest.readers.links import PageLinks
from app.ingest.worker import LENGTHS, NO_MEMORY_LEFT, Limits, head

logger = logging.getLogger(__name__)

# A worker is replaced after so many documents or bytes, so that what a library leaks does not add up.
_DOCUMENTS_A_WORKER = 500
_BYTES_A_WORKER = 128 * 1024 * 1024
_MAX_HEADER_BYTES = 32 * 1024 * 1024
_ROOT = Path(__file__).parents[2]
# What a Python may need to start. The rest, keys and passwords among it, is not for a process that reads strangers' files.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "TMPDIR", "TEMP")


@dataclass(frozen=True, slots=True)
class Page:
    """`text[start:end]` is what stands on the page; `label` is the number printed on it, else counted from 1, or the name
    of a sheet, or the path to a page inside of other documents (`report.xlsx > Sheet1`); empty where there is none."""

    label: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ConvertedDocument:
    """`text` is Markdown, except for plain text and for PDF. `pages`, in order, are those of a PDF, the slides or sheets of a
    document that has some, or the documents inside of one. `warnings` are for people."""

    text: str
    media_type: str
    kind: Kind
    title: str | None
    pages: tuple[Page, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConversionLimits:
    """For one document. `memory_bytes` is address space of the reading process, enforced on Linux."""

    time_s: float = 60
    memory_bytes: int = 1024 * 1024 * 1024
    text_characters: int = 20_000_000
    input_bytes: int = 100 * 1024 * 1024


class _Header(msgspec.Struct):
    title: str | None = None
    pages: tuple[tuple[str, int, int], ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    message: str = ""
    cause: str | None = None


class WorkerDied(Exception):
    """The worker ended without a reply."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


class Worker:
    """A process that runs `app.ingest.worker`. What it replies is not trusted: the file may have got hold of it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._received = bytearray()
        self.documents = 0
        self.bytes = 0

    @classmethod
    async def start(cls, limits: ConversionLimits) -> Self:
        passed = Limits(limits.time_s, limits.memory_bytes, limits.text_characters)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = await anyio.open_process(
            [sys.executable, "-P", "-m", "app.ingest.worker", json.dumps(asdict(passed))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"PYTHONPATH": str(_ROOT)},
            start_new_session=True,
        )
        return cls(process)

    @property
    def usable(self) -> bool:
        worn = self.documents >= _DOCUMENTS_A_WORKER or self.bytes >= _BYTES_A_WORKER
        return not worn and self._process.returncode is None

    async def ask(
        self, reader: str, content: bytes, *, max_body_bytes: int, password: str | None = None
    ) -> tuple[_Header, bytes]:
        assert self._process.stdin is not None
        self.documents += 1
        self.bytes += len(content)
        try:
            asked = {"reader": reader} if password is None else {"reader": reader, "password": password}
            await self._process.stdin.send(head(json.dumps(asked).encode(), len(content)))
            await self._process.stdin.send(content)
            header_length, body_length = LENGTHS.unpack(await self._receive(LENGTHS.size))
            if header_length > _MAX_HEADER_BYTES or body_length > max_body_bytes:
                raise WorkerDied(0)
            header = msgspec.json.decode(await self._receive(header_length), type=_Header)
            return header, await self._receive(body_length)
        except msgspec.MsgspecError as error:
            raise WorkerDied(0) from error
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            raise WorkerDied(await self._process.wait()) from None

    async def _receive(self, length: int) -> bytes:
        assert self._process.stdout is not None
        while len(self._received) < length:
            self._received += await self._process.stdout.receive(262_144)
        received = bytes(memoryview(self._received)[:length])
        del self._received[:length]
        return received

    async def stop(self) -> None:
        """Kills it with all that it started, and waits until the system has forgotten it."""
        with suppress(ProcessLookupError):
            if sys.platform == "win32":  # pragma: no cover
                self._process.kill()
            elif self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await self._process.aclose()


class Converter:
    """At most `workers` documents are read at once; others wait. Belongs to one event loop; close it there."""

    def __init__(self, limits: ConversionLimits | None = None, *, workers: int = 2) -> None:
        self.limits = limits or ConversionLimits()
        self._running = anyio.CapacityLimiter(workers)
        self._idle: list[Worker] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the processes that wait for work; those at work end with the `convert` they work for."""
        self._closed = True
        while self._idle:
            await self._idle.pop().stop()

    async def convert(
        self,
        content: bytes,
        file_name: str,
        *,
        declared_type: str | None = None,
        password: str | None = None,
    ) -> ConvertedDocument:
        """`password` opens a PDF, and what is inside of other documents.

        Raises DocumentRefused, with a reason that is one of those listed there. Cancelling it ends the reading."""
        if len(content) > self.limits.input_bytes:
            raise DocumentRefused("too_large", f"The file is larger than {self.limits.input_bytes:,} bytes.")
        recognised = formats.recognise(content, file_name, declared_type)
        async with self._running:
            header, body = await self._read(recognised, content, password)
        if header.reason is not None:
            if header.cause is not None:
                logger.warning("Reading %s failed: %s", recognised.name, header.cause)
            raise DocumentRefused(header.reason, header.message)
        return ConvertedDocument(
            text=body.decode(),
            media_type=recognised.media_type,
            kind=recognised.kind,
            title=header.title,
            pages=tuple(Page(*page) for page in header.pages),
            warnings=header.warnings,
        )

    async def links(self, content: bytes) -> PageLinks:
        """Of an HTML page. Raises DocumentRefused."""
        async with self._running:
            header, body = await self._read(replace(formats.HTML, reader="links"), content, None)
        if header.reason is not None:
            raise DocumentRefused(header.reason, header.message)
        try:
            return msgspec.json.decode(body, type=PageLinks)
        except msgspec.MsgspecError as error:
            raise DocumentRefused("broken", "The page is damaged and cannot be read.") from error

    async def _read(self, recognised: Format, content: bytes, password: str | None) -> tuple[_Header, bytes]:
        """On a worker that has read other documents, a failure may be due to those, or to its death since: then a fresh one
        tries again."""
        while True:
            worker = self._idle.pop() if self._idle else await Worker.start(self.limits)
            fresh = worker.documents == 0
            header: _Header | None = None
            try:
                with anyio.fail_after(self.limits.time_s):
                    header, body = await worker.ask(
                        recognised.reader,
                        content,
                        max_body_bytes=4 * self.limits.text_characters,
                        password=password,
                    )
                if fresh or header.reason != "memory":
                    return header, body
            except TimeoutError:
                raise DocumentRefused(
                    "timeout", f"Reading the document took longer than {self.limits.time_s:g} s."
                ) from None
            except WorkerDied as died:
                if fresh:
                    raise _refusal(died.returncode, recognised) from None
            finally:
                healthy = header is not None and header.reason != "memory"
                await self._give_back(worker, healthy=healthy)  # noqa: ASYNC102  # shields what it waits for

    async def _give_back(self, worker: Worker, *, healthy: bool) -> None:
        if healthy and worker.usable and not self._closed:
            self._idle.append(worker)
        else:
            await worker.stop()


def _refusal(returncode: int, recognised: Format) -> DocumentRefused:
    logger.warning("The process that read %s ended with %d.", recognised.name, returncode)
    if sys.platform != "win32" and returncode == -signal.SIGXCPU:
        return DocumentRefused("timeout", "Reading the document took too long.")
    # The system kills what takes too much, and native libraries abort when they are refused memory.
    if returncode == NO_MEMORY_LEFT or (
        sys.platform != "win32" and returncode in (-signal.SIGKILL, -signal.SIGABRT)
    ):
        return DocumentRefused("memory", "Reading the document takes more memory than is allowed.")
    return DocumentRefused("broken", "The file is damaged: reading it failed.")
