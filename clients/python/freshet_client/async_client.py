"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Callable
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


class AsyncAnswerStream(Followed):
    """The events of one answer, each once and in order, to its `Done` or `Error`. Once entered, the question is stored."""

    def __init__(
        self, following: Following, sending: Callable[[Request], Sending], http: httpx.AsyncClient
    ) -> None:
        super().__init__(following, sending)
        self._http = http
        self._events = self._follow()

    async def __aenter__(self) -> Self:
        self._first = await anext(self._events, None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._events.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        first, self._first = self._first, None
        return first or await anext(self._events)

    async def _follow(self) -> AsyncGenerator[Event]:
        following = self._following
        while not following.ended:
            try:
                async with self._http.stream(**self._sending(following.next_request())) as response:
                    if response.status_code != 200:
                        pause_s = following.refused(
                            response.status_code, response.headers, await response.aread()
                        )
                    else:
                        following.opened(response.headers)
                        async for data in response.aiter_bytes():
                            for event in following.received(data):
                                yield event
                            if following.ended:
                                return
                        pause_s = following.broke()
            except (httpx.RequestError, Broken) as error:
                pause_s = following.broke(error)
            await asyncio.sleep(pause_s)


class AsyncFreshet(Calls[AsyncAnswerStream]):
    """For any number of tasks. Leave it, as a context manager or by `aclose`, when it is no longer needed."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        retry: Retry | None = None,
        silence_s: float = 45,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """`token` is an access token or an API key. An `http` of your own (proxies, TLS, tokens that expire) stays yours to close.

        A server that says nothing for `silence_s`, not even a heartbeat, is taken to be gone.
        """
        super().__init__(base_url, token=token, retry=retry, silence_s=silence_s)
        self._http = http or httpx.AsyncClient(limits=UNLIMITED)
        self._closes = http is None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._closes:
            await self._http.aclose()

    async def ask(self, message: str, **options: Unpack[QuestionOptions]) -> Answer:
        """Ask, and wait for the whole answer. `AnswerFailed` if it fails."""
        collecting = Collecting()
        async with self.stream(message, **options) as events:
            async for event in events:
                collecting.add(event)
        return collecting.answer()

    async def stop(self, session_id: str, run_id: str | None = None) -> Stopped:
        """Stop that answer, else whichever is being made in the session; what had been said is kept."""
        return record(Stopped, await self._call(requests.stop(session_id, run_id)))

    async def history(self, session_id: str, limit: int | None = None, before: str | None = None) -> History:
        """The newest messages of the session, up to `limit` of them, or those before a page."""
        return record(History, await self._call(requests.history(session_id, limit, before)))

    async def choose(self, session_id: str, message_id: str) -> None:
        """Show the branch of the conversation that has this message, and go on from there."""
        await self._call(requests.choose(session_id, message_id))

    async def forget(self, session_id: str, *, purge: bool = False) -> None:
        """Begin anew: the session's history is empty from now on; with `purge` what was said is erased as well."""
        await self._call(requests.forget(session_id, purge=purge))

    async def sessions(self, limit: int | None = None, cursor: str | None = None) -> Sessions:
        """The user's own sessions."""
        return record(Sessions, await self._call(requests.sessions(limit, cursor)))

    def _open(self, following: Following) -> AsyncAnswerStream:
        return AsyncAnswerStream(following, self._sending, self._http)

    async def _call(self, request: Request) -> httpx.Response:
        calling = Calling(Patience(self._retry))
        while True:
            try:
                response = await self._http.request(**self._sending(request))
            except httpx.RequestError as error:
                pause_s = calling.broke(error)
            else:
                if response.is_success:
                    return response
                pause_s = calling.refused(response)
            await asyncio.sleep(pause_s)
