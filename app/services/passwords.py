"""Passwords: what is asked of them, and their argon2 hashes."""

import secrets
import unicodedata
from base64 import b64encode

import anyio.to_thread
from anyio import CapacityLimiter
from argon2 import Parameters, PasswordHasher
from argon2.exceptions import VerifyMismatchError

from app.errors import InvalidInput

MIN_CHARACTERS = 8
MAX_CHARACTERS = 1_024


def check(password: str, *, email: str) -> None:
    """Raises `InvalidInput` for one that must not be used."""
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        raise InvalidInput(f"A password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.")
    if password.lower() == email:
        raise InvalidInput("The password must not be the email address.")


class Passwords:
    """Hashes and verifies in a worker thread, one at a time: each takes the memory and the lanes that its parameters name."""

    def __init__(self, parameters: Parameters) -> None:
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._limiter = CapacityLimiter(1)
        self._nobodys = _hash_of_nothing(parameters)

    async def hash(self, password: str) -> str:
        return await anyio.to_thread.run_sync(self._hasher.hash, _bytes(password), limiter=self._limiter)

    async def matches(self, password: str, stored: str | None) -> bool:
        """Takes as long without a stored hash as with one that does not match."""
        matches = await anyio.to_thread.run_sync(
            self._verify, stored or self._nobodys, _bytes(password), limiter=self._limiter
        )
        return matches and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than these."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except VerifyMismatchError:
            return False


def _bytes(password: str) -> bytes:
    """Composed, as one keyboard sends an accented letter as one character and another as two."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _hash_of_nothing(parameters: Parameters) -> str:
    """A hash that no password is known for, with these parameters: verifying against it takes as long as against a real one."""
    salt, tag = (
        b64encode(secrets.token_bytes(size)).decode("ascii").rstrip("=")
        for size in (parameters.salt_len, parameters.hash_len)
    )
    costs = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    return f"$argon2id$v={parameters.version}${costs}${salt}${tag}"
