"""Who may do what: users and their passwords, signing in, tokens and API keys."""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

from argon2 import Parameters
from argon2.profiles import RFC_9106_LOW_MEMORY
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import accounts, tables
from app.db.engine import Sessions
from app.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from app.services import passwords, tokens
from app.services.login_limits import LoginLimits
from app.services.passwords import Passwords
from app.services.tokens import AccessTokens
from app.services.viewer import Account, Role
from app.settings import SecuritySettings

MAX_EMAIL_CHARACTERS = 254
# What a browser takes in an email field; it also reads the same in JSON Schema. ASCII, so that no two addresses look alike.
EMAIL_PATTERN = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$"


@dataclass(frozen=True, slots=True)
class UserRecord(Account):
    is_active: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TokenPair:
    """`expires_in` is of the access token, in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    id: UUID
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None


def normal_email(email: str) -> str:
    """In small letters, without space around it; raises `InvalidInput` when it is no address."""
    email = email.strip()
    if len(email) > MAX_EMAIL_CHARACTERS or re.fullmatch(EMAIL_PATTERN, email) is None:
        raise InvalidInput("This is no email address.")
    return email.lower()


class AccountService:
    def __init__(
        self,
        sessions: Sessions,
        settings: SecuritySettings,
        secret: SecretStr,
        *,
        hashing: Parameters = RFC_9106_LOW_MEMORY,
    ) -> None:
        self._sessions = sessions
        self._limits = LoginLimits(settings)
        self._refresh_lifetime = timedelta(days=settings.refresh_token_days)
        self._passwords = Passwords(hashing)
        self._access_tokens = AccessTokens(secret, lifetime=timedelta(minutes=settings.access_token_minutes))

    async def create_user(self, email: str, password: str, role: Role, name: str = "") -> UserRecord:
        email = normal_email(email)
        passwords.check(password, email=email)
        password_hash = await self._passwords.hash(password)
        async with self._sessions.begin() as session:
            user = await accounts.add_user(
                session, email=email, name=name, role=role, password_hash=password_hash
            )
        if user is None:
            raise Conflict("There is a user with this email address already.")
        return _record(user)

    async def ensure_admin(self, email: str) -> tuple[UserRecord, str | None]:
        """The admin who has been it longest; when there is none, a new one, and the password that was made for it."""
        async with self._sessions.read() as session:
            admin = await accounts.an_active_admin(session)
        if admin is not None:
            return _record(admin), None
        password = secrets.token_urlsafe(15)
        try:
            return await self.create_user(email, password, "admin"), password
        except Conflict:
            # Another process that started with us was faster; or the address is a mere user's, who must not become admin unasked.
            async with self._sessions.read() as session:
                admin = await accounts.an_active_admin(session)
            if admin is None:
                raise
            return _record(admin), None

    async def find_user(self, email: str) -> UserRecord:
        async with self._sessions.read() as session:
            user = await accounts.user_by_email(session, normal_email(email))
        if user is None:
            raise NotFound("user", email)
        return _record(user)

    async def list_users(self, *, after: str | None = None, limit: int = 100) -> list[UserRecord]:
        """In the order of emails, those that follow `after`."""
        async with self._sessions.read() as session:
            return [_record(user) for user in await accounts.users(session, after=after, limit=limit)]

    async def change_user(
        self,
        user_id: UUID,
        *,
        name: str | None = None,
        role: Role | None = None,
        is_active: bool | None = None,
        password: str | None = None,
    ) -> UserRecord:
        """Changes what is given. A new password, or the end of being active, ends all logins of the user; access tokens live on for their minutes.

        Raises `Conflict` when no active admin would be left.
        """
        password_hash = await self._passwords.hash(password) if password is not None else None
        async with self._sessions.begin() as session:
            admins = await accounts.lock_active_admins(session)
            user = await accounts.lock_user(session, user_id)
            if user is None:
                raise NotFound("user", user_id)
            if name is not None:
                user.name = name
            if role is not None:
                user.role = role
            if is_active is not None:
                user.is_active = is_active
            if list(admins) == [user_id] and not (user.role == "admin" and user.is_active):
                raise Conflict("This is the only admin: make somebody else one before.")
            if password is not None and password_hash is not None:
                passwords.check(password, email=user.email)
                user.password_hash = password_hash
                await self._limits.clear(session, user.email)
            if password is not None or not user.is_active:
                await accounts.end_families_of(session, user.id)
            return _record(user)

    async def login(self, email: str, password: str, address: str) -> TokenPair:
        """Raises `Unauthenticated`, in the same words after the same time, for whatever does not fit; `TooManyRequests` for too many failures of late."""
        email = normal_email(email)
        async with self._sessions.begin() as session:
            await self._limits.count(session, email, address)
            user = await accounts.user_by_email(session, email)
        if not await self._passwords.matches(password, user.password_hash if user is not None else None):
            raise _login_failed()
        assert user is not None
        outdated = self._passwords.is_outdated(user.password_hash)
        rehashed = await self._passwords.hash(password) if outdated else None

        async with self._sessions.begin() as session:
            current = await accounts.lock_user(session, user.id)
            if current is None or not current.is_active:
                raise _login_failed()
            # Changed while the password was being verified: by another login that made a new hash of it, or to another password.
            if current.password_hash != user.password_hash:
                if not await self._passwords.matches(password, current.password_hash):
                    raise _login_failed()
            elif rehashed is not None:
                current.password_hash = rehashed
            pair = await self._hand_out(session, user.id, family_id=uuid4())
            await self._limits.succeeded(session, email, address)
        return pair

    async def refresh(self, refresh_token: str) -> TokenPair:
        """A new pair for the token, which counts once: seen again, it ends all that descend from the same login."""
        token_hash = tokens.digest(refresh_token)
        async with self._sessions.begin() as session:
            pair = await self._rotate(session, token_hash)
        if pair is None:
            raise tokens.refusal()
        return pair

    async def logout(self, refresh_token: str) -> None:
        """Ends all that descends from the same login; a token that does not count changes nothing."""
        token_hash = tokens.digest(refresh_token)
        async with self._sessions.begin() as session:
            token = await accounts.refresh_token(session, token_hash)
            if token is None:
                return
            await accounts.lock_user(session, token.user_id)
            await accounts.end_family(session, token.family_id)

    async def authenticate(self, credential: str) -> Account:
        """Whose access token or API key it is; raises `Unauthenticated`."""
        async with self._sessions.read() as session:
            if tokens.is_api_key(credential):
                user = await accounts.active_user_of_key(session, tokens.digest(credential))
            else:
                user = await accounts.active_user(session, self._access_tokens.user_id(credential))
        if user is None:
            raise tokens.refusal()
        return _account(user)

    async def create_api_key(self, user_id: UUID, name: str) -> tuple[ApiKeyRecord, str]:
        """The key itself is known only now."""
        key, prefix = tokens.new_api_key()
        async with self._sessions.begin() as session:
            row = await accounts.add_api_key(
                session, user_id=user_id, name=name, prefix=prefix, key_hash=tokens.digest(key)
            )
        return _api_key(row), key

    async def list_api_keys(self, user_id: UUID) -> list[ApiKeyRecord]:
        """Those that are not revoked, oldest first."""
        async with self._sessions.read() as session:
            return [_api_key(row) for row in await accounts.api_keys(session, user_id)]

    async def revoke_api_key(self, by: Account, key_id: UUID) -> None:
        """One's own; an admin anybody's."""
        owner_id = None if by.is_admin else by.id
        async with self._sessions.begin() as session:
            was_there = await accounts.revoke_api_key(session, key_id, owner_id=owner_id)
        if not was_there:
            raise NotFound("API key", key_id)

    async def _rotate(self, session: AsyncSession, token_hash: bytes) -> TokenPair | None:
        found = await accounts.refresh_token(session, token_hash)
        if found is None:
            return None
        user = await accounts.lock_user(session, found.user_id)
        # Once more, as it may have been used or revoked by whoever had the lock before.
        token = await accounts.refresh_token(session, token_hash)
        if token is not None and token.was_used:
            await accounts.end_family(session, token.family_id)
            return None
        if token is None or token.is_over or user is None or not user.is_active:
            return None
        await accounts.mark_refresh_token_used(session, token_hash)
        return await self._hand_out(session, user.id, family_id=token.family_id)

    async def _hand_out(self, session: AsyncSession, user_id: UUID, *, family_id: UUID) -> TokenPair:
        secret = tokens.new_secret()
        await accounts.add_refresh_token(
            session,
            user_id=user_id,
            family_id=family_id,
            token_hash=tokens.digest(secret),
            lifetime=self._refresh_lifetime,
        )
        expires_in = int(self._access_tokens.lifetime.total_seconds())
        return TokenPair(self._access_tokens.issue(user_id), secret, expires_in)


def _login_failed() -> Unauthenticated:
    return Unauthenticated("The email address or the password is wrong.")


def _account(user: tables.User) -> Account:
    return Account(user.id, user.email, user.name, cast(Role, user.role))


def _record(user: tables.User) -> UserRecord:
    return UserRecord(user.id, user.email, user.name, cast(Role, user.role), user.is_active, user.created_at)


def _api_key(row: tables.ApiKey) -> ApiKeyRecord:
    return ApiKeyRecord(row.id, row.name, row.prefix, row.created_at, row.last_used_at)
