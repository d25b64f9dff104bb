"""Work that outlives the request that asked for it, in this process."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

import anyio

from app.errors import FreshetError

logger = logging.getLogger(__name__)


class Jobs(Protocol):
    def enqueue(self, document_id: UUID) -> None:
        """Says that this document, which is stored as `pending`, may be ingested now. Nothing is lost if nobody hears it."""
        ...


class LocalJobs:
    """At most `concurrency` documents at once. Looks for work when told, and every `look_again_s` for what others have left."""

    def __init__(self, *, concurrency: int, look_again_s: float = 15.0) -> None:
        self._concurrency = concurrency
        self._look_again_s = look_again_s
        self._news = anyio.Event()
        self._stopping = False

    def enqueue(self, document_id: UUID) -> None:  # noqa: ARG002  # whoever is free takes the oldest
        self._tell()

    @asynccontextmanager
    async def running(
        self, work: Callable[[], Awaitable[bool]], *, grace_s: float = 5.0
    ) -> AsyncGenerator[None]:
        """`work` takes the document that has waited longest and ingests it; false if none waits.

        At the end no more is taken; what is not done within `grace_s` is cancelled.
        """
        async with anyio.create_task_group() as workers:
            for _ in range(self._concurrency):
                workers.start_soon(self._work, work)
            try:
                yield
            finally:
                self._stopping = True
                self._tell()
                workers.cancel_scope.deadline = anyio.current_time() + grace_s

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _work(self, work: Callable[[], Awaitable[bool]]) -> None:
        while not self._stopping:
            # Taken before looking, so that what comes while it looks is not missed.
            news = self._news
            try:
                found = await work()
            except FreshetError as error:
                logger.warning("Looking for documents to ingest failed: %s", error.message)
                found = False
            except Exception:  # a bug must cost one look, not all that come after
                logger.exception("Looking for documents to ingest failed.")
                found = False
            if not found and not self._stopping:
                with anyio.move_on_after(self._look_again_s):
                    await news.wait()
