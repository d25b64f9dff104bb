"""The contract of a stream, for programs."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from app.event_schema import event_schema

router = APIRouter(prefix="/chat", tags=["chat"])

_MEDIA_TYPE = "application/schema+json"
_SCHEMA = event_schema()
_IS_AN_OBJECT: dict[int | str, dict[str, Any]] = {
    200: {"content": {_MEDIA_TYPE: {"schema": {"type": "object"}}}}
}


class SchemaResponse(Response):
    media_type = _MEDIA_TYPE


@router.get("/events.schema.json", response_class=SchemaResponse, responses=_IS_AN_OBJECT)
async def events_schema() -> SchemaResponse:
    """The JSON Schema (draft 2020-12) of the events of a stream."""
    return SchemaResponse(_SCHEMA)
