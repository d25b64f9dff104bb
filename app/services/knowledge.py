"""What answers are drawn from: collections of documents, and the search in them."""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, TypedDict, Unpack
from uuid import UUID

import anyio.to_thread
from pydantic import SecretStr

from app.db import collections, documents
from app.db.collections import CollectionReach, CollectionView
from app.db.documents import Added, DocumentView, Excerpt, Status
from app.db.engine import Sessions
from app.db.identifiers import as_uuid
from app.errors import Conflict, DatabaseUnavailable, DocumentRefused, InvalidInput, NotFound, TooLarge
from app.ingest.convert import Converter
from app.ingest.jobs import Jobs
from app.llm.protocols import Embedder
from app.rag import retrieval
from app.rag.retrieval import Hit, Matches, Prepared, Query
from app.services.ingestion import Ingestion, OnProgress, Progress

DEFAULT_COLLECTION = "default"
LONGEST_NAME = 100
# No slashes and no control characters, no blanks around it.
NAME_PATTERN = r"^[^\s/\x00-\x1f\x7f-\x9f]([^/\x00-\x1f\x7f-\x9f]*[^\s/\x00-\x1f\x7f-\x9f])?$"
_LONGEST_FILE_NAME = 255
_NAME = re.compile(NAME_PATTERN)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


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
        jobs: Jobs,
        *,
        max_upload_bytes: int,
    ) -> None:
        self._sessions = sessions
        self._embedder = embedder
        self._jobs = jobs
        self._ingestion = Ingestion(sessions, embedder, converter)
        self.max_upload_bytes = max_upload_bytes

    @property
    def embedder_name(self) -> str:
        return self._embedder.name

    async def create_collection(self, name: str, *, description: str = "") -> CollectionView:
        _check_name(name)
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
            _check_name(fields["name"])
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
        """Stores the file; it is ingested in the background. `password` opens it, and is kept only until then.

        The same bytes in one collection are one document, and the second value is false for those that were there; a
        document that failed is tried again. Raises `DocumentRefused`, `TooLarge`, and `NotFound` for an unknown id.
        """
        added = await self._add(collection, file_name, content, declared_type, password, status="pending")
        if added.is_new:
            self._jobs.enqueue(added.id)
        return await self.document(added.id), added.is_new

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
        added = await self._add(collection, file_name, content, declared_type, password, status="processing")
        if added.is_new or await self._claim(added.id):
            await self._ingestion.ingest_claimed(added.id, on_progress)
        return await self.document(added.id)

    async def ingest_next(self) -> bool:
        """Ingests the oldest document that waits. False if none does."""
        return await self._ingestion.ingest_next()

    def progress(self, document_id: UUID) -> Progress | None:
        """How far this process has come with a document that it is ingesting."""
        return self._ingestion.progress(document_id)

    async def document(self, document_id: UUID) -> DocumentView:
        async with self._sessions.read() as session:
            document = await documents.get(session, document_id)
        if document is None:
            raise NotFound("document", document_id)
        return document

    async def documents(
        self, *, collection: str | None, status: Status | None, before: int | None, limit: int
    ) -> list[DocumentView]:
        """The newest first, those added before the position `before`."""
        async with self._sessions.begin() as session:
            collection_id = (
                (await collections.get(session, collection)).id if collection is not None else None
            )
            return await documents.page(
                session, collection_id=collection_id, status=status, before=before, limit=limit
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

    async def prepare(self, query: Query) -> Prepared:
        """Embeds the question, and meanwhile has the database look for its words. Raises `ModelFailed`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                embedding = tasks.create_task(self._embedder.embed_question(query.question))
                by_words = tasks.create_task(self._match(query))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__  # noqa: ASYNC123  # its cause is what it has
        return Prepared(embedding.result(), by_words.result())

    async def _match(self, query: Query) -> Matches | None:
        try:
            async with self._sessions.read() as session:
                return await retrieval.match(session, query)
        except DatabaseUnavailable:
            # Retrieving asks again, and is what has failed then.
            return None

    async def retrieve(self, prepared: Prepared, query: Query) -> list[Hit]:
        async with self._sessions.read() as session:
            return await retrieval.search(session, prepared, query)

    async def search(self, query: Query) -> list[Hit]:
        if not query.collection_ids or query.top_k == 0:
            return []
        return await self.retrieve(await self.prepare(query), query)

    async def _add(
        self,
        collection: str,
        file_name: str,
        content: bytes,
        declared_type: str | None,
        password: SecretStr | None,
        *,
        status: Literal["pending", "processing"],
    ) -> Added:
        name = _plain_file_name(file_name)
        if not content:
            raise DocumentRefused("empty", "The file is empty.")
        if len(content) > self.max_upload_bytes:
            raise TooLarge(f"The file is larger than {self.max_upload_bytes:,} bytes.")
        digest = await anyio.to_thread.run_sync(lambda: hashlib.sha256(content).digest())
        async with self._sessions.begin() as session:
            if as_uuid(collection) is None:
                _check_name(collection)
                await collections.insert_new(session, collection)
            (collection_id,) = await collections.hold(session, [collection])
            added = await documents.add(
                session,
                collection_id,
                file_name=name,
                declared_type=declared_type,
                content=content,
                content_sha256=digest,
                status=status,
            )
            if added.is_new and password is not None:
                # Before it is committed: then any task of this process may take the document.
                self._ingestion.remember_password(added.id, password)
            return added

    async def _claim(self, document_id: UUID) -> bool:
        async with self._sessions.begin() as session:
            return await documents.claim(session, document_id)


def _check_name(name: str) -> None:
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"The name of a collection is 1 to {LONGEST_NAME} characters, without slashes, control characters, or blanks around it."
        )
    if name in {".", ".."}:
        raise InvalidInput("A collection cannot be named so: no address would lead to it.")
    if as_uuid(name) is not None:
        raise InvalidInput(f"The name {name} reads as an id: collections are named by either.")


def _plain_file_name(file_name: str) -> str:
    """Without the folders that some browsers send along. Raises `InvalidInput`."""
    name = PurePosixPath(file_name.replace("\\", "/")).name.strip()
    if name in {"", ".."} or _CONTROL.search(name):
        raise InvalidInput("The file needs a name without control characters.")
    if len(name) > _LONGEST_FILE_NAME:
        raise InvalidInput(f"The name of the file is longer than {_LONGEST_FILE_NAME} characters.")
    return name
