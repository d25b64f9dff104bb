"""A client of Freshet whose streams reconnect by themselves: `Freshet` for threads, `AsyncFreshet` for asyncio."""

from .async_client import AsyncAnswerStream, AsyncFreshet
from .client import AnswerStream, Freshet
from .errors import AnswerFailed, Disconnected, FreshetError, RequestRefused
from .events import Citation, Conversation, Done, Error, Event, Sources, Start, Status, Step, Token, Unknown
from .records import (
    Answer,
    Cited,
    History,
    Message,
    ModelOfAnswer,
    Session,
    Sessions,
    Source,
    Stopped,
    TokenUsage,
)
from .retry import Retry

__all__ = [
    "Answer",
    "AnswerFailed",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncFreshet",
    "Citation",
    "Cited",
    "Conversation",
    "Disconnected",
    "Done",
    "Error",
    "Event",
    "Freshet",
    "FreshetError",
    "History",
    "Message",
    "ModelOfAnswer",
    "RequestRefused",
    "Retry",
    "Session",
    "Sessions",
    "Source",
    "Sources",
    "Start",
    "Status",
    "Step",
    "Stopped",
    "Token",
    "TokenUsage",
    "Unknown",
]
