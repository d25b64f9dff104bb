"""What lives as long as the process: the pool, the models, the runs, and the services that use them."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import ParamSpec
from uuid import uuid4

import anyio
from anyio import to_thread
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import embedders, ingestions, migrations, notifications, processes, syncs
from app.db.engine import Sessions, create_engine
from app.db.queue import Work, Worker
from app.errors import DatabaseUnavailable, InvalidInput, ShuttingDown, StartupRefused
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.kinds import Surroundings
from app.ingest.connectors.tunnel import open_tunnel
from app.ingest.convert import ConversionLimits, Converter
from app.llm.extractive import ExtractiveModel
from app.llm.maxsim_reranker import MaxSimReranker
from app.llm.minilm import MiniLM
from app.llm.protocols import ChatModel, Embedder, Reranker, Toolbox
from app.patience import Patience
from app.rag.selection import Selection
from app.runs.checkpoint import Checkpointer
from app.runs.log import Reading
from app.runs.mirrors import Mirrors
from app.runs.runner import Runner
from app.services.accounts import AccountService
from app.services.agents import AgentService
from app.services.answering import Answering
from app.services.assistants import AssistantService
from app.services.attachments import AttachmentService
from app.services.chat import ChatService
from app.services.chat_tokens import ChatTokenService
from app.services.connectors import ConnectorService
from app.services.conversations import ConversationService
from app.services.document_work import DocumentWork
from app.services.expenses import Prices
from app.services.feedback import FeedbackService
from app.services.heartbeat import Heartbeat
from app.services.ingestion import Retries
from app.services.knowledge import KnowledgeService
from app.services.limits import Limits
from app.services.outcomes import OutcomeService
from app.services.passages import PassageService
from app.services.remembering import Remembering
from app.services.responses import ResponseService
from app.services.rooms import Rooms
from app.services.runs import RunService
from app.services.sessions import SessionService
from app.services.usage import UsageService
from app.services.vault import Vault
from app.services.vector_stores import VectorStoreService
from app.settings import RetrievalSettings, Settings

_P = ParamSpec("_P")
_EMBEDDING_CONNECTIONS = 16
_OTHER_SCHEMA = "The database's schema is not this version's. Run `freshet migrate`."


@dataclass(frozen=True, slots=True)
class Answers:
    """The parts that make answers and follow them."""

    runner: Runner
    mirrors: Mirrors
    runs: RunService
    chat: ChatService
    sessions: SessionService
    rooms: Rooms
    attachments: AttachmentService


@dataclass(frozen=True, slots=True)
class Resources:
    settings: Settings
    engine: AsyncEngine
    database: Sessions
    model: ChatModel
    embedder: Embedder
    runner: Runner
    mirrors: Mirrors
    accounts: AccountService
    assistants: AssistantService
    agents: AgentService
    knowledge: KnowledgeService
    document_work: DocumentWork
    vector_stores: VectorStoreService
    connectors: ConnectorService
    chat: ChatService
    runs: RunService
    sessions: SessionService
    conversations: ConversationService
    responses: ResponseService
    chat_tokens: ChatTokenService
    rooms: Rooms
    feedback: FeedbackService
    outcomes: OutcomeService
    attachments: AttachmentService
    usage: UsageService

    def drain(self) -> None:
        """Take no new turns, and give those that run the grace period to end. Who follows another process's is sent there."""
        self.runner.drain(self.settings.server.shutdown_grace_s)
        self.mirrors.drain()
        self.document_work.drain()

    async def check_ready(self) -> None:
        """Raises `ShuttingDown`, or `DatabaseUnavailable` also when the schema is not the one expected."""
        if self.runner.draining:
            raise ShuttingDown("The server is about to stop.", retry_after_s=2)
        if not await _has_expected_schema(self.database):
            raise DatabaseUnavailable(_OTHER_SCHEMA, retry_after_s=30)


