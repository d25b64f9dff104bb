"""`POST /mcp`: the Model Context Protocol over streamable HTTP. Each request is whole in itself, so that any process may answer it."""

from functools import cache
from importlib import import_module
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Request, Response
from starlette.requests import ClientDisconnect

from app.api.deps import ResourcesDep, ViewerDep
from app.errors import Forbidden, InvalidInput

router = APIRouter(tags=["mcp"], include_in_schema=False)


async def _known_origin(resources: ResourcesDep, origin: Annotated[str | None, Header()] = None) -> None:
    """Browsers tell where a page comes from: a name that was made to lead here does not get it in."""
    known = resources.settings.server.cors_origins
    if origin is not None and "*" not in known and origin.lower() not in known:
        raise Forbidden(
            "Pages of this origin are not let in here: its administrator may add it to CORS_ORIGINS."
        )


@router.post("/mcp", dependencies=[Depends(_known_origin)])
@router.post("/mcp/", dependencies=[Depends(_known_origin)])
async def exchange(request: Request, resources: ResourcesDep, viewer: ViewerDep) -> Response:
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise InvalidInput("The request broke off.") from error
    protocol = await to_thread.run_sync(_protocol)
    return protocol.Exchange(resources, viewer, body)


@cache
def _protocol() -> Any:
    """Imported when it is first asked for: the package takes a second, which would be one of each start."""
    return import_module("app.api.mcp.exchange")
