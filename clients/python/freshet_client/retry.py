"""When to try again, and when to give up."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# What a proxy or a server says of itself, not of the request.
_PASSING_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retry:
    """The pause before each attempt is twice that before the last, less up to a half by chance.

    `give_up_after_s` counts from the first failure after the last sign of life: an event, or a heartbeat.
    """

    give_up_after_s: float = 60
    first_delay_s: float = 0.2
    longest_delay_s: float = 10


class Patience:
    """How long one answer, or one call, has been failing."""

    def __init__(self, retry: Retry, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry = retry
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0

    def renew(self) -> None:
        self._failures = 0

    def pause_s(self, at_least_s: float = 0) -> float | None:
        """Before the next attempt; None if it would come too late."""
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
        # Without a limit of time there may be more failures than a float has powers of two.
        doubled_s = self._retry.first_delay_s * 2 ** min(self._failures, 100)
        self._failures += 1
        by_chance_s = min(doubled_s, self._retry.longest_delay_s) * random.uniform(0.5, 1)  # noqa: S311  # it spreads load, and hides nothing
        pause_s = at_least_s + by_chance_s
        return None if now + pause_s - self._failing_since > self._retry.give_up_after_s else pause_s


def is_passing(status: int) -> bool:
    """Whether the same request may be answered a little later."""
    return status in _PASSING_STATUSES


def retry_after_s(headers: Mapping[str, str]) -> float:
    """What `Retry-After` asks for, in seconds or as a date; 0 if it asks for nothing that can be read."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0)
    except (ValueError, TypeError):
        return 0
