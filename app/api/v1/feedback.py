"""Ratings of answers: given by their readers, read by administrators."""

from dataclasses import astuple
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.contract import OPTIONAL_USER, Limit, cut, problems
from app.api.deps import Admin, Ratings, ViewerDep
from app.api.tables import CSV, Accept, Format, table, wants_csv
from app.api.text import Text
from app.db.feedback import Rating, Review

router = APIRouter(tags=["feedback"])

MessageId = Annotated[UUID, Path(description="The answer's.")]
OfSession = Annotated[
    Text | None,
    Query(
        min_length=1,
        max_length=100,
        description="The session of the answer; needed where that is anonymous.",
    ),
]

_COLUMNS = tuple(name for name in Review.__slots__ if name != "position")


class FeedbackIn(BaseModel):
    rating: Rating
    comment: Annotated[Text | None, Field(max_length=5_000)] = None


class FeedbackOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    message_id: UUID
    rating: Rating
    comment: str | None
    created_at: datetime
    updated_at: datetime


class ReviewOut(FeedbackOut):
    """`question` and `answer` are null once the session was reset."""

    session_id: str
    user_id: UUID | None
    assistant_id: UUID | None
    question: str | None
    answer: str | None


class ReviewPage(BaseModel):
    """`next` is the `before` of the page that follows, null at the end."""

    items: list[ReviewOut]
    next: str | None


@router.post(
    "/messages/{message_id}/feedback", responses=problems(404, 409, 422), openapi_extra=OPTIONAL_USER
)
async def rate(
    message_id: MessageId,
    body: FeedbackIn,
    viewer: ViewerDep,
    ratings: Ratings,
    session_id: OfSession = None,
) -> FeedbackOut:
    """Rate an answer of a session that one may see; sent again, it takes the place of what was said before."""
    comment = (body.comment or "").strip() or None
    said = await ratings.rate(message_id, viewer, session_id=session_id, rating=body.rating, comment=comment)
    return FeedbackOut.model_validate(said)


@router.delete(
    "/messages/{message_id}/feedback",
    status_code=204,
    responses=problems(404, 409, 422),
    openapi_extra=OPTIONAL_USER,
)
async def take_back(
    message_id: MessageId, viewer: ViewerDep, ratings: Ratings, session_id: OfSession = None
) -> None:
    """Take the rating back; also where there is none."""
    await ratings.take_back(message_id, viewer, session_id=session_id)


_LISTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page, or a table.", "content": {CSV: {"schema": {"type": "string"}}}}
}


@router.get("/feedback", response_model=ReviewPage, responses={**_LISTED, **problems(401, 403, 404, 422)})
async def list_feedback(
    _: Admin,
    ratings: Ratings,
    rating: Rating | None = None,
    assistant_id: Annotated[
        Text | None, Query(min_length=1, max_length=100, description="An assistant's slug or id.")
    ] = None,
    limit: Limit = 50,
    before: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="The `next` of the page before.")
    ] = None,
    format: Format = None,  # noqa: A002  # the parameter's name in the address
    accept: Accept = None,
) -> ReviewPage | Response:
    """Ratings with what they are of, the newest first."""
    rows = await ratings.page(
        rating=rating,
        assistant=assistant_id,
        before=int(before) if before is not None else None,
        limit=limit + 1,
    )
    rows, following = cut(rows, limit, lambda row: str(row.position))
    if wants_csv(format, accept):
        return table(_COLUMNS, (astuple(row)[1:] for row in rows), file_name="feedback.csv")
    items = [ReviewOut.model_validate(row, from_attributes=True) for row in rows]
    return ReviewPage(items=items, next=following)
