"""Users, logins, tokens and keys, on a real database; its clock is not waited for, but turned back in the rows."""

import base64
import hmac
import json
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import argon2
import pytest
from argon2.profiles import CHEAPEST, RFC_9106_LOW_MEMORY
from jose import jwt
from pydantic import SecretStr
from sqlalchemy import text, update

from app.db.accounts import PastFailures
from app.db.engine import Sessions
from app.db.tables import LoginFailures, User
from app.errors import (
    Conflict,
    FreshetError,
    InvalidInput,
    NotFound,
    StartupRefused,
    TooManyRequests,
    Unauthenticated,
)
from app.services.accounts import AccountService, UserRecord
from app.services.login_limits import failures_left, wait_s
from app.services.passwords import Passwords, _hash_of_nothing  # pyright: ignore[reportPrivateUsage]  # the time it takes is its parameters
from app.services.tokens import AccessTokens
from app.settings import SecuritySettings

SECRET = "0123456789abcdef0123456789abcdef"
PASSWORD = "correct horse"
HERE = "192.0.2.1"


def service(sessions: Sessions, *, hashing: argon2.Parameters = CHEAPEST, **settings: Any) -> AccountService:
    return AccountService(sessions, SecuritySettings(**settings), SecretStr(SECRET), hashing=hashing)


@pytest.fixture
def accounts(sessions: Sessions) -> AccountService:
    return service(sessions, login_free_attempts=3, login_lock_max_s=60)


@pytest.fixture
async def ada(accounts: AccountService) -> UserRecord:
    return await accounts.create_user("ada@example.com", PASSWORD, "user", "Ada")


async def run(sessions: Sessions, statement: str) -> list[Any]:
    async with sessions.begin() as session:
        result = await session.execute(text(statement))
        return list(result.scalars()) if result.returns_rows else []  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownArgumentType, reportUnknownMemberType]  # any statement


