"""Serving: from nothing to an open port, and to a clean end on Ctrl-C or SIGTERM."""

import asyncio
import logging
import multiprocessing
import os
import shlex
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from anyio import to_thread

from app import server
from app.cli import first_start
from app.cli.database import bring_up_to_date, embedded_server, reachable, ready_schema, with_url
from app.cli.failures import expected_in
from app.cli.first_start import Admin
from app.cli.stopping import on_stop, run_until_stopped
from app.cli.terminal import Terminal
from app.db.embedded import EmbeddedPostgres
from app.errors import FreshetError, StartupRefused
from app.main import create_app
from app.resources import Resources, open_embedder, open_resources, secret_key
from app.server import DrainingServer
from app.settings import ServerSettings, Settings

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not listened at
_QUESTION = "How does Freshet answer a question?"


def run() -> None:
    settings = Settings.load()
    _serve_here(settings, Terminal(), welcome=True)


def serve(*, host: str | None, port: int | None, workers: int | None) -> None:
    settings = Settings.load()
    wanted = {"host": host, "port": port, "workers": workers}
    chosen = {name: value for name, value in wanted.items() if value is not None}
    settings = replace(settings, server=settings.server.model_copy(update=chosen))
    if settings.server.workers == 1:
        _serve_here(settings, Terminal(), welcome=False)
    else:
        _serve_with_workers(settings, Terminal())


