"""`/v1/vector_stores`: collections, as OpenAI's clients fill and search them; for administrators."""

from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from app.api.contract import cut, openai_problems
from app.api.deps import Admin, VectorStores
from app.api.openai.files import After, FileId, NewestFirst, listed
from app.api.text import Text
from app.api.v1.documents import CollectionName, Description
from app.db.documents import DocumentView, Status
from app.db.identifiers import as_uuid
from app.errors import InvalidInput, NotFound
from app.rag.retrieval import Hit
from app.services.knowledge import REFUSALS
from app.services.vector_stores import VectorStore

router = APIRouter(prefix="/vector_stores", tags=["openai"])

FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
_STATUSES: dict[Status, FileStatus] = {
    "pending": "in_progress",
    "processing": "in_progress",
    "ready": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_ALL: tuple[FileStatus, ...] = ("in_progress", "completed", "failed", "cancelled")

Identifier = Annotated[Text, Path(min_length=1, max_length=100, description="A collection's id or name.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
Identity = Annotated[Text, Field(max_length=100)]


class NewVectorStore(BaseModel):
    """What is not named here is taken and ignored. Without a name, one is made."""

    name: CollectionName | None = None
    description: Description = ""
    file_ids: Annotated[list[Identity], Field(max_length=500)] = []
    expires_after: Any = None


class FileOfVectorStore(BaseModel):
    file_id: Identity


class RankingOptions(BaseModel):
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0


class SearchInVectorStore(BaseModel):
    query: (
        Annotated[Text, Field(min_length=1, max_length=50_000)]
        | Annotated[
            list[Annotated[Text, Field(min_length=1, max_length=50_000)]], Field(min_length=1, max_length=10)
        ]
    )
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    ranking_options: RankingOptions | None = None
    filters: Any = None


@router.post("", responses=openai_problems(401, 403, 404, 409, 413))
async def create_vector_store(body: NewVectorStore, stores: VectorStores, _: Admin) -> dict[str, Any]:
    """Makes a collection, and puts files into it that were uploaded before."""
    if body.expires_after is not None:
        raise InvalidInput(
            "A vector store does not expire here.", detail=[{"loc": ["body", "expires_after"]}]
        )
    name = body.name or f"vector-store-{uuid4().hex[:12]}"
    file_ids = [_known(file_id) for file_id in body.file_ids]
    return _store(await stores.create(name, description=body.description, file_ids=file_ids))


@router.get("", responses=openai_problems(401, 403, 404))
async def list_vector_stores(
    stores: VectorStores,
    _: Admin,
    limit: Limit = 20,
    after: Annotated[
        Text | None, Query(max_length=100, description="The last id of the page before.")
    ] = None,
) -> dict[str, Any]:
    """In the order of their names."""
    rows = await stores.page(after=after, limit=limit + 1)
    rows, following = cut(rows, limit, lambda row: str(row.collection.id))
    return listed([_store(row) for row in rows], following)


@router.get("/{vector_store}", responses=openai_problems(401, 403, 404))
async def get_vector_store(vector_store: Identifier, stores: VectorStores, _: Admin) -> dict[str, Any]:
    return _store(await stores.get(vector_store))


@router.post("/{vector_store}/files", responses=openai_problems(401, 403, 404, 409, 413))
async def put_in(
    vector_store: Identifier, body: FileOfVectorStore, stores: VectorStores, _: Admin
) -> dict[str, Any]:
    """Puts a file into the store that was uploaded before; as it is in one at a time, not one of another store."""
    return _file(await stores.put_in(vector_store, _known(body.file_id)))


@router.get("/{vector_store}/files", responses=openai_problems(401, 403, 404))
async def list_files(
    vector_store: Identifier,
    stores: VectorStores,
    _: Admin,
    after: After,
    limit: Limit = 20,
    order: NewestFirst = "desc",  # noqa: ARG001  # any other is refused
    status: Annotated[FileStatus | None, Query(alias="filter")] = None,
) -> dict[str, Any]:
    statuses: list[Status] = [ours for ours, theirs in _STATUSES.items() if status in {None, theirs}]
    rows = await stores.files(vector_store, statuses=statuses, after=after, limit=limit + 1)
    rows, following = cut(rows, limit, lambda row: str(row.id))
    return listed([_file(row) for row in rows], following)


@router.get("/{vector_store}/files/{file_id}", responses=openai_problems(401, 403, 404))
async def get_file(
    vector_store: Identifier, file_id: FileId, stores: VectorStores, _: Admin
) -> dict[str, Any]:
    return _file(await stores.file(vector_store, file_id))


@router.delete("/{vector_store}/files/{file_id}", responses=openai_problems(401, 403, 404, 409))
async def take_out(
    vector_store: Identifier, file_id: FileId, stores: VectorStores, _: Admin
) -> dict[str, Any]:
    """The file stays, in the collection `files`."""
    await stores.take_out(vector_store, file_id)
    return {"id": str(file_id), "object": "vector_store.file.deleted", "deleted": True}


@router.post("/{vector_store}/search", responses=openai_problems(401, 403, 404, 413, 502, 504))
async def search(
    vector_store: Identifier, body: SearchInVectorStore, stores: VectorStores, _: Admin
) -> dict[str, Any]:
    """The passages that say most about the queries, by meaning and by words, the best first."""
    if body.filters is not None:
        raise InvalidInput(
            "Files have no attributes here that a search could be filtered by.",
            detail=[{"loc": ["body", "filters"]}],
        )
    queries = [body.query] if isinstance(body.query, str) else body.query
    options = body.ranking_options or RankingOptions()
    hits = await stores.search(
        vector_store, queries, limit=body.max_num_results, similarity_cutoff=options.score_threshold
    )
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": [_result(hit) for hit in hits],
        "has_more": False,
        "next_page": None,
    }


def _known(file_id: str) -> UUID:
    known = as_uuid(file_id)
    if known is None:
        raise NotFound("file", file_id)
    return known


def _store(store: VectorStore) -> dict[str, Any]:
    counts = dict.fromkeys(_ALL, 0)
    for status, count in store.tally.documents.items():
        counts[_STATUSES[status]] += count
    return {
        "id": str(store.collection.id),
        "object": "vector_store",
        "created_at": int(store.collection.created_at.timestamp()),
        "name": store.collection.name,
        "description": store.collection.description,
        "status": "in_progress" if counts["in_progress"] else "completed",
        "file_counts": {**counts, "total": sum(counts.values())},
        "usage_bytes": store.tally.size_bytes,
        "last_active_at": None,
        "expires_after": None,
        "expires_at": None,
        "metadata": {},
    }


def _file(document: DocumentView) -> dict[str, Any]:
    return {
        "id": str(document.id),
        "object": "vector_store.file",
        "created_at": int(document.created_at.timestamp()),
        "vector_store_id": str(document.collection_id),
        "status": _STATUSES[document.status],
        "last_error": _last_error(document.error_reason, document.error_message),
        "usage_bytes": document.size_bytes,
        "attributes": {},
    }


def _last_error(reason: str | None, message: str | None) -> dict[str, Any] | None:
    if reason is None:
        return None
    code = "invalid_file" if reason in REFUSALS else "server_error"
    return {"code": "unsupported_file" if reason == "unsupported" else code, "message": message}


def _result(hit: Hit) -> dict[str, Any]:
    """`score` is the cosine between query and passage; where the passage stands is told as attributes."""
    place = {"title": hit.title, "heading": hit.heading, "page_label": hit.page_label, "url": hit.url}
    return {
        "file_id": str(hit.document_id),
        "filename": hit.file_name,
        "score": hit.similarity,
        "attributes": {name: value for name, value in place.items() if value},
        "content": [{"type": "text", "text": hit.text}],
    }
