"""The client for threads."""

import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, Unpack

import httpx

from . import requests
from .calls import UNLIMITED, Calling, Calls, Followed, Sending, record
from .collecting import Collecting
from .events import Event
from .following import Broken, Following
from .records import Answer, History, Sessions, Stopped
from .requests import QuestionOptions, Request
from .retry import Patience, Retry


class AnswerStream(Followed):
    """The events of one answer, each once and in order, to its `Done` or `Error`. Once entered, the question is stored."""

    def __init__(
        self, following: Following, sending: Callable[[Request], Sending], http: httpx.Client
    ) -> None:
        super().__init__(following, sending)
        self._http = http
        self._events = self._follow()

    def __enter__(self) -> Self:
        self._first = next(self._events, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        first, self._first = self._first, None
        return first or next(self._events)

    def _follow(self) -> Generator[Event]:
        following = self._following
        while not following.ended:
            try:
                with self._http.stream(**self._sending(following.next_request())) as response:
                    if response.status_code != 200:
                        pause_s = following.refused(response.status_code, response.headers, response.read())
                    else:
                        following.opened(response.headers)
                        for data in response.iter_bytes():
                            yield from following.received(data)
                            if following.ended:
                                return
                        pause_s = following.broke()
            except (httpx.RequestError, Broken) as error:
                pause_s = following.broke(error)
            time.sleep(pause_s)


class Freshet(Calls[AnswerStream]):
    """For any number of threads. Leave it, as a context manager or by `close`, when it is no longer needed."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        retry: Retry | None = None,
        silence_s: float = 45,
        http: httpx.Client | None = None,
    ) -> None:
        """`token` is an access token or an API key. An `http` of your own (proxies, TLS, tokens that expire) stays yours to close.

        A server that says nothing for `silence_s`, not even a heartbeat, is taken to be gone.
        """
        super().__init__(base_url, token=token, retry=retry, silence_s=silence_s)
        self._http = http or httpx.Client(limits=UNLIMITED)
        self._closes = http is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._closes:
            self._http.close()

    def ask(self, message: str, **options: Unpack[QuestionOptions]) -> Answer:
        """Ask, and wait for the whole answer. `AnswerFailed` if it fails."""
        collecting = Collecting()
        with self.stream(message, **options) as events:
            for event in events:
                collecting.add(event)
        return collecting.answer()

    def stop(self, session_id: str, run_id: str | None = None) -> Stopped:
        """Stop that answer, else whichever is being made in the session; what had been said is kept."""
        return record(Stopped, self._call(requests.stop(session_id, run_id)))

    def history(self, session_id: str, limit: int | None = None, before: str | None = None) -> History:
        """The newest messages of the session, up to `limit` of them, or those before a page."""
        return record(History, self._call(requests.history(session_id, limit, before)))

    def choose(self, session_id: str, message_id: str) -> None:
        """Show the branch of the conversation that has this message, and go on from there."""
        self._call(requests.choose(session_id, message_id))

    def forget(self, session_id: str, *, purge: bool = False) -> None:
        """Begin anew: the session's history is empty from now on; with `purge` what was said is erased as well."""
        self._call(requests.forget(session_id, purge=purge))

    def sessions(self, limit: int | None = None, cursor: str | None = None) -> Sessions:
        """The user's own sessions."""
        return record(Sessions, self._call(requests.sessions(limit, cursor)))

    def _open(self, following: Following) -> AnswerStream:
        return AnswerStream(following, self._sending, self._http)

    def _call(self, request: Request) -> httpx.Response:
        calling = Calling(Patience(self._retry))
        while True:
            try:
                response = self._http.request(**self._sending(request))
            except httpx.RequestError as error:
                pause_s = calling.broke(error)
            else:
                if response.is_success:
                    return response
                pause_s = calling.refused(response)
            time.sleep(pause_s)
