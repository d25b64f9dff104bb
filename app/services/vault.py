"""Secrets as the database keeps them: encrypted under a key that is derived from SECRET_KEY."""

import base64
import json

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from app.errors import SecretsUnreadable

_PURPOSE = b"freshet connectors"


class Vault:
    def __init__(self, secret_key: SecretStr) -> None:
        # Derived, so that what signs tokens does not encrypt as well.
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(
            secret_key.get_secret_value().encode()
        )
        self._fernet = Fernet(base64.urlsafe_b64encode(derived))

    def seal(self, secrets: dict[str, str]) -> bytes | None:
        """None for none."""
        return self._fernet.encrypt(json.dumps(secrets).encode()) if secrets else None

    def open(self, sealed: bytes | None) -> dict[str, str]:
        """Raises `SecretsUnreadable` for what was sealed under another SECRET_KEY."""
        if sealed is None:
            return {}
        try:
            return json.loads(self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise SecretsUnreadable from error
