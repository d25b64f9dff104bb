"""`POST /chat/ui`: the turns of `useChat`, of Vercel's AI SDK, and their answers as its UI message stream."""

from base64 import b64decode
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api import ui_stream
from app.api.contract import OPTIONAL_USER, problems
from app.api.deps import Attachments, Chat, Runs, ViewerDep
from app.api.streaming import SSE, EventStream
from app.api.text import Text
from app.api.ui_stream import UIMessageStream
from app.api.v1.chat import REFUSED, Language
from app.api.v1.history import SessionId
from app.services.attachments import NewAttachment
from app.services.chat import Asked, AskedAgain, OnBusy
from app.services.runs import Followed
from app.services.viewer import Viewer

router = APIRouter(prefix="/chat/ui", tags=["chat"])

_LONGEST = 50_000
_MOST_FILES = 20
_READ = ("text", "file")
_STREAMED: dict[str, Any] = {
    "description": "The UI message stream of the answer. See docs/doors/ui.md.",
    "content": {SSE: {"schema": {"type": "string"}}},
}


class UIMessage(BaseModel):
    """Only of the last one is more than this looked at."""

    id: Annotated[Text, Field(max_length=100)] = ""
    role: Annotated[str, Field(max_length=20)]
    parts: list[Any] = []


class Part(BaseModel):
    type: Annotated[str, Field(max_length=100)]
    text: Text = ""
    url: str = ""
    filename: Annotated[Text | None, Field(max_length=255)] = None
    media_type: Annotated[str | None, Field(alias="mediaType", max_length=255)] = None

    def attachment(self) -> NewAttachment:
        """Raises `ValueError`."""
        head, comma, content = self.url.partition(",")
        if not comma or not head.startswith("data:"):
            raise ValueError("a file comes within its part, as a data: URL; other addresses are not fetched")
        try:
            read = (
                b64decode(content, validate=True) if head.endswith(";base64") else unquote_to_bytes(content)
            )
        except ValueError as error:
            raise ValueError("the data: URL of a file is not base64") from error
        return NewAttachment(self.filename or "attachment", read, self.media_type)


class _Question(UIMessage):
    parts: list[Part] = []

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.parts if part.type == "text")

    def attachments(self) -> tuple[NewAttachment, ...]:
        """Raises `ValueError`."""
        return tuple(part.attachment() for part in self.parts if part.type == "file")

    @property
    def unreadable(self) -> str | None:
        """The type of a part that would be lost. What an application adds for itself is its own."""
        types = (part.type for part in self.parts)
        return next((kind for kind in types if kind not in _READ and not kind.startswith("data-")), None)


class UITurn(BaseModel):
    """What `DefaultChatTransport` sends, and beside it which assistant is asked. The last message is the question; what was said
    before it is known from the session."""

    model_config = ConfigDict(validate_by_name=True)

    messages: Annotated[list[UIMessage], Field(min_length=1)]
    assistant_id: Annotated[
        str, Field(min_length=1, max_length=100, description="An assistant's slug or id.")
    ]
    id: Annotated[
        str | None,
        Field(max_length=100, description="The session. Anonymous: a UUID, or at least 22 characters."),
    ] = None
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: Annotated[
        Text | None, Field(alias="messageId", max_length=100, description="The message that is edited.")
    ] = None
    language: Language = None
    on_busy: Annotated[
        OnBusy,
        Field(
            description="When the session is still answering. Whoever asks again has stopped reading that answer: it is replaced."
        ),
    ] = "replace"

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> "UITurn":
        question = self.question
        if question.role != "user":
            raise ValueError("the last of the messages must be the user's")
        if question.unreadable is not None:
            raise ValueError(
                f"only text and files can be read here, and the last message has a part of type {question.unreadable}"
            )
        if not question.text.strip():
            raise ValueError("the last message holds no text")
        if len(question.text) > _LONGEST:
            raise ValueError(f"the last message is longer than {_LONGEST:,} characters")
        if len(question.attachments()) > _MOST_FILES:
            raise ValueError(f"the last message has more than {_MOST_FILES} files")
        return self

    @property
    def question(self) -> _Question:
        return _Question.model_validate(self.messages[-1].model_dump())

    @property
    def is_again(self) -> bool:
        return self.trigger == "regenerate-message" or self.message_id is not None


@router.post(
    "",
    status_code=200,
    response_class=EventStream,
    responses={200: _STREAMED, **REFUSED},
    openapi_extra=OPTIONAL_USER,
)
async def converse(
    body: UITurn, request: Request, viewer: ViewerDep, chat: Chat, attachments: Attachments
) -> EventStream:
    """Ask as `useChat` does, and follow the answer. A message that has come before takes up its answer; one that is edited, or
    answered again, begins another branch."""
    return _stream(await _begin(body, viewer, chat, attachments), request)


@router.get(
    "/{session_id}/stream",
    status_code=200,
    response_class=EventStream,
    responses={200: _STREAMED, 204: {"description": "No answer is being made."}, **problems(404, 422)},
    openapi_extra=OPTIONAL_USER,
)
async def resume(session_id: SessionId, request: Request, viewer: ViewerDep, runs: Runs) -> Response:
    """The answer that is being made, from its start."""
    followed = await runs.being_made(session_id, viewer)
    return _stream(followed, request) if followed is not None else Response(status_code=204)


async def _begin(body: UITurn, viewer: Viewer, chat: Chat, attachments: Attachments) -> Followed:
    question = body.question
    key = f"{body.id}/{question.id}" if body.id and question.id else None
    if body.is_again and body.id is not None and key is not None:
        before = await chat.question(body.id, viewer, message_id=_uuid(question.id), key=key)
        if before is not None:
            # Those that it came with are there already, and the same bytes are the same file.
            for attachment in question.attachments():
                await attachments.add(body.id, viewer, attachment)
            again = AskedAgain(
                session_id=body.id,
                message_id=before.id,
                message=question.text if question.text != before.text else None,
                assistant=body.assistant_id,
                language=body.language,
                on_busy=body.on_busy,
            )
            return await chat.begin_again(again, viewer)
    asked = Asked(
        message=question.text,
        assistant=body.assistant_id,
        session_id=body.id,
        language=body.language,
        attachments=question.attachments(),
        on_busy=body.on_busy,
        idempotency_key=key,
    )
    return await chat.begin(asked, viewer)


def _stream(followed: Followed, request: Request) -> EventStream:
    files = f"{str(request.base_url).rstrip('/')}/api/v1/documents"
    return EventStream(followed, UIMessageStream(files, followed.session_id), headers=ui_stream.HEADERS)


def _uuid(identifier: str) -> UUID | None:
    try:
        return UUID(identifier)
    except ValueError:
        return None
