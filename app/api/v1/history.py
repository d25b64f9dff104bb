"""A conversation afterwards: its messages, the branch that is shown, and its being forgotten."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import SessionHistory, ViewerDep
from app.db.feedback import Rating
from app.services.sessions import ShownMessage, step_tree

router = APIRouter(prefix="/chat", tags=["chat"])

SessionId = Annotated[str, Path(min_length=1, max_length=100, description="The session's id.")]


class StepView(BaseModel):
    step_id: str
    parent_id: str | None
    step_type: str
    status: str
    duration: float | None
    tokens: dict[str, Any] | None
    metadata: dict[str, Any]
    sequence: int
    sub_steps: list["StepView"]


class FeedbackView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    rating: Rating
    comment: str | None
    updated_at: datetime


class MessageView(BaseModel):
    id: UUID
    text: str
    sender: Literal["user", "bot"]
    status: str
    created_at: datetime
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    steps: list[StepView]
    visualization: dict[str, Any] | None
    usage: dict[str, Any] | None
    error_code: str | None = None
    parent_id: Annotated[UUID | None, Field(description="The message that it follows.")]
    feedback: FeedbackView | None
    siblings: Annotated[
        list[UUID],
        Field(
            description="The alternatives to it, itself included, in the order they were made; empty without any."
        ),
    ]


class History(BaseModel):
    messages: list[MessageView]
    next: Annotated[
        str | None, Field(description="Where the page before this one begins: pass it as `before`.")
    ]


class Said(BaseModel):
    message: str


@router.get("/{session_id}/history", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def history(
    session_id: SessionId,
    viewer: ViewerDep,
    sessions: SessionHistory,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next` of the page after this one.")
    ] = None,
) -> History:
    """The messages of the branch that is shown, in time order, the newest `limit` of them first asked for."""
    page = await sessions.history(session_id, viewer, before=int(before) if before else None, limit=limit)
    following = str(page.next_before) if page.next_before is not None else None
    return History(messages=[_view(shown) for shown in page.messages], next=following)


@router.post(
    "/{session_id}/messages/{message_id}/choose",
    responses=problems(404, 409, 422),
    openapi_extra=OPTIONAL_USER,
)
async def choose(
    session_id: SessionId, message_id: UUID, viewer: ViewerDep, sessions: SessionHistory
) -> Said:
    """Show the branch of this message: what is above it, and below it the newest of each fork."""
    await sessions.choose(session_id, viewer, message_id)
    return Said(message="The conversation goes on from this branch.")


@router.delete("/{session_id}", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def forget(
    session_id: SessionId,
    viewer: ViewerDep,
    sessions: SessionHistory,
    purge: Annotated[bool, Query(description="Delete the rows for good as well.")] = False,
) -> Said:
    """Forget the conversation: its history is empty from now on, and later answers know nothing of it. What is being answered is stopped."""
    await sessions.forget(session_id, viewer, erase=purge)
    return Said(
        message="The conversation has been erased." if purge else "The conversation has been forgotten."
    )


def _view(shown: ShownMessage) -> MessageView:
    message = shown.message
    return MessageView(
        id=message.id,
        text=message.text,
        sender="user" if message.role == "user" else "bot",
        status=message.status,
        created_at=message.created_at,
        sources=message.sources,
        citations=message.citations,
        steps=[StepView.model_validate(step) for step in step_tree(message.steps)],
        visualization=message.visualization,
        usage=message.usage,
        error_code=message.error_code,
        parent_id=message.parent_id,
        feedback=FeedbackView.model_validate(shown.feedback) if shown.feedback is not None else None,
        siblings=shown.siblings,
    )
