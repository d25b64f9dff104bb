"""The contract of a stream, for programs."""

from fastapi import APIRouter
from starlette.responses import Response

from app.event_schema import event_schema

router = APIRouter(prefix="/chat", tags=["chat"])

_MEDIA_TYPE = "application/schema+json"


class SchemaResponse(Response):
    media_type = _MEDIA_TYPE


_SCHEMA = event_schema()


@router.get("/events.schema.json", response_class=SchemaResponse)
async def events_schema() -> SchemaResponse:
    """The JSON Schema (draft 2020-12) of the events of a stream."""
    return SchemaResponse(_SCHEMA)
