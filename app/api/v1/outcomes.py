"""What a conversation has come to: its summary in the assistant's shape, and whether its goal or its end is reached."""

from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Outcomes, ViewerDep
from app.api.v1.history import SessionId

router = APIRouter(prefix="/chat", tags=["chat"])


class OfAssistant(BaseModel):
    assistant_id: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="Left out: the one that the session began with."),
    ] = None


class SummaryView(BaseModel):
    session_id: str
    summary: Annotated[Any, Field(description="Of the assistant's `response_shape`; a text, if it has none.")]
    usage: dict[str, Any]


@router.post(
    "/{session_id}/summary",
    responses=problems(401, 404, 413, 422, 501, 502, 504),
    openapi_extra=OPTIONAL_USER,
)
async def summary(
    session_id: SessionId,
    viewer: ViewerDep,
    outcomes: Outcomes,
    body: Annotated[OfAssistant | None, Body()] = None,
) -> SummaryView:
    """The conversation in the shape of its assistant, as the model reads it; nothing of it is stored."""
    made = await outcomes.summary(
        session_id, viewer, assistant=body.assistant_id if body is not None else None
    )
    return SummaryView(session_id=session_id, summary=made.content, usage=msgspec.to_builtins(made.usage))


class JudgementView(BaseModel):
    reached: bool
    reason: str


class VerificationView(BaseModel):
    session_id: str
    goal: Annotated[
        JudgementView | None, Field(description="Null where the assistant has neither a goal nor a shape.")
    ]
    end: JudgementView
    usage: dict[str, Any]


@router.post(
    "/{session_id}/verification",
    responses=problems(401, 404, 413, 422, 501, 502, 504),
    openapi_extra=OPTIONAL_USER,
)
async def verification(
    session_id: SessionId,
    viewer: ViewerDep,
    outcomes: Outcomes,
    body: Annotated[OfAssistant | None, Body()] = None,
) -> VerificationView:
    """Whether the conversation has reached its goal, and whether it has ended, as the model judges it; nothing of it is stored."""
    made = await outcomes.verification(
        session_id, viewer, assistant=body.assistant_id if body is not None else None
    )
    goal = JudgementView(**asdict(made.goal)) if made.goal is not None else None
    return VerificationView(
        session_id=session_id,
        goal=goal,
        end=JudgementView(**asdict(made.end)),
        usage=msgspec.to_builtins(made.usage),
    )
