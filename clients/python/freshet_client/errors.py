"""What can go wrong.

FreshetError
  RequestRefused   the server said no: a status that is an error, and that waiting does not change
  Disconnected     the server could not be reached, or not again, within the time that is allowed
  AnswerFailed     the answer ended with an `error` event; raised where a whole answer is asked for
"""

from typing import Any

from .records import Answer


class FreshetError(Exception):
    """The root of the tree: catch this one to catch them all."""


class RequestRefused(FreshetError):
    """`code` and `detail` are those of docs/protocol.md, None where the answer was not Freshet's own, such as a proxy's."""

    def __init__(self, status: int, code: str | None, message: str, detail: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.code or 'without a code'})"


class Disconnected(FreshetError):
    """The answer may well go on: `resume(session_id, run_id, after=last_seq)` takes it up, once `session_id` is known."""

    def __init__(
        self, reason: str, *, session_id: str | None = None, run_id: str | None = None, last_seq: int = 0
    ) -> None:
        super().__init__(reason)
        self.session_id = session_id
        self.run_id = run_id
        self.last_seq = last_seq


class AnswerFailed(FreshetError):
    """`retryable` says whether asking again may help; `answer` holds what had been said."""

    def __init__(self, code: str, message: str, *, retryable: bool, answer: Answer) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.answer = answer
