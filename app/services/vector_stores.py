"""Collections as OpenAI's wire knows them: vector stores, which files are put into after they have been uploaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import collections, documents, vector_stores
from app.db.collections import CollectionView
from app.db.documents import DocumentView, Status
from app.db.engine import Sessions
from app.db.vector_stores import Tally
from app.errors import Conflict, NotFound
from app.rag.retrieval import Hit, Query
from app.services.knowledge import check_name
from app.services.passages import PassageService

UPLOADS = "files"
"""The collection of the files that are in no vector store of a client's."""


@dataclass(frozen=True, slots=True)
class VectorStore:
    collection: CollectionView
    tally: Tally


class VectorStoreService:
    """A vector store is named by the name or the id of its collection. A file is in one at a time."""

    def __init__(self, sessions: Sessions, passages: PassageService) -> None:
        self._sessions = sessions
        self._passages = passages

    async def get(self, identifier: str) -> VectorStore:
        async with self._sessions.begin() as session:
            collection = await collections.get(session, identifier)
            return (await _with_tallies(session, [collection]))[0]

    async def page(self, *, after: str | None, limit: int) -> list[VectorStore]:
        """In the order of names, those behind the one that is named. Raises `NotFound` if there is no such one."""
        async with self._sessions.begin() as session:
            name = (await collections.get(session, after)).name if after is not None else None
            return await _with_tallies(session, await collections.page(session, after=name, limit=limit))

    async def create(self, name: str, *, description: str = "", file_ids: Sequence[UUID] = ()) -> VectorStore:
        """Raises `Conflict` for a name that is taken, and as `put_in` does."""
        check_name(name)
        async with self._sessions.begin() as session:
            if not await collections.insert_new(session, name, description):
                raise Conflict(f"There is a vector store {name} already.")
            for file_id in dict.fromkeys(file_ids):
                await _put_in(session, name, file_id)
            return (await _with_tallies(session, [await collections.get(session, name)]))[0]

    async def put_in(self, identifier: str, file_id: UUID) -> DocumentView:
        """A file of the uploads. One that is in this store already stays there.

        Raises `NotFound`, and `Conflict` if it is in another, or if the store has the same bytes.
        """
        async with self._sessions.begin() as session:
            await _put_in(session, identifier, file_id)
            return await vector_stores.hold(session, file_id)

    async def take_out(self, identifier: str, file_id: UUID) -> None:
        """Back to the uploads. Raises `NotFound`, and `Conflict` if these have the same bytes, or a connector keeps the file."""
        async with self._sessions.begin() as session:
            document = await vector_stores.hold(session, file_id)
            await _require_in(session, identifier, document)
            _require_movable(document)
            await collections.insert_new(session, UPLOADS)
            await vector_stores.move(session, document, UPLOADS)

    async def file(self, identifier: str, file_id: UUID) -> DocumentView:
        async with self._sessions.begin() as session:
            document = await documents.get(session, file_id)
            if document is None:
                raise NotFound("file", file_id)
            await _require_in(session, identifier, document)
            return document

    async def files(
        self, identifier: str, *, statuses: Sequence[Status], after: UUID | None, limit: int
    ) -> list[DocumentView]:
        """The newest first, those that were added before this one."""
        async with self._sessions.begin() as session:
            collection_id = (await collections.get(session, identifier)).id
            return await _page(session, collection_id, statuses, after, limit)

    async def all_files(self, *, after: UUID | None, limit: int) -> list[DocumentView]:
        """Of every collection, the newest first, those that were added before this one."""
        async with self._sessions.begin() as session:
            return await _page(session, None, (), after, limit)

    async def search(
        self, identifier: str, questions: Sequence[str], *, limit: int, similarity_cutoff: float
    ) -> list[Hit]:
        """What is found for the questions together, each passage once, the best first. Raises `ModelFailed`."""
        async with self._sessions.begin() as session:
            collection = await collections.get(session, identifier)
        query = Query("", (collection.id,), collection.chunk_count, limit, similarity_cutoff)
        found: dict[int, Hit] = {}
        for question in questions:
            for hit in await self._passages.search(replace(query, question=question)):
                known = found.get(hit.chunk_id)
                if known is None or known.score < hit.score:
                    found[hit.chunk_id] = hit
        if len(questions) == 1:
            return list(found.values())
        return sorted(found.values(), key=lambda hit: hit.score, reverse=True)[:limit]


async def _with_tallies(session: AsyncSession, found: Sequence[CollectionView]) -> list[VectorStore]:
    tallies = await vector_stores.tallies(session, [collection.id for collection in found])
    return [VectorStore(collection, tallies.get(collection.id, Tally({}, 0))) for collection in found]


async def _page(
    session: AsyncSession,
    collection_id: UUID | None,
    statuses: Sequence[Status],
    after: UUID | None,
    limit: int,
) -> list[DocumentView]:
    before: int | None = None
    if after is not None:
        last = await documents.get(session, after)
        if last is None:
            raise NotFound("file", after)
        before = last.position
    return await documents.page(
        session, collection_id=collection_id, statuses=statuses, before=before, limit=limit
    )


async def _put_in(session: AsyncSession, identifier: str, file_id: UUID) -> None:
    collection = await collections.get(session, identifier)
    document = await vector_stores.hold(session, file_id)
    if document.collection_id == collection.id:
        return
    _require_movable(document)
    if document.collection_name != UPLOADS:
        raise Conflict(
            f"The file {file_id} is in the vector store {document.collection_name}. A file is in one: upload it again for another."
        )
    await vector_stores.move(session, document, str(collection.id))


def _require_movable(document: DocumentView) -> None:
    if document.origin is not None:
        raise Conflict(
            f"The file {document.id} stays in the vector store {document.collection_name}, which is kept in step with another place."
        )


async def _require_in(session: AsyncSession, identifier: str, document: DocumentView) -> None:
    """Raises `NotFound`."""
    if (await collections.get(session, identifier)).id != document.collection_id:
        raise NotFound("file", document.id)
