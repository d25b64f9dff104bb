"""What is read from the environment and from `.env`, once, grouped by who needs it.

Every field is documented in `docs/operations.md`; a test compares the two.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import StartupRefused

BUILT_IN_EMBEDDER = "all-MiniLM-L6-v2"

# As a browser sends it, which is what it is compared with.
_ORIGIN = re.compile(r"https?://[^\s/?#@*]+")

_HTTP_URL = re.compile(r"https?://[^\s/]+")

# A channel is there with all of its settings, or with none.
_NEEDED_TOGETHER = (
    ("TELEGRAM_ASSISTANT", "TELEGRAM_BOT_TOKEN"),
    ("SLACK_ASSISTANT", "SLACK_BOT_TOKEN", "SLACK_SIGNING_SECRET"),
    ("WEBHOOK_ASSISTANT", "WEBHOOK_SECRET", "WEBHOOK_CALLBACK_URL"),
)

_PositiveInt = Annotated[int, Field(gt=0)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Price = Annotated[float, Field(ge=0)] | None
_PositiveSeconds = Annotated[float, Field(gt=0, le=86_400)]


class _Group(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )


class ServerSettings(_Group):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    workers: _PositiveInt = 1
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error|critical)$")] = "info"
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    cors_credentials: bool = True
    max_body_bytes: _PositiveInt = 8 * 2**20
    shutdown_grace_s: _PositiveSeconds = 20.0

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_small_letters(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(origin.strip().rstrip("/").lower() for origin in value.split(",") if origin.strip())
        return value


class DatabaseSettings(_Group):
    database_url: SecretStr | None = None
    freshet_data_dir: Path = Path(".data")
    db_pool_size: _PositiveInt = 10
    db_pool_timeout_s: _PositiveSeconds = 30.0
    db_connect_timeout_s: _PositiveSeconds = 10.0


class SecuritySettings(_Group):
    secret_key: SecretStr | None = None
    admin_email: str = "admin@example.com"
    access_token_minutes: _PositiveInt = 15
    refresh_token_days: _PositiveInt = 30
    chat_token_s: _PositiveSeconds = 3_600.0
    login_free_attempts: _PositiveInt = 5
    login_lock_max_s: _PositiveSeconds = 900.0


class ModelPrice(BaseModel):
    """Of a million tokens that the model reads, and of a million that it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Amount
    output: _Amount


