"""What a turn is held to before it is accepted: how many are asked a minute, and budgets of tokens and cost."""

import asyncio
import hashlib
import hmac
import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import limits
from app.db.assistants import AssistantForTurn
from app.db.engine import Sessions
from app.db.limits import Spending
from app.errors import BudgetExhausted, DatabaseUnavailable, RateLimited
from app.services.login_limits import network_of
from app.services.viewer import Viewer
from app.settings import Budget, LimitSettings

logger = logging.getLogger(__name__)

_CLEANED_EVERY_S = 3600.0
_NOTHING = Spending(0, 0.0)


@dataclass(frozen=True, slots=True)
class _Account:
    """What is spent of a budget in its current period is counted under `name`."""

    name: str
    whose: str
    budget: Budget
    ends_at: datetime

    @classmethod
    def of(cls, subject: str, whose: str, budget: Budget, now: datetime) -> Self:
        begins = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if budget.period == "month":
            begins = begins.replace(day=1)
            ends_at = (begins + timedelta(days=31)).replace(day=1)
        else:
            ends_at = begins + timedelta(days=1)
        return cls(f"{subject}:{budget.period}:{begins:%Y-%m-%d}", whose, budget, ends_at)

    def is_exhausted(self, spent: Spending) -> bool:
        tokens, cost = self.budget.tokens, self.budget.cost
        return (tokens is not None and spent.tokens >= tokens) or (cost is not None and spent.cost >= cost)


class Limits:
    """A visitor is an address, of which a hash is kept under the server's secret. Without one it is asked from within, and free."""

    def __init__(self, database: Sessions, settings: LimitSettings, secret: SecretStr) -> None:
        self._database = database
        self._settings = settings
        self._key = secret.get_secret_value().encode()

    async def admit(
        self, session: AsyncSession, viewer: Viewer, assistant: AssistantForTurn
    ) -> tuple[str, ...]:
        """The accounts that the turn is charged to, always in the same order. Counts the turn in the transaction of its acceptance.

        Raises `RateLimited` and `BudgetExhausted`.
        """
        per_minute, own = self._of(viewer)
        if per_minute is None and own is None and assistant.budget is None:
            return ()
        subject = self._subject(viewer)
        if subject is not None and per_minute is not None:
            await _count(session, subject, per_minute)
        accounts = _accounts(subject, own, viewer, assistant)
        if accounts:
            spent = await limits.spent(session, [account.name for account in accounts])
            for account in accounts:
                if account.is_exhausted(spent.get(account.name, _NOTHING)):
                    raise BudgetExhausted(
                        account.whose, account.budget.period, account.ends_at, datetime.now(UTC)
                    )
        return tuple(account.name for account in accounts)

    def _of(self, viewer: Viewer) -> tuple[int | None, Budget | None]:
        """How many turns a minute this viewer may ask, and what they may use."""
        settings = self._settings
        if viewer.account is not None:
            return settings.user_turns_per_minute, settings.user_budget
        return settings.visitor_turns_per_minute, settings.visitor_budget

    def _subject(self, viewer: Viewer) -> str | None:
        """All keys and logins of a user count together: whoever makes one more key is not allowed more."""
        if viewer.account is not None:
            return f"user:{viewer.account.id}"
        if viewer.address is None:
            return None
        named = f"visitor\0{network_of(viewer.address)}".encode("utf-8", "replace")
        return f"visitor:{hmac.new(self._key, named, hashlib.sha256).hexdigest()[:32]}"

    async def forget_what_is_over(self) -> None:
        """For as long as the process serves."""
        while True:
            try:
                async with self._database.begin() as session:
                    await limits.forget_what_is_over(session)
            except DatabaseUnavailable:
                logger.info("the database cannot be reached; old counts are forgotten later")
            await asyncio.sleep(_CLEANED_EVERY_S)


async def _count(session: AsyncSession, subject: str, per_minute: int) -> None:
    wait_s = await limits.take(session, subject, per_minute=per_minute)
    if wait_s is not None:
        raise RateLimited(per_minute, retry_after_s=max(1, math.ceil(wait_s)))


def _accounts(
    subject: str | None, own: Budget | None, viewer: Viewer, assistant: AssistantForTurn
) -> list[_Account]:
    now = datetime.now(UTC)
    accounts: list[_Account] = []
    if assistant.budget is not None:
        budget = Budget.model_validate(assistant.budget)
        accounts.append(_Account.of(f"assistant:{assistant.id}", "assistant", budget, now))
    if subject is not None and own is not None:
        whose = "user" if viewer.account is not None else "visitor"
        accounts.append(_Account.of(subject, whose, own, now))
    return accounts
