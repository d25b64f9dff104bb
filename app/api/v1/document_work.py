"""The work on a document, and the file that it is made of."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from app import json_text
from app.api import original
from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Admin, Knowledge, ReaderOfDocument, Work
from app.api.streaming import NDJSON, SSE, Form, form_of
from app.api.v1.documents import Document, file_form, read_upload
from app.db.documents import DocumentView
from app.errors import FreshetError
from app.events import HEARTBEAT_LINE, sse_frame
from app.services.document_work import DocumentWork

router = APIRouter(tags=["documents"])

Accept = Annotated[str | None, Header(include_in_schema=False)]
_Hidden = Header(include_in_schema=False)

_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A line each time that something has changed; the last has the type `done`.",
        "content": {NDJSON: {}, SSE: {}},
    }
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/octet-stream": {}}},
    206: {"description": "The part that `Range` asks for."},
    304: {"description": "`If-None-Match` names this file."},
    416: {"description": "There is nothing in that range."},
}


@router.put(
    "/documents/{document_id}/file",
    status_code=202,
    openapi_extra=file_form(),
    responses={
        200: {"model": Document, "description": "The document is of these bytes already."},
        **problems(401, 403, 404, 409, 413, 422),
    },
)
async def replace_file(
    document_id: UUID, request: Request, response: Response, work: Work, _: Admin
) -> Document:
    """Another file for the same document. What the old one says is found until the new one has been ingested.

    If the new one is refused, the old one stays, and `error` tells of the refusal. Passages that stay the same are not
    embedded again.
    """
    upload = await read_upload(request)
    document, is_new = await work.replace_file(
        document_id, upload.file_name, upload.content, upload.declared_type, password=upload.password
    )
    if not is_new:
        response.status_code = 200
    return Document.of(document)


@router.get(
    "/documents/{document_id}/file",
    dependencies=[ReaderOfDocument],
    response_class=Response,
    responses=_BYTES | problems(401, 403, 404, 422),
    openapi_extra=OPTIONAL_USER,
)
async def get_file(
    document_id: UUID,
    work: Work,
    wanted: Annotated[str | None, Header(alias="range", include_in_schema=False)] = None,
    if_range: Annotated[str | None, _Hidden] = None,
    if_none_match: Annotated[str | None, _Hidden] = None,
) -> Response:
    """The file that the document's text was made of, byte for byte; before there is a text, the file that was given."""
    return original.response(
        await work.original(document_id), work.part, wanted=wanted, condition=if_range, known=if_none_match
    )


@router.post("/documents/{document_id}/cancel", responses=problems(401, 403, 404, 409, 422))
async def cancel(document_id: UUID, work: Work, _: Admin) -> Document:
    """Calls the ingestion off, in whichever process it goes on. What was found of the document before is found as before."""
    return Document.of(await work.cancel(document_id))


@router.post("/documents/{document_id}/retry", status_code=202, responses=problems(401, 403, 404, 409, 422))
async def retry(document_id: UUID, work: Work, _: Admin) -> Document:
    """Ingests a document again that failed or was cancelled."""
    return Document.of(await work.retry(document_id))


@router.get(
    "/documents/{document_id}/progress",
    response_class=StreamingResponse,
    responses=_STREAMED | problems(401, 403, 404, 422),
)
async def follow(
    document_id: UUID, knowledge: Knowledge, work: Work, _: Admin, accept: Accept = None
) -> StreamingResponse:
    """How the ingestion comes along, until it is over."""
    form = form_of(accept)
    lines = _lines(work, await knowledge.document(document_id), form)
    media_type = f"{SSE}; charset=utf-8" if form == "sse" else NDJSON
    return StreamingResponse(
        lines, media_type=media_type, headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
    )


async def _lines(work: DocumentWork, first: DocumentView, form: Form) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(work.follow(first)) as views:
            async for view in views:
                if view is None:
                    yield HEARTBEAT_LINE if form == "ndjson" else b": heartbeat\n\n"
                else:
                    yield _written(_told(view), form)
    except FreshetError as error:
        told = {"code": error.code, "message": error.message, "error": error.message}
        yield _written({"type": "error", **told, "retryable": error.retryable}, form)


def _told(view: DocumentView) -> dict[str, Any]:
    document = Document.of(view).model_dump(mode="json")
    if view.is_over:
        return {"type": "done", "status": view.status, "document": document}
    return {"type": "progress", "status": view.status, **document["progress"]}


def _written(told: dict[str, Any], form: Form) -> bytes:
    line = json_text.encode(told) + b"\n"
    return line if form == "ndjson" else sse_frame(line, None)