class Budget(BaseModel):
    """What may be spent in a day or a month of UTC: tokens read and written, and their cost."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    tokens: Annotated[int, Field(strict=True, gt=0, lt=2**53)] | None = None
    cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    period: Literal["day", "month"]

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if self.tokens is None and self.cost is None:
            raise ValueError("needs tokens or cost, or both")
        return self


class LimitSettings(_Group):
    user_turns_per_minute: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    visitor_turns_per_minute: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    user_budget: Annotated[Budget | None, NoDecode] = None
    visitor_budget: Annotated[Budget | None, NoDecode] = None

    @field_validator("user_budget", "visitor_budget", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value


class ModelSettings(_Group):
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    chat_model: str = "gpt-4.1-mini"
    model_first_token_s: _PositiveSeconds = 60.0
    model_silence_s: _PositiveSeconds = 30.0
    model_retries: Annotated[int, Field(ge=0, le=10)] = 2
    model_input_price: _Price = None
    model_output_price: _Price = None
    model_prices: Annotated[dict[str, ModelPrice] | None, NoDecode] = None

    @field_validator("model_prices", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @property
    def uses_openai(self) -> bool:
        """Whether an OpenAI-compatible server answers, and not the built-in answerer."""
        return self.openai_api_key is not None or self.openai_base_url is not None


class EmbeddingSettings(_Group):
    embedding_model: str = BUILT_IN_EMBEDDER
    embedding_dimensions: Annotated[int, Field(ge=1, le=4_000)] | None = None
    embedding_timeout_s: _PositiveSeconds = 30.0
    embedding_threads: _PositiveInt = 2
    embedding_price: _Price = None

    @property
    def is_built_in(self) -> bool:
        return self.embedding_model == BUILT_IN_EMBEDDER


class RetrievalSettings(_Group):
    rerank_kind: Literal["server", "maxsim"] = "server"
    rerank_url: str | None = None
    rerank_form: Literal["cohere", "jina", "tei"] | None = None
    rerank_model: str | None = None
    rerank_api_key: SecretStr | None = None
    rerank_timeout_s: _PositiveSeconds = 3.0
    rerank_candidates: Annotated[int, Field(ge=1, le=50)] | None = None
    passages_per_document: _PositiveInt | None = None
    neighbour_characters: Annotated[int, Field(ge=0, le=50_000)] = 0

    @property
    def candidates(self) -> int:
        """The built-in reranker takes a tenth of a second of processor time for each."""
        return self.rerank_candidates or (10 if self.rerank_kind == "maxsim" else 30)

    @property
    def of_a_server(self) -> list[str]:
        """The names of the settings that are set and mean something to a reranking server alone."""
        names = ("rerank_url", "rerank_form", "rerank_model", "rerank_api_key")
        return [name.upper() for name in names if getattr(self, name) is not None]


class ChatSettings(_Group):
    max_running_runs: _PositiveInt = 5_000
    history_tokens: Annotated[int, Field(ge=0)] = 2_000
    summary_tokens: Annotated[int, Field(ge=0, le=100_000)] = 500
    context_tokens: _PositiveInt = 6_000
    heartbeat_s: _PositiveSeconds = 15.0
    store_retry_s: _PositiveSeconds = 60.0
    query_rewrite: Literal["auto", "model", "rules", "off"] = "auto"
    query_rewrite_s: _PositiveSeconds = 3.0
    checkpoint_s: _PositiveSeconds = 0.2
    process_heartbeat_s: _PositiveSeconds = 2.5
    reader_max_behind_bytes: _PositiveInt = 8 * 2**20
    reader_stall_s: _PositiveSeconds = 60.0
    session_retention_days: _PositiveInt | None = None
    socket_messages_per_minute: _PositiveInt = 60
    readers_open_documents: bool = True
    agents_open: bool = False


class IngestSettings(_Group):
    max_upload_bytes: _PositiveInt = 50 * 2**20
    ingest_concurrency: _PositiveInt = 4
    ingest_in_server: bool = True
    ingest_attempts: Annotated[int, Field(ge=1, le=100)] = 6
    convert_timeout_s: _PositiveSeconds = 60.0
    convert_memory_bytes: Annotated[int, Field(ge=256 * 2**20)] = 2**30


class AttachmentSettings(_Group):
    attachments_per_session: Annotated[int, Field(ge=0, le=200)] = 20
    attachment_max_bytes: _PositiveInt = 10 * 2**20
    attachment_wait_s: _PositiveSeconds = 60.0


class ConnectorSettings(_Group):
    connector_folders: Annotated[tuple[Path, ...], NoDecode] = ()
    connector_allow_private: Annotated[tuple[str, ...], NoDecode] = ()
    connector_concurrency: _PositiveInt = 2

    @field_validator("connector_folders", "connector_allow_private", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("connector_folders")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if any(not folder.is_absolute() for folder in value):
            raise ValueError("every folder begins at the root")
        return value


class MessengerSettings(_Group):
    messenger_user: str | None = None
    callback_assistant: str | None = None
    callback_secret: SecretStr | None = None
    messenger_edit_every_s: _PositiveSeconds = 1.0
    telegram_assistant: str | None = None
    telegram_bot_token: SecretStr | None = None
    telegram_webhook_url: str | None = None
    telegram_api_url: str = "https://api.telegram.org"
    slack_assistant: str | None = None
    slack_bot_token: SecretStr | None = None
    slack_signing_secret: SecretStr | None = None
    slack_api_url: str = "https://slack.com/api/"
    webhook_assistant: str | None = None
    webhook_secret: SecretStr | None = None
    webhook_callback_url: str | None = None


_G = TypeVar("_G", bound=_Group)


class ToolServer(BaseModel):
    """`headers` go with each request, such as a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=_HTTP_URL.pattern)]
    headers: dict[str, SecretStr] = {}


