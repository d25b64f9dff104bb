"""A bucket of S3 or of what speaks as it does. Keys, sizes, times and ETags tell what has changed; what has not is not asked for."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver
from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store
from pydantic import SecretStr

from app.errors import ConnectorRefused
from app.ingest.connectors import Changed, Failed, Found, State, Unchanged
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.patterns import Choice, is_readable
from app.ingest.connectors.tunnel import Tunnel, open_tunnel

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Credential

_MOST_OBJECTS = 1_000_000
_FAILURES = (BaseError, FileNotFoundError)


@dataclass(frozen=True, slots=True)
class Keys:
    """Both, or neither for a bucket that everybody may read."""

    access_key_id: str
    secret_access_key: SecretStr


@dataclass(frozen=True, slots=True)
class Place:
    """`endpoint` None is Amazon's."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    keys: Keys | None


@dataclass(frozen=True, slots=True)
class Bucket:
    place: Place
    choice: Choice
    max_file_bytes: int
    store: S3Store
    tunnel: Tunnel

    async def check(self) -> None:
        try:
            async for _ in self._list(1):
                return
        except _FAILURES as error:
            raise self._refused(error) from error

    async def found(self, known: Mapping[str, State]) -> AsyncGenerator[Found]:
        """As they are listed. Objects whose name tells of no format that can be read are no items."""
        count = 0
        try:
            async for objects in self._list(1_000):
                count += len(objects)
                if count > _MOST_OBJECTS:
                    raise ConnectorRefused(
                        "malformed", f"There are more than {_MOST_OBJECTS:,} objects: name a prefix."
                    )
                for one in objects:
                    path = one["path"]
                    if not is_readable(path) or not self.choice.takes(path):
                        continue
                    version = f"{one['e_tag']}-{one['size']}-{one['last_modified'].isoformat()}"
                    if known.get(path, {}).get("version") == version:
                        yield Unchanged(path)
                    else:
                        yield await self._fetched(path, one["size"], version)
        except _FAILURES as error:
            raise self._refused(error) from error

    def _list(self, at_once: int) -> AsyncIterator[Sequence["ObjectMeta"]]:
        listed: Any = self.store.list(self.place.prefix or None, chunk_size=at_once)  # pyright: ignore[reportUnknownMemberType]  # an overload of a library that is not there
        return listed

    async def _fetched(self, path: str, size: int, version: str) -> Found:
        if size > self.max_file_bytes:
            return Failed(path, f"The object is larger than {self.max_file_bytes:,} bytes.")
        content = bytearray()
        try:
            result = await self.store.get_async(path)
            async for piece in result.stream():
                content += piece
                if len(content) > self.max_file_bytes:
                    return Failed(path, f"The object is larger than {self.max_file_bytes:,} bytes.")
        except FileNotFoundError:
            return Failed(path, "The object has gone since it was listed.")
        except (PermissionDeniedError, UnauthenticatedError):
            return Failed(path, "The object may not be read with these keys.")
        except BaseError:
            return Failed(path, "The server cannot be reached, or its answer cannot be read.")
        url = f"s3://{self.place.bucket}/{path}"
        return Changed(path, PurePosixPath(path).name, bytes(content), url=url, state={"version": version})

    def _refused(self, error: Exception) -> ConnectorRefused:
        if self.tunnel.refusal is not None:
            return self.tunnel.refusal
        name, said = self.place.bucket, str(error)
        if isinstance(error, FileNotFoundError) or "NoSuchBucket" in said or "404 Not Found" in said:
            return ConnectorRefused("missing", f"There is no bucket {name} at this endpoint.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "403 Forbidden" in said:
            return ConnectorRefused("forbidden", f"The bucket {name} may not be listed with these keys.")
        if "PermanentRedirect" in said or "AuthorizationHeaderMalformed" in said:
            return ConnectorRefused(
                "missing", f"The bucket {name} is in another region than {self.place.region}."
            )
        return ConnectorRefused(
            "unreachable", f"The bucket {name} cannot be listed: its server cannot be reached."
        )


@asynccontextmanager
async def open_bucket(
    place: Place,
    choice: Choice,
    guard: Guard,
    *,
    max_file_bytes: int,
    resolver: AbstractResolver | None = None,
) -> AsyncGenerator[Bucket]:
    """`resolver` takes the place of the system's. Raises `ConnectorRefused` for an endpoint that is not to be asked."""
    url = guard.check(place.endpoint or f"https://s3.{place.region}.amazonaws.com")
    keys = place.keys
    async with open_tunnel(guard, resolver=resolver) as tunnel:
        # All is said, as the library takes what is not from the server's own environment.
        store = S3Store(
            place.bucket,
            endpoint=str(url).rstrip("/"),
            region=place.region,
            virtual_hosted_style_request=False,
            skip_signature=keys is None,
            credential_provider=partial(_credential, keys) if keys is not None else None,
            client_options={
                "proxy_url": tunnel.url,
                "proxy_excludes": "",
                "allow_http": url.scheme == "http",
                "connect_timeout": timedelta(seconds=15),
                "timeout": timedelta(seconds=120),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
        )
        yield Bucket(place, choice, max_file_bytes, store, tunnel)


def _credential(keys: Keys) -> "S3Credential":
    return {
        "access_key_id": keys.access_key_id,
        "secret_access_key": keys.secret_access_key.get_secret_value(),
        "token": None,
        "expires_at": None,
    }
