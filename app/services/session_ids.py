"""What a session may be called: by who is known as anything that fits, by a stranger as nobody could guess."""

import re
from uuid import UUID, uuid4

from app.errors import InvalidInput
from app.services.viewer import Viewer

_SESSION_ID = re.compile(r"[A-Za-z0-9._:~@+=-]{1,100}")
# The length of 128 random bits in base64: what an id needs so that nobody guesses it.
UNGUESSABLE_CHARACTERS = 22


def checked_session_id(given: str | None, viewer: Viewer) -> str:
    """Raises `InvalidInput` for an id that cannot be one, or that a stranger could guess."""
    if given is None:
        return str(uuid4())
    if not _SESSION_ID.fullmatch(given):
        raise InvalidInput("session_id must be 1 to 100 characters of letters, digits and . _ : ~ @ + = -")
    if viewer.account is None and not is_unguessable(given):
        raise InvalidInput(
            "An anonymous session is addressed by its id alone, which must be a UUID, as crypto.randomUUID() makes one, or at least "
            f"{UNGUESSABLE_CHARACTERS} characters that nobody can guess. Leave it out to be given one."
        )
    return given


def is_unguessable(identifier: str) -> bool:
    if len(identifier) >= UNGUESSABLE_CHARACTERS:
        return True
    try:
        UUID(identifier)
    except ValueError:
        return False
    return True