@asynccontextmanager
async def open_resources(
    settings: Settings,
    *,
    model: ChatModel | None = None,
    embedder: Embedder | None = None,
    works: bool = False,
) -> AsyncGenerator[Resources]:
    """Everything, from the settings; `model` and `embedder` take the place of those that the settings name. If it `works`, this
    process does the jobs of the queue.

    Raises `StartupRefused` with what to do about it, also when the database is not at the newest schema; `DatabaseUnavailable`.
    """
    url = settings.database.database_url
    if url is None:
        raise StartupRefused(
            "There is no DATABASE_URL, and the embedded PostgreSQL is started by `freshet serve`."
        )
    async with AsyncExitStack() as stack:
        engine = create_engine(url.get_secret_value(), settings.database)
        stack.push_async_callback(engine.dispose)
        database = Sessions(engine)
        if not await _has_expected_schema(database):
            raise StartupRefused(_OTHER_SCHEMA)
        model = model or create_model(settings)
        await stack.enter_async_context(aclosing(model))
        embedder = embedder or await stack.enter_async_context(open_embedder(settings))
        async with database.begin() as session:
            await embedders.claim(session, embedder.name, embedder.dimensions)

        limits = ConversionLimits(
            time_s=settings.ingest.convert_timeout_s, memory_bytes=settings.ingest.convert_memory_bytes
        )
        converter = await stack.enter_async_context(
            # While some are read, the others are embedded or stored.
            Converter(limits, workers=max(1, settings.ingest.ingest_concurrency // 2))
        )
        max_upload_bytes = settings.ingest.max_upload_bytes
        reranker = create_reranker(settings.retrieval, embedder)
        if reranker is not None:
            await stack.enter_async_context(aclosing(reranker))
        knowledge = KnowledgeService(
            database,
            embedder,
            converter,
            max_upload_bytes=max_upload_bytes,
            retries=Retries(settings.ingest.ingest_attempts),
            passages=PassageService(database, embedder, reranker, _selection(settings.retrieval)),
        )
        await stack.enter_async_context(knowledge.ingestion.running())
        connectors = ConnectorService(
            database, knowledge, Vault(secret_key(settings)), _surroundings(settings, converter)
        )
        if works:
            work = {
                ingestions.ENTRYPOINT: Work(knowledge.ingest_job, settings.ingest.ingest_concurrency),
                syncs.ENTRYPOINT: Work(connectors.sync_job, settings.connectors.connector_concurrency),
            }
            await stack.enter_async_context(Worker(engine, work).running())
            schedules = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(schedules.cancel_scope.cancel)
            schedules.start_soon(connectors.keep_schedules)

        toolbox = await stack.enter_async_context(_toolbox(settings))
        answers = await stack.enter_async_context(
            _answers(settings, engine, database, knowledge, model, embedder.name, toolbox)
        )
        assistants = AssistantService(database)
        yield Resources(
            settings=settings,
            engine=engine,
            database=database,
            model=model,
            embedder=embedder,
            runner=answers.runner,
            mirrors=answers.mirrors,
            chat=answers.chat,
            runs=answers.runs,
            accounts=AccountService(database, settings.security, secret_key(settings)),
            assistants=assistants,
            agents=AgentService(database, assistants, is_open=settings.chat.agents_open),
            knowledge=knowledge,
            document_work=DocumentWork(database, knowledge.ingestion, max_upload_bytes=max_upload_bytes),
            vector_stores=VectorStoreService(database, knowledge.passages),
            connectors=connectors,
            sessions=answers.sessions,
            conversations=ConversationService(database),
            responses=ResponseService(database, answers.runs),
            chat_tokens=ChatTokenService(database, lifetime_s=settings.security.chat_token_s),
            rooms=answers.rooms,
            feedback=FeedbackService(database),
            outcomes=OutcomeService(database, model, conversation_tokens=settings.chat.context_tokens),
            attachments=answers.attachments,
            usage=UsageService(database),
        )


def _surroundings(settings: Settings, converter: Converter) -> Surroundings:
    return Surroundings(
        guard=Guard.allowing(settings.connectors.connector_allow_private),
        folders=settings.connectors.connector_folders,
        max_file_bytes=settings.ingest.max_upload_bytes,
        read_links=converter.links,
    )


@asynccontextmanager
async def _toolbox(settings: Settings) -> AsyncGenerator[Toolbox | None]:
    if not settings.tools.tool_servers:
        yield None
        return
    # Imported where it is used, as the model is.
    from app.llm.tool_servers import ToolServers

    async with open_tunnel(Guard.allowing(settings.connectors.connector_allow_private)) as tunnel:
        yield ToolServers(settings.tools, tunnel.url)


@asynccontextmanager
async def _answers(
    of_all: Settings,
    engine: AsyncEngine,
    database: Sessions,
    knowledge: KnowledgeService,
    model: ChatModel,
    embedder_name: str,
    toolbox: Toolbox | None,
) -> AsyncGenerator[Answers]:
    settings = of_all.chat
    process_id = uuid4()
    reading = Reading(
        Patience(), settings.heartbeat_s, settings.reader_max_behind_bytes, settings.reader_stall_s
    )
    mirrors = Mirrors(database, reading)
    runner = Runner(limit=settings.max_running_runs, reading=reading, ended=lambda: runs.something_happened())
    runs = RunService(database, runner, mirrors, reading, beat_s=settings.process_heartbeat_s)
    checkpointer = Checkpointer(database, runner, process_id, every_s=settings.checkpoint_s)
    attachments = AttachmentService(database, of_all.attachments)
    remembering = Remembering(database, model, settings)
    limits = Limits(database, of_all.limits, secret_key(of_all))
    prices = Prices.of(of_all.model, of_all.embedding)
    heartbeat = Heartbeat(
        database, runner, mirrors, runs, process_id, prices=prices, beat_s=settings.process_heartbeat_s
    )
    answering = Answering(
        database,
        model,
        knowledge.passages,
        runs,
        checkpointer,
        attachments,
        remembering,
        settings,
        prices=prices,
        embedder_name=embedder_name,
        toolbox=toolbox,
    )
    sessions = SessionService(database, runs, readers_open_documents=settings.readers_open_documents)
    rooms = Rooms(database)
    listening = notifications.listening_engine(engine)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(listening.dispose)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        if settings.session_retention_days is not None:
            erasing = sessions.erase_older_than(settings.session_retention_days)
            stack.callback(tasks.create_task(erasing).cancel)
        # Before the runs, which they outlive: other processes end the runs of a silent one.
        for part in (
            heartbeat.keep_alive(),
            limits.forget_what_is_over(),
            checkpointer.run(),
            mirrors.keep_up(),
            notifications.listen(
                listening,
                processes.CHANNEL,
                heard=_each(runs.heard, rooms.heard),
                connected=_each(runs.connected, rooms.connected),
                check_every_s=settings.process_heartbeat_s,
            ),
        ):
            stack.callback(tasks.create_task(part).cancel)
        stack.push_async_callback(checkpointer.say_last_words)
        await stack.enter_async_context(remembering.running())
        await stack.enter_async_context(runner)
        chat = ChatService(database, runner, runs, answering, attachments, limits, process_id)
        yield Answers(
            runner=runner,
            mirrors=mirrors,
            runs=runs,
            chat=chat,
            sessions=sessions,
            rooms=rooms,
            attachments=attachments,
        )


def _each(*calls: Callable[_P, None]) -> Callable[_P, None]:
    """Calls one after the other."""

    def call(*args: _P.args, **named: _P.kwargs) -> None:
        for one in calls:
            one(*args, **named)

    return call


async def _has_expected_schema(database: Sessions) -> bool:
    async with database.read() as session:
        return await migrations.current(session) == migrations.newest()


def create_model(settings: Settings) -> ChatModel:
    if not settings.model.uses_openai:
        return ExtractiveModel()
    # Imported where it is used: it takes a second, a third of the start of a server that does without.
    from app.llm.openai_model import OpenAIModel, create_client

    return OpenAIModel(
        create_client(settings.model, connections=settings.chat.max_running_runs), settings.model
    )


@asynccontextmanager
async def open_embedder(settings: Settings) -> AsyncGenerator[Embedder]:
    """Ready to embed: the built-in one has been loaded, any other has been asked once. Raises `StartupRefused` or `ModelFailed`."""
    embedding = settings.embedding
    if embedding.is_built_in:
        built_in = MiniLM(embedding.embedding_threads)
        await to_thread.run_sync(built_in.load)
        yield built_in
        return
    from app.llm.openai_embedder import OpenAIEmbedder
    from app.llm.openai_model import create_client

    client = create_client(
        settings.model, connections=_EMBEDDING_CONNECTIONS, timeout_s=embedding.embedding_timeout_s
    )
    async with client:
        embedder = OpenAIEmbedder(client, embedding.embedding_model, embedding.embedding_dimensions)
        await embedder.connect()
        yield embedder


def _selection(settings: RetrievalSettings) -> Selection:
    return Selection(
        candidates=settings.candidates,
        most_of_document=settings.passages_per_document,
        neighbour_characters=settings.neighbour_characters,
    )


def create_reranker(settings: RetrievalSettings, embedder: Embedder) -> Reranker | None:
    if settings.rerank_kind == "maxsim":
        if not isinstance(embedder, MiniLM):
            raise InvalidInput("RERANK_KIND=maxsim reads with the built-in embedder, and with no other.")
        return MaxSimReranker(embedder, limit_s=settings.rerank_timeout_s)
    if settings.rerank_url is None:
        return None
    from app.llm.reranker_endpoint import EndpointReranker, form_of

    key = settings.rerank_api_key
    return EndpointReranker(
        settings.rerank_url,
        settings.rerank_form or form_of(settings.rerank_url),
        model=settings.rerank_model,
        api_key=key.get_secret_value() if key is not None else None,
        limit_s=settings.rerank_timeout_s,
    )


def secret_key(settings: Settings) -> SecretStr:
    """`SECRET_KEY`; without one, a key that is made once and kept beside the embedded database, for its owner's eyes alone."""
    if settings.security.secret_key is not None:
        return settings.security.secret_key
    directory = settings.database.freshet_data_dir
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "secret_key"
    if not path.exists():
        # A temporary file is its owner's alone; linked, it appears whole, and for the first of two processes only.
        with NamedTemporaryFile("w", dir=directory) as file, contextlib.suppress(FileExistsError):
            file.write(secrets.token_hex(32))
            file.flush()
            path.hardlink_to(file.name)
    return SecretStr(path.read_text().strip())
