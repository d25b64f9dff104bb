"""The calls of docs/protocol.md, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Required, TypedDict
from urllib.parse import quote
from uuid import uuid4


class _Options(TypedDict, total=False):
    language: str | None
    on_busy: Literal["reject", "queue", "replace"] | None
    idempotency_key: str | None


class QuestionOptions(_Options, total=False):
    """Beside the message. Without a `session_id` a new session begins."""

    assistant_id: Required[str]
    session_id: str | None
    history: Sequence[Mapping[str, str]] | None


class AgainOptions(_Options, total=False):
    """For another answer. Without an `assistant_id` it is the one that answered before."""

    assistant_id: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """`path` begins behind `/api/v1`."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def ask(message: str, options: QuestionOptions) -> Request:
    return _asking("POST", "/chat/stream", {"message": message, **options})


def regenerate(session_id: str, message_id: str | None, options: AgainOptions) -> Request:
    return _asking("POST", _of(session_id, "regenerate"), {"message_id": message_id, **options})


def edit(session_id: str, message_id: str, message: str, options: AgainOptions) -> Request:
    return _asking("PATCH", _of(session_id, "messages", message_id), {"message": message, **options})


def resume(session_id: str, run_id: str | None, after: int) -> Request:
    return Request("GET", _of(session_id, "stream"), query=_given({"run_id": run_id, "after": after}))


def stop(session_id: str, run_id: str | None) -> Request:
    return Request("POST", _of(session_id, "stop"), body=_given({"run_id": run_id}))


def history(session_id: str, limit: int | None, before: str | None) -> Request:
    return Request("GET", _of(session_id, "history"), query=_given({"limit": limit, "before": before}))


def choose(session_id: str, message_id: str) -> Request:
    return Request("POST", _of(session_id, "messages", message_id, "choose"))


def forget(session_id: str, *, purge: bool) -> Request:
    return Request("DELETE", _of(session_id), query={"purge": "true"} if purge else {})


def sessions(limit: int | None, cursor: str | None) -> Request:
    return Request("GET", "/sessions", query=_given({"limit": limit, "cursor": cursor}))


def _asking(method: str, path: str, fields: Mapping[str, Any]) -> Request:
    """Under a key, so that it may be sent again without being asked again."""
    body = _given(fields)
    headers = {"Idempotency-Key": body.pop("idempotency_key", None) or uuid4().hex}
    return Request(method, path, body=body, headers=headers)


def _of(session_id: str, *parts: str) -> str:
    return "/".join(["/chat", quote(session_id, safe=""), *(quote(part, safe="") for part in parts)])


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
