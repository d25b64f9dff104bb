"""The places that connectors can be given, as they are stored, and the drivers that look there."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp.abc import AbstractResolver
from anyio import to_thread
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter
from yarl import URL

from app.errors import ConnectorRefused
from app.ingest.connectors import Driver
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.fetching import Patience, fetcher
from app.ingest.connectors.folder import Folder, below
from app.ingest.connectors.patterns import Choice
from app.ingest.connectors.s3 import Keys, open_bucket
from app.ingest.connectors.s3 import Place as PlaceOfBucket
from app.ingest.connectors.scope import Scope
from app.ingest.connectors.web import Bounds, Mode, ReadLinks, Site


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_plain)]
_Patterns = Annotated[tuple[Annotated[_Text, Field(max_length=200)], ...], Field(max_length=50)]


class _Place(BaseModel):
    """`include` and `exclude` are patterns of paths, as `*.pdf` or `drafts/**`; without `include`, all is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: _Patterns = ()
    exclude: _Patterns = ()

    @property
    def choice(self) -> Choice:
        return Choice(self.include, self.exclude)


class FolderPlace(_Place):
    """A folder of the machine that the server runs on, with all below it."""

    kind: Literal["folder"]
    path: _Text


def _origin(text: str) -> str:
    try:
        URL(text).origin()
    except ValueError:
        raise ValueError("must begin with http:// or https:// and a host") from None
    return text


class WebPlace(_Place):
    """The pages of one host below `url`. `depth` counts links from there, and is for links alone; `max_pages` counts requests."""

    kind: Literal["web"]
    url: Annotated[_Text, AfterValidator(_origin)]
    mode: Mode = "auto"
    depth: Annotated[int, Field(strict=True, ge=0, le=50)] = 5
    max_pages: Annotated[int, Field(strict=True, ge=1, le=50_000)] = 1_000
    max_bytes: Annotated[int, Field(strict=True, ge=1, le=50 * 2**30)] = 2**30
    delay_s: Annotated[float, Field(ge=0, le=60)] = 0.5


class S3Place(_Place):
    """A bucket of S3 or of what speaks as it does; without `endpoint`, Amazon's."""

    kind: Literal["s3"]
    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$")]
    prefix: Annotated[str, Field(max_length=1_000), AfterValidator(_plain)] = ""
    endpoint: Annotated[_Text, AfterValidator(_origin)] | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"


Place = Annotated[FolderPlace | WebPlace | S3Place, Field(discriminator="kind")]
_PLACE: TypeAdapter[FolderPlace | WebPlace | S3Place] = TypeAdapter(Place)
SECRETS = {"folder": frozenset[str](), "web": {"authorization"}, "s3": {"access_key_id", "secret_access_key"}}


def as_place(stored: dict[str, Any]) -> FolderPlace | WebPlace | S3Place:
    return _PLACE.validate_python(stored)


def check_secrets(kind: str, secrets: dict[str, str]) -> None:
    """Raises `ConnectorRefused` for what this kind has no use for, or misses."""
    if secrets and set(secrets) != SECRETS[kind]:
        wanted = " and ".join(sorted(SECRETS[kind])) or "none"
        raise ConnectorRefused("malformed", f"The secrets of a connector of the kind {kind} are: {wanted}.")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all connectors of a process. `folders` are those below which the API may name some; `resolver` and
    `patience` take the place of the usual ones."""

    guard: Guard
    folders: tuple[Path, ...]
    max_file_bytes: int
    read_links: ReadLinks
    resolver: AbstractResolver | None = None
    patience: Patience | None = None


def open_driver(
    place: FolderPlace | WebPlace | S3Place, secrets: dict[str, str], around: Surroundings, *, trusted: bool
) -> AbstractAsyncContextManager[Driver]:
    """`trusted`: whoever runs the server has named it, so that it may be any folder, and the host that is named may be private.

    Entering it raises `ConnectorRefused` for what is not to be looked at.
    """
    if isinstance(place, FolderPlace):
        return _folder(place, around, trusted=trusted)
    if isinstance(place, WebPlace):
        return _site(place, secrets, around, trusted=trusted)
    return _bucket(place, secrets, around, trusted=trusted)


@asynccontextmanager
async def _folder(place: FolderPlace, around: Surroundings, *, trusted: bool) -> AsyncGenerator[Driver]:
    path = Path(place.path)
    if not path.is_absolute():
        raise ConnectorRefused("malformed", "The path of the folder does not begin at the root.")
    real = await to_thread.run_sync(path.resolve)
    if not trusted and not await to_thread.run_sync(below, real, around.folders):
        raise ConnectorRefused("forbidden", "The folder lies in none of those that CONNECTOR_FOLDERS names.")
    yield Folder(real, place.choice, around.max_file_bytes)


@asynccontextmanager
async def _site(
    place: WebPlace, secrets: dict[str, str], around: Surroundings, *, trusted: bool
) -> AsyncGenerator[Driver]:
    guard = _trusting(around.guard, place.url) if trusted else around.guard
    start = guard.check(place.url)
    authorization = secrets.get("authorization")
    yield Site(
        scope=Scope(start, place.choice, guard),
        mode=place.mode,
        bounds=Bounds(place.depth, place.max_pages, around.max_file_bytes, place.max_bytes),
        delay_s=place.delay_s,
        guard=guard,
        open_fetcher=partial(
            fetcher,
            guard,
            patience=around.patience,
            resolver=around.resolver,
            authorization=SecretStr(authorization) if authorization is not None else None,
            home=start,
        ),
        read_links=around.read_links,
    )


@asynccontextmanager
async def _bucket(
    place: S3Place, secrets: dict[str, str], around: Surroundings, *, trusted: bool
) -> AsyncGenerator[Driver]:
    guard = around.guard
    if trusted and place.endpoint is not None:
        guard = _trusting(guard, place.endpoint)
    keys = Keys(secrets["access_key_id"], SecretStr(secrets["secret_access_key"])) if secrets else None
    where = PlaceOfBucket(place.bucket, place.prefix, place.endpoint, place.region, keys)
    async with open_bucket(
        where, place.choice, guard, max_file_bytes=around.max_file_bytes, resolver=around.resolver
    ) as bucket:
        yield bucket


def _trusting(guard: Guard, address: str) -> Guard:
    """The host of the address too."""
    try:
        host = URL(address).host
    except ValueError:
        return guard
    return guard.also(host) if host else guard
