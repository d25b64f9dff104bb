"""Files that are attached to a session: found in its answers alone, and gone with it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Attachments, ViewerDep
from app.api.v1.documents import Failure, read_upload
from app.api.v1.history import Said, SessionId
from app.db.documents import DocumentView, Status
from app.services.attachments import NewAttachment

router = APIRouter(prefix="/chat", tags=["chat"])

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


class Attachment(BaseModel):
    """`error` is that of a `failed` one."""

    id: UUID
    file_name: str
    media_type: str | None
    size_bytes: int
    status: Status
    error: Failure | None
    created_at: datetime

    @classmethod
    def of(cls, view: DocumentView) -> "Attachment":
        reason, message = view.error_reason, view.error_message
        return cls(
            id=view.id,
            file_name=view.file_name,
            media_type=view.media_type,
            size_bytes=view.size_bytes,
            status=view.status,
            error=Failure(reason=reason, message=message or "") if reason is not None else None,
            created_at=view.created_at,
        )


class AttachmentsOfSession(BaseModel):
    attachments: list[Attachment]


@router.post(
    "/{session_id}/attachments",
    status_code=202,
    responses=problems(401, 404, 409, 413, 422),
    openapi_extra={**OPTIONAL_USER, **_FORM},
)
async def attach_file(
    session_id: SessionId, request: Request, viewer: ViewerDep, attachments: Attachments
) -> Attachment:
    """Attaches a file to the session, which is opened if there is none; it is read in the background. A question that names its
    id waits for that."""
    upload = await read_upload(request)
    new = NewAttachment(upload.file_name, upload.content, upload.declared_type)
    return Attachment.of(await attachments.add(session_id, viewer, new))


@router.get("/{session_id}/attachments", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def list_attachments(
    session_id: SessionId, viewer: ViewerDep, attachments: Attachments
) -> AttachmentsOfSession:
    """The newest first."""
    found = await attachments.page(session_id, viewer)
    return AttachmentsOfSession(attachments=[Attachment.of(document) for document in found])


@router.delete(
    "/{session_id}/attachments/{attachment_id}", responses=problems(404, 422), openapi_extra=OPTIONAL_USER
)
async def remove_attachment(
    session_id: SessionId, attachment_id: UUID, viewer: ViewerDep, attachments: Attachments
) -> Said:
    await attachments.remove(session_id, viewer, attachment_id)
    return Said(message="The file is not attached any more.")
