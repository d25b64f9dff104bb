"""Asking: a turn as a stream or as one JSON, taken up again, stopped, and asked once more."""

from base64 import b64decode
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import BaseModel, Field, TypeAdapter, model_validator

from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Chat, Runs, SessionHistory, ViewerDep
from app.api.errors import Problem
from app.api.streaming import NDJSON, SSE, EventStream, native
from app.api.text import Text
from app.api.v1.history import SessionId, StepView
from app.errors import InvalidInput
from app.llm.protocols import ChatMessage
from app.services.attachments import NewAttachment
from app.services.chat import Asked, AskedAgain, OnBusy
from app.services.sessions import step_tree

router = APIRouter(prefix="/chat", tags=["chat"])

_MAX_MESSAGE = 50_000

_MAX_SEQ = 2**31 - 1

Key = Annotated[
    str | None,
    Field(
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="The same key and request take up the same answer, and ask no model again. Anonymous and without "
        "a session: a UUID, or at least 22 characters.",
    ),
]
KeyHeader = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,200}$")]
Busy = Annotated[
    OnBusy,
    Field(
        description="When the session is still answering: `reject` the question, `queue` it, or stop the answer and `replace` it."
    ),
]
Language = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", max_length=35, description="BCP 47, such as en-US."
    ),
]
Accept = Annotated[str | None, Header()]


class HistoryItem(BaseModel):
    role: Literal["user", "assistant", "ai", "bot"]
    content: Annotated[Text, Field(max_length=_MAX_MESSAGE)]


class InlineAttachment(BaseModel):
    file_name: Annotated[Text, Field(min_length=1, max_length=255)]
    content_base64: Annotated[str, Field(min_length=1, description="The file's bytes, as RFC 4648 has it.")]

    def new(self) -> NewAttachment:
        """Raises `InvalidInput`."""
        try:
            return NewAttachment(self.file_name, b64decode(self.content_base64, validate=True))
        except ValueError as error:
            raise InvalidInput(f"The content of {self.file_name} is not base64.") from error


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
    language: Language = None
    history: Annotated[
        list[HistoryItem] | None,
        Field(max_length=100, description="Earlier messages, for this turn only, in place of the session's."),
    ] = None
    attachments: Annotated[
        list[UUID | InlineAttachment],
        Field(
            max_length=20,
            description="Ids of what is attached to the session, and small files; the answer waits until they have been read.",
        ),
    ] = []
    idempotency_key: Key = None
    on_busy: Busy = "reject"

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
        if not earlier:
            # The component sends its newest message alone: what was said before is in the session, if it names one.
            return {**body, "message": last.text}
        history = [{"role": message.role, "content": message.text} for message in earlier]
        return {**body, "message": last.text, "history": history}

    @model_validator(mode="after")
    def _is_not_blank(self) -> "Question":
        if not self.message.strip():
            raise ValueError("message must hold more than white space")
        return self

    def asked(self, key: str | None) -> Asked:
        history = self.history
        return Asked(
            message=self.message,
            assistant=self.assistant_id,
            session_id=self.session_id,
            language=self.language,
            history=None if history is None else tuple(_message(item) for item in history),
            attachments=tuple(one if isinstance(one, UUID) else one.new() for one in self.attachments),
            on_busy=self.on_busy,
            idempotency_key=_one_key(self.idempotency_key, key),
        )


class Again(BaseModel):
    """Another answer to the same question."""

    assistant_id: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="Left out: the one that answered before."),
    ] = None
    language: Language = None
    idempotency_key: Key = None
    on_busy: Busy = "reject"

    def asked(
        self,
        session_id: str,
        key: str | None,
        *,
        message_id: UUID | None,
        message: str | None = None,
    ) -> AskedAgain:
        return AskedAgain(
            session_id=session_id,
            message_id=message_id,
            message=message,
            assistant=self.assistant_id,
            language=self.language,
            on_busy=self.on_busy,
            idempotency_key=_one_key(self.idempotency_key, key),
        )


class Regenerate(Again):
    message_id: Annotated[
        UUID | None,
        Field(description="The question, or an answer to it. Left out: the newest question."),
    ] = None


class Edit(Again):
    message: Annotated[Text, Field(min_length=1, max_length=_MAX_MESSAGE, pattern=r"\S")]


class Stop(BaseModel):
    run_id: Annotated[UUID | None, Field(description="Left out: the answer that is being made.")] = None


class Stopped(BaseModel):
    """What became of the answer: `stopped`, or how it had ended before; all null if there is none."""

    run_id: UUID | None = None
    message_id: UUID | None = None
    status: str | None = None


class Answer(BaseModel):
    message_id: UUID
    session_id: str
    text: str
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]
    steps: list[StepView]
    usage: dict[str, Any] | None
    status: str


REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The assistant is for signed-in users."},
    404: {"model": Problem, "description": "No such assistant, or somebody else's session."},
    409: {"model": Problem, "description": "The session is still answering (`session_busy`)."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The request is malformed; `detail` says where."},
    429: {"model": Problem, "description": "Too many questions, or a budget is used up; see `Retry-After`."},
    503: {"model": Problem, "description": "Too much to do, or the database is away; see `Retry-After`."},
}
_STREAMED: dict[str, Any] = {
    "description": "The events of the answer, one JSON object a line (or server-sent events, when `Accept` asks for them). See docs/protocol.md.",
    "content": {NDJSON: {"schema": {"type": "string"}}, SSE: {"schema": {"type": "string"}}},
}


_STREAM: dict[str, Any] = {
    "status_code": 200,
    "response_class": EventStream,
    "responses": {200: _STREAMED, **REFUSED},
    "openapi_extra": OPTIONAL_USER,
}


@router.post("/stream", **_STREAM)
async def stream(
    question: Question, viewer: ViewerDep, chat: Chat, key: KeyHeader = None, accept: Accept = None
) -> EventStream:
    """Ask, and follow the answer as it is made. Leaving does not end it: it is finished and stored."""
    return EventStream(await chat.begin(question.asked(key), viewer), native(accept))


@router.post(
    "",
    responses={
        **REFUSED,
        502: {"model": Problem, "description": "The language model failed."},
        504: {"model": Problem, "description": "The language model did not answer in time."},
    },
    openapi_extra=OPTIONAL_USER,
)
async def ask(
    question: Question,
    viewer: ViewerDep,
    chat: Chat,
    runs: Runs,
    sessions: SessionHistory,
    key: KeyHeader = None,
) -> Answer:
    """Ask, and get the whole answer at once."""
    followed = await chat.begin(question.asked(key), viewer)
    await runs.finished(followed)
    message = await sessions.message(followed.message_id)
    return Answer(
        message_id=message.id,
        session_id=followed.session_id,
        text=message.text,
        sources=message.sources,
        citations=message.citations,
        steps=[StepView.model_validate(step) for step in step_tree(message.steps)],
        usage=message.usage,
        status=message.status,
    )


@router.get(
    "/{session_id}/stream",
    status_code=200,
    response_class=EventStream,
    responses={
        200: _STREAMED,
        204: {"description": "There is nothing to resume: no answer, or one that has been read to its end."},
        **problems(404, 422),
    },
    openapi_extra=OPTIONAL_USER,
)
async def resume(
    session_id: SessionId,
    viewer: ViewerDep,
    runs: Runs,
    run_id: Annotated[UUID | None, Query(description="Left out: the newest answer of the session.")] = None,
    after: Annotated[
        int | None, Query(ge=0, le=_MAX_SEQ, description="The `seq` of the last event that came.")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^[0-9]{1,9}$", description="The same, as an EventSource sends it.")
    ] = None,
    accept: Accept = None,
) -> Response:
    """Take up an answer behind the last event that came: what was missed, then live to its end, from whichever process, also when it has ended."""
    behind = after if after is not None else int(last_event_id or 0)
    resumed = await runs.resume(session_id, viewer, run_id=run_id, after=behind)
    if resumed is None:
        return Response(status_code=204)
    followed, behind = resumed
    return EventStream(followed, native(accept), after=behind)


@router.post("/{session_id}/stop", responses=problems(404, 422), openapi_extra=OPTIONAL_USER)
async def stop(
    session_id: SessionId, viewer: ViewerDep, runs: Runs, body: Annotated[Stop | None, Body()] = None
) -> Stopped:
    """End the answer: what has been said is kept as `stopped`. An answer that has ended stays as it is."""
    found = await runs.stop(session_id, viewer, run_id=body.run_id if body is not None else None)
    if found is None:
        return Stopped()
    row, status = found
    return Stopped(run_id=row.id, message_id=row.message_id, status=status)


@router.post("/{session_id}/regenerate", **_STREAM)
async def regenerate(
    session_id: SessionId,
    viewer: ViewerDep,
    chat: Chat,
    body: Annotated[Regenerate | None, Body()] = None,
    key: KeyHeader = None,
    accept: Accept = None,
) -> EventStream:
    """Answer a question again: the answer there was, and what followed it, stay as another branch."""
    body = body or Regenerate()
    asked = body.asked(session_id, key, message_id=body.message_id)
    return EventStream(await chat.begin_again(asked, viewer), native(accept))


@router.patch("/{session_id}/messages/{message_id}", **_STREAM)
async def edit(
    session_id: SessionId,
    message_id: UUID,
    body: Edit,
    viewer: ViewerDep,
    chat: Chat,
    key: KeyHeader = None,
    accept: Accept = None,
) -> EventStream:
    """Ask a question in other words: what it was, and what followed it, stay as another branch."""
    asked = body.asked(session_id, key, message_id=message_id, message=body.message)
    return EventStream(await chat.begin_again(asked, viewer), native(accept))


def _one_key(in_body: str | None, in_header: str | None) -> str | None:
    if in_body is not None and in_header is not None and in_body != in_header:
        raise InvalidInput("idempotency_key and the header Idempotency-Key differ: send one of them.")
    return in_body if in_body is not None else in_header


def _message(item: HistoryItem) -> ChatMessage:
    return ChatMessage("user" if item.role == "user" else "assistant", item.content)
