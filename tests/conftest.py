"""A real PostgreSQL for the whole run, a database of its own for each test, and the whole application over real HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import httpx
import pytest
from argon2.profiles import CHEAPEST
from pydantic import SecretStr
from sqlalchemy import make_url

from app.db import embedders, migrations
from app.db.embedded import EmbeddedPostgres
from app.db.engine import Sessions, create_engine
from app.llm.protocols import Embedder
from app.main import create_app
from app.resources import Resources, open_resources
from app.server import DrainingServer, config
from app.services.accounts import AccountService
from app.settings import (
    ChatSettings,
    ConnectorSettings,
    DatabaseSettings,
    EmbeddingSettings,
    IngestSettings,
    ModelSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
)
from tests.recording import RecordedStreams
from tests.scripted_model import ScriptedModel
from tests.words_embedder import WordsEmbedder

SECRET = "a secret of the tests, long enough to sign with"
ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "the password of the tests"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """The URL of a server that ends with the test run."""
    settings = {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": "200",
    }
    # Not in pytest's temporary directory, which another run of the suite beside this one may clear away.
    with (
        TemporaryDirectory(prefix="freshet-tests-") as directory,
        EmbeddedPostgres(Path(directory), settings=settings) as url,
    ):
        yield url


@pytest.fixture(scope="session")
def template(postgres_url: str) -> str:
    """The name of a migrated database that each test's database is a copy of."""

    async def prepare() -> None:
        await _execute(postgres_url, "CREATE DATABASE template_of_tests")
        engine = create_engine(_with_database(postgres_url, "template_of_tests"), DatabaseSettings())
        await migrations.migrate(engine)
        embedder = WordsEmbedder()
        async with Sessions(engine).begin() as session:
            await embedders.claim(session, embedder.name, embedder.dimensions)
        await engine.dispose()

    asyncio.run(prepare())
    return "template_of_tests"


@pytest.fixture
async def empty_database_url(postgres_url: str) -> AsyncGenerator[str]:
    """A database without tables."""
    async with _database(postgres_url, "template1") as url:
        yield url


@pytest.fixture
async def database_url(postgres_url: str, template: str) -> AsyncGenerator[str]:
    async with _database(postgres_url, template) as url:
        yield url


@pytest.fixture
async def sessions(database_url: str) -> AsyncGenerator[Sessions]:
    engine = create_engine(database_url, DatabaseSettings())
    yield Sessions(engine)
    await engine.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Of a server that leaves the work on documents to others; `ingesting` makes one that does it."""
    return Settings(
        server=ServerSettings(
            host="127.0.0.1", port=0, cors_origins=("https://chat.example.com",), shutdown_grace_s=5
        ),
        database=DatabaseSettings(database_url=SecretStr(database_url), freshet_data_dir=tmp_path / "data"),
        security=SecuritySettings(secret_key=SecretStr(SECRET), admin_email=ADMIN_EMAIL),
        model=ModelSettings(),
        embedding=EmbeddingSettings(),
        # The scripted model would be asked to write questions anew.
        chat=ChatSettings(query_rewrite="rules"),
        ingest=IngestSettings(max_upload_bytes=2**20, ingest_in_server=False),
        connectors=ConnectorSettings(connector_folders=(tmp_path / "folders",)),
    )


def ingesting(settings: Settings) -> Settings:
    """Of a server that does the work on documents itself, which takes it a fifth of a second to begin and end."""
    return replace(settings, ingest=settings.ingest.model_copy(update={"ingest_in_server": True}))


@pytest.fixture
def accounts(sessions: Sessions, settings: Settings) -> AccountService:
    assert settings.security.secret_key is not None
    return AccountService(sessions, settings.security, settings.security.secret_key, hashing=CHEAPEST)


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def streams() -> Generator[RecordedStreams]:
    """Those that the test reads through its clients. It fails if one of them breaks the protocol."""
    recorded = RecordedStreams()
    yield recorded
    if recorded.problems:
        pytest.fail("\n".join(["A stream breaks the protocol.", *recorded.problems]), pytrace=False)


@dataclass(frozen=True, slots=True)
class RunningServer:
    url: str
    resources: Resources
    stop: Callable[[], None]
    streams: RecordedStreams

    def client(
        self,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 20,
        limits: httpx.Limits | None = None,
    ) -> httpx.AsyncClient:
        """Its streams are recorded."""
        return self.streams.client(self.url, headers=headers, timeout=timeout, limits=limits)


Serve = Callable[[Settings], AbstractAsyncContextManager[RunningServer]]


@pytest.fixture
def embedder_of_server() -> Embedder:
    """Counts words. A test that needs the meaning of texts gives another."""
    return WordsEmbedder()


@pytest.fixture
def serve(model: ScriptedModel, streams: RecordedStreams, embedder_of_server: Embedder) -> Serve:
    """Starts the whole application on a free port, with the scripted model and that embedder."""

    @asynccontextmanager
    async def parts(settings: Settings) -> AsyncGenerator[Resources]:
        async with open_resources(
            settings, model=model, embedder=embedder_of_server, works=settings.ingest.ingest_in_server
        ) as resources:
            yield resources

    @asynccontextmanager
    async def run(settings: Settings) -> AsyncGenerator[RunningServer]:
        app = create_app(settings, parts)
        server = DrainingServer(config(app, settings.server, log_config=None))
        socket = server.config.bind_socket()
        # In no task group: it would cancel the server when a test fails, in the middle of its lifespan.
        serving = asyncio.create_task(server.serve(sockets=[socket]))
        while not server.started and not serving.done():  # noqa: ASYNC110  # it tells in no other way
            await asyncio.sleep(0.001)
        host, port = socket.getsockname()
        try:
            yield RunningServer(
                f"http://{host}:{port}",
                app.state.resources,
                lambda: setattr(server, "should_exit", True),
                streams,
            )
        finally:
            server.should_exit = True
            await serving
            socket.close()

    return run


@pytest.fixture
async def server(serve: Serve, settings: Settings) -> AsyncGenerator[RunningServer]:
    async with serve(settings) as running:
        yield running


@pytest.fixture
async def client(server: RunningServer) -> AsyncGenerator[httpx.AsyncClient]:
    async with server.client() as http:
        yield http


@pytest.fixture
async def admin_client(server: RunningServer, accounts: AccountService) -> AsyncGenerator[httpx.AsyncClient]:
    await accounts.create_user(ADMIN_EMAIL, ADMIN_PASSWORD, "admin")
    tokens = await accounts.login(ADMIN_EMAIL, ADMIN_PASSWORD, "127.0.0.1")
    headers = {"authorization": f"Bearer {tokens.access_token}"}
    async with server.client(headers=headers) as http:
        yield http


@asynccontextmanager
async def _database(server_url: str, template: str) -> AsyncGenerator[str]:
    name = f"test_{uuid4().hex}"
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield _with_database(server_url, name)
    await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    parsed = make_url(url)
    connection = await asyncpg.connect(
        host=parsed.host or str(parsed.query["host"]), user=parsed.username, database=parsed.database
    )
    await connection.execute(statement)
    await connection.close()


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)
