"""What endpoints declare alike: how they fail, and how their lists are cut into pages."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Query

from app.api.errors import OpenAIProblem, Problem

_REASONS = {
    401: "The credential does not count, or there is none.",
    403: "This is for administrators.",
    404: "There is none.",
    409: "It cannot be so beside what there is.",
    413: "The body is too large.",
    422: "The request is not as it should be.",
    429: "Too much has been asked; the header Retry-After says when to try again, in seconds.",
    501: "No language model is configured.",
    502: "The embedder failed.",
    503: "Not now; the header Retry-After says when to try again, in seconds.",
    504: "The embedder took too long.",
}

OPTIONAL_USER: dict[str, Any] = {"security": [{}]}
"""For `openapi_extra`: the endpoint takes a credential, and does without."""

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]

Cursor = Query(max_length=200, description="The `next` of the page before.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _REASONS[status]} for status in (*statuses, 503)}


def openai_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of a path under /v1, where a request that is not as it should be is answered with 400."""
    told: dict[int | str, str] = {status: _REASONS[status] for status in (*statuses, 503)}
    # With a `default` the framework does not add a 422 of its own.
    told |= {400: _REASONS[422], "default": "Any other failure."}
    return {status: {"model": OpenAIProblem, "description": why} for status, why in told.items()}


def problems_as_400(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As `problems`, of a path on which a request that is not as it should be is answered with 400."""
    # With a `default` the framework does not add a 422 of its own.
    other = {"model": Problem, "description": "Any other failure."}
    return {**problems(*statuses), 400: {"model": Problem, "description": _REASONS[422]}, "default": other}


def cut(rows: list[T], limit: int, cursor: Callable[[T], str]) -> tuple[list[T], str | None]:
    """The page, and the cursor of the next one, from `limit` rows and one more if there are more."""
    return rows[:limit], cursor(rows[limit - 1]) if len(rows) > limit else None
