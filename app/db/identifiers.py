"""Things that have a name are addressed by it or by their id; so no name may read as an id."""

from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

import asyncpg
from sqlalchemy.exc import IntegrityError

from app.errors import Conflict


def as_uuid(identifier: str) -> UUID | None:
    try:
        return UUID(identifier)
    except ValueError:
        return None


@contextmanager
def unique(message: str) -> Generator[None]:
    """Around a statement that gives a name: raises `Conflict` with this message if another has it."""
    try:
        yield
    except IntegrityError as error:
        if error.orig is not None and isinstance(error.orig.__cause__, asyncpg.UniqueViolationError):
            raise Conflict(message) from error
        raise
