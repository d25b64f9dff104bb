"""What answers are drawn from: collections of documents, and the search in them."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, TypedDict, Unpack
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import collections, documents
from app.db.collections import CollectionReach, CollectionView
from app.db.documents import DocumentView, Excerpt, NewFile, Status
from app.db.engine import Sessions
from app.db.identifiers import as_uuid
from app.db.queue import Job
from app.errors import Conflict, InvalidInput, NotFound
from app.ingest.convert import Converter
from app.llm.protocols import Embedder
from app.rag.retrieval import Hit, Query
from app.services import files
from app.services.ingestion import Ingestion, OnProgress, Retries
from app.services.passages import PassageService

DEFAULT_COLLECTION = "default"
LONGEST_NAME = 100
# No slashes and no control characters, no blanks around it.
NAME_PATTERN = r"^[^\s/\x00-\x1f\x7f-\x9f]([^/\x00-\x1f\x7f-\x9f]*[^\s/\x00-\x1f\x7f-\x9f])?$"
_NAME = re.compile(NAME_PATTERN)
# Reasons of failures that trying again does not change: those of `DocumentRefused`.
REFUSALS = frozenset(
    {"empty", "encrypted", "broken", "unsupported", "no_text", "too_large", "timeout", "memory"}
)


class CollectionChange(TypedDict, total=False):
    name: str
    description: str


class KnowledgeService:
    """Collections are named by name or id; one that a document is added to is made if it has a name and there is none."""

    def __init__(
        self,
        sessions: Sessions,
        embedder: Embedder,
        converter: Converter,
        *,
        max_upload_bytes: int,
        retries: Retries | None = None,
        passages: PassageService | None = None,
    ) -> None:
        self._sessions = sessions
        self._embedder = embedder
        self.ingestion = Ingestion(sessions, embedder, converter, retries=retries)
        self.passages = passages or PassageService(sessions, embedder)
        self.max_upload_bytes = max_upload_bytes

    @property
    def embedder_name(self) -> str:
        return self._embedder.name

    async def create_collection(self, name: str, *, description: str = "") -> CollectionView:
        check_name(name)
        async with self._sessions.begin() as session:
            if not await collections.insert_new(session, name, description):
                raise Conflict(f"There is a collection {name} already.")
            return await collections.get(session, name)

    async def collection(self, identifier: str) -> CollectionView:
        async with self._sessions.read() as session:
            return await collections.get(session, identifier)

    async def collections(self, *, after: str | None, limit: int) -> list[CollectionView]:
        """In the order of names, those that follow `after`."""
        async with self._sessions.read() as session:
            return await collections.page(session, after=after, limit=limit)

    async def change_collection(self, identifier: str, **fields: Unpack[CollectionChange]) -> CollectionView:
        if "name" in fields:
            check_name(fields["name"])
        async with self._sessions.begin() as session:
            if fields:
                identifier = str(await collections.change(session, identifier, fields))
            return await collections.get(session, identifier)

    async def delete_collection(self, identifier: str) -> None:
        """With all its documents."""
        async with self._sessions.begin() as session:
            if not await collections.remove(session, identifier):
                raise NotFound("collection", identifier)

    async def add(
        self,
        collection: str,
        file_name: str,
        content: bytes,
        declared_type: str | None = None,
        *,
        password: SecretStr | None = None,
    ) -> tuple[DocumentView, bool]:
        """Stores the file; it is ingested in the background. With a `password` that opens it, by this process,
        which keeps it only until then.

        The same bytes in one collection are one document, and the second value is false for those that were there; a
        document that failed or was cancelled is tried again. Raises `DocumentRefused`, `TooLarge`, and `NotFound` for an
        unknown id.
        """
        file = await files.checked(file_name, content, declared_type, max_bytes=self.max_upload_bytes)
        execute_after = files.JOB_OF_ITS_OWN_WAITS if password is not None else None
        document_id, job_id = await self._add(collection, file, execute_after)
        if job_id is not None and password is not None:
            self.ingestion.begin_here(document_id, job_id, password)
        return await self.document(document_id), job_id is not None

    async def ingest_now(
        self,
        collection: str,
        file_name: str,
        content: bytes,
        declared_type: str | None = None,
        *,
        password: SecretStr | None = None,
        on_progress: OnProgress | None = None,
    ) -> DocumentView:
        """The same as `add`, but done, or failed, when it returns, unless another process is already at it."""
        file = await files.checked(file_name, content, declared_type, max_bytes=self.max_upload_bytes)
        document_id, job_id = await self._add(collection, file, files.JOB_OF_ITS_OWN_WAITS)
        if job_id is not None:
            await self.ingestion.ingest_here(document_id, job_id, password, on_progress)
        return await self.document(document_id)

    async def put(
        self,
        collection: str,
        origin: str,
        file_name: str,
        content: bytes,
        declared_type: str | None = None,
        *,
        url: str | None = None,
        title: str | None = None,
    ) -> tuple[DocumentView, Literal["added", "changed", "unchanged"]]:
        """What somebody else keeps under the key `origin`, as it is there now; it is ingested in the background.

        A file of the same bytes is not ingested again, not even if it was refused or cancelled. Until another has been
        ingested, what the one before it says can be found. Raises `DocumentRefused`, `TooLarge`, and `NotFound` for an
        unknown id of a collection.
        """
        file = await files.checked(
            file_name, content, declared_type, max_bytes=self.max_upload_bytes, title=title
        )
        async with self._sessions.begin() as session:
            collection_id = await _collection(session, collection)
            known, is_new = await documents.add(session, collection_id, file, origin=origin, url=url)
            if not is_new:
                await documents.describe(session, known.id, url=url, title=title)
            stays = known.content_sha256 == file.sha256 and (
                known.status != "failed" or known.error_reason in REFUSALS
            )
            if is_new or not stays:
                await files.give(session, known, file)
        done = "added" if is_new else "unchanged" if stays else "changed"
        return await self.document(known.id), done

    async def remove_origin(self, collection: str, origin: str) -> bool:
        """Deletes the document of this origin. False if there is none; raises `NotFound` if there is no such collection."""
        async with self._sessions.begin() as session:
            (collection_id,) = await collections.hold(session, [collection])
            document_id = await documents.id_of_origin(session, collection_id, origin)
            return document_id is not None and await documents.remove(session, document_id)

    async def ingest_job(self, job: Job) -> None:
        """One attempt at what waits in the queue. Raises `Later` if another is to come."""
        await self.ingestion.do(job)

    async def document(self, document_id: UUID) -> DocumentView:
        async with self._sessions.read() as session:
            document = await documents.get(session, document_id)
        if document is None:
            raise NotFound("document", document_id)
        return document

    async def documents(
        self,
        *,
        collection: str | None,
        status: Status | None,
        before: int | None,
        limit: int,
        attachments: bool = False,
    ) -> list[DocumentView]:
        """The newest first, those added before the position `before`; with those that are attached to sessions, if they are
        asked for."""
        async with self._sessions.begin() as session:
            collection_id = (
                (await collections.get(session, collection)).id if collection is not None else None
            )
            statuses = (status,) if status is not None else ()
            return await documents.page(
                session,
                collection_id=collection_id,
                statuses=statuses,
                before=before,
                limit=limit,
                attachments=attachments,
            )

    async def excerpt(self, document_id: UUID, *, start: int, end: int) -> Excerpt:
        """Of the converted text. Raises `Conflict` while there is none."""
        async with self._sessions.begin() as session:
            excerpt = await documents.excerpt(session, document_id, start=start, end=end)
            if excerpt is None and await documents.get(session, document_id) is None:
                raise NotFound("document", document_id)
        if excerpt is None:
            raise Conflict("This document has no text, as it has not been converted.")
        return excerpt

    async def delete_document(self, document_id: UUID) -> None:
        async with self._sessions.begin() as session:
            if not await documents.remove(session, document_id):
                raise NotFound("document", document_id)

    async def reach(self, identifiers: Sequence[str]) -> CollectionReach:
        """Raises `NotFound`."""
        async with self._sessions.begin() as session:
            return await collections.reach(session, await collections.hold(session, identifiers))

    async def search(self, query: Query) -> list[Hit]:
        return await self.passages.search(query)

    async def _add(
        self, collection: str, file: NewFile, execute_after: timedelta | None
    ) -> tuple[UUID, int | None]:
        """The document, and the job to ingest it, if there is something to do."""
        async with self._sessions.begin() as session:
            collection_id = await _collection(session, collection)
            known, is_new = await documents.add(session, collection_id, file)
            if not is_new and known.status not in {"failed", "cancelled"}:
                return known.id, None
            return known.id, await files.give(session, known, file, execute_after=execute_after)


async def _collection(session: AsyncSession, identifier: str) -> UUID:
    """It is made if it is a name that there is none of; it cannot be deleted before the transaction ends."""
    if as_uuid(identifier) is None:
        check_name(identifier)
        await collections.insert_new(session, identifier)
    (collection_id,) = await collections.hold(session, [identifier])
    return collection_id


def check_name(name: str) -> None:
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"The name of a collection is 1 to {LONGEST_NAME} characters, without slashes, control characters, or blanks around it."
        )
    if name in {".", ".."}:
        raise InvalidInput("A collection cannot be named so: no address would lead to it.")
    if as_uuid(name) is not None:
        raise InvalidInput(f"The name {name} reads as an id: collections are named by either.")
