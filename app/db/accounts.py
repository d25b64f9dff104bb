"""Users, their tokens and keys, and failed logins."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import Select, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import ApiKey, LoginFailures, RefreshToken, User

_KEY_USE_NOTED_EVERY = timedelta(minutes=1)


def _active_user_of_key() -> Select[User]:
    # Not named as the column, or the update would set that to it.
    live = (ApiKey.key_hash == bindparam("sought_hash")) & ApiKey.revoked_at.is_(None)
    due = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - _KEY_USE_NOTED_EVERY)
    noted = update(ApiKey).where(live, due).values(last_used_at=func.now()).returning(ApiKey.id).cte("noted")
    return select(User).join(ApiKey, ApiKey.user_id == User.id).where(live, User.is_active).add_cte(noted)


# Asked with each request that brings a credential, and so put together once: that costs as much again as the query.
_ACTIVE_USER = select(User).where(User.id == bindparam("user_id"), User.is_active)
_ACTIVE_USER_OF_KEY = _active_user_of_key()


async def add_user(
    session: AsyncSession, *, email: str, name: str, role: str, password_hash: str
) -> User | None:
    """None when the email is taken."""
    return await session.scalar(
        insert(User)
        .values(id=uuid4(), email=email, name=name, role=role, password_hash=password_hash)
        .on_conflict_do_nothing(index_elements=[User.email])
        .returning(User)
    )


async def user_by_email(session: AsyncSession, email: str) -> User | None:
    return await session.scalar(select(User).where(User.email == email))


async def active_user(session: AsyncSession, user_id: UUID) -> User | None:
    return await session.scalar(_ACTIVE_USER, {"user_id": user_id})


async def active_user_of_key(session: AsyncSession, key_hash: bytes) -> User | None:
    """Notes in the same statement, at most once a minute, that the key was used."""
    return await session.scalar(_ACTIVE_USER_OF_KEY, {"sought_hash": key_hash})


async def lock_user(session: AsyncSession, user_id: UUID) -> User | None:
    """Whatever hands out or ends a user's tokens locks the user first, so that it happens one after the other."""
    return await session.get(User, user_id, with_for_update={"key_share": True}, populate_existing=True)


async def lock_active_admins(session: AsyncSession) -> Sequence[UUID]:
    """Who they are, and remain until the transaction ends."""
    query = select(User.id).where(User.role == "admin", User.is_active).order_by(User.id)
    return (await session.scalars(query.with_for_update(key_share=True))).all()


async def an_active_admin(session: AsyncSession) -> User | None:
    """The one who has been it longest."""
    query = select(User).where(User.role == "admin", User.is_active).order_by(User.created_at, User.id)
    return await session.scalar(query.limit(1))


async def users(session: AsyncSession, *, after: str | None, limit: int) -> Sequence[User]:
    """In the order of emails, those that follow `after`."""
    query = select(User).order_by(User.email).limit(limit)
    if after is not None:
        query = query.where(User.email > after)
    return (await session.scalars(query)).all()


async def add_refresh_token(
    session: AsyncSession, *, user_id: UUID, family_id: UUID, token_hash: bytes, lifetime: timedelta
) -> None:
    """Forgets those of the user that have expired."""
    await session.execute(
        delete(RefreshToken).where(RefreshToken.user_id == user_id, RefreshToken.expires_at <= func.now())
    )
    await session.execute(
        insert(RefreshToken).values(
            id=uuid4(),
            user_id=user_id,
            family_id=family_id,
            token_hash=token_hash,
            expires_at=func.now() + lifetime,
        )
    )


@dataclass(frozen=True, slots=True)
class FoundToken:
    """`is_over`: it has expired or was revoked."""

    user_id: UUID
    family_id: UUID
    was_used: bool
    is_over: bool


