"""One answer, followed through all the connections that it takes. No I/O: a client sends what this says, and tells what came."""

import json
from collections.abc import Generator, Mapping
from typing import Any, cast

from . import requests
from .errors import Disconnected, RequestRefused
from .events import Cut, Done, Error, Event, Heartbeat, Start, decode
from .lines import LineSplitter
from .requests import Request
from .retry import Patience, is_passing, retry_after_s

_BROKE_OFF = "The stream broke off."


class Broken(Exception):
    """This connection will bring nothing more of use."""


class Following:
    """For each connection: `next_request`, then `refused`, or `opened`, `received` and in the end `broke`.

    Until `ended`, `refused` and `broke` tell how many seconds to wait before the next connection.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        question: Request | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        after: int = 0,
    ) -> None:
        """With a `question`, its answer from the beginning; without, what comes `after` that event of the session's run."""
        self._patience = patience
        self._question = question
        self._lines = LineSplitter()
        self._is_known_to_exist = False
        self.session_id = session_id
        self.run_id = run_id
        self.last_seq = after
        self.ended = False

    def next_request(self) -> Request:
        self._lines = LineSplitter()
        if self._question is not None and self.run_id is None:
            return self._question
        return requests.resume(self.session_id or "", self.run_id, self.last_seq)

    def opened(self, headers: Mapping[str, str]) -> None:
        """The status is 200."""
        self._is_known_to_exist = True
        self._is_about(headers.get("x-session-id"), headers.get("x-run-id"))

    def received(self, data: bytes) -> Generator[Event]:
        """The events that are new and next. `Broken` if nothing after them is of use."""
        for line in self._lines.feed(data):
            try:
                event = decode(line)
            except ValueError as error:
                raise Broken(str(error)) from error
            if isinstance(event, Heartbeat):
                self._patience.renew()
                continue
            if isinstance(event, Cut):
                raise Broken(event.message)
            if event.seq > self.last_seq + 1:
                raise Broken(f"Event {self.last_seq + 1} is missing.")
            # A run whose process was killed may end before what its readers have seen of it.
            self.ended = isinstance(event, Done | Error)
            if event.seq <= self.last_seq and not self.ended:
                continue
            self._patience.renew()
            self.last_seq = event.seq
            if isinstance(event, Start):
                self._is_about(event.session_id, event.run_id)
            yield event
            if self.ended:
                return

    def broke(self, reason: Exception | str = _BROKE_OFF) -> float:
        """Seconds until the next connection. `Disconnected` if it has been going on for too long."""
        pause_s = self._patience.pause_s()
        if pause_s is None:
            raise self._disconnected(told(reason))
        return pause_s

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> float:
        """The status is not 200. Seconds until the next connection; `RequestRefused` if none is of use."""
        if status != 204:
            return refused(self._patience, status, headers, body)
        if self._is_known_to_exist:
            raise self._disconnected("The server has nothing more of this answer.")
        self.ended = True
        return 0

    def _is_about(self, session_id: str | None, run_id: str | None) -> None:
        self.session_id = session_id or self.session_id
        self.run_id = run_id or self.run_id

    def _disconnected(self, reason: str) -> Disconnected:
        return Disconnected(reason, session_id=self.session_id, run_id=self.run_id, last_seq=self.last_seq)


def told(reason: Exception | str) -> str:
    """Some failures of a connection have no words of their own."""
    return str(reason) or type(reason).__name__


def refused(patience: Patience, status: int, headers: Mapping[str, str], body: bytes) -> float:
    """Seconds until the same request may be sent again. `RequestRefused` if that would be of no use."""
    pause_s = patience.pause_s(retry_after_s(headers)) if is_passing(status) else None
    if pause_s is None:
        raise _refusal(status, body)
    return pause_s


def _refusal(status: int, body: bytes) -> RequestRefused:
    try:
        body_read: Any = json.loads(body)
    except ValueError:
        body_read = None
    if not isinstance(body_read, dict) or "code" not in body_read:
        return RequestRefused(status, None, f"The server answered with status {status}.")
    problem = cast("dict[str, Any]", body_read)
    return RequestRefused(
        status, str(problem["code"]), str(problem.get("message", "")), problem.get("detail")
    )
