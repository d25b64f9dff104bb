"""What may be wrong with an installation, and what to do about it."""

import asyncio
import json
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import aiohttp

from app.cli.database import engine_of, reachable, revision_of
from app.cli.terminal import Terminal
from app.db import migrations, server
from app.db.engine import Sessions
from app.errors import FreshetError, StartupRefused
from app.messengers.growing import ChannelRefused, NotNow
from app.messengers.telegram import BotApi
from app.resources import open_embedder
from app.settings import MessengerSettings, ModelSettings, Settings

_OLDEST_POSTGRES, _NEWEST_POSTGRES = 15, 18
_OLDEST_VECTOR = (0, 8)
_LITTLE_DISK_BYTES = 2 * 2**30
_OPENAI = "https://api.openai.com/v1"
_MODEL_TIMEOUT_S = 10


class _SomethingWrong(FreshetError):
    """What it is has been said; this is for the exit code."""


class _Findings:
    def __init__(self) -> None:
        self._terminal = Terminal()
        self.wrong = 0

    def good(self, text: str) -> None:
        self._terminal.verdict(text, good=True)

    def bad(self, text: str, advice: str = "") -> None:
        self.wrong += 1
        self._terminal.verdict(text, good=False)
        if advice:
            self._terminal.say(f"  {advice}", "dim")


def doctor() -> None:
    findings = _Findings()
    try:
        settings = Settings.load()
    except StartupRefused as error:
        findings.bad(error.message)
    else:
        findings.good("The settings can be used")
        _check_data_dir(settings, findings)
        try:
            with reachable(settings) as reached:
                asyncio.run(_check_parts(reached, findings))
        except StartupRefused as error:
            findings.bad(error.message)
        _check_model(settings.model, findings)
        asyncio.run(_check_telegram(settings.messengers, findings))
    if findings.wrong:
        raise _SomethingWrong(f"{findings.wrong} of these would keep Freshet from working.")


def _check_data_dir(settings: Settings, findings: _Findings) -> None:
    directory = settings.database.freshet_data_dir.resolve()
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < _LITTLE_DISK_BYTES:
        findings.bad(
            f"Only {free / 2**30:.1f} GB are free for {directory}", "Make room, or move FRESHET_DATA_DIR."
        )
    else:
        findings.good(f"{free / 2**30:,.0f} GB are free for {directory}")
    for path in (directory / "secret_key", directory / "postgres"):
        if _is_open_to_others(path):
            findings.bad(f"Other users can read {path}", f"chmod go= {path}")


def _is_open_to_others(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


async def _check_parts(settings: Settings, findings: _Findings) -> None:
    """Each on its own: that one cannot be looked at is no reason to keep silent about the next."""
    checks: tuple[Callable[[Settings, _Findings], Awaitable[None]], ...] = (
        _check_database,
        _check_embedder,
    )
    for check in checks:
        try:
            await check(settings, findings)
        except FreshetError as error:
            findings.bad(error.message)


async def _check_database(settings: Settings, findings: _Findings) -> None:
    async with engine_of(settings) as engine:
        async with Sessions(engine).read() as session:
            versions = await server.versions(session)
        revision = await revision_of(engine)
    if _OLDEST_POSTGRES <= versions.postgres <= _NEWEST_POSTGRES:
        findings.good(f"PostgreSQL {versions.postgres} answers")
    else:
        findings.bad(
            f"PostgreSQL {versions.postgres} answers",
            f"Freshet is tested with {_OLDEST_POSTGRES} to {_NEWEST_POSTGRES}: use one of these.",
        )
    _check_vector(versions, findings)
    if revision == migrations.newest():
        findings.good("The schema is this version's")
    else:
        findings.bad(f"The schema is {'at ' + revision if revision else 'empty'}", "Run `freshet migrate`.")


def _check_vector(versions: server.ServerVersions, findings: _Findings) -> None:
    if versions.vector is None and versions.vector_available is None:
        findings.bad("The server has no pgvector", "Install pgvector 0.8 for its version of PostgreSQL.")
    elif versions.vector is None:
        findings.bad(
            "The extension vector is not in the database",
            "Run `freshet migrate`, or `CREATE EXTENSION vector` as a superuser.",
        )
    elif tuple(int(part) for part in versions.vector.split(".")[:2]) < _OLDEST_VECTOR:
        findings.bad(
            f"pgvector {versions.vector} is too old",
            "Install pgvector 0.8, then `ALTER EXTENSION vector UPDATE`.",
        )
    else:
        findings.good(f"pgvector {versions.vector} is in the database")


async def _check_embedder(settings: Settings, findings: _Findings) -> None:
    async with open_embedder(settings) as embedder:
        expected = (embedder.name, embedder.dimensions)
    findings.good(f"The embedder {expected[0]} works ({expected[1]} dimensions)")
    async with engine_of(settings) as engine:
        if await revision_of(engine) != migrations.newest():
            return
        async with Sessions(engine).read() as session:
            recorded = await server.recorded_embedder(session)
    if recorded not in {None, expected}:
        name, dimensions = cast("tuple[str, int]", recorded)
        findings.bad(
            f"The documents were embedded by {name} ({dimensions} dimensions)",
            "Run `freshet reembed`, or set EMBEDDING_MODEL back.",
        )


def _check_model(settings: ModelSettings, findings: _Findings) -> None:
    if not settings.uses_openai:
        findings.good("Answers are quoted from the sources: no OPENAI_API_KEY or OPENAI_BASE_URL is set")
        return
    address = (settings.openai_base_url or _OPENAI).rstrip("/") + "/models"
    try:
        names = _model_names(address, settings)
    except urllib.error.HTTPError as error:
        advice = "Is OPENAI_API_KEY right?" if error.code in {401, 403} else "Is OPENAI_BASE_URL right?"
        findings.bad(f"{address} answers with {error.code}", advice)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        findings.bad(
            f"{address} does not answer: {reason}", "Is OPENAI_BASE_URL right, and the server running?"
        )
    else:
        if not names or settings.chat_model in names:
            findings.good(f"{address} answers, the model is {settings.chat_model}")
        else:
            some = ", ".join(sorted(names)[:8])
            findings.bad(
                f"{address} answers, but has no model {settings.chat_model}",
                f"Set CHAT_MODEL. It has {some}.",
            )


async def _check_telegram(settings: MessengerSettings, findings: _Findings) -> None:
    if settings.telegram_bot_token is None:
        return
    async with aiohttp.ClientSession() as http:
        api = BotApi(http, settings.telegram_api_url, settings.telegram_bot_token.get_secret_value())
        try:
            bot = await api.call("getMe")
        except (NotNow, ChannelRefused):
            findings.bad(
                "Telegram does not know the bot, or cannot be reached", "Is TELEGRAM_BOT_TOKEN right?"
            )
        else:
            findings.good(f"Telegram knows the bot @{bot['username']}")


def _model_names(address: str, settings: ModelSettings) -> set[str]:
    """What the server lists; nothing if it lists in a way of its own. Raises `OSError`, and `ValueError` for what is no URL."""
    if not address.startswith(("http://", "https://")):
        raise ValueError("it is no http address")
    key = settings.openai_api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310  # looked at above
    with urllib.request.urlopen(request, timeout=_MODEL_TIMEOUT_S) as response:  # noqa: S310  # looked at above
        listed: Any = json.load(response)
    try:
        return {str(model["id"]) for model in listed["data"]}
    except (KeyError, TypeError):
        return set()
