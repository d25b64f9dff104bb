"""The failures we expect, in our words.

    FreshetError
    ├── InvalidInput            the request cannot be meant like this
    │   ├── DocumentRefused     a file that cannot be read, and why
    │   ├── ConnectorRefused    a source that cannot be kept in step with, and why
    │   └── IdempotencyMismatch the key has come with another request before
    ├── TooLarge
    ├── NotFound                there is none, or it is somebody else's
    ├── SessionErased           the conversation has been deleted while its answer was being made
    ├── Conflict
    │   ├── SessionBusy
    │   ├── SyncRunning
    │   └── SecretsUnreadable
    ├── Unauthenticated
    ├── Forbidden
    ├── Unavailable             not now; may be asked again
    │   ├── TooManyRequests
    │   │   ├── RateLimited
    │   │   └── BudgetExhausted
    │   ├── AtCapacity
    │   ├── ShuttingDown
    │   ├── Interrupted
    │   ├── ReaderTooSlow
    │   ├── AttachmentNotReady
    │   └── DatabaseUnavailable
    ├── ModelFailed             the language model or the embedder
    │   ├── ModelUnavailable
    │   ├── ModelRejected
    │   ├── ModelSilent
    │   ├── ModelIncomplete
    │   └── ShapeNotMet         what it wrote is not of the form that was asked for
    ├── ModelNeeded             only a language model could do this, and none is configured
    ├── AnswerNotStored
    └── StartupRefused          a setting or the database forbids to start

`code` is part of the public contract and stable; `message` is for people and may be shown to them, so it never
holds a secret, SQL, or the words of a library. Which status code an error becomes is decided in `api/errors.py`.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar


class FreshetError(Exception):
    """The root: catch it to catch all that is expected to go wrong."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class InvalidInput(FreshetError):
    code = "invalid_input"


class DocumentRefused(InvalidInput):
    """`reason` is a stable word (`empty`, `encrypted`, `broken`, `unsupported`, `no_text`, `too_large`, `timeout`, `memory`)."""

    code = "document_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, detail={"reason": reason})
        self.reason = reason


class ConnectorRefused(InvalidInput):
    """`reason` is a stable word (`address`, `unreachable`, `missing`, `forbidden`, `robots`, `redirect`, `empty`, `malformed`)."""

    code = "connector_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, detail={"reason": reason})
        self.reason = reason


class IdempotencyMismatch(InvalidInput):
    code = "idempotency_mismatch"

    def __init__(self) -> None:
        super().__init__(
            "This idempotency key has come with another request before. A retry repeats its request; a new request has a new key."
        )


class TooLarge(FreshetError):
    code = "too_large"


class NotFound(FreshetError):
    code = "not_found"

    def __init__(self, kind: str, identifier: object) -> None:
        super().__init__(f"There is no {kind} {identifier!s:.100}.")
        self.kind = kind


class SessionErased(FreshetError):
    code = "session_erased"

    def __init__(self) -> None:
        super().__init__("The conversation was deleted while this answer was being made.")


class Conflict(FreshetError):
    code = "conflict"


class SessionBusy(Conflict):
    code = "session_busy"
    retryable = True

    def __init__(self) -> None:
        super().__init__("This session is still answering. Wait for the answer to end, then ask again.")


class SyncRunning(Conflict):
    code = "sync_running"
    retryable = True

    def __init__(self) -> None:
        super().__init__("This connector is being synchronised already. Wait for the end, or cancel it.")


class SecretsUnreadable(Conflict):
    code = "secrets_unreadable"

    def __init__(self) -> None:
        super().__init__(
            "The secrets of this connector were encrypted under another SECRET_KEY. Set that one again, or give the secrets anew."
        )


class Unauthenticated(FreshetError):
    code = "unauthenticated"


class Forbidden(FreshetError):
    code = "forbidden"


class Unavailable(FreshetError):
    """`retry_after_s` is how long to wait before another try, in seconds."""

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(Unavailable):
    code = "too_many_requests"


class RateLimited(TooManyRequests):
    code = "rate_limited"

    def __init__(self, per_minute: int, *, retry_after_s: int) -> None:
        super().__init__(
            f"No more than {per_minute:,} questions a minute. Ask again in {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )


class BudgetExhausted(TooManyRequests):
    """`whose` is `assistant`, `user` or `visitor`, `period` `day` or `month`."""

    code = "budget_exhausted"

    def __init__(self, whose: str, period: str, resets_at: datetime, now: datetime) -> None:
        subject = "This assistant's budget" if whose == "assistant" else "Your budget"
        super().__init__(
            f"{subject} for the {period} is used up. It begins anew at {resets_at:%Y-%m-%d %H:%M} UTC.",
            retry_after_s=max(1, math.ceil((resets_at - now).total_seconds())),
        )
        self.detail = {"budget": whose, "period": period, "resets_at": resets_at.isoformat()}


class AtCapacity(Unavailable):
    code = "at_capacity"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class Interrupted(Unavailable):
    code = "interrupted"

    def __init__(self) -> None:
        super().__init__(
            "The server stopped before the answer was complete. What had been said is kept.", retry_after_s=2
        )


class ReaderTooSlow(Unavailable):
    """The reader, not the answer, is at its end: he may take it up again."""

    code = "reader_too_slow"

    def __init__(self) -> None:
        super().__init__(
            "This connection took the answer too slowly and is closed. Resume it behind the last event that came.",
            retry_after_s=1,
        )


class AttachmentNotReady(Unavailable):
    code = "attachment_not_ready"

    def __init__(self) -> None:
        super().__init__(
            "What is attached has not been read in time. It goes on being read: ask again in a moment.",
            retry_after_s=10,
        )


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class ModelFailed(FreshetError):
    code = "model_failed"
    retryable = True


class ModelUnavailable(ModelFailed):
    """It could not be reached, or said that it is overloaded or broken."""

    code = "model_unavailable"


class ModelRejected(ModelFailed):
    """It refused the request: a wrong key, an unknown model, a parameter it does not take."""

    code = "model_rejected"
    retryable = False


class ModelSilent(ModelFailed):
    """It took longer than the limit for its first or next token."""

    code = "model_timeout"


class ModelIncomplete(ModelFailed):
    """It broke off: the stream ended without a finish reason, with an error in it, or with what is not an answer."""

    code = "model_incomplete"


class ShapeNotMet(ModelFailed):
    """Told what was wrong, it did not put it right. `places` lead to what does not fit, by fields and by indices from 0."""

    code = "shape_not_met"

    def __init__(self, places: Sequence[Sequence[str | int]] = ()) -> None:
        super().__init__(
            "The language model did not write what was asked for in the form that it is to have, also when told what was wrong.",
            detail={"places": places},
        )


class ModelNeeded(FreshetError):
    code = "model_needed"

    def __init__(self) -> None:
        super().__init__("This needs a language model, and the built-in answerer is none.")


class AnswerNotStored(FreshetError):
    """The answer was made and sent, but the database did not take it within the limit."""

    code = "answer_not_stored"


class StartupRefused(FreshetError):
    code = "startup_refused"


def of_code(code: str, message: str) -> FreshetError:
    """An error as another process has told it."""
    kinds = [FreshetError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if vars(kind).get("code") == code), FreshetError)
    error = kind.__new__(kind)
    FreshetError.__init__(error, message)
    if isinstance(error, Unavailable):
        error.retry_after_s = 2
    return error