class _Server(DrainingServer):
    """Tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            raise _port_taken(self.config.host, self.config.port, error) from error
        # Whoever stops it while it starts has closed the listener, whose address would be told.
        if not self.should_exit:
            self._announce()


def _serve_here(settings: Settings, terminal: Terminal, *, welcome: bool) -> None:
    """In this process. The embedded PostgreSQL ends after all that uses it, however that ends."""
    postgres = embedded_server(settings) if settings.database.database_url is None else None
    with _bound(settings.server) as listener:
        try:
            run_until_stopped(lambda: _serve(settings, postgres, listener, terminal, welcome=welcome))
        finally:
            if postgres is not None:
                postgres.stop()
    terminal.verdict("Stopped", good=True)


async def _serve(
    settings: Settings,
    postgres: EmbeddedPostgres | None,
    listener: socket.socket,
    terminal: Terminal,
    *,
    welcome: bool,
) -> None:
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            database = tasks.create_task(_database(settings, postgres, terminal, migrate=welcome))
            with terminal.step("") as step:
                embedder = await stack.enter_async_context(open_embedder(settings))
                step.done = f"Embedder {embedder.name} loaded"
        resources = await stack.enter_async_context(
            open_resources(database.result(), embedder=embedder, works=settings.ingest.ingest_in_server)
        )
        admin = await first_start.prepare(resources, terminal) if welcome else None

        @asynccontextmanager
        async def opened(_: Settings) -> AsyncGenerator[Resources]:
            yield resources

        configuration = _configuration(create_app(resources.settings, opened), settings.server)
        # What it says of itself is said by this command.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        serving = _Server(configuration, lambda: _announce(terminal, resources, listener, admin))
        # The server takes the signals over, and sends those that it has seen again when it is done.
        with on_stop(lambda: None):
            await serving.serve(sockets=[listener])


async def _database(
    settings: Settings, postgres: EmbeddedPostgres | None, terminal: Terminal, *, migrate: bool
) -> Settings:
    reached = settings
    if postgres is not None:
        with terminal.step("PostgreSQL with pgvector started") as step:
            reached = with_url(settings, await to_thread.run_sync(postgres.start))
            if not postgres.owner:
                step.done = "PostgreSQL found running"
    with terminal.step("Database reached, its schema is this version's") as step:
        if not migrate:
            await ready_schema(settings, reached)
        elif await bring_up_to_date(reached):
            step.done = "Schema brought up to this version's"
    return reached


def _serve_with_workers(settings: Settings, terminal: Terminal) -> None:
    from app.cli import workers

    def stop() -> None:
        raise SystemExit(0)

    with _bound(settings.server) as listener, on_stop(stop), reachable(settings) as reached:
        # Whatever would keep a worker from starting is told once; by a process of its own, which takes the models along.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as another:
            refusal = another.submit(_refusal, settings, reached).result()
        if refusal is not None:
            raise StartupRefused(refusal)
        url = reached.database.database_url
        assert url is not None
        os.environ["DATABASE_URL"] = url.get_secret_value()
        os.environ["SECRET_KEY"] = secret_key(reached).get_secret_value()
        terminal.verdict(f"{settings.server.workers} workers start at {_address(listener)}", good=True)
        workers.supervise(_configuration("app.main:create_app", settings.server), listener)
    terminal.verdict("Stopped", good=True)


def _refusal(settings: Settings, reached: Settings) -> str | None:
    """Why a worker cannot start, if it cannot."""

    async def try_out() -> None:
        await ready_schema(settings, reached)
        async with open_resources(reached):
            pass

    try:
        asyncio.run(try_out())
    except (FreshetError, BaseExceptionGroup) as error:
        expected = expected_in(error)
        if expected is None:
            raise
        return expected.message
    return None


def _configuration(app: Any, settings: ServerSettings) -> uvicorn.Config:
    level = settings.log_level.upper()
    return server.config(
        app,
        settings,
        log_config={
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {"app": {"level": level}, "uvicorn": {"level": level}},
        },
    )


def _bound(settings: ServerSettings) -> socket.socket:
    """Bound before anything else is done, as it may be taken; connections are refused until it listens."""
    with ExitStack() as unless_bound:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise _port_taken(settings.host, settings.port, error) from error
        listener.set_inheritable(True)
        unless_bound.pop_all()
    return listener


def _port_taken(host: str, port: int, error: OSError) -> StartupRefused:
    return StartupRefused(
        f"Port {port} of {host} cannot be used: {error.strerror}. Set PORT (or HOST), or end what has it."
    )


def _address(listener: socket.socket) -> str:
    name: tuple[str, int] = listener.getsockname()[:2]
    host, port = _EVERYWHERE.get(name[0], name[0]), name[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(terminal: Terminal, resources: Resources, listener: socket.socket, admin: Admin | None) -> None:
    address = _address(listener)
    if admin is None:
        terminal.verdict(f"Freshet answers at {address}", good=True)
        return
    freshet = Path(sys.prefix, "bin", "freshet")
    command = str(freshet) if freshet.exists() else f"{sys.executable} -m app"
    model = resources.model
    terminal.say()
    terminal.say(f"Freshet answers at {address}", "bold")
    terminal.say(f"Answers   {model.notice or f'by {model.name} ({model.provider})'}")
    if admin.password is not None:
        terminal.say(f"Admin     {admin.email}, password {admin.password} (shown only now)")
    else:
        terminal.say(f"Admin     {admin.email}, password as shown at the first start")
        terminal.say(f"          forgotten? {command} user password {admin.email}", "dim")
    terminal.say()
    terminal.say("To paste into another terminal: a question, a login, and a question as a user", "bold")
    for line in _examples(address, admin):
        terminal.say(line)
    terminal.say()
    terminal.say(f'Or {command} ask "{_QUESTION}"   Ctrl-C stops the server.', "dim")


def _examples(address: str, admin: Admin) -> tuple[str, str, str]:
    def ask(assistant: str) -> str:
        body = shlex.quote(f'{{"assistant_id": "{assistant}", "message": "{_QUESTION}"}}')
        return f"{address}/api/v1/chat/stream -H 'Content-Type: application/json' -d {body}"

    email, password = shlex.quote(f"username={admin.email}"), admin.password or "YOUR-PASSWORD"
    only_it = """sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'"""
    login = (
        f"curl -s {address}/api/v1/auth/login --data-urlencode {email} --data-urlencode password={password}"
    )
    return (
        f"curl -N {ask('freshet-docs')}",
        f"TOKEN=$({login} | {only_it})",
        f'curl -N -H "Authorization: Bearer $TOKEN" {ask("members")}',
    )
