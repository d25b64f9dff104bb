"""The commands, on a real database, by what they print and leave."""

import json
import re
import socket
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.cli.failures import expected_in
from app.errors import InvalidInput, NotFound, Unauthenticated
from app.services.accounts import AccountService
from tests.cli.conftest import Freshet
from tests.ingest.ingest_files import encrypted
from tests.messengers.bot_api import TOKEN, BotApi


def _password(result: Result) -> str:
    found = re.search(r"shown only now: (\S+)", result.output)
    assert found is not None
    return found[1]


async def test_an_unsafe_setting_is_told_in_one_line(
    freshet: Freshet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/freshet")
    monkeypatch.delenv("SECRET_KEY")

    result = await freshet("serve")

    assert result.exit_code == 1
    assert result.output.startswith("Error: DATABASE_URL is set but SECRET_KEY is not.")


@pytest.mark.parametrize("command", ["run", "serve", "migrate", "doctor"])
def test_a_database_that_is_not_there_is_told_in_words(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:geheim@127.0.0.1:1/freshet")
    monkeypatch.setenv("PORT", "0")

    result = shell.invoke(main, [command])

    assert result.exit_code == 1
    assert "cannot be reached" in result.output
    assert "geheim" not in result.output


def test_a_server_refuses_a_schema_of_another_version(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)

    result = shell.invoke(main, ["serve", "--port", "0"])

    assert result.exit_code == 1
    assert "The database's schema is empty" in result.output
    assert "Run `freshet migrate`" in result.output


async def test_a_malformed_url_is_told_without_its_password(
    freshet: Freshet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "someone:geheim@localhost")

    result = await freshet("migrate")

    assert result.exit_code == 1
    assert "is no URL" in result.output
    assert "geheim" not in result.output


async def test_a_port_that_is_taken_is_told_before_anything_is_started(
    freshet: Freshet, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = await freshet("serve", "--port", str(port))

    assert result.exit_code == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in result.output
    assert not (tmp_path / "data").exists()


async def test_a_schema_of_another_version_is_migrated_only_when_told_to(
    freshet: Freshet, monkeypatch: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)

    for command in (["migrate", "--check"], ["user", "list"]):
        refused = await freshet(*command)
        assert refused.exit_code == 1
        assert "Run `freshet migrate`" in refused.output

    assert "now this version's" in (await freshet("migrate")).output
    assert "nothing to do" in (await freshet("migrate")).output
    assert (await freshet("migrate", "--check")).exit_code == 0


async def test_the_tables_go_only_when_that_is_confirmed(freshet: Freshet, on_database: None) -> None:
    assert (await freshet("migrate", "--to", "base")).exit_code == 2
    assert (await freshet("migrate", "--check")).exit_code == 0

    gone = await freshet("migrate", "--to", "base", "--yes-delete-everything")

    assert "All tables are gone" in gone.output
    assert (await freshet("migrate", "--check")).exit_code == 1


async def test_a_user_is_added_with_a_password_that_counts(
    freshet: Freshet, on_database: None, accounts: AccountService
) -> None:
    added = await freshet("user", "add", "Ana@Example.com", "--admin")

    assert added.exit_code == 0
    await accounts.login("ana@example.com", _password(added), "127.0.0.1")
    listed = await freshet("user", "list")
    assert re.search(r"ana@example\.com +admin +yes", listed.output)
    again = await freshet("user", "add", "ana@example.com")
    assert again.exit_code == 1
    assert "already" in again.output


async def test_a_password_is_asked_for_twice_and_never_shown(
    freshet: Freshet, on_database: None, accounts: AccountService
) -> None:
    chosen = "a password of her own"

    added = await freshet("user", "add", "ana@example.com", "--password", typed=f"{chosen}\n{chosen}\n")

    assert added.exit_code == 0
    assert chosen not in added.output
    await accounts.login("ana@example.com", chosen, "127.0.0.1")


async def test_a_new_password_takes_the_place_of_the_old_one(
    freshet: Freshet, on_database: None, accounts: AccountService
) -> None:
    old = _password(await freshet("user", "add", "ana@example.com"))
    new = _password(await freshet("user", "password", "ana@example.com"))

    await accounts.login("ana@example.com", new, "127.0.0.1")
    with pytest.raises(Unauthenticated):
        await accounts.login("ana@example.com", old, "127.0.0.1")


async def test_a_token_is_all_that_is_printed_and_the_servers_take_it(
    freshet: Freshet, on_database: None, accounts: AccountService
) -> None:
    await freshet("user", "add", "ana@example.com")

    token = (await freshet("token", "ana@example.com")).output.strip()

    assert (await accounts.authenticate(token)).email == "ana@example.com"


async def test_nobody_gets_a_token_of_a_user_who_is_not_active(
    freshet: Freshet, on_database: None, accounts: AccountService
) -> None:
    user = await accounts.create_user("ana@example.com", "a password of her own", "user")
    await accounts.change_user(user.id, is_active=False)

    for email in (user.email, "nobody@example.com"):
        assert (await freshet("token", email)).exit_code == 1


async def test_documents_of_another_embedder_are_refused_until_they_are_embedded_anew(
    freshet: Freshet, on_database: None
) -> None:
    refused = await freshet("ask", "What is this?")
    assert refused.exit_code == 1
    assert "freshet reembed" in refused.output
    ill = await freshet("doctor")
    assert ill.exit_code == 1
    assert "✗ The documents were embedded by" in ill.output

    assert "now embedded by all-MiniLM-L6-v2" in (await freshet("reembed")).output

    assert "nothing to do" in (await freshet("reembed")).output
    assert (await freshet("doctor")).exit_code == 0


async def test_what_cannot_be_read_is_listed_and_the_rest_ingested(
    freshet: Freshet, on_new_database: None, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "fruit.md").write_text("# Fruit\n\nApples grow on trees.\n")
    (folder / "below" / "fish.txt").write_text("Fish swim in the water of the sea.\n")
    (folder / "below" / "broken.pdf").write_text("no PDF")
    (folder / "below" / "picture.png").write_bytes(b"\x89PNG\r\n")

    result = await freshet("ingest", str(folder), str(folder / "below" / "picture.png"))

    assert result.exit_code == 1
    assert "2 documents with 2 chunks in collection default" in result.output
    assert "1 file of other kinds passed over" in result.output
    assert "broken.pdf" in result.output
    assert "Files named .png cannot be read" in " ".join(result.output.split())
    assert "2 files of 4 refused" in result.output
    again = await freshet("ingest", str(folder / "fruit.md"))
    assert again.exit_code == 0


async def test_the_password_of_a_pdf_is_asked_for_and_never_shown(
    freshet: Freshet, on_new_database: None, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pdf"
    locked.write_bytes(encrypted(b"sesame"))

    result = await freshet("ingest", "--password", str(locked), typed="sesame\n")

    assert result.exit_code == 0
    assert "1 document with 1 chunk" in result.output
    assert "sesame" not in result.output


async def test_a_folder_with_nothing_to_read_is_refused(freshet: Freshet, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    result = await freshet("ingest", str(tmp_path / "folder"))

    assert result.exit_code == 1
    assert "no file that can be read" in result.output


async def test_an_assistant_that_is_not_there_is_told(freshet: Freshet, on_new_database: None) -> None:
    result = await freshet("ask", "What is this?", "--assistant", "nobody")

    assert result.exit_code == 1
    assert "There is no assistant nobody." in result.output


class _Models(BaseHTTPRequestHandler):
    """A model server that lists one model to those with the key."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer the-key"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "one"}]}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        """Nothing: the test's output is not the place."""


@pytest.fixture
def model_server() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        serving.join()


@pytest.mark.parametrize(
    ("key", "model", "said"),
    [
        ("the-key", "one", "answers, the model is one"),
        ("the-key", "two", "has no model two"),
        ("a-wrong-key", "one", "answers with 401"),
    ],
)
async def test_the_doctor_asks_the_model_server_what_it_has(
    freshet: Freshet,
    on_new_database: None,
    model_server: str,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    model: str,
    said: str,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", model_server)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("CHAT_MODEL", model)

    result = await freshet("doctor")

    assert said in result.output
    assert result.exit_code == (0 if "the model is" in said else 1)


async def test_the_doctor_asks_telegram_for_the_bot(
    freshet: Freshet, on_new_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEGRAM_ASSISTANT", "waters")
    async with BotApi().serving() as bot:
        monkeypatch.setenv("TELEGRAM_API_URL", bot.url)
        for token, code, said in (
            (TOKEN, 0, "✓ Telegram knows the bot @freshet_bot"),
            ("18:wrong", 1, "✗ Telegram does not know the bot"),
        ):
            monkeypatch.setenv("TELEGRAM_BOT_TOKEN", token)
            result = await freshet("doctor")
            assert said in result.output
            assert result.exit_code == code


async def test_the_doctor_finds_a_key_that_others_can_read(
    freshet: Freshet, on_new_database: None, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "secret_key").write_text("x" * 64)
    (tmp_path / "data" / "secret_key").chmod(0o644)

    result = await freshet("doctor")

    assert result.exit_code == 1
    assert "✗ Other users can read" in result.output


def test_only_what_is_expected_throughout_is_told_without_a_traceback() -> None:
    expected, bug = NotFound("user", "ana"), ValueError("a bug")

    assert expected_in(ExceptionGroup("", [ExceptionGroup("", [expected]), InvalidInput("")])) is expected
    assert expected_in(ExceptionGroup("", [expected, bug])) is None


@pytest.mark.parametrize("command", [[], ["user"], ["ingest"], ["eval"], ["serve"]])
def test_each_command_says_what_it_is_for(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])

    assert result.exit_code == 0
    assert "Usage:" in result.output


async def test_what_answers_have_taken_is_a_table(freshet: Freshet, on_database: None) -> None:
    await freshet("user", "add", "ada@example.com")

    nothing = await freshet("usage", "--by", "user", "--as", "ada@example.com", "--from", "2026-11-01")
    unknown = await freshet("usage", "--assistant", "nobody")

    assert nothing.exit_code == 0, nothing.output
    assert re.search(r"^all( +0){4} *$", nothing.output, re.MULTILINE)
    assert (unknown.exit_code, "no assistant nobody" in unknown.output) == (1, True)
