"""`/v1/models`: the assistants, as OpenAI's clients list what they can ask."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from app.api.contract import OPTIONAL_USER, openai_problems
from app.api.deps import Assistants, ViewerDep
from app.db.assistants import AssistantView

router = APIRouter(prefix="/models", tags=["openai"])

_PAGE = 200


@router.get("", responses=openai_problems(), openapi_extra=OPTIONAL_USER)
async def list_models(assistants: Assistants, viewer: ViewerDep) -> dict[str, Any]:
    """All that the bearer may ask."""
    found: list[AssistantView] = []
    after: str | None = None
    while page := await assistants.page(viewer, after=after, limit=_PAGE):
        found += page
        after = page[-1].slug
    return {"object": "list", "data": [_model(assistant) for assistant in found if assistant.is_enabled]}


@router.get("/{model}", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def get_model(
    model: Annotated[str, Path(max_length=100)], assistants: Assistants, viewer: ViewerDep
) -> dict[str, Any]:
    return _model(await assistants.get(model, viewer))


def _model(assistant: AssistantView) -> dict[str, Any]:
    return {
        "id": assistant.slug,
        "object": "model",
        "created": int(assistant.created_at.timestamp()),
        "owned_by": "freshet",
        "name": assistant.name,
        "description": assistant.description,
    }
