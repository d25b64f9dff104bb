"""`/v1/responses`: an assistant as a model of OpenAI's Responses. A response is an answer; what it goes on with, a session."""

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from app import json_text
from app.api.contract import OPTIONAL_USER, openai_problems
from app.api.deps import Chat, Conversations, Responses, Runs, ViewerDep
from app.api.openai import items
from app.api.openai.items import Order
from app.api.openai.response_events import ResponseEvents, item_id, response_id, response_of
from app.api.openai.response_requests import Before, NewResponse, begun
from app.api.streaming import SSE, EventStream
from app.api.text import Text
from app.db.runs import RunRow
from app.errors import NotFound
from app.llm.protocols import ChatMessage
from app.services.responses import ResponseService
from app.services.runs import RunService
from app.services.viewer import Viewer

router = APIRouter(prefix="/responses", tags=["openai"])

_RESPONSE_ID = re.compile(r"resp_([0-9a-f]{32})")
_MAX_NUMBER = 2**31 - 1
_ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A `response`; streamed, its events as server-sent events.",
        "content": {"application/json": {}, SSE: {"schema": {"type": "string"}}},
    }
}


async def _row(
    response_id: Annotated[Text, Path(max_length=100)], viewer: ViewerDep, responses: Responses
) -> RunRow:
    return await _found(response_id, viewer, responses)


Found = Annotated[RunRow, Depends(_row)]


@router.post(
    "",
    response_model=None,
    responses={**_ANSWERED, **openai_problems(401, 404, 409, 413, 502, 504)},
    openapi_extra=OPTIONAL_USER,
)
async def create(
    body: NewResponse,
    viewer: ViewerDep,
    chat: Chat,
    runs: Runs,
    responses: Responses,
    conversations: Conversations,
    key: Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{22,200}$")] = None,
) -> Response:
    """Ask an assistant as OpenAI's clients do: anew, behind an answer, or in a conversation."""
    body.check()
    known = await responses.messages(items.references(body.items), viewer)
    messages = items.messages_of(body.items, known, "input")
    if body.session_id is not None:
        await conversations.get(body.session_id, viewer)
    told = body.told()
    asked = body.asked(messages, await _before(body, viewer, responses), told, key)
    followed = await chat.begin(asked, viewer)
    # A request that has come before is told of as it was told then.
    told = followed.request["told"] if followed.request is not None else told
    response = begun(followed.message_id, followed.session_id, told)
    events = ResponseEvents(followed.message_id, response)
    if body.stream:
        return EventStream(followed, events)
    if not body.background:
        await runs.finished(followed)
        response = await response_of(events, followed.follow(after=0))
    return _json(response, followed.session_id)


@router.get(
    "/{response_id}",
    response_model=None,
    responses={**_ANSWERED, **openai_problems(404)},
    openapi_extra=OPTIONAL_USER,
)
async def retrieve(
    row: Found,
    runs: Runs,
    stream: bool = False,
    starting_after: Annotated[
        int, Query(ge=-1, le=_MAX_NUMBER, description="The `sequence_number` of the last event that came.")
    ] = -1,
) -> Response:
    """A response as it is now. Streamed: its events behind that number, then live to its end, from whichever process, also when it
    has ended."""
    if not stream:
        return _json(await _now(row, runs), row.session_id)
    events = ResponseEvents(row.message_id, _begun(row), starting_after=starting_after)
    return EventStream(runs.followed(row), events)


@router.post(
    "/{response_id}/cancel", response_model=None, responses=openai_problems(404), openapi_extra=OPTIONAL_USER
)
async def cancel(row: Found, viewer: ViewerDep, runs: Runs, responses: Responses) -> Response:
    """End the answer: what has been said is kept. One that has ended stays as it is."""
    stopped = await responses.stop(row, viewer)
    if stopped is None:
        raise NotFound("response", response_id(row.message_id))
    return _json(await _now(stopped, runs), row.session_id)


@router.delete("/{response_id}", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def delete(row: Found, viewer: ViewerDep, responses: Responses) -> dict[str, Any]:
    """Forget it by its id. What was said stays in its conversation, but for a session that its last response is deleted of."""
    await responses.delete(row, viewer, with_session=Before.of(row).is_own)
    return {"id": response_id(row.message_id), "object": "response", "deleted": True}


@router.get("/{response_id}/input_items", responses=openai_problems(404), openapi_extra=OPTIONAL_USER)
async def input_items(row: Found, responses: Responses, wanted: Annotated[Order, Query()]) -> dict[str, Any]:
    """What the response answers: the question, and what was sent along before it."""
    messages = await responses.input_of(row)
    if wanted.order == "desc":
        messages.reverse()
    if wanted.after is not None:
        ids = [item_id(message.id) for message in messages]
        messages = messages[ids.index(wanted.after) + 1 :] if wanted.after in ids else []
    return items.listed(messages, wanted.limit)


async def _found(identifier: str, viewer: Viewer, responses: ResponseService) -> RunRow:
    """Raises `NotFound`."""
    named = _RESPONSE_ID.fullmatch(identifier)
    row = await responses.find(UUID(named[1]), viewer) if named is not None else None
    if row is None:
        raise NotFound("response", identifier)
    return row


async def _before(body: NewResponse, viewer: Viewer, responses: ResponseService) -> Before:
    if body.previous_response_id is not None:
        row = await _found(body.previous_response_id, viewer, responses)
        said = [] if body.is_stored else await responses.conversation_up_to(row)
        return Before.of(
            row,
            tuple(ChatMessage("user" if m.role == "user" else "assistant", m.text) for m in said if m.text),
        )
    if body.session_id is not None:
        newest = await responses.newest_of(body.session_id)
        return Before(body.session_id, rules=Before.of(newest).rules if newest is not None else "")
    return Before()


def _begun(row: RunRow) -> dict[str, Any]:
    assert row.request, "a response is an answer of which the request is told"
    return begun(row.message_id, row.session_id, row.request["told"])


async def _now(row: RunRow, runs: RunService) -> dict[str, Any]:
    response = _begun(row)
    if row.is_open:
        return response
    return await response_of(ResponseEvents(row.message_id, response), runs.followed(row).follow(after=0))


def _json(response: dict[str, Any], session_id: str) -> Response:
    return Response(
        json_text.encode(response), headers={"x-session-id": session_id}, media_type="application/json"
    )
