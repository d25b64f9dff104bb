"""Signing in, users, and API keys."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.contract import Limit, cut, problems
from app.api.deps import Accounts, Admin, CurrentAccount
from app.api.errors import Problem
from app.api.text import Text
from app.errors import Forbidden
from app.services.accounts import EMAIL_PATTERN, MAX_EMAIL_CHARACTERS, TokenPair
from app.services.passwords import MAX_CHARACTERS, MIN_CHARACTERS
from app.services.viewer import Role

router = APIRouter()

Email = Annotated[str, StringConstraints(max_length=MAX_EMAIL_CHARACTERS, pattern=EMAIL_PATTERN)]
NewPassword = Annotated[str, Field(min_length=MIN_CHARACTERS, max_length=MAX_CHARACTERS)]
UserName = Annotated[Text, Field(max_length=200)]
RefreshToken = Annotated[str, Field(min_length=1, max_length=1_024)]

_SLOWED_DOWN: dict[int | str, dict[str, Any]] = {
    429: {
        "model": Problem,
        "description": "Too many logins have failed; the header Retry-After says when to try again, in seconds.",
    }
}


class TokensOut(BaseModel):
    """`expires_in` is of the access token, in seconds. The refresh token counts once."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # no password, but how the token is sent
    expires_in: int

    @classmethod
    def of(cls, pair: TokenPair) -> Self:
        return cls(**asdict(pair))


class RefreshTokenIn(BaseModel):
    refresh_token: RefreshToken


class AccountOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    role: Role


class UserOut(AccountOut):
    is_active: bool
    created_at: datetime


class UsersOut(BaseModel):
    """`next` is what to send as `cursor` for those that follow, and null at the end."""

    users: list[UserOut]
    next: str | None


class UserIn(BaseModel):
    email: Email
    password: NewPassword
    name: UserName = ""
    role: Role = "user"


class UserChange(BaseModel):
    """What is null or left out stays as it is."""

    name: UserName | None = None
    role: Role | None = None
    is_active: Annotated[bool, Field(strict=True)] | None = None
    password: NewPassword | None = None


class ApiKeyIn(BaseModel):
    name: Annotated[Text, Field(min_length=1, max_length=200)]


class ApiKeyOut(BaseModel):
    """`prefix` is how the key begins; `last_used_at` is kept to the minute."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None


class NewApiKeyOut(ApiKeyOut):
    """`key` is shown this once."""

    key: str


class ApiKeysOut(BaseModel):
    api_keys: list[ApiKeyOut]


@router.post("/auth/login", tags=["auth"], responses=problems(401, 422) | _SLOWED_DOWN)
async def login(
    request: Request,
    response: Response,
    accounts: Accounts,
    username: Annotated[Email, Form(description="The user's email address.")],
    password: Annotated[
        str, Form(min_length=1, max_length=MAX_CHARACTERS, json_schema_extra={"format": "password"})
    ],
) -> TokensOut:
    """The OAuth 2 password form. Slowed down after some failures, for the account and for the address that asks."""
    address = request.client.host if request.client is not None else "unknown"
    pair = await accounts.login(username, password, address)
    response.headers["cache-control"] = "no-store"
    return TokensOut.of(pair)


@router.post("/auth/refresh", tags=["auth"], responses=problems(401, 422))
async def refresh(response: Response, accounts: Accounts, body: RefreshTokenIn) -> TokensOut:
    """A new pair for a refresh token. A token that is sent twice ends the login that it comes from."""
    pair = await accounts.refresh(body.refresh_token)
    response.headers["cache-control"] = "no-store"
    return TokensOut.of(pair)


@router.post("/auth/logout", tags=["auth"], status_code=204, responses=problems(422))
async def logout(accounts: Accounts, body: RefreshTokenIn) -> None:
    """Ends the login that the refresh token comes from; the access token lives on for its minutes."""
    await accounts.logout(body.refresh_token)


@router.get("/users/me", tags=["users"], responses=problems(401))
async def read_me(account: CurrentAccount) -> AccountOut:
    return AccountOut.model_validate(account)


@router.get("/users", tags=["users"], responses=problems(401, 403, 422))
async def list_users(
    _: Admin,
    accounts: Accounts,
    limit: Limit = 100,
    cursor: Annotated[Email | None, Query(description="The `next` of the page before.")] = None,
) -> UsersOut:
    """In the order of their email addresses."""
    found = await accounts.list_users(after=cursor, limit=limit + 1)
    page, following = cut(found, limit, lambda user: user.email)
    return UsersOut(users=[UserOut.model_validate(user) for user in page], next=following)


@router.post("/users", tags=["users"], status_code=201, responses=problems(401, 403, 409, 422))
async def create_user(_: Admin, accounts: Accounts, body: UserIn) -> UserOut:
    user = await accounts.create_user(body.email, body.password, body.role, body.name)
    return UserOut.model_validate(user)


@router.patch("/users/{user_id:uuid}", tags=["users"], responses=problems(401, 403, 404, 409, 422))
async def change_user(_: Admin, accounts: Accounts, user_id: UUID, body: UserChange) -> UserOut:
    """A new password, or `is_active: false`, ends the user's logins. The last admin cannot be made anything else."""
    user = await accounts.change_user(
        user_id, name=body.name, role=body.role, is_active=body.is_active, password=body.password
    )
    return UserOut.model_validate(user)


@router.post("/api-keys", tags=["api-keys"], status_code=201, responses=problems(401, 422))
async def create_api_key(
    response: Response, account: CurrentAccount, accounts: Accounts, body: ApiKeyIn
) -> NewApiKeyOut:
    """The answer holds the key, this once; afterwards it cannot be read."""
    record, key = await accounts.create_api_key(account.id, body.name)
    response.headers["cache-control"] = "no-store"
    return NewApiKeyOut(**asdict(record), key=key)


@router.get("/api-keys", tags=["api-keys"], responses=problems(401, 403, 422))
async def list_api_keys(
    account: CurrentAccount,
    accounts: Accounts,
    user_id: Annotated[UUID | None, Query(description="Somebody else, for administrators.")] = None,
) -> ApiKeysOut:
    """Those that are not revoked, oldest first."""
    if user_id not in (None, account.id) and not account.is_admin:
        raise Forbidden("The keys of others are shown to administrators alone.")
    keys = await accounts.list_api_keys(user_id or account.id)
    return ApiKeysOut(api_keys=[ApiKeyOut.model_validate(key) for key in keys])


@router.delete("/api-keys/{key_id}", tags=["api-keys"], status_code=204, responses=problems(401, 404, 422))
async def revoke_api_key(account: CurrentAccount, accounts: Accounts, key_id: UUID) -> None:
    """One's own; for administrators, anybody's."""
    await accounts.revoke_api_key(account, key_id)
