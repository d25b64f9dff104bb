"""The process that reads documents: `python -m app.ingest.worker LIMITS`, one request after the other, until its input ends.

A request and a reply are each two lengths (four bytes, big endian), a JSON header and bytes. The request's header names
the reader, and the password if there is one, and its bytes are the file; the reply's bytes are the text in UTF-8, and
its header the rest, or a refusal.
Starts quickly: a reader, and the libraries it needs, is imported when the first document asks for it.
"""

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO, cast

from app.errors import DocumentRefused
from app.ingest.readers import Allowance, Unforeseen, read

LENGTHS = struct.Struct(">II")
# The exit status of a worker that could not even say so.
NO_MEMORY_LEFT = 99


@dataclass(frozen=True, slots=True)
class Limits:
    time_s: float
    memory_bytes: int
    text_characters: int


def head(header: bytes, body_length: int) -> bytes:
    """A request or a reply without its bytes, which follow."""
    return LENGTHS.pack(len(header), body_length) + header


def serve(
    requests: BinaryIO, replies: BinaryIO, text_characters: int, *, before_each: Callable[[], None]
) -> None:
    while lengths := requests.read(LENGTHS.size):
        header_length, body_length = LENGTHS.unpack(lengths)
        header = json.loads(requests.read(header_length))
        content = requests.read(body_length)
        before_each()
        allowance = Allowance(text_characters, password=header.get("password"))
        replies.write(answer(header["reader"], content, allowance))
        replies.flush()


def answer(reader: str, content: bytes, allowance: Allowance) -> bytes:
    """The frame to send back. Whatever goes wrong in a reader must cost no more than this file."""
    try:
        reading = read(reader, content, allowance)
        body = reading.text.encode()
    except Unforeseen as refused:
        return _refusal(refused.reason, refused.message, cause=refused.cause)
    except DocumentRefused as refused:
        return _refusal(refused.reason, refused.message)
    except MemoryError:
        return _OUT_OF_MEMORY
    header = {"title": reading.title, "pages": reading.pages, "warnings": reading.warnings}
    return head(json.dumps(header).encode(), len(body)) + body


def _refusal(reason: str, message: str, *, cause: str | None = None) -> bytes:
    return head(json.dumps({"reason": reason, "message": message, "cause": cause}).encode(), 0)


# Made beforehand: there is no memory to make it when it is needed.
_OUT_OF_MEMORY = _refusal("memory", "Reading the document takes more memory than is allowed.")


def _confine(memory_bytes: int) -> None:  # pragma: no cover  # for a process of its own
    """What the operating system can enforce: no more memory, no files written, no memory written to disk in a crash."""
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _limit_time(time_s: float) -> None:  # pragma: no cover  # for a process of its own
    """Stops this process by itself when nobody is left to stop it."""
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + time_s) + 2, hard))


def main() -> None:  # pragma: no cover  # for a process of its own
    limits = Limits(**cast("dict[str, Any]", json.loads(sys.argv[1])))
    # Nothing that a library prints may be taken for a reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _confine(limits.memory_bytes)
    # openpyxl imports it where it is installed, just to know its types: 25 MB, threads, and most of the time of a start.
    sys.modules["numpy"] = cast("ModuleType", None)
    try:
        serve(
            sys.stdin.buffer, replies, limits.text_characters, before_each=lambda: _limit_time(limits.time_s)
        )
    except MemoryError:
        os._exit(NO_MEMORY_LEFT)


if __name__ == "__main__":  # pragma: no cover  # for a process of its own
    main()