async def refresh_token(session: AsyncSession, token_hash: bytes) -> FoundToken | None:
    """Whose it is remains so; how it is may change, until its user is locked."""
    query = select(
        RefreshToken.user_id,
        RefreshToken.family_id,
        RefreshToken.used_at.is_not(None),
        RefreshToken.revoked_at.is_not(None) | (RefreshToken.expires_at <= func.now()),
    ).where(RefreshToken.token_hash == token_hash)
    row = (await session.execute(query)).one_or_none()
    return FoundToken(*row) if row is not None else None


async def mark_refresh_token_used(session: AsyncSession, token_hash: bytes) -> None:
    await session.execute(
        update(RefreshToken).where(RefreshToken.token_hash == token_hash).values(used_at=func.now())
    )


async def end_family(session: AsyncSession, family_id: UUID) -> None:
    await session.execute(
        update(RefreshToken)
        .where(RefreshToken.family_id == family_id, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )


async def end_families_of(session: AsyncSession, user_id: UUID) -> None:
    await session.execute(
        update(RefreshToken)
        .where(RefreshToken.user_id == user_id, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )


async def add_api_key(
    session: AsyncSession, *, user_id: UUID, name: str, prefix: str, key_hash: bytes
) -> ApiKey:
    key = ApiKey(user_id=user_id, name=name, prefix=prefix, key_hash=key_hash)
    session.add(key)
    await session.flush()
    await session.refresh(key)
    return key


async def api_keys(session: AsyncSession, user_id: UUID) -> Sequence[ApiKey]:
    """Those that are not revoked, oldest first."""
    query = select(ApiKey).where(ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None))
    return (await session.scalars(query.order_by(ApiKey.created_at, ApiKey.id))).all()


async def revoke_api_key(session: AsyncSession, key_id: UUID, *, owner_id: UUID | None) -> bool:
    """False when there is no such key; `owner_id` None: whoever's it is."""
    change = (
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(ApiKey.id)
    )
    if owner_id is not None:
        change = change.where(ApiKey.user_id == owner_id)
    return await session.scalar(change) is not None


@dataclass(frozen=True, slots=True)
class PastFailures:
    failures: int
    since_s: float


async def lock_failures(session: AsyncSession, subjects: Sequence[str]) -> dict[str, PastFailures]:
    """How often each has failed, and how long ago it last did. Nobody else can count these until the transaction ends.

    Name the subjects in the same order everywhere, or two transactions may wait for each other.
    """
    # Not now(), which stands still from before the wait for the lock.
    clock = func.clock_timestamp()
    query = insert(LoginFailures).values(
        [{"subject": subject, "failures": 0, "last_failed_at": clock} for subject in subjects]
    )
    query = query.on_conflict_do_update(
        index_elements=[LoginFailures.subject], set_={"failures": LoginFailures.failures}
    ).returning(
        LoginFailures.subject,
        LoginFailures.failures,
        func.extract("epoch", clock - LoginFailures.last_failed_at),
    )
    return {row[0]: PastFailures(row[1], max(0.0, float(row[2]))) for row in await session.execute(query)}


async def set_failures(session: AsyncSession, subject: str, failures: int) -> None:
    await session.execute(
        update(LoginFailures)
        .where(LoginFailures.subject == subject)
        .values(failures=failures, last_failed_at=func.clock_timestamp())
    )


async def take_back_failure(session: AsyncSession, subject: str) -> None:
    await session.execute(
        update(LoginFailures)
        .where(LoginFailures.subject == subject, LoginFailures.failures > 0)
        .values(failures=LoginFailures.failures - 1)
    )


async def forget_failures(session: AsyncSession, subject: str) -> None:
    await session.execute(delete(LoginFailures).where(LoginFailures.subject == subject))


async def forget_failures_before(session: AsyncSession, age: timedelta) -> None:
    """Leaves out those that somebody is counting at the moment."""
    old = select(LoginFailures.subject).where(LoginFailures.last_failed_at < func.now() - age)
    await session.execute(
        delete(LoginFailures).where(LoginFailures.subject.in_(old.with_for_update(skip_locked=True)))
    )
