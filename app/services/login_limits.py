"""Slows guessing down: after some failures each further attempt has to wait, twice as long each time, up to a limit.

Counted are the accounts, existing or not, and the addresses that logins come from; in the database, so that all processes count together.
"""

import math
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import accounts
from app.db.accounts import PastFailures
from app.errors import TooManyRequests
from app.settings import SecuritySettings

# One address may be a whole office, or a proxy: it may fail more often than one account before it is slowed down.
_ADDRESS_ALLOWANCE = 10

# After so many times the longest wait, nothing is left of any count.
_KEPT_FOR_LOCKS = 100


def wait_s(past: PastFailures, *, free_attempts: int, lock_max_s: float) -> float:
    """How long until the next attempt may be made: 1 s when no free one is left, then twice as long after each failure."""
    beyond = failures_left(past, lock_max_s=lock_max_s) - free_attempts
    if beyond < 0:
        return 0.0
    return max(0.0, min(2.0 ** min(beyond, 32), lock_max_s) - past.since_s)


def failures_left(past: PastFailures, *, lock_max_s: float) -> int:
    """One failure is forgotten each `lock_max_s`."""
    return max(0, past.failures - int(past.since_s / lock_max_s))


class LoginLimits:
    def __init__(self, settings: SecuritySettings) -> None:
        self._free_attempts = settings.login_free_attempts
        self._lock_max_s = settings.login_lock_max_s

    async def count(self, session: AsyncSession, email: str, address: str) -> None:
        """Counts the attempt as failed, until it has succeeded: so those made at the same time do not get in on one count.

        Raises `TooManyRequests`, and counts nothing, while the account or the address has to wait.
        """
        free_attempts = {
            _of_account(email): self._free_attempts,
            _of_address(address): self._free_attempts * _ADDRESS_ALLOWANCE,
        }
        past = await accounts.lock_failures(session, list(free_attempts))
        longest_s = max(
            wait_s(past[subject], free_attempts=free, lock_max_s=self._lock_max_s)
            for subject, free in free_attempts.items()
        )
        if longest_s > 0:
            after_s = math.ceil(longest_s)
            raise TooManyRequests(
                f"Too many logins have failed. Try again in {after_s} s.", retry_after_s=after_s
            )
        for subject in free_attempts:
            failures = failures_left(past[subject], lock_max_s=self._lock_max_s)
            await accounts.set_failures(session, subject, failures + 1)

    async def succeeded(self, session: AsyncSession, email: str, address: str) -> None:
        """Clears the account. The address keeps its earlier failures: one account of one's own must not pay for guessing others."""
        await self.clear(session, email)
        await accounts.take_back_failure(session, _of_address(address))
        await accounts.forget_failures_before(session, timedelta(seconds=_KEPT_FOR_LOCKS * self._lock_max_s))

    async def clear(self, session: AsyncSession, email: str) -> None:
        await accounts.forget_failures(session, _of_account(email))


def _of_account(email: str) -> str:
    return f"account:{email}"


def _of_address(address: str) -> str:
    return f"address:{network_of(address)}"


def network_of(address: str) -> str:
    """An IPv6 address counts with its whole /64, as whoever has one has all of it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:100]
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Network((int(parsed), 64), strict=False))
    return str(parsed)