class ToolSettings(_Group):
    tool_servers: Annotated[
        dict[Annotated[str, Field(pattern="^[a-z0-9-]{1,32}$")], ToolServer], NoDecode
    ] = {}
    tool_rounds: Annotated[int, Field(ge=0, le=50)] = 5
    tool_call_s: _PositiveSeconds = 30.0
    tool_result_bytes: _PositiveInt = 20_000

    @field_validator("tool_servers", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError("it is no JSON") from error


@dataclass(frozen=True, slots=True)
class Settings:
    server: ServerSettings
    database: DatabaseSettings
    security: SecuritySettings
    model: ModelSettings
    embedding: EmbeddingSettings
    chat: ChatSettings
    ingest: IngestSettings
    connectors: ConnectorSettings
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    messengers: MessengerSettings = field(default_factory=MessengerSettings)
    attachments: AttachmentSettings = field(default_factory=AttachmentSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    tools: ToolSettings = field(default_factory=ToolSettings)

    @classmethod
    def load(cls, named: Mapping[str, Any] | None = None) -> Self:
        """What is `named`, by the names of the fields, goes before the environment.

        Raises `StartupRefused` for a value that is malformed, or unsafe with the others, and for a name of none.
        """
        given = dict(named or {})
        unknown = given.keys() - {name for group in groups() for name in group.model_fields}
        if unknown:
            raise StartupRefused(f"There is no setting {min(unknown)}. docs/operations.md lists them all.")

        def of(group: type[_G]) -> _G:
            return group(**{name: given[name] for name in given.keys() & group.model_fields.keys()})

        try:
            settings = cls(
                server=of(ServerSettings),
                database=of(DatabaseSettings),
                security=of(SecuritySettings),
                model=of(ModelSettings),
                embedding=of(EmbeddingSettings),
                chat=of(ChatSettings),
                ingest=of(IngestSettings),
                connectors=of(ConnectorSettings),
                retrieval=of(RetrievalSettings),
                messengers=of(MessengerSettings),
                attachments=of(AttachmentSettings),
                limits=of(LimitSettings),
                tools=of(ToolSettings),
            )
        except ValidationError as error:
            raise StartupRefused(_in_words(error)) from error
        settings.refuse_what_is_unsafe()
        return settings

    def refuse_what_is_unsafe(self) -> None:
        if self.database.database_url is not None and self.security.secret_key is None:
            raise StartupRefused(
                "DATABASE_URL is set but SECRET_KEY is not. Tokens must outlive a restart and be the same in every process: "
                "set SECRET_KEY to at least 32 random characters, for example from `openssl rand -hex 32`."
            )
        key = self.security.secret_key
        if key is not None and len(key.get_secret_value()) < 32:
            raise StartupRefused(
                "SECRET_KEY is too short to sign tokens with: use at least 32 random characters."
            )
        if "*" in self.server.cors_origins and self.server.cors_credentials:
            raise StartupRefused(
                "CORS_ORIGINS is * while CORS_CREDENTIALS is on: every web site could act for a signed-in user. "
                "Name the origins of your front ends, or set CORS_CREDENTIALS=false."
            )
        for origin in self.server.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise StartupRefused(
                    f"CORS_ORIGINS holds {origin!r}, which is no origin: write scheme, host and port, such as https://chat.example.com."
                )
        if self.model.uses_openai is False and self.chat.query_rewrite == "model":
            raise StartupRefused(
                "QUERY_REWRITE is model, but no language model is configured: set OPENAI_API_KEY or OPENAI_BASE_URL, or leave it at auto."
            )
        self._refuse_a_reranker_that_cannot_be()
        self._refuse_channels_that_cannot_be()
        if self.model.uses_openai is False and not self.embedding.is_built_in:
            raise StartupRefused(
                f"EMBEDDING_MODEL is {self.embedding.embedding_model!r}, but there is no server to ask for it: "
                f"set OPENAI_API_KEY or OPENAI_BASE_URL, or leave EMBEDDING_MODEL at {BUILT_IN_EMBEDDER}."
            )

    def _refuse_a_reranker_that_cannot_be(self) -> None:
        retrieval = self.retrieval
        if retrieval.rerank_url is not None and not _HTTP_URL.match(retrieval.rerank_url):
            raise StartupRefused(
                f"RERANK_URL is {retrieval.rerank_url!r}: write the whole address, such as http://localhost:8080/rerank."
            )
        if retrieval.rerank_kind == "maxsim" and retrieval.of_a_server:
            raise StartupRefused(
                f"RERANK_KIND is maxsim, which is built in and asks no server, but {retrieval.of_a_server[0]} is set: "
                "leave one of the two out."
            )
        if retrieval.rerank_kind == "maxsim" and not self.embedding.is_built_in:
            raise StartupRefused(
                f"RERANK_KIND is maxsim, which reads with the built-in embedder, but EMBEDDING_MODEL is "
                f"{self.embedding.embedding_model!r}: leave it at {BUILT_IN_EMBEDDER}, or leave RERANK_KIND out."
            )

    def _refuse_channels_that_cannot_be(self) -> None:
        for needed in _NEEDED_TOGETHER:
            given = [name for name in needed if getattr(self.messengers, name.lower()) is not None]
            if given and len(given) < len(needed):
                raise StartupRefused(
                    f"{given[0]} is set, but not {' and '.join(n for n in needed if n not in given)}."
                )
        for name in ("telegram_webhook_url", "telegram_api_url", "slack_api_url", "webhook_callback_url"):
            url = getattr(self.messengers, name)
            if url is not None and not _HTTP_URL.match(url):
                raise StartupRefused(f"{name.upper()} is {url!r}: write the whole address, from https:// on.")


def groups() -> tuple[type[BaseSettings], ...]:
    """Every group, for the documentation's test."""
    return (
        ServerSettings,
        DatabaseSettings,
        SecuritySettings,
        ModelSettings,
        EmbeddingSettings,
        ChatSettings,
        IngestSettings,
        ConnectorSettings,
        RetrievalSettings,
        MessengerSettings,
        AttachmentSettings,
        LimitSettings,
        ToolSettings,
    )


def _in_words(error: ValidationError) -> str:
    lines = [
        f"{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in error.errors(include_url=False)
    ]
    return "A setting cannot be used. " + "; ".join(lines) + ". docs/operations.md lists them all."
