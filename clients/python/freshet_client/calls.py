"""What the two clients have in common: all but the waiting."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import httpx

from . import requests
from .errors import Disconnected, RequestRefused
from .events import Event
from .following import Following, refused, told
from .records import read
from .requests import AgainOptions, QuestionOptions, Request
from .retry import Patience, Retry

_CONNECT_S = 10
# Each stream holds a connection, and none should wait for another to end.
UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=20)

Stream = TypeVar("Stream")
T = TypeVar("T")


class Sending(TypedDict):
    """What httpx is given."""

    method: str
    url: str
    params: Mapping[str, str | int]
    json: Any
    headers: Mapping[str, str]
    timeout: httpx.Timeout


class Followed:
    """What a stream knows of its answer: with these three, `resume` takes it up elsewhere."""

    def __init__(self, following: Following, sending: Callable[[Request], Sending]) -> None:
        self._following = following
        self._sending = sending
        # Came when the stream was entered, and was not asked for yet.
        self._first: Event | None = None

    @property
    def session_id(self) -> str | None:
        return self._following.session_id

    @property
    def run_id(self) -> str | None:
        return self._following.run_id

    @property
    def last_seq(self) -> int:
        """The `seq` of the last event that was given out."""
        return self._following.last_seq if self._first is None else self._first.seq - 1


class Calls(ABC, Generic[Stream]):
    def __init__(self, base_url: str, *, token: str | None, retry: Retry | None, silence_s: float) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"An address begins with http:// or https://, but {base_url!r} does not.")
        self._base_url = base_url.rstrip("/") + "/api/v1"
        # A proxy that compresses holds back what it has.
        self._headers = {"accept-encoding": "identity"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._retry = retry or Retry()
        self._timeout = httpx.Timeout(silence_s, connect=_CONNECT_S)

    def stream(self, message: str, **options: Unpack[QuestionOptions]) -> Stream:
        """Ask `assistant_id`, in a new session or in `session_id`."""
        return self._answer(requests.ask(message, options), options.get("session_id"))

    def regenerate(
        self, session_id: str, message_id: str | None = None, **options: Unpack[AgainOptions]
    ) -> Stream:
        """Answer again the question `message_id`, or the one that this is an answer to; else the newest."""
        return self._answer(requests.regenerate(session_id, message_id, options), session_id)

    def edit(self, session_id: str, message_id: str, message: str, **options: Unpack[AgainOptions]) -> Stream:
        """Ask the question `message_id` in other words, and go on from there."""
        return self._answer(requests.edit(session_id, message_id, message, options), session_id)

    def resume(self, session_id: str, run_id: str | None = None, after: int = 0) -> Stream:
        """The events after `after` of that run, else of the session's newest; none if there is nothing to resume."""
        following = Following(Patience(self._retry), session_id=session_id, run_id=run_id, after=after)
        return self._open(following)

    def _answer(self, question: Request, session_id: str | None) -> Stream:
        return self._open(Following(Patience(self._retry), question=question, session_id=session_id))

    @abstractmethod
    def _open(self, following: Following) -> Stream: ...

    def _sending(self, request: Request) -> Sending:
        return Sending(
            method=request.method,
            url=self._base_url + request.path,
            params=request.query,
            json=request.body,
            headers={**self._headers, **request.headers},
            timeout=self._timeout,
        )


class Calling:
    """One call that is answered at once. All of them may be made twice: what has been stopped or forgotten stays so."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def broke(self, error: httpx.RequestError) -> float:
        """Seconds until the next attempt. `Disconnected` if there is none."""
        pause_s = self._patience.pause_s()
        if pause_s is None:
            raise Disconnected(told(error)) from error
        return pause_s

    def refused(self, response: httpx.Response) -> float:
        """Seconds until the next attempt. `RequestRefused` if there is none."""
        return refused(self._patience, response.status_code, response.headers, response.content)


def record(kind: type[T], response: httpx.Response) -> T:
    try:
        return read(kind, response.json())
    except ValueError as error:
        raise RequestRefused(response.status_code, None, f"What came is no {kind.__name__}.") from error
