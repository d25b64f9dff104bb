"""Assistants: who may see what of them, and how they are made and changed."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import answer_cache, assistants, collections
from app.db.assistants import Answerability, AssistantForTurn, AssistantView
from app.db.engine import Sessions
from app.db.identifiers import as_uuid
from app.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from app.services.viewer import Viewer

_SLUG_LENGTH = 64


class _Fields(TypedDict, total=False):
    """`collections` are names or ids. A `slug` of None is made from the name. `tools` are named `server/tool`. `top_k` is 0 to 50, `similarity_cutoff` -1 to 1."""

    slug: str | None
    description: str
    instructions: str
    context: str
    first_message: str
    response_shape: dict[str, Any] | None
    goal: str
    model: str | None
    model_parameters: dict[str, Any]
    tools: Sequence[str]
    user_authentication: bool
    is_enabled: bool
    top_k: int
    similarity_cutoff: float
    answerability: Answerability
    answer_cache_s: float | None
    answer_cache_similarity: float
    language: str | None
    unread_limit_s: float | None
    budget: dict[str, Any] | None
    collections: Sequence[str]


class NewAssistant(_Fields):
    name: str


class AssistantChange(_Fields, total=False):
    name: str


class AssistantService:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def get(self, identifier: str, viewer: Viewer) -> AssistantView:
        """To all but administrators, a disabled assistant is none. What of the rest they may see is not decided here."""
        async with self._sessions.begin() as session:
            assistant = await assistants.get(session, identifier)
        if assistant is None or not (assistant.is_enabled or _is_admin(viewer)):
            raise NotFound("assistant", identifier)
        return assistant

    async def usable(self, identifier: str, viewer: Viewer) -> AssistantForTurn:
        """The assistant, if it answers this viewer: it may ask for a user, and if disabled it answers administrators alone."""
        async with self._sessions.read() as session:
            return await usable_in(session, identifier, viewer)

    async def default(self) -> str:
        """Of those that are for everybody, the one that was made first. Raises `InvalidInput` if there is none."""
        async with self._sessions.read() as session:
            return await default_in(session)

    async def page(self, viewer: Viewer, *, after: str | None, limit: int) -> list[AssistantView]:
        """In the order of slugs, those that follow `after`."""
        async with self._sessions.begin() as session:
            return await assistants.page(
                session, after=after, limit=limit, enabled_only=not _is_admin(viewer)
            )

    async def create(self, **fields: Unpack[NewAssistant]) -> AssistantView:
        """Raises `Conflict` for a slug that is taken, `InvalidInput` for one that is malformed or for an unknown collection."""
        wanted = fields.pop("slug", None)
        if wanted is not None:
            _check_slug(wanted)
        async with self._sessions.begin() as session:
            collection_ids = await _collection_ids(session, fields.pop("collections", ()))
            candidates = [wanted] if wanted is not None else slugs(fields["name"])
            for slug in candidates:
                assistant_id = await assistants.insert_new(session, {**fields, "slug": slug})
                if assistant_id is not None:
                    break
            else:
                raise Conflict(f"There is an assistant {candidates[0]} already.")
            await assistants.set_collections(session, assistant_id, collection_ids)
            return await _stored(session, assistant_id)

    async def change(self, identifier: str, **fields: Unpack[AssistantChange]) -> AssistantView:
        """What is not named stays as it is. Raises as `create` does, and `NotFound`."""
        wanted = fields.pop("collections", None)
        slug = fields.get("slug")
        if slug is not None:
            _check_slug(slug)
        else:
            fields.pop("slug", None)
        async with self._sessions.begin() as session:
            assistant_id = await assistants.lock(session, identifier)
            if assistant_id is None:
                raise NotFound("assistant", identifier)
            if wanted is not None:
                await assistants.set_collections(
                    session, assistant_id, await _collection_ids(session, wanted)
                )
            await assistants.change(session, assistant_id, fields)
            await answer_cache.forget(session, assistant_id)
            return await _stored(session, assistant_id)

    async def delete(self, identifier: str) -> None:
        async with self._sessions.begin() as session:
            if not await assistants.remove(session, identifier):
                raise NotFound("assistant", identifier)


async def usable_in(session: AsyncSession, identifier: str, viewer: Viewer) -> AssistantForTurn:
    """`AssistantService.usable` within a transaction. Raises `NotFound` and `Unauthenticated`."""
    assistant = await assistants.for_turn(session, identifier)
    if assistant is None or not (assistant.is_enabled or _is_admin(viewer)):
        raise NotFound("assistant", identifier)
    if assistant.user_authentication and viewer.account is None:
        raise Unauthenticated(
            viewer.refusal or "This assistant needs a user: send an access token or an API key as a bearer."
        )
    return assistant


async def default_in(session: AsyncSession) -> str:
    """`AssistantService.default` within a transaction."""
    assistant_id = await assistants.oldest_public(session)
    if assistant_id is None:
        raise InvalidInput("No assistant is for everybody: name one as assistant_id.")
    return str(assistant_id)


def _is_admin(viewer: Viewer) -> bool:
    return viewer.account is not None and viewer.account.is_admin


def _check_slug(slug: str) -> None:
    if not assistants.SLUG.fullmatch(slug):
        raise InvalidInput(
            f"A slug is 1 to {_SLUG_LENGTH} of the characters a to z, 0 to 9 and the hyphen, unlike {slug!r:.100}."
        )
    if as_uuid(slug) is not None:
        raise InvalidInput(f"The slug {slug} reads as an id: assistants are named by either.")


def slugs(name: str) -> list[str]:
    """Slugs to try, the first one best."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:_SLUG_LENGTH].rstrip("-") or "assistant"
    if as_uuid(slug) is not None:
        slug = f"assistant-{slug}"
    return [slug, *(f"{slug[: _SLUG_LENGTH - 4]}-{number}" for number in range(2, 100))]


async def _collection_ids(session: AsyncSession, identifiers: Sequence[str]) -> list[UUID]:
    try:
        return await collections.hold(session, identifiers)
    except NotFound as error:
        raise InvalidInput(error.message) from error


async def _stored(session: AsyncSession, assistant_id: UUID) -> AssistantView:
    assistant = await assistants.get(session, str(assistant_id))
    assert assistant is not None
    return assistant