async def all_at_once(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What each returned, or the expected error that it raised."""
    outcomes: list[Any] = []

    async def one(call: Callable[[], Awaitable[Any]]) -> None:
        try:
            outcomes.append(await call())
        except FreshetError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(one, call)
    return outcomes


def kinds(outcomes: list[Any]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


async def fail_to_log_in(accounts: AccountService, email: str, times: int = 1, address: str = HERE) -> None:
    for _ in range(times):
        with pytest.raises(Unauthenticated):
            await accounts.login(email, "wrong horse", address)


async def test_an_address_belongs_to_one_user_however_it_is_written(
    accounts: AccountService, ada: UserRecord
) -> None:
    with pytest.raises(Conflict):
        await accounts.create_user(" ADA@Example.com ", PASSWORD, "user")
    assert await accounts.find_user("ADA@example.COM") == ada


async def test_what_is_no_address_is_refused(accounts: AccountService) -> None:
    bare = ("", "ada", "@example.com", "ada@", "a@b@c", f"{'a' * 251}@b.c")
    odd = ("a da@example.com", "ada@exämple.com", "ada@example.com\n.", "a\x00@b.c", "a@b..c", "\ud800@b.c")
    for email in (*bare, *odd):
        with pytest.raises(InvalidInput):
            await accounts.create_user(email, PASSWORD, "user")


async def test_a_password_that_would_be_guessed_or_is_endless_is_refused(
    accounts: AccountService, ada: UserRecord
) -> None:
    for password in ("", "1234567", "Ada@example.com", "x" * 1_025):
        with pytest.raises(InvalidInput):
            await accounts.change_user(ada.id, password=password)
        with pytest.raises(InvalidInput):
            await accounts.create_user("ada@example.com", password, "user")
    assert await accounts.login(ada.email, PASSWORD, HERE)


async def test_users_are_listed_page_by_page_in_the_order_of_their_addresses(
    accounts: AccountService,
) -> None:
    for email in ("c@x.y", "a@x.y", "b@x.y"):
        await accounts.create_user(email, PASSWORD, "user")
    assert [user.email for user in await accounts.list_users(limit=2)] == ["a@x.y", "b@x.y"]
    assert [user.email for user in await accounts.list_users(after="b@x.y")] == ["c@x.y"]


async def test_the_first_admin_is_made_once_with_a_password_that_works(accounts: AccountService) -> None:
    admin, password = await accounts.ensure_admin("Root@example.com")
    assert password is not None
    tokens = await accounts.login("root@example.com", password, HERE)
    assert (await accounts.authenticate(tokens.access_token)).id == admin.id
    assert admin.is_admin
    assert await accounts.ensure_admin("other@example.com") == (admin, None)


async def test_processes_that_start_together_make_one_admin(accounts: AccountService) -> None:
    outcomes = await all_at_once(*[lambda: accounts.ensure_admin("root@example.com")] * 4)
    assert len({admin.id for admin, _ in outcomes}) == 1
    assert sum(password is not None for _, password in outcomes) == 1


async def test_a_user_with_the_admins_address_is_not_made_admin(
    accounts: AccountService, ada: UserRecord
) -> None:
    with pytest.raises(Conflict):
        await accounts.ensure_admin(ada.email)


async def test_the_only_admin_stays_one_but_may_change_otherwise(
    accounts: AccountService, ada: UserRecord
) -> None:
    admin, _ = await accounts.ensure_admin("root@example.com")
    with pytest.raises(Conflict):
        await accounts.change_user(admin.id, role="user")
    with pytest.raises(Conflict):
        await accounts.change_user(admin.id, is_active=False)
    assert (await accounts.change_user(admin.id, name="Root")).name == "Root"
    await accounts.change_user(ada.id, role="admin")
    assert (await accounts.change_user(admin.id, role="user")).role == "user"


async def test_two_admins_that_demote_each_other_leave_one(accounts: AccountService) -> None:
    one = await accounts.create_user("one@example.com", PASSWORD, "admin")
    other = await accounts.create_user("other@example.com", PASSWORD, "admin")
    outcomes = await all_at_once(
        lambda: accounts.change_user(one.id, role="user"),
        lambda: accounts.change_user(other.id, is_active=False),
    )
    assert kinds(outcomes) == {"Conflict": 1, "UserRecord": 1}


async def test_who_is_not_there_cannot_be_changed_or_found(accounts: AccountService) -> None:
    with pytest.raises(NotFound):
        await accounts.change_user(uuid4(), name="Nobody")
    with pytest.raises(NotFound):
        await accounts.find_user("nobody@example.com")


async def test_an_inactive_user_gets_in_nowhere_until_active_again(
    accounts: AccountService, ada: UserRecord
) -> None:
    tokens = await accounts.login(ada.email, PASSWORD, HERE)
    _, key = await accounts.create_api_key(ada.id, "script")
    await accounts.change_user(ada.id, is_active=False)
    for attempt in (
        lambda: accounts.authenticate(tokens.access_token),
        lambda: accounts.authenticate(key),
        lambda: accounts.refresh(tokens.refresh_token),
        lambda: accounts.login(ada.email, PASSWORD, HERE),
    ):
        with pytest.raises(Unauthenticated):
            await attempt()

    await accounts.change_user(ada.id, is_active=True)
    assert (await accounts.authenticate(key)).id == ada.id
    with pytest.raises(Unauthenticated):
        await accounts.refresh(tokens.refresh_token)
    assert await accounts.login(ada.email, PASSWORD, HERE)


async def test_nothing_tells_an_unknown_account_from_a_wrong_password(
    accounts: AccountService, ada: UserRecord
) -> None:
    told: list[tuple[str, str]] = []
    for email in (ada.email, "nobody@example.com"):
        for _ in range(4):
            with pytest.raises((Unauthenticated, TooManyRequests)) as refused:
                await accounts.login(email, "wrong horse", HERE)
            told.append((refused.value.code, refused.value.message))
    assert told[:4] == told[4:]
    assert told[3][0] == "too_many_requests"


@pytest.mark.parametrize("parameters", [CHEAPEST, RFC_9106_LOW_MEMORY])
async def test_without_a_user_the_same_work_is_done_in_vain(parameters: argon2.Parameters) -> None:
    assert argon2.extract_parameters(_hash_of_nothing(parameters)) == parameters
    assert not await Passwords(CHEAPEST).matches("", None)


async def test_a_password_counts_however_the_keyboard_composes_it(accounts: AccountService) -> None:
    password = unicodedata.normalize("NFC", "Müllerstraße")
    await accounts.create_user("m@example.com", password, "user")
    assert await accounts.login("m@example.com", unicodedata.normalize("NFD", password), HERE)
    await fail_to_log_in(accounts, "m@example.com")


async def test_a_password_that_is_no_text_is_a_wrong_one(accounts: AccountService, ada: UserRecord) -> None:
    with pytest.raises(Unauthenticated):
        await accounts.login(ada.email, "\ud800\x00", HERE)


async def test_a_login_renews_a_hash_of_other_parameters(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    stronger = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    renewing = service(sessions, hashing=argon2.extract_parameters(stronger.hash("")))
    outcomes = await all_at_once(*[lambda: renewing.login(ada.email, PASSWORD, HERE)] * 3)
    assert not [outcome for outcome in outcomes if isinstance(outcome, FreshetError)]
    assert not stronger.check_needs_rehash((await run(sessions, "SELECT password_hash FROM users"))[0])
    assert await renewing.login(ada.email, PASSWORD, HERE)


async def test_a_new_password_ends_the_logins_and_the_old_one(
    accounts: AccountService, ada: UserRecord
) -> None:
    tokens = await accounts.login(ada.email, PASSWORD, HERE)
    await accounts.change_user(ada.id, password="battery staple")
    with pytest.raises(Unauthenticated):
        await accounts.refresh(tokens.refresh_token)
    with pytest.raises(Unauthenticated):
        await accounts.login(ada.email, PASSWORD, HERE)
    assert await accounts.login(ada.email, "battery staple", HERE)


async def test_a_password_that_changes_while_it_is_verified_does_not_get_in(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    other = argon2.PasswordHasher.from_parameters(CHEAPEST).hash("battery staple")
    outcomes: list[Any] = []

    async def log_in() -> None:
        outcomes.extend(await all_at_once(lambda: accounts.login(ada.email, PASSWORD, HERE)))

    async with anyio.create_task_group() as group, sessions.begin() as session:
        # Whoever logs in has read the old hash, verifies against it, and then waits for this row.
        await session.execute(text("UPDATE users SET password_hash = :hash"), {"hash": other})
        group.start_soon(log_in)
        with anyio.fail_after(5):
            while not await run(
                sessions, "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            ):
                await anyio.lowlevel.checkpoint()
    assert kinds(outcomes) == {"Unauthenticated": 1}


@pytest.mark.parametrize(
    ("failures", "since_s", "waits_s"),
    [
        (0, 0, 0),
        (4, 0, 0),
        (5, 0, 1),
        (6, 0, 2),
        (9, 0, 16),
        (9, 6, 10),
        (9, 16, 0),
        (50, 0, 900),
        (10**9, 0, 900),
        (10**9, 900, 0),
    ],
)
def test_each_failure_beyond_the_free_ones_doubles_the_wait_up_to_the_limit(
    failures: int, since_s: float, waits_s: float
) -> None:
    assert wait_s(PastFailures(failures, since_s), free_attempts=5, lock_max_s=900) == waits_s


def test_a_failure_is_forgotten_each_time_that_the_longest_wait_has_passed() -> None:
    left = [
        failures_left(PastFailures(3, since_s), lock_max_s=900) for since_s in (0, 899, 900, 2_700, 10**9)
    ]
    assert left == [3, 3, 2, 0, 0]


async def test_after_the_free_failures_even_the_right_password_waits(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await fail_to_log_in(accounts, ada.email, times=3)
    with pytest.raises(TooManyRequests) as refused:
        await service(sessions, login_free_attempts=3).login(ada.email, PASSWORD, "203.0.113.9")
    assert refused.value.retry_after_s == 1
    await let_pass(sessions, 1)
    await fail_to_log_in(accounts, ada.email)
    with pytest.raises(TooManyRequests) as refused:
        await accounts.login(ada.email, PASSWORD, HERE)
    assert refused.value.retry_after_s == 2
    await let_pass(sessions, 2)
    assert await accounts.login(ada.email, PASSWORD, HERE)


async def test_a_login_clears_the_count_of_its_account(accounts: AccountService, ada: UserRecord) -> None:
    for _ in range(3):
        await fail_to_log_in(accounts, ada.email, times=2)
        assert await accounts.login(ada.email, PASSWORD, HERE)


async def test_a_new_password_clears_the_count(accounts: AccountService, ada: UserRecord) -> None:
    await fail_to_log_in(accounts, ada.email, times=3)
    await accounts.change_user(ada.id, password="battery staple")
    assert await accounts.login(ada.email, "battery staple", HERE)


async def test_attempts_that_race_count_each(accounts: AccountService, ada: UserRecord) -> None:
    guesses = [lambda: accounts.login(ada.email, "wrong horse", HERE)] * 12
    assert kinds(await all_at_once(*guesses)) == {"Unauthenticated": 3, "TooManyRequests": 9}


async def test_who_must_wait_waits_no_longer_for_having_tried(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await fail_to_log_in(accounts, ada.email, times=3)
    before = await run(sessions, "SELECT login_failures::text FROM login_failures ORDER BY subject")
    for _ in range(5):
        with pytest.raises(TooManyRequests):
            await accounts.login(ada.email, PASSWORD, HERE)
    assert await run(sessions, "SELECT login_failures::text FROM login_failures ORDER BY subject") == before


async def test_nobody_is_locked_out_for_longer_than_the_limit(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await fail_to_log_in(accounts, ada.email)
    await run(sessions, "UPDATE login_failures SET failures = 1000000")
    with pytest.raises(TooManyRequests) as refused:
        await accounts.login(ada.email, PASSWORD, HERE)
    assert refused.value.retry_after_s == 60
    await let_pass(sessions, 60)
    assert await accounts.login(ada.email, PASSWORD, HERE)


async def test_an_address_that_tries_many_accounts_is_slowed_down_and_no_other(
    sessions: Sessions, ada: UserRecord
) -> None:
    accounts = service(sessions, login_free_attempts=1)
    for number in range(5):
        await fail_to_log_in(accounts, f"{number}@example.com", address="2001:db8::1")
        await fail_to_log_in(accounts, f"1{number}@example.com", address="2001:db8::2:0")
    with pytest.raises(TooManyRequests):
        await accounts.login(ada.email, PASSWORD, "2001:db8::3")
    assert await accounts.login(ada.email, PASSWORD, "2001:db8:0:1::1")


async def test_a_login_takes_back_nothing_but_itself_from_its_address(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await fail_to_log_in(accounts, "nobody@example.com", times=2, address="::ffff:192.0.2.1")
    await accounts.login(ada.email, PASSWORD, HERE)
    counts = await run(sessions, "SELECT subject || ' ' || failures FROM login_failures ORDER BY subject")
    assert counts == ["account:nobody@example.com 2", "address:192.0.2.1 2"]


async def test_counts_of_long_ago_are_swept_away(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await fail_to_log_in(accounts, "nobody@example.com", address="unknown")
    await let_pass(sessions, 60 * 101)
    await accounts.login(ada.email, PASSWORD, HERE)
    assert await run(sessions, "SELECT subject FROM login_failures") == ["address:192.0.2.1"]


async def let_pass(sessions: Sessions, seconds: int) -> None:
    async with sessions.begin() as session:
        earlier = LoginFailures.last_failed_at - timedelta(seconds=seconds)
        await session.execute(update(LoginFailures).values(last_failed_at=earlier))


FORGED = UUID(int=1)


async def become(sessions: Sessions, user: UserRecord, user_id: UUID) -> None:
    async with sessions.begin() as session:
        await session.execute(update(User).where(User.id == user.id).values(id=user_id))


def signed(key: str = SECRET, algorithm: str = "HS256", without: str = "", **changes: Any) -> str:
    """A token as they are made here, but for the changes."""
    now = datetime.now(UTC)
    claims: dict[str, Any] = {
        "iss": "freshet",
        "aud": "freshet",
        "sub": str(FORGED),
        "iat": now,
        "exp": now + timedelta(hours=5),
        "jti": "1",
        "type": "access",
    }
    claims = {name: value for name, value in (claims | changes).items() if name != without}
    return jwt.encode(claims, key, algorithm=algorithm)


def under(header: str, *, sign: bool = False) -> str:
    """The claims of a right token under another header, without a signature, or with the one that HS256 would give."""
    body = f"{_encoded(header.encode())}.{signed().split('.')[1]}"
    signature = hmac.digest(SECRET.encode(), body.encode(), "sha256") if sign else b""
    return f"{body}.{_encoded(signature)}"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


WRONG_TOKENS = {
    "none": under('{"alg":"none","typ":"JWT"}'),
    "none, and signed": under('{"alg":"none","typ":"JWT"}', sign=True),
    "algorithm misnamed": under('{"alg":"HS512","typ":"JWT"}', sign=True),
    "no algorithm": under('{"typ":"JWT"}'),
    "a list of algorithms": under('{"alg":["HS256"]}'),
    "header is no object": under("[]"),
    "header nested too deep": under("[" * 300),
    "header nested far too deep": under("[" * 5_000),
    "other algorithm": signed(algorithm="HS512"),
    "other key": signed(key="f" * 32),
    "signature cut off": signed().rsplit(".", 1)[0] + ".",
    "claims of another": ".".join(
        (signed().split(".")[0], signed(sub=str(UUID(int=2))).split(".")[1], signed().split(".")[2])
    ),
    "other audience": signed(aud="elsewhere"),
    "other issuer": signed(iss="elsewhere"),
    "other type": signed(type="refresh"),
    "not yet valid": signed(nbf=datetime.now(UTC) + timedelta(hours=1)),
    **{
        f"without {claim}": signed(without=claim)
        for claim in ("iss", "aud", "sub", "iat", "exp", "jti", "type")
    },
    "subject is no id": signed(sub="root"),
    "subject is a number": signed(sub=1),
    "expiry is a word": signed(exp="never"),
    "expiry is a list": signed(exp=[]),
    "nobody's": signed(sub=str(uuid4())),
    "empty": "",
    "dots": "..",
    "word": "token",
    "10,000 characters": "a" * 10_000,
    "10,000 dots": "." * 10_000,
    "NUL": "\x00",
    "lone surrogate": "\ud800",
    "umlaut": "ä.ö.ü",
    "key that was never given": "fk_" + "a" * 43,
    "beginning of a key": "fk_",
    "surrogate in a key": "fk_\ud800\x00",
}


async def test_an_access_token_tells_whose_it_is(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    tokens = await accounts.login(ada.email, PASSWORD, HERE)
    account = await service(sessions).authenticate(tokens.access_token)
    assert (account.id, account.email, account.name, account.role) == (ada.id, ada.email, "Ada", "user")
    assert tokens.expires_in == 15 * 60


async def test_what_the_wrong_tokens_are_made_of_is_right_when_unchanged(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await become(sessions, ada, FORGED)
    for token in (signed(), under('{"alg":"HS256","typ":"JWT"}', sign=True)):
        assert (await accounts.authenticate(token)).email == ada.email


async def test_a_wrong_token_is_refused_in_the_same_words(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    await become(sessions, ada, FORGED)
    told: dict[str, str] = {}
    for name, token in WRONG_TOKENS.items():
        try:
            told[name] = f"let in {(await accounts.authenticate(token)).email}"
        except Unauthenticated as error:
            told[name] = error.message
    assert told == dict.fromkeys(WRONG_TOKENS, "The token is not valid.")


async def test_an_expired_token_is_said_to_be(accounts: AccountService) -> None:
    with pytest.raises(Unauthenticated, match="expired"):
        await accounts.authenticate(signed(exp=datetime.now(UTC) - timedelta(seconds=2)))


async def test_a_refresh_token_is_no_access_token(accounts: AccountService, ada: UserRecord) -> None:
    tokens = await accounts.login(ada.email, PASSWORD, HERE)
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(tokens.refresh_token)
    with pytest.raises(Unauthenticated):
        await accounts.refresh(tokens.access_token)


@pytest.mark.parametrize("secret", [json.dumps(SECRET), json.dumps({"keys": [SECRET]}), "1" * 40])
def test_a_secret_that_looks_like_json_is_taken_as_it_is(secret: str) -> None:
    issued = AccessTokens(SecretStr(secret), lifetime=timedelta(minutes=1))
    assert issued.user_id(issued.issue(UUID(int=7))) == UUID(int=7)


def test_a_certificate_as_the_secret_refuses_to_start() -> None:
    with pytest.raises(StartupRefused, match="SECRET_KEY"):
        AccessTokens(SecretStr("-----BEGIN CERTIFICATE-----\nMII"), lifetime=timedelta(minutes=1))


async def test_a_refresh_token_counts_once_and_seen_again_ends_all_after_it(
    accounts: AccountService, ada: UserRecord
) -> None:
    first = await accounts.login(ada.email, PASSWORD, HERE)
    elsewhere = await accounts.login(ada.email, PASSWORD, HERE)
    second = await accounts.refresh(first.refresh_token)
    third = await accounts.refresh(second.refresh_token)
    assert (await accounts.authenticate(third.access_token)).id == ada.id
    for token in (first, third, second):
        with pytest.raises(Unauthenticated):
            await accounts.refresh(token.refresh_token)
    assert await accounts.refresh(elsewhere.refresh_token)


async def test_of_racing_refreshes_one_wins_and_the_login_ends(
    accounts: AccountService, ada: UserRecord
) -> None:
    first = await accounts.login(ada.email, PASSWORD, HERE)
    outcomes = await all_at_once(*[lambda: accounts.refresh(first.refresh_token)] * 5)
    (won,) = [outcome for outcome in outcomes if not isinstance(outcome, FreshetError)]
    assert kinds(outcomes) == {"TokenPair": 1, "Unauthenticated": 4}
    with pytest.raises(Unauthenticated):
        await accounts.refresh(won.refresh_token)


async def test_no_refresh_slips_through_while_its_login_ends(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    for end in ("replay", "logout", "password"):
        first = await accounts.login(ada.email, PASSWORD, HERE)
        second = await accounts.refresh(first.refresh_token)
        ends = {
            "replay": lambda used=first: accounts.refresh(used.refresh_token),
            "logout": lambda used=first: accounts.logout(used.refresh_token),
            "password": lambda: accounts.change_user(ada.id, password=PASSWORD),
        }
        await all_at_once(lambda used=second: accounts.refresh(used.refresh_token), ends[end])
        assert await run(sessions, "SELECT id FROM refresh_tokens WHERE revoked_at IS NULL") == []


async def test_a_logout_ends_its_login_and_no_other(accounts: AccountService, ada: UserRecord) -> None:
    here = await accounts.login(ada.email, PASSWORD, HERE)
    there = await accounts.login(ada.email, PASSWORD, HERE)
    for _ in range(2):
        await accounts.logout(here.refresh_token)
    await accounts.logout("unknown")
    with pytest.raises(Unauthenticated):
        await accounts.refresh(here.refresh_token)
    assert await accounts.refresh(there.refresh_token)


async def test_a_refresh_token_expires_and_is_forgotten(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    tokens = await accounts.login(ada.email, PASSWORD, HERE)
    await run(sessions, "UPDATE refresh_tokens SET expires_at = now()")
    with pytest.raises(Unauthenticated):
        await accounts.refresh(tokens.refresh_token)
    await accounts.login(ada.email, PASSWORD, HERE)
    assert len(await run(sessions, "SELECT id FROM refresh_tokens")) == 1


async def test_no_secret_stands_in_the_database(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    tokens = await accounts.login(ada.email, PASSWORD, HERE)
    _, key = await accounts.create_api_key(ada.id, "script")
    stored: list[str] = []
    for table in ("users", "refresh_tokens", "api_keys"):
        stored += await run(sessions, f"SELECT {table}::text FROM {table}")  # noqa: S608  # a name from the line above
    assert len(stored) == 3
    for secret in (PASSWORD, tokens.refresh_token, key, key[3:]):
        assert not any(secret in row or secret.encode().hex() in row for row in stored)


async def test_an_api_key_is_its_users_until_it_is_revoked(accounts: AccountService, ada: UserRecord) -> None:
    record, key = await accounts.create_api_key(ada.id, "script")
    assert key.startswith(record.prefix)
    assert len(record.prefix) < len(key) / 3
    account = await accounts.authenticate(key)
    assert (account.id, account.role) == (ada.id, "user")
    assert [listed.name for listed in await accounts.list_api_keys(ada.id)] == ["script"]

    await accounts.revoke_api_key(account, record.id)
    with pytest.raises(Unauthenticated, match="not valid"):
        await accounts.authenticate(key)
    assert await accounts.list_api_keys(ada.id) == []
    with pytest.raises(NotFound):
        await accounts.revoke_api_key(account, record.id)


async def test_a_key_is_revoked_by_its_owner_or_an_admin_alone(
    accounts: AccountService, ada: UserRecord
) -> None:
    record, key = await accounts.create_api_key(ada.id, "script")
    other = await accounts.create_user("eve@example.com", PASSWORD, "user")
    admin, _ = await accounts.ensure_admin("root@example.com")
    with pytest.raises(NotFound):
        await accounts.revoke_api_key(other, record.id)
    assert await accounts.authenticate(key)
    await accounts.revoke_api_key(admin, record.id)
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(key)


async def test_the_last_use_of_a_key_is_noted_once_a_minute(
    sessions: Sessions, accounts: AccountService, ada: UserRecord
) -> None:
    async def last_used() -> datetime | None:
        return (await accounts.list_api_keys(ada.id))[0].last_used_at

    _, key = await accounts.create_api_key(ada.id, "script")
    assert await last_used() is None
    await accounts.authenticate(key)
    first = await last_used()
    assert first is not None
    await accounts.authenticate(key)
    assert await last_used() == first
    await run(sessions, "UPDATE api_keys SET last_used_at = last_used_at - interval '61 s'")
    await accounts.authenticate(key)
    later = await last_used()
    assert later is not None
    assert later > first
