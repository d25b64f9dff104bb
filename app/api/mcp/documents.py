"""Documents as resources: `freshet://documents/{document_id}`, read as text."""

from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID

from mcp_types import (
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.contract import cut
from app.api.deps import require_reader
from app.api.mcp.caller import Caller, Context
from app.api.text import Text
from app.api.v1.documents import MAX_OFFSET, excerpt
from app.errors import InvalidInput, NotFound

_ROOT = "freshet://documents/"
_TEMPLATE = _ROOT + "{document_id}{?session_id,start,end}"
_PAGE = 100
_LONGEST_CURSOR = 18

_Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]


class _Address(BaseModel):
    model_config = ConfigDict(extra="forbid")

    document_id: UUID
    session_id: Annotated[Text | None, Field(min_length=1, max_length=100)] = None
    start: _Offset = 0
    end: _Offset | None = None


def uri_of(document_id: str, session_id: str | None = None) -> str:
    return f"{_ROOT}{document_id}" + (f"?session_id={quote(session_id, safe='')}" if session_id else "")


async def listed(caller: Caller, _: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    """For administrators all, the newest first. To others, answers name what they may read."""
    account = caller.viewer.account
    if account is None or not account.is_admin:
        return ListResourcesResult(resources=[])
    cursor = params.cursor if params is not None else None
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _LONGEST_CURSOR):
        raise InvalidInput("This is no cursor that came with a page of resources.")
    rows = await caller.resources.knowledge.documents(
        collection=None, status="ready", before=int(cursor) if cursor else None, limit=_PAGE + 1
    )
    rows, following = cut(rows, _PAGE, lambda row: str(row.position))
    resources = [
        Resource(
            name=row.file_name,
            title=row.title,
            uri=uri_of(str(row.id)),
            mime_type="text/plain",
            description=f"In the collection {row.collection_name}",
        )
        for row in rows
    ]
    return ListResourcesResult(resources=resources, next_cursor=following)


async def templates(
    _: Caller, __: Context, ___: PaginatedRequestParams | None
) -> ListResourceTemplatesResult:
    document = ResourceTemplate(
        name="document",
        title="A document's text",
        uri_template=_TEMPLATE,
        mime_type="text/plain",
        description="Administrators read every document; others what an answer in their session was drawn from. "
        "At most 100,000 characters are given at once: `start` and `end` count in characters.",
    )
    return ListResourceTemplatesResult(resource_templates=[document])


async def read(caller: Caller, _: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    """`_meta` tells from and up to which character, and how many there are."""
    resources = caller.resources
    address = _address(params.uri)
    await require_reader(address.document_id, caller.viewer, resources.sessions, address.session_id)
    part = await excerpt(resources.knowledge, address.document_id, address.start, address.end)
    place: dict[str, Any] = {"start": part.start, "end": part.end, "length": part.length}
    contents = TextResourceContents(uri=params.uri, mime_type="text/plain", text=part.text, _meta=place)
    return ReadResourceResult(contents=[contents])


def _address(uri: str) -> _Address:
    """Raises `NotFound` for one that leads to no document of ours."""
    try:
        parts = urlsplit(uri)
        if not uri.startswith(_ROOT):
            raise NotFound("resource", uri)
        return _Address.model_validate({**dict(parse_qsl(parts.query)), "document_id": parts.path[1:]})
    except (ValueError, ValidationError) as error:
        raise NotFound("resource", uri) from error
