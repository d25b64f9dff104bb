"""What answers have taken and cost, told to those who may know."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from app.db import assistants, usage
from app.db.engine import Sessions
from app.db.usage import By, Chosen, Sum
from app.errors import Forbidden, InvalidInput, NotFound
from app.services.viewer import Account

_LONGEST_DAYS = 3_660
_DAYS = 30
MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """From `since` to `until`, both days of UTC and both included; left out, the last 30 days to today. `assistant` is a slug or an id."""

    since: date | None = None
    until: date | None = None
    by: By = "day"
    assistant: str | None = None
    user_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """`rows` are the days in their order, else those with the most tokens first, `MOST_ROWS` at most; `total` is of all."""

    since: date
    until: date
    by: By
    rows: list[Sum]
    total: Sum


class UsageService:
    def __init__(self, database: Sessions) -> None:
        self._database = database

    async def told_to(self, account: Account, wanted: Wanted) -> UsageReport:
        """Administrators are told of all, users of what they have asked themselves. Raises as `report` does, and `Forbidden`."""
        if account.is_admin:
            return await self.report(wanted)
        if wanted.user_id not in (None, account.id):
            raise Forbidden("What others have used is told to administrators alone.")
        own = Wanted(wanted.since, wanted.until, wanted.by, wanted.assistant, account.id)
        return await self.report(own)

    async def report(self, wanted: Wanted) -> UsageReport:
        """Raises `InvalidInput` for a span that ends before it begins, or is too long, and `NotFound` for an unknown assistant."""
        until = wanted.until or datetime.now(UTC).date()
        since = wanted.since or until - timedelta(days=_DAYS - 1)
        days = (until - since).days + 1
        if not 1 <= days <= _LONGEST_DAYS:
            raise InvalidInput(
                f"From {since} to {until} are {days:,} days: at least 1, at most {_LONGEST_DAYS:,}."
            )
        async with self._database.read() as session:
            found = await assistants.get(session, wanted.assistant) if wanted.assistant is not None else None
            if wanted.assistant is not None and found is None:
                raise NotFound("assistant", wanted.assistant)
            chosen = Chosen(
                _midnight(since),
                _midnight(until) + timedelta(days=1),
                wanted.user_id,
                found.id if found is not None else None,
            )
            rows = await usage.sums(session, chosen, wanted.by, limit=MOST_ROWS)
            return UsageReport(since, until, wanted.by, rows, await usage.total(session, chosen))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
