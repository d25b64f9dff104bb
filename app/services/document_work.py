"""What can be done about a document and the work on it: another file, calling it off, trying it again, watching it."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from uuid import UUID

import anyio
from pydantic import SecretStr

from app.db import documents, ingestions
from app.db.documents import DocumentView, Original
from app.db.engine import Sessions
from app.errors import Conflict, NotFound, ShuttingDown
from app.services import files
from app.services.ingestion import Ingestion

_HEARTBEAT_S = 15.0


class DocumentWork:
    """Looks every `look_every_s` how far others have come."""

    def __init__(
        self,
        sessions: Sessions,
        ingestion: Ingestion,
        *,
        max_upload_bytes: int,
        look_every_s: float = 0.5,
        heartbeat_s: float = _HEARTBEAT_S,
    ) -> None:
        self._sessions = sessions
        self._ingestion = ingestion
        self._max_upload_bytes = max_upload_bytes
        self._look_every_s = look_every_s
        self._heartbeat_s = heartbeat_s
        self._draining = False

    def drain(self) -> None:
        """Those who follow an ingestion are sent away, to follow it elsewhere."""
        self._draining = True

    async def replace_file(
        self,
        document_id: UUID,
        file_name: str,
        content: bytes,
        declared_type: str | None = None,
        *,
        password: SecretStr | None = None,
    ) -> tuple[DocumentView, bool]:
        """The document is made of this file from when it has been ingested. False if it is of these bytes already.

        Raises `NotFound`, `DocumentRefused`, `TooLarge`, and `Conflict` if the collection has the same bytes as another
        document.
        """
        file = await files.checked(file_name, content, declared_type, max_bytes=self._max_upload_bytes)
        async with self._sessions.begin() as session:
            known = await documents.hold(session, document_id)
            if known is None:
                raise NotFound("document", document_id)
            job_id: int | None = None
            stays = known.content_sha256 == file.sha256 and known.status not in {"failed", "cancelled"}
            if not stays:
                other = await documents.of_same_bytes(session, document_id, file.sha256)
                if other is not None:
                    raise Conflict(f"The collection has these bytes as the document {other}.")
                waits = files.JOB_OF_ITS_OWN_WAITS if password is not None else None
                job_id = await files.give(session, known, file, execute_after=waits)
        if job_id is not None and password is not None:
            self._ingestion.begin_here(document_id, job_id, password)
        return await self._document(document_id), not stays

    async def cancel(self, document_id: UUID) -> DocumentView:
        """Nothing more is done; whoever works on it stops within about a second. Raises `NotFound`, and `Conflict` if it is over."""
        async with self._sessions.begin() as session:
            known = await documents.hold(session, document_id)
            if known is None:
                raise NotFound("document", document_id)
            if known.status in {"ready", "failed"}:
                raise Conflict(f"There is nothing to cancel: the document is {known.status}.")
            await ingestions.cancel(session, document_id)
        return await self._document(document_id)

    async def retry(self, document_id: UUID) -> DocumentView:
        """From the beginning. Raises `NotFound`, and `Conflict` if it has neither failed nor been cancelled."""
        async with self._sessions.begin() as session:
            known = await documents.hold(session, document_id)
            if known is None:
                raise NotFound("document", document_id)
            if known.status not in {"failed", "cancelled"}:
                raise Conflict(f"There is nothing to try again: the document is {known.status}.")
            await ingestions.enqueue(session, document_id)
        return await self._document(document_id)

    async def follow(self, first: DocumentView) -> AsyncGenerator[DocumentView | None]:
        """The document as it is, then each time that something has changed, until it is over; None when nothing has for a while.

        Raises `NotFound` if it is deleted meanwhile, and `ShuttingDown`.
        """
        view, told_at = first, anyio.current_time()
        yield view
        while not view.is_over:
            if self._draining:
                raise ShuttingDown("The server is about to stop. The ingestion goes on.", retry_after_s=2)
            await anyio.sleep(self._look_every_s)
            now = await self._document(first.id)
            if _without_times(now) != _without_times(view):
                view, told_at = now, anyio.current_time()
                yield view
            elif anyio.current_time() - told_at >= self._heartbeat_s:
                told_at = anyio.current_time()
                yield None

    async def original(self, document_id: UUID) -> Original:
        """The file that the document's text was made of, or is to be made of. Raises `NotFound`."""
        async with self._sessions.read() as session:
            original = await documents.original(session, document_id)
        if original is None:
            raise NotFound("document", document_id)
        return original

    async def part(self, original: Original, start: int, length: int) -> bytes:
        """Of its bytes. Raises `NotFound` if there is another by now."""
        async with self._sessions.read() as session:
            part = await documents.part(session, original, start, length)
        if part is None:
            raise NotFound("document", original.document_id)
        return part

    async def _document(self, document_id: UUID) -> DocumentView:
        async with self._sessions.read() as session:
            document = await documents.get(session, document_id)
        if document is None:
            raise NotFound("document", document_id)
        return document


def _without_times(view: DocumentView) -> DocumentView:
    return replace(view, updated_at=view.created_at)
