"""Assistants: what everybody sees of them, and what administrators make of them."""

import json
import re
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StrictBool
from pydantic.config import JsonDict

from app.api.contract import OPTIONAL_USER, Cursor, Limit, cut, problems
from app.api.deps import Admin, Assistants, ViewerDep
from app.api.model_parameters import ModelParameters
from app.api.text import Text
from app.db.assistants import Answerability, AssistantView
from app.services.viewer import Viewer
from app.settings import Budget

router = APIRouter(prefix="/assistants", tags=["assistants"])

_MAX_SHAPE_BYTES = 65_536
# Something, without control characters, with more than blanks.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def keepable(shape: dict[str, JsonValue]) -> dict[str, JsonValue]:
    text = json.dumps(shape, ensure_ascii=False, allow_nan=False)
    # Encoding refuses lone surrogates.
    if len(text.encode()) > _MAX_SHAPE_BYTES:
        raise ValueError(f"must not be larger than {_MAX_SHAPE_BYTES:,} bytes")
    if _NUL_IN_JSON.search(text):
        raise ValueError("must not hold NUL characters")
    return shape


Identifier = Annotated[Text, Path(min_length=1, max_length=100, description="A slug or an id.")]
Name = Annotated[str, Field(max_length=200, pattern=_ONE_LINE)]
Slug = Annotated[str, Field(max_length=64, pattern="^[a-z0-9-]{1,64}$")]
Language = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", max_length=35, description="BCP 47, such as en-US."
    ),
]
ToolPath = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}/[A-Za-z0-9_./-]{1,128}$")]
ResponseShape = Annotated[dict[str, JsonValue], AfterValidator(keepable)]


class _AssistantIn(BaseModel):
    slug: Annotated[Slug | None, Field(description="Made from the name if there is none.")] = None
    description: Annotated[Text, Field(max_length=2_000)] = ""
    instructions: Annotated[Text, Field(max_length=50_000)] = ""
    context: Annotated[Text, Field(max_length=100_000)] = ""
    first_message: Annotated[Text, Field(max_length=10_000)] = ""
    response_shape: ResponseShape | None = None
    goal: Annotated[
        Text,
        Field(
            max_length=10_000,
            description="After each answer it is told whether the conversation has reached it.",
        ),
    ] = ""
    model: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    model_parameters: ModelParameters = ModelParameters()
    tools: Annotated[
        list[ToolPath],
        Field(max_length=64, description="What the model may have called: `server/tool`, of TOOL_SERVERS."),
    ] = []
    user_authentication: StrictBool = False
    is_enabled: StrictBool = True
    top_k: Annotated[int, Field(strict=True, ge=0, le=50)] = 6
    similarity_cutoff: Annotated[float, Field(strict=True, ge=-1, le=1)] = 0.3
    answerability: Annotated[
        Answerability,
        Field(description="How readily the documents are taken to hold no answer: it is said so then."),
    ] = "normal"
    answer_cache_s: Annotated[
        float | None,
        Field(
            strict=True,
            gt=0,
            le=31_536_000,
            description="Seconds that an answer may be given again; null: never.",
        ),
    ] = None
    answer_cache_similarity: Annotated[
        float,
        Field(
            strict=True,
            ge=0,
            le=1,
            description="The least cosine of two questions that may have one answer; 1: to the same question alone.",
        ),
    ] = 0.9
    language: Language | None = None
    unread_limit_s: Annotated[
        float | None,
        Field(
            strict=True,
            ge=0,
            le=86_400,
            description="Seconds that an answer goes on without a reader; null: to its end.",
        ),
    ] = None
    budget: Annotated[
        Budget | None,
        Field(description="What its answers may take a day or a month, of UTC; null: as much as is asked."),
    ] = None
    collections: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=100)]],
        Field(max_length=100, description="Names or ids."),
    ] = []

    def given(self) -> dict[str, Any]:
        fields = self.model_dump(exclude_unset=True)
        if "model_parameters" in fields:
            fields["model_parameters"] = self.model_parameters.model_dump(exclude_none=True)
        if self.budget is not None:
            fields["budget"] = self.budget.model_dump(exclude_none=True)
        return fields


class NewAssistant(_AssistantIn):
    name: Name


def _without_defaults(schema: JsonDict) -> None:
    properties = schema["properties"]
    assert isinstance(properties, dict)
    for field in properties.values():
        assert isinstance(field, dict)
        field.pop("default", None)


class AssistantChange(_AssistantIn):
    """What is not sent stays as it is."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    name: Name = ""


class PublicAssistant(BaseModel):
    """What everybody may know."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    slug: str
    name: str
    description: str
    first_message: str
    language: str | None
    user_authentication: bool


class CollectionOfAssistant(BaseModel):
    id: UUID
    name: str


class Assistant(PublicAssistant):
    """All of it, for administrators."""

    instructions: str
    context: str
    response_shape: dict[str, Any] | None
    goal: str
    model: str | None
    model_parameters: dict[str, Any]
    tools: list[str]
    is_enabled: bool
    top_k: int
    similarity_cutoff: float
    answerability: Answerability
    answer_cache_s: float | None
    answer_cache_similarity: float
    unread_limit_s: float | None
    budget: Budget | None
    collections: list[CollectionOfAssistant]
    created_at: datetime
    updated_at: datetime


class AssistantPage(BaseModel):
    """`next` is the `cursor` of the page that follows, null at the end."""

    items: list[Assistant | PublicAssistant]
    next: str | None


@router.get("", responses=problems(422), openapi_extra=OPTIONAL_USER)
async def list_assistants(
    assistants: Assistants,
    viewer: ViewerDep,
    limit: Limit = 50,
    cursor: Annotated[Text | None, Cursor] = None,
) -> AssistantPage:
    """In the order of their slugs: the public view; for administrators all of each, and the disabled ones as well."""
    rows = await assistants.page(viewer, after=cursor, limit=limit + 1)
    rows, following = cut(rows, limit, lambda row: row.slug)
    return AssistantPage(items=[_shown(row, viewer) for row in rows], next=following)


@router.post("", status_code=201, responses=problems(401, 403, 409, 413, 422))
async def create_assistant(body: NewAssistant, assistants: Assistants, _: Admin) -> Assistant:
    return _full(await assistants.create(**body.given()))


@router.get("/{identifier}", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def get_assistant(
    identifier: Identifier, assistants: Assistants, viewer: ViewerDep
) -> Assistant | PublicAssistant:
    """The public view, or for administrators all of it."""
    return _shown(await assistants.get(identifier, viewer), viewer)


@router.patch("/{identifier}", responses=problems(401, 403, 404, 409, 413, 422))
async def change_assistant(
    identifier: Identifier, body: AssistantChange, assistants: Assistants, _: Admin
) -> Assistant:
    return _full(await assistants.change(identifier, **body.given()))


@router.delete("/{identifier}", status_code=204, responses=problems(401, 403, 404, 422))
async def delete_assistant(identifier: Identifier, assistants: Assistants, _: Admin) -> None:
    """Its conversations stay."""
    await assistants.delete(identifier)


def _shown(assistant: AssistantView, viewer: Viewer) -> Assistant | PublicAssistant:
    if viewer.account is not None and viewer.account.is_admin:
        return _full(assistant)
    return PublicAssistant.model_validate(assistant)


def _full(assistant: AssistantView) -> Assistant:
    return Assistant(**asdict(assistant))
