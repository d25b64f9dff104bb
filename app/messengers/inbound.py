"""What the channels that are spoken to over HTTP have in common; the web framework is the API's."""

import hmac
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec
from pydantic import SecretStr

from app.errors import InvalidInput, Unauthenticated

T = TypeVar("T")


class Inbound(Protocol):
    async def receive(self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Any:
        """What is answered, as JSON. The names of headers are read in any case. Raises `FreshetError`."""
        ...


def decoded(body: bytes, kind: type[T]) -> T:
    """Raises `InvalidInput`, which says where and not what was sent."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        where = str(error).rpartition(" - at ")[2]
        raise InvalidInput(f"The body is not as it should be: see {where[:200]}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("The body is no JSON.") from error


def require_bearer(headers: Mapping[str, str], secret: SecretStr) -> None:
    given = headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), secret.get_secret_value().encode()):
        raise Unauthenticated(
            "The Authorization header must be: Bearer, a space, and the secret of this channel."
        )
