"""A process that has imported Freshet and is forked for each server: to start one anew takes seconds of processor time.

What is forked is an operating-system process like any other, which then does what the command `freshet serve` does. Its parent is gone at once,
so that it becomes a child of the process that asked for it. Linux only.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.servers import PROJECT

_PR_SET_CHILD_SUBREAPER = 36


class Process:
    """A child of this process, though not started by it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self._wait(os.WNOHANG)
        return self.returncode

    def wait(self) -> None:
        if self.returncode is None:
            self._wait(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, options: int) -> None:
        with suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)


class Nursery:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def start(self, environment: Mapping[str, str], directory: Path, log: Path) -> Process:
        """`freshet serve` with this environment alone, in this directory; what it says is put behind what is in the log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wanted = {"environment": dict(environment), "directory": str(directory), "log": str(log)}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.flush()
        return Process(int(self._process.stdout.readline()))


@contextmanager
def nursery(rule: str) -> Generator[Nursery]:
    """Of servers with this guard broken; see `bench.chaos_breaks`."""
    _adopt(orphans=True)
    command = [sys.executable, "-P", "-m", "bench.chaos_breaks", rule]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield Nursery(process)
        finally:
            process.kill()
            _adopt(orphans=False)


def _adopt(*, orphans: bool) -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0) != 0:
        raise OSError("this system does not let a process adopt its grandchildren")


def await_birth() -> None:
    """In the process that is forked: returns once for each server, in that server's process. Ends with its input."""
    for line in iter(sys.stdin.buffer.readline, b""):
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            server = os.fork()
            if server:
                os.write(writing, b"%d\n" % server)
                os._exit(0)
            _settle(**json.loads(line))
            return
        os.close(writing)
        os.waitpid(between, 0)
        with os.fdopen(reading, "rb") as told:
            sys.stdout.buffer.write(told.readline())
            sys.stdout.buffer.flush()
    sys.exit()


def _settle(environment: dict[str, str], directory: str, log: str) -> None:
    os.setsid()
    os.chdir(directory)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, output), (2, output)):
        os.dup2(file, number)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
