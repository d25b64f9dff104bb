"""Asking: a turn as a stream or as one JSON, and the conversation afterwards."""

from datetime import datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query
from pydantic import BaseModel, Field, TypeAdapter, model_validator

from app.api.contract import OPTIONAL_USER
from app.api.deps import Chat, SessionHistory, ViewerDep
from app.api.errors import Problem
from app.api.streaming import NDJSON, SSE, EventStream, form_of
from app.api.text import Text
from app.db.conversations import StoredMessage
from app.llm.protocols import ChatMessage
from app.services.chat import Asked
from app.services.sessions import step_tree

router = APIRouter(prefix="/chat", tags=["chat"])

_MAX_MESSAGE = 50_000

SessionId = Annotated[str, Path(min_length=1, max_length=100, description="The session's id.")]


class HistoryItem(BaseModel):
    role: Literal["user", "assistant", "ai", "bot"]
    content: Annotated[Text, Field(max_length=_MAX_MESSAGE)]


class _DeepChatMessage(BaseModel):
    role: Literal["user", "ai"] = "user"
    text: str


_deep_chat_messages = TypeAdapter(list[_DeepChatMessage])


class Question(BaseModel):
    """A turn. What Deep Chat sends, `{"messages": [{"role": "user", "text": …}, …]}`, is read as well."""

    message: Annotated[Text, Field(min_length=1, max_length=_MAX_MESSAGE)]
    assistant_id: Annotated[
        str, Field(min_length=1, max_length=100, description="An assistant's slug or id.")
    ]
    session_id: Annotated[
        str | None,
        Field(
            max_length=100,
            description="Left out: a new session. Anonymous: a UUID, or at least 22 characters.",
        ),
    ] = None
    language: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$",
            max_length=35,
            description="BCP 47, such as en-US.",
        ),
    ] = None
    history: Annotated[
        list[HistoryItem] | None,
        Field(max_length=100, description="Earlier messages, for this turn only, in place of the session's."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _from_deep_chat(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "message" in data or "messages" not in data:
            return cast("object", data)
        body = cast("dict[str, Any]", data)
        try:
            *earlier, last = _deep_chat_messages.validate_python(body["messages"])
        except ValueError as error:
            raise ValueError(
                "messages must be a list of {role, text}, the last of which is the question"
            ) from error
        history = [{"role": message.role, "content": message.text} for message in earlier]
        return {**body, "message": last.text, "history": history}

    @model_validator(mode="after")
    def _is_not_blank(self) -> "Question":
        if not self.message.strip():
            raise ValueError("message must hold more than white space")
        return self

    def asked(self) -> Asked:
        history = self.history
        return Asked(
            message=self.message,
            assistant=self.assistant_id,
            session_id=self.session_id,
            language=self.language,
            history=None if history is None else tuple(_message(item) for item in history),
        )


class StepView(BaseModel):
    step_id: str
    parent_id: str | None
    step_type: str
    status: str
    duration: float | None
    tokens: dict[str, Any] | None
    metadata: dict[str, Any]
    sequence: int
    sub_steps: list["StepView"]


class Answer(BaseModel):
    message_id: UUID
    session_id: str
    text: str
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    steps: list[StepView]
    usage: dict[str, Any] | None
    status: str


class MessageView(BaseModel):
    id: UUID
    text: str
    sender: Literal["user", "bot"]
    status: str
    created_at: datetime
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    steps: list[StepView]
    visualization: dict[str, Any] | None
    usage: dict[str, Any] | None
    error_code: str | None = None


class History(BaseModel):
    messages: list[MessageView]
    next: Annotated[
        str | None, Field(description="Where the page before this one begins: pass it as `before`.")
    ]


class Said(BaseModel):
    message: str


_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The assistant is for signed-in users."},
    404: {"model": Problem, "description": "No such assistant, or somebody else's session."},
    409: {"model": Problem, "description": "The session is still answering (`session_busy`)."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The request is malformed; `detail` says where."},
    503: {"model": Problem, "description": "Too much to do, or the database is away; see `Retry-After`."},
}
_STREAMED: dict[str, Any] = {
    "description": "The events of the answer, one JSON object a line (or server-sent events, when `Accept` asks for them). See docs/protocol.md.",
    "content": {NDJSON: {"schema": {"type": "string"}}, SSE: {"schema": {"type": "string"}}},
}


@router.post(
    "/stream",
    status_code=200,
    response_class=EventStream,
    responses={200: _STREAMED, **_REFUSED},
    openapi_extra=OPTIONAL_USER,
)
async def stream(
    question: Question, viewer: ViewerDep, chat: Chat, accept: Annotated[str | None, Header()] = None
) -> EventStream:
    """Ask, and follow the answer as it is made. Leaving does not end it: it is finished and stored."""
    run = await chat.begin(question.asked(), viewer)
    return EventStream(run, chat.follow(run), form_of(accept))


@router.post(
    "",
    responses={
        **_REFUSED,
        502: {"model": Problem, "description": "The language model failed."},
        504: {"model": Problem, "description": "The language model did not answer in time."},
    },
    openapi_extra=OPTIONAL_USER,
)
async def ask(question: Question, viewer: ViewerDep, chat: Chat, sessions: SessionHistory) -> Answer:
    """Ask, and get the whole answer at once."""
    run = await chat.begin(question.asked(), viewer)
    await chat.finished(run)
    message = await sessions.message(run.message_id)
    return Answer(
        message_id=message.id,
        session_id=run.session_id,
        text=message.text,
        sources=message.sources,
        citations=message.citations,
        steps=[StepView.model_validate(step) for step in step_tree(message.steps)],
        usage=message.usage,
        status=message.status,
    )


@router.get(
    "/{session_id}/history",
    responses={code: _REFUSED[code] for code in (404, 422, 503)},
    openapi_extra=OPTIONAL_USER,
)
async def history(
    session_id: SessionId,
    viewer: ViewerDep,
    sessions: SessionHistory,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next` of the page after this one.")
    ] = None,
) -> History:
    """The messages of a session in time order, the newest `limit` of them first asked for."""
    page = await sessions.history(session_id, viewer, before=int(before) if before else None, limit=limit)
    following = str(page.next_before) if page.next_before is not None else None
    return History(messages=[_view(message) for message in page.messages], next=following)


@router.delete(
    "/{session_id}",
    responses={code: _REFUSED[code] for code in (404, 422, 503)},
    openapi_extra=OPTIONAL_USER,
)
async def forget(session_id: SessionId, viewer: ViewerDep, sessions: SessionHistory) -> Said:
    """Forget the conversation: its history is empty from now on, and later answers know nothing of it."""
    await sessions.forget(session_id, viewer)
    return Said(message="The conversation has been forgotten.")


def _message(item: HistoryItem) -> ChatMessage:
    return ChatMessage("user" if item.role == "user" else "assistant", item.content)


def _view(message: StoredMessage) -> MessageView:
    return MessageView(
        id=message.id,
        text=message.text,
        sender="user" if message.role == "user" else "bot",
        status=message.status,
        created_at=message.created_at,
        sources=message.sources,
        citations=message.citations,
        steps=[StepView.model_validate(step) for step in step_tree(message.steps)],
        visualization=message.visualization,
        usage=message.usage,
        error_code=message.error_code,
    )
