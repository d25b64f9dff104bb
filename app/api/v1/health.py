"""Whether the process lives, and whether it should be sent requests."""

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from app.api.deps import ResourcesDep
from app.api.errors import Problem

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Problem, "description": "Not now; see `Retry-After`."}
}


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    return RedirectResponse("/docs")


@router.get("/healthz")
async def healthz() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz", responses=_NOT_READY)
async def readyz(resources: ResourcesDep) -> Alive:
    """The process takes turns: it is not about to stop, and the database answers at the schema it expects."""
    await resources.check_ready()
    return Alive()
