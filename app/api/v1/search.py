"""The search behind the answers, by itself: what is found for a question, and why."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Assistants, Knowledge, ViewerDep
from app.api.text import Text
from app.errors import Forbidden, Unauthenticated
from app.rag.retrieval import Query
from app.services.assistants import AssistantService
from app.services.knowledge import KnowledgeService
from app.services.viewer import Viewer

router = APIRouter(prefix="/search", tags=["search"])

_TOP_K = 6
_SIMILARITY_CUTOFF = 0.3


class _SearchIn(BaseModel):
    question: Annotated[Text, Field(min_length=1, max_length=50_000)]
    top_k: Annotated[
        int | None, Field(strict=True, ge=0, le=50, description=f"That of the assistant, else {_TOP_K}.")
    ] = None
    similarity_cutoff: Annotated[
        float | None,
        Field(strict=True, ge=-1, le=1, description=f"That of the assistant, else {_SIMILARITY_CUTOFF}."),
    ] = None


class SearchThroughAssistant(_SearchIn):
    """With the assistant's collections and settings, for those whom it answers."""

    assistant: Annotated[Text, Field(min_length=1, max_length=100, description="A slug or an id.")]


class SearchInCollections(_SearchIn):
    """For administrators."""

    collections: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=100)]],
        Field(min_length=1, max_length=100, description="Names or ids."),
    ]


class Hit(BaseModel):
    """A passage, the characters `start` to `end` of its document's text.

    `similarity` is the cosine between question and passage. The ranks count from 1 in each half of the search, by meaning
    and by words, and are null where that half did not find it; `score` is made of both scores, and `words_score` is
    BM25's.
    """

    model_config = ConfigDict(from_attributes=True)

    chunk_id: int
    document_id: UUID
    score: float
    similarity: float
    dense_rank: int | None
    words_rank: int | None
    words_score: float | None
    text: str
    heading: str
    page_label: str | None
    start: int
    end: int
    file_name: str
    title: str | None
    kind: str | None
    url: str | None


class SearchResult(BaseModel):
    """The best first."""

    items: list[Hit]


@router.post("", responses=problems(401, 403, 404, 413, 422, 502, 504), openapi_extra=OPTIONAL_USER)
async def search(
    body: SearchThroughAssistant | SearchInCollections,
    knowledge: Knowledge,
    assistants: Assistants,
    viewer: ViewerDep,
) -> SearchResult:
    """What an answer to this question would be drawn from, with every partial score."""
    return await found(body, knowledge, assistants, viewer)


async def found(
    body: SearchThroughAssistant | SearchInCollections,
    knowledge: KnowledgeService,
    assistants: AssistantService,
    viewer: Viewer,
) -> SearchResult:
    top_k, similarity_cutoff = _TOP_K, _SIMILARITY_CUTOFF
    if isinstance(body, SearchThroughAssistant):
        assistant = await assistants.usable(body.assistant, viewer)
        top_k, similarity_cutoff = assistant.top_k, assistant.similarity_cutoff
        collection_ids, chunk_count = assistant.collection_ids, assistant.chunk_count
    else:
        _require_admin(viewer)
        reach = await knowledge.reach(body.collections)
        collection_ids, chunk_count = reach.ids, reach.chunk_count
    query = Query(
        question=body.question,
        collection_ids=collection_ids,
        chunk_count=chunk_count,
        top_k=top_k if body.top_k is None else body.top_k,
        similarity_cutoff=similarity_cutoff if body.similarity_cutoff is None else body.similarity_cutoff,
    )
    return SearchResult(items=[Hit.model_validate(hit) for hit in await knowledge.search(query)])


def _require_admin(viewer: Viewer) -> None:
    if viewer.account is None:
        raise Unauthenticated(viewer.refusal or "Searching in collections needs an administrator.")
    if not viewer.account.is_admin:
        raise Forbidden("Searching in collections is for administrators.")
