"""One request of a crawl: to checked addresses alone, bounded in time and bytes, asked again when the server asks for patience."""

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
import anyio
from aiohttp.abc import AbstractResolver
from pydantic import SecretStr
from yarl import URL

from app import __version__
from app.errors import ConnectorRefused
from app.ingest.connectors.addresses import Guard, GuardedResolver

USER_AGENT = f"Freshet/{__version__}"

_MOST_REDIRECTS = 5
REDIRECTS = {301, 302, 303, 307, 308}
_PATIENCE = {429, 503}
_PIECE = 65_536


class FetchFailed(Exception):
    """This request, and not what it belongs to, has failed; the message is for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Fetched:
    """`url` is where it came from in the end; `content` is None where it is not modified."""

    url: URL
    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes | None = None

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `longest_wait_s` is for how long at most a server may ask to wait."""

    connect_s: float = 10.0
    read_s: float = 20.0
    whole_s: float = 120.0
    longest_wait_s: float = 60.0
    tries: int = 3


class Fetcher:
    """Waits `delay_s` between requests. `authorization` is sent to the scheme, host and port of `home` alone."""

    def __init__(self, session: aiohttp.ClientSession, guard: Guard, patience: Patience) -> None:
        self._session = session
        self._guard = guard
        self._patience = patience
        self._next_at = -math.inf
        self.delay_s = 0.0
        self.authorization: SecretStr | None = None
        self.home: URL | None = None

    async def fetch(
        self, url: URL, *, max_bytes: int, headers: Mapping[str, str] | None = None, follow: bool = True
    ) -> Fetched:
        """With any status but those that ask for patience, which are waited for.

        Raises `FetchFailed`, and `ConnectorRefused` for an address that is not to be asked, also by a redirect.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            fetched = await self._patiently(url, max_bytes, headers or {})
            if not follow or fetched.status not in REDIRECTS or "Location" not in fetched.headers:
                return fetched
            url = self.target(fetched)
        raise FetchFailed("It redirects in circles.")

    def target(self, fetched: Fetched) -> URL:
        """Where a redirect leads. Raises `FetchFailed` and `ConnectorRefused`."""
        try:
            target = fetched.url.join(URL(fetched.headers["Location"]))
        except ValueError as error:
            raise FetchFailed("It redirects to what is no address.") from error
        return self._guard.check(str(target))

    async def _patiently(self, url: URL, max_bytes: int, headers: Mapping[str, str]) -> Fetched:
        for left in reversed(range(self._patience.tries)):
            await self._take_turn()
            fetched = await self._once(url, max_bytes, headers)
            if fetched.status not in _PATIENCE or not left:
                return fetched
            wait_s = _retry_after_s(fetched.headers) or self.delay_s
            if wait_s > self._patience.longest_wait_s:
                return fetched
            self._next_at = max(self._next_at, anyio.current_time() + wait_s)
        raise AssertionError

    async def _take_turn(self) -> None:
        await anyio.sleep_until(self._next_at)
        self._next_at = anyio.current_time() + self.delay_s

    async def _once(self, url: URL, max_bytes: int, headers: Mapping[str, str]) -> Fetched:
        sent = dict(headers)
        if self.authorization is not None and self.home is not None and url.origin() == self.home.origin():
            sent["Authorization"] = self.authorization.get_secret_value()
        try:
            # Checked here as well, as a host that is an address is not resolved.
            async with self._session.get(
                self._guard.check(str(url)), headers=sent, allow_redirects=False
            ) as response:
                known = {name: response.headers[name] for name in _READ_HEADERS if name in response.headers}
                if response.status != HTTPStatus.OK:
                    return Fetched(url, response.status, known)
                return Fetched(url, response.status, known, await _bounded(response, max_bytes))
        except TimeoutError as error:
            raise FetchFailed("The server took too long.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if (refused := _refusal_within(error)) is not None:
                raise refused from error
            raise FetchFailed(_in_words(error)) from error


_READ_HEADERS = (
    "Content-Type",
    "Location",
    "ETag",
    "Last-Modified",
    "Retry-After",
    "X-Robots-Tag",
    "Content-Disposition",
)


@asynccontextmanager
async def fetcher(
    guard: Guard,
    *,
    patience: Patience | None = None,
    resolver: AbstractResolver | None = None,
    authorization: SecretStr | None = None,
    home: URL | None = None,
) -> AsyncGenerator[Fetcher]:
    """`resolver` takes the place of the system's; what it gives is checked all the same."""
    patience = patience or Patience()
    guarded = GuardedResolver(guard) if resolver is None else GuardedResolver(guard, resolver)
    connector = aiohttp.TCPConnector(limit=4, resolver=guarded, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(
        total=patience.whole_s, sock_connect=patience.connect_s, sock_read=patience.read_s
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate"},
        trust_env=False,
    ) as session:
        asking = Fetcher(session, guard, patience)
        asking.authorization, asking.home = authorization, home
        yield asking


async def _bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    too_large = FetchFailed(f"It is larger than {max_bytes:,} bytes.")
    if (response.content_length or 0) > max_bytes:
        raise too_large
    content = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        content += piece
        if len(content) > max_bytes:
            raise too_large
    return bytes(content)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _refusal_within(error: BaseException | None) -> ConnectorRefused | None:
    while error is not None and not isinstance(error, ConnectorRefused):
        error = error.__cause__ or error.__context__
    return error


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "The server's certificate cannot be trusted."
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "There is no such host."
    if isinstance(error, aiohttp.ClientConnectorError):
        return "The server cannot be reached."
    return "The server's answer broke off or cannot be read."
