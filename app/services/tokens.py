"""What proves who asks: signed access tokens, and secrets of which only a hash is kept."""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from jose import jwk, jwt
from jose.exceptions import ExpiredSignatureError, JOSEError
from pydantic import SecretStr

from app.errors import StartupRefused, Unauthenticated

_ALGORITHM = "HS256"
_ISSUER = "freshet"
_AUDIENCE = "freshet"
_TYPE = "access"
_REQUIRED = {f"require_{claim}": True for claim in ("aud", "iss", "exp", "iat", "sub", "jti")}

# Ours are shorter by a third. What is longer is not parsed: nested deep enough, it would exhaust the JSON parser's stack.
_MAX_CHARACTERS = 512

_API_KEY_MARK = "fk_"


def new_secret() -> str:
    """256 random bits that fit into a URL."""
    return secrets.token_urlsafe(32)


def new_api_key() -> tuple[str, str]:
    """The key, and its beginning, which tells keys apart and is too little to guess the rest from."""
    key = _API_KEY_MARK + new_secret()
    return key, key[:11]


def is_api_key(credential: str) -> bool:
    return credential.startswith(_API_KEY_MARK)


def digest(secret: str) -> bytes:
    """What is stored and looked up. No salt and no stretching: the secrets are random, and too long to be tried out."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def refusal() -> Unauthenticated:
    """For every credential that does not count: which of the reasons it was helps only who made it up."""
    return Unauthenticated("The token is not valid.")


class AccessTokens:
    """Short-lived JWTs, signed with HMAC SHA-256 and nothing else."""

    def __init__(self, secret: SecretStr, *, lifetime: timedelta) -> None:
        self.lifetime = lifetime
        try:
            # As a key object it is taken as it is; a text that looks like JSON would be read as a set of keys.
            self._key: Any = jwk.construct(secret.get_secret_value(), _ALGORITHM)
        except JOSEError as error:
            raise StartupRefused(
                "SECRET_KEY looks like a public key or a certificate: use at least 32 random characters instead."
            ) from error

    def issue(self, user_id: UUID) -> str:
        now = datetime.now(UTC)
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": str(user_id),
            "iat": now,
            "exp": now + self.lifetime,
            "jti": uuid4().hex,
            "type": _TYPE,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def user_id(self, token: str) -> UUID:
        """Whom the token was issued to; raises `Unauthenticated` for one that was not issued here, or is no longer valid."""
        if len(token) > _MAX_CHARACTERS:
            raise refusal()
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options=_REQUIRED,
            )
            if claims.get("type") != _TYPE:
                raise refusal()
            return UUID(claims["sub"])
        except ExpiredSignatureError:
            raise Unauthenticated("The token has expired.") from None
        # Besides its own errors, the library passes on those of numbers and texts that it finds in the claims.
        except (JOSEError, ValueError, TypeError, OverflowError):
            raise refusal() from None
