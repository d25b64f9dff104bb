from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import StartupRefused
from app.settings import Settings, groups

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without `.env`, and an environment without settings."""
    for group in groups():
        for name in group.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    with pytest.raises(StartupRefused) as refused:
        given(monkeypatch, **environment)
    return refused.value.message


def test_nothing_has_to_be_set():
    settings = Settings.load()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.database.database_url is None
    assert settings.security.secret_key is None
    assert not settings.model.uses_openai
    assert settings.embedding.is_built_in
    assert settings.server.cors_origins == ()


def test_each_setting_has_a_name_of_its_own():
    names = [name for group in groups() for name in group.model_fields]
    assert len(names) == len(set(names))


def test_settings_are_read_from_the_environment_under_their_names(monkeypatch: pytest.MonkeyPatch):
    settings = given(
        monkeypatch,
        HOST="0.0.0.0",  # noqa: S104  # read, not listened at
        PORT="8123",
        DATABASE_URL="postgresql://user:pass@db.example.com/freshet",
        FRESHET_DATA_DIR="/srv/freshet",
        SECRET_KEY=KEY,
        CORS_ORIGINS="https://a.example.com, https://B.example.com/,http://[::1]:5173",
        OPENAI_API_KEY="sk-secret",
        OPENAI_BASE_URL="http://localhost:11434/v1",
        CHAT_MODEL="llama3.2",
        EMBEDDING_MODEL="nomic-embed-text",
        MAX_RUNNING_RUNS="7",
        STORE_RETRY_S="2.5",
        LOG_LEVEL="WARNING",
    )
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8123)  # noqa: S104  # as above
    assert settings.server.cors_origins == (
        "https://a.example.com",
        "https://b.example.com",
        "http://[::1]:5173",
    )
    assert settings.server.log_level == "warning"
    assert settings.database.freshet_data_dir == Path("/srv/freshet")
    assert settings.model.uses_openai
    assert settings.model.chat_model == "llama3.2"
    assert not settings.embedding.is_built_in
    assert (settings.chat.max_running_runs, settings.chat.store_retry_s) == (7, 2.5)


def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch):
    assert given(monkeypatch, OPENAI_BASE_URL="http://localhost:11434/v1").model.uses_openai


def test_settings_are_read_from_a_file_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
):
    (nowhere / ".env").write_text("PORT=8001\nCHAT_MODEL='from the file'\nSOMETHING_ELSE=1\n", "utf-8")
    settings = given(monkeypatch, PORT="8002")
    assert (settings.server.port, settings.model.chat_model) == (8002, "from the file")


def test_what_is_empty_counts_as_unset(monkeypatch: pytest.MonkeyPatch, nowhere: Path):
    (nowhere / ".env").write_text("DATABASE_URL=\nCORS_ORIGINS=\n", "utf-8")
    settings = given(monkeypatch, PORT="", SECRET_KEY="", OPENAI_API_KEY="", EMBEDDING_MODEL="", LOG_LEVEL="")
    assert settings == Settings.load()
    assert settings.server.port == 8000
    assert settings.database.database_url is None
    assert settings.security.secret_key is None
    assert not settings.model.uses_openai


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch):
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.server.port = 1


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    url = "postgresql://user:hunter2@db.example.com/freshet"
    settings = given(monkeypatch, DATABASE_URL=url, SECRET_KEY=KEY, OPENAI_API_KEY="sk-secret")
    shown = f"{settings} {settings!r}"
    assert not [secret for secret in ("hunter2", KEY, "sk-secret") if secret in shown]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DATABASE_URL": "postgresql://db.example.com/freshet"}, ["DATABASE_URL", "SECRET_KEY", "restart"]),
        ({"SECRET_KEY": "short"}, ["SECRET_KEY", "32"]),
        ({"CORS_ORIGINS": "*"}, ["CORS_ORIGINS", "CORS_CREDENTIALS", "every web site"]),
        ({"CORS_ORIGINS": "https://a.example.com,*"}, ["CORS_ORIGINS", "every web site"]),
        ({"CORS_ORIGINS": "chat.example.com"}, ["chat.example.com", "scheme"]),
        ({"CORS_ORIGINS": "https://a.example.com/chat"}, ["/chat", "no origin"]),
        ({"CORS_ORIGINS": "https://"}, ["no origin"]),
        ({"TELEGRAM_BOT_TOKEN": "17:a"}, ["TELEGRAM_BOT_TOKEN is set, but not TELEGRAM_ASSISTANT"]),
        (
            {
                "TELEGRAM_BOT_TOKEN": "17:a",
                "TELEGRAM_ASSISTANT": "a",
                "TELEGRAM_WEBHOOK_URL": "bot.example.com",
            },
            ["TELEGRAM_WEBHOOK_URL", "whole address"],
        ),
        ({"CORS_ORIGINS": "https://*.example.com"}, ["no origin"]),
        ({"CORS_ORIGINS": "https://a.example.com?b"}, ["no origin"]),
        ({"CORS_ORIGINS": "https://user@a.example.com"}, ["no origin"]),
        ({"EMBEDDING_MODEL": "text-embedding-3-small"}, ["EMBEDDING_MODEL", "OPENAI_API_KEY"]),
        ({"RERANK_KIND": "maxsim", "RERANK_URL": "http://a.example/rerank"}, ["RERANK_KIND", "RERANK_URL"]),
        ({"RERANK_KIND": "maxsim", "RERANK_API_KEY": "secret"}, ["RERANK_KIND", "RERANK_API_KEY"]),
        (
            {"RERANK_KIND": "maxsim", "EMBEDDING_MODEL": "another", "OPENAI_API_KEY": "sk-secret"},
            ["RERANK_KIND", "EMBEDDING_MODEL", "another", "all-MiniLM-L6-v2"],
        ),
    ],
)
def test_what_is_unsafe_together_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: list[str]
):
    message = refusal(monkeypatch, **environment)
    assert [word for word in words if word not in message] == []


def test_the_built_in_reranker_is_given_fewer_passages_unless_it_is_told(monkeypatch: pytest.MonkeyPatch):
    assert given(monkeypatch).retrieval.candidates == 30
    assert given(monkeypatch, RERANK_KIND="maxsim").retrieval.candidates == 10
    assert given(monkeypatch, RERANK_CANDIDATES="7").retrieval.candidates == 7


def test_any_origin_is_allowed_without_credentials(monkeypatch: pytest.MonkeyPatch):
    settings = given(monkeypatch, CORS_ORIGINS="*", CORS_CREDENTIALS="false")
    assert settings.server.cors_origins == ("*",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("WORKERS", "0"),
        ("LOG_LEVEL", "loud"),
        ("MAX_RUNNING_RUNS", "0"),
        ("HISTORY_TOKENS", "-1"),
        ("STORE_RETRY_S", "0"),
        ("STORE_RETRY_S", "nan"),
        ("STORE_RETRY_S", "inf"),
        ("MODEL_RETRIES", "many"),
        ("EMBEDDING_DIMENSIONS", "5000"),
        ("CORS_CREDENTIALS", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    message = refusal(monkeypatch, **{name: value})
    assert name in message
    assert "docs/operations.md" in message


def test_all_values_that_cannot_be_used_are_told_of_one_group_and_no_secret_is(
    monkeypatch: pytest.MonkeyPatch,
):
    message = refusal(monkeypatch, PORT="http", WORKERS="none", SECRET_KEY="hunter2")
    assert "PORT" in message
    assert "WORKERS" in message
    assert "hunter2" not in message
