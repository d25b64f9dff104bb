"""Users, from the command line."""

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from rich.table import Table

from app.cli.database import engine_of, with_database
from app.cli.terminal import Terminal
from app.db.engine import Sessions
from app.errors import StartupRefused
from app.resources import secret_key
from app.services.accounts import AccountService
from app.services.tokens import AccessTokens
from app.settings import Settings

_T = TypeVar("_T")
_PAGE = 100


def add(email: str, *, admin: bool, password: str | None) -> None:
    chosen = password or _new_password()
    user = _with_accounts(lambda accounts: accounts.create_user(email, chosen, "admin" if admin else "user"))
    terminal = Terminal()
    terminal.verdict(f"{user.email} is there, as {user.role}.", good=True)
    if password is None:
        terminal.say(f"Password, shown only now: {chosen}")


def set_password(email: str, *, password: str | None) -> None:
    chosen = password or _new_password()

    async def change(accounts: AccountService) -> None:
        user = await accounts.find_user(email)
        await accounts.change_user(user.id, password=chosen)

    _with_accounts(change)
    terminal = Terminal()
    terminal.verdict(f"{email} has a new password.", good=True)
    if password is None:
        terminal.say(f"Password, shown only now: {chosen}")


def list_users() -> None:
    table = Table("email", "role", "active", "since", box=None, pad_edge=False, header_style="bold")

    async def fill(accounts: AccountService) -> None:
        after: str | None = None
        while users := await accounts.list_users(after=after, limit=_PAGE):
            for user in users:
                table.add_row(
                    user.email, user.role, "yes" if user.is_active else "no", f"{user.created_at:%Y-%m-%d}"
                )
            after = users[-1].email

    _with_accounts(fill)
    Terminal().console.print(table)


def token(email: str) -> None:
    async def issue(settings: Settings) -> str:
        async with engine_of(settings) as engine:
            secret = secret_key(settings)
            user = await AccountService(Sessions(engine), settings.security, secret).find_user(email)
        if not user.is_active:
            raise StartupRefused(f"{user.email} is not active, so no token of theirs would count.")
        lifetime = timedelta(minutes=settings.security.access_token_minutes)
        return AccessTokens(secret, lifetime=lifetime).issue(user.id)

    Terminal().say(with_database(issue))


def _with_accounts(work: Callable[[AccountService], Awaitable[_T]]) -> _T:
    async def opened(settings: Settings) -> _T:
        async with engine_of(settings) as engine:
            return await work(AccountService(Sessions(engine), settings.security, secret_key(settings)))

    return with_database(opened)


def _new_password() -> str:
    return secrets.token_urlsafe(15)
