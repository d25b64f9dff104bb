"""`POST /v1/chat/completions`: an assistant as a model. The turn is the same, and so is its run; only its lines are written otherwise."""

import time
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field

from app import json_text
from app.api.contract import OPTIONAL_USER, openai_problems
from app.api.deps import Chat, Runs, SessionHistory, ViewerDep
from app.api.errors import openai_error, status_of
from app.api.model_parameters import Sampling, TokenCount
from app.api.openai.messages import Conversation, FreeChoice, Message, PlainText
from app.api.original import address
from app.api.streaming import SSE, EventStream
from app.api.text import Text
from app.errors import FreshetError, of_code
from app.runs.log import Lines
from app.services.chat import Asked

router = APIRouter(prefix="/chat", tags=["openai"])

_HEARTBEAT = b": heartbeat\n\n"
_TOKEN = b'{"type":"token"'
_CONTENT = b'"content":'
_FINISH_REASONS = {"stop", "length", "content_filter"}


class StreamOptions(BaseModel):
    include_usage: bool = False


class Completion(Sampling):
    """What is not named here is taken and ignored: what else there is to an answer is the assistant's."""

    model: Annotated[Text, Field(min_length=1, max_length=100, description="An assistant's slug or id.")]
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    n: Annotated[int | None, Field(ge=1, le=1, description="An assistant gives one answer.")] = None
    response_format: PlainText | None = None
    tool_choice: FreeChoice = None

    def asked(self, key: str | None) -> Asked:
        conversation = Conversation.of(self.messages)
        return Asked(
            message=conversation.question,
            assistant=self.model,
            history=conversation.history,
            instructions=conversation.instructions,
            parameters={**self.sampling(), **self._length()},
            idempotency_key=key,
        )

    def _length(self) -> dict[str, Any]:
        return self.model_dump(include={"max_tokens", "max_completion_tokens"}, exclude_none=True)


@router.post(
    "/completions",
    response_model=None,
    responses={
        200: {
            "description": "A `chat.completion`; streamed, its chunks as server-sent events.",
            "content": {"application/json": {}, SSE: {"schema": {"type": "string"}}},
        },
        **openai_problems(401, 404, 409, 413, 502, 504),
    },
    openapi_extra=OPTIONAL_USER,
)
async def complete(
    body: Completion,
    request: Request,
    viewer: ViewerDep,
    chat: Chat,
    runs: Runs,
    sessions: SessionHistory,
    key: Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{22,200}$")] = None,
) -> Response:
    """Ask an assistant as OpenAI's clients do. The conversation is what the request holds; a session of its own keeps it."""
    followed = await chat.begin(body.asked(key), viewer)
    files = f"{str(request.base_url).rstrip('/')}/api/v1/documents"
    if body.stream:
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        chunks = Chunks(
            followed.message_id, body.model, files, followed.session_id, include_usage=include_usage
        )
        return EventStream(followed, chunks)
    await runs.finished(followed)
    message = await sessions.message(followed.message_id)
    names = {source["id"]: source for source in message.sources}
    answer = {
        "id": _completion_id(message.id),
        "object": "chat.completion",
        "created": int(message.created_at.timestamp()),
        "model": body.model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": message.text,
                    "refusal": None,
                    "annotations": [
                        _annotation(citation, names, files, followed.session_id)
                        for citation in message.citations
                    ],
                    "sources": message.sources,
                },
                "logprobs": None,
                "finish_reason": _finish_reason(message.finish_reason or "stop"),
            }
        ],
        "usage": _usage(message.usage or {}),
    }
    return Response(
        json_text.encode(answer), headers={"x-session-id": followed.session_id}, media_type="application/json"
    )


class Chunks:
    """The lines of a run as `chat.completion.chunk`s: one for each piece of text, with a citation in `annotations` behind its mark."""

    content_type = f"{SSE}; charset=utf-8"

    def __init__(
        self, message_id: UUID, model: str, files: str, session_id: str, *, include_usage: bool
    ) -> None:
        head = {
            "id": _completion_id(message_id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._head = json_text.encode(head)[:-1]
        self._token = b'data: %b,"choices":[{"index":0,"delta":{"content":' % self._head
        self._files = files
        self._session_id = session_id
        self._include_usage = include_usage
        self._sources: dict[str, dict[str, Any]] = {}

    def write(self, batch: Lines) -> bytes:
        if not batch.lines:
            return _HEARTBEAT
        return b"".join(map(self._chunk, batch.lines))

    def cut(self, error: FreshetError, resume_after: int) -> bytes:  # noqa: ARG002  # these clients cannot resume
        return _error(error)

    def _chunk(self, line: bytes) -> bytes:
        if line.startswith(_TOKEN):
            content = line[line.index(_CONTENT) + len(_CONTENT) : -2]
            return b'%b%b},"logprobs":null,"finish_reason":null}]}\n\n' % (self._token, content)
        event = msgspec.json.decode(line)
        match event["type"]:
            case "start":
                return self._delta({"role": "assistant", "content": ""})
            case "sources":
                self._sources = {source["id"]: source for source in event["data"]}
                return self._delta({"sources": event["data"]})
            case "citation":
                return self._delta(
                    {"annotations": [_annotation(event, self._sources, self._files, self._session_id)]}
                )
            case "done":
                return self._end(event)
            case "error":
                return _error(of_code(event["code"], event["message"]))
            case _:
                return b""

    def _end(self, done: dict[str, Any]) -> bytes:
        end = self._delta({}, _finish_reason(done["finish_reason"]))
        if self._include_usage:
            usage = json_text.encode(_usage(done["usage"]))
            end += b'data: %b,"choices":[],"usage":%b}\n\n' % (self._head, usage)
        return end + b"data: [DONE]\n\n"

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return b'data: %b,"choices":[%b]}\n\n' % (self._head, json_text.encode(choice))


def _completion_id(message_id: UUID) -> str:
    return f"chatcmpl-{message_id.hex}"


def _finish_reason(reason: str) -> str:
    return reason if reason in _FINISH_REASONS else "stop"


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    read, said = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _error(error: FreshetError) -> bytes:
    told = openai_error(status_of(error), error.code, error.message)
    return b"data: %b\n\n" % json_text.encode(told)


def _annotation(
    citation: dict[str, Any], sources: dict[str, dict[str, Any]], files: str, session_id: str
) -> dict[str, Any]:
    """As these clients know a citation, of an address; and beside it what it is of, word for word."""
    source = sources.get(citation["source_id"], {})
    page = citation.get("page_label")
    file = address(files, citation["document_id"], session_id, page)
    return {
        "type": "url_citation",
        "url_citation": {
            "start_index": citation["start"],
            "end_index": citation["end"],
            "title": source.get("name", ""),
            "url": source.get("url") or file,
        },
        "file_citation": {
            "file_id": citation["document_id"],
            "filename": source.get("metadata", {}).get("file_name", ""),
            "index": citation["end"],
            "page_label": page,
            "quote": citation["quote"],
            "verified": citation["verified"],
        },
    }
