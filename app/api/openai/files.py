"""`/v1/files`: documents, as OpenAI's clients upload and list them; for administrators."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.api import original
from app.api.contract import cut, openai_problems
from app.api.deps import Admin, Knowledge, VectorStores, Work
from app.api.text import Text
from app.api.v1.documents import read_upload
from app.db.documents import DocumentView, Status
from app.db.identifiers import as_uuid
from app.errors import InvalidInput, NotFound
from app.services.vector_stores import UPLOADS

router = APIRouter(prefix="/files", tags=["openai"])

# What a file may be uploaded for. Either way it is a document that answers are drawn from.
_PURPOSES = {"assistants", "user_data"}
_PAGE = 200
_STATUSES: dict[Status, str] = {
    "pending": "uploaded",
    "processing": "uploaded",
    "ready": "processed",
    "failed": "error",
    "cancelled": "error",
}


async def _file_id(file_id: Annotated[Text, Path(max_length=100, description="A document's id.")]) -> UUID:
    """An id of another server's is one that there is none of."""
    if (known := as_uuid(file_id)) is None:
        raise NotFound("file", file_id)
    return known


async def _after(
    after: Annotated[str | None, Query(max_length=100, description="The last id of the page before.")] = None,
) -> UUID | None:
    return await _file_id(after) if after is not None else None


FileId = Annotated[UUID, Depends(_file_id)]
After = Annotated[UUID | None, Depends(_after)]
NewestFirst = Annotated[Literal["desc"], Query(description="The newest first.")]

_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": sorted(_PURPOSES)},
    },
}


@router.post(
    "",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    responses=openai_problems(401, 403, 413),
)
async def upload_file(request: Request, knowledge: Knowledge, _: Admin) -> dict[str, Any]:
    """Stores a file in the collection `files`, where it stays until it is put into a vector store; it is ingested in the background."""
    upload = await read_upload(request)
    purpose = upload.fields.get("purpose")
    if purpose not in _PURPOSES:
        raise InvalidInput(
            "The `purpose` of a file is assistants or user_data here.",
            detail=[{"loc": ["body", "purpose"]}],
        )
    if any(name.startswith("expires_after") for name in upload.fields):
        raise InvalidInput("A file does not expire here.", detail=[{"loc": ["body", "expires_after"]}])
    document, _is_new = await knowledge.add(
        UPLOADS, upload.file_name, upload.content, upload.declared_type, password=upload.password
    )
    return _file(document)


@router.get("", responses=openai_problems(401, 403, 404))
async def list_files(
    stores: VectorStores,
    _: Admin,
    after: After,
    limit: Annotated[
        int, Query(ge=1, le=10_000, description=f"How many at most; a page has no more than {_PAGE}.")
    ] = _PAGE,
    order: NewestFirst = "desc",  # noqa: ARG001  # any other is refused
    purpose: Annotated[str | None, Query(max_length=50)] = None,
) -> dict[str, Any]:
    """The documents of all collections."""
    if purpose is not None and purpose not in _PURPOSES:
        return listed([], None)
    limit = min(limit, _PAGE)
    rows, following = cut(
        await stores.all_files(after=after, limit=limit + 1), limit, lambda row: str(row.id)
    )
    return listed([_file(row) for row in rows], following)


@router.get("/{file_id}", responses=openai_problems(401, 403, 404))
async def get_file(file_id: FileId, knowledge: Knowledge, _: Admin) -> dict[str, Any]:
    return _file(await knowledge.document(file_id))


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": {"application/octet-stream": {}}},
        **openai_problems(401, 403, 404),
    },
)
async def get_content(file_id: FileId, work: Work, _: Admin) -> Response:
    """The file that the document's text was made of, byte for byte."""
    return original.response(await work.original(file_id), work.part, wanted=None, condition=None, known=None)


@router.delete("/{file_id}", responses=openai_problems(401, 403, 404))
async def delete_file(file_id: FileId, knowledge: Knowledge, _: Admin) -> dict[str, Any]:
    """Also out of its vector store."""
    await knowledge.delete_document(file_id)
    return {"id": str(file_id), "object": "file", "deleted": True}


def listed(items: list[dict[str, Any]], following: str | None) -> dict[str, Any]:
    """A page, as OpenAI's servers make them."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": following is not None,
    }


def _file(document: DocumentView) -> dict[str, Any]:
    return {
        "id": str(document.id),
        "object": "file",
        "bytes": document.size_bytes,
        "created_at": int(document.created_at.timestamp()),
        "expires_at": None,
        "filename": document.file_name,
        "purpose": "assistants",
        "status": _STATUSES[document.status],
        "status_details": document.error_message,
    }
