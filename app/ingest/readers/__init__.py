"""What turns the bytes of one format into text. Runs in a worker process: see `app.ingest.worker`.

Each module has one function, `read(content: bytes, allowance: Allowance) -> Reading`. It raises DocumentRefused when it
knows why a file cannot be read; any other error is taken for a broken file.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from app.errors import DocumentRefused

_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_LONGEST_TITLE = 300
_MOST_MEMBERS = 2_000
_MOST_MEMBER_BYTES = 256 * 1024 * 1024


class TooMuchInside(DocumentRefused):
    """What a document holds inside of it is more than is unpacked; this refuses the whole, and not one part of it."""

    def __init__(self, message: str) -> None:
        super().__init__("too_large", message)


class Unforeseen(DocumentRefused):
    """A reader failed with an error that it does not know. `cause` is for the log."""

    def __init__(self, cause: str) -> None:
        super().__init__("broken", "The document is damaged and cannot be read.")
        self.cause = cause


@dataclass(slots=True)
class Room:
    """How much may still be unpacked of all that is inside of one document, however deep."""

    members: int = _MOST_MEMBERS
    bytes: int = _MOST_MEMBER_BYTES

    def take(self, *, members: int = 0, size: int = 0) -> None:
        """Raises TooMuchInside."""
        self.members -= members
        self.bytes -= size
        if self.members < 0:
            raise TooMuchInside(f"The document holds more than {_MOST_MEMBERS:,} files inside of it.")
        if self.bytes < 0:
            raise TooMuchInside(
                f"What the document holds unpacks to more than {_MOST_MEMBER_BYTES >> 20} MiB."
            )


@dataclass(frozen=True, slots=True)
class Allowance:
    """`characters` of text is the most that may be made of a document; `depth` is in how many others it lies."""

    characters: int
    password: str | None = None
    depth: int = 0
    room: Room = field(default_factory=Room)


@dataclass(frozen=True, slots=True)
class Reading:
    """`pages` are the label, start and end of each page in `text`; a page without text starts where it ends. A part that
    has no label of its own, as the text of a letter before what is attached to it, has an empty one."""

    text: str
    title: str | None = None
    pages: tuple[tuple[str, int, int], ...] = ()
    warnings: tuple[str, ...] = ()


class Draft:
    """A text as it is put together of blocks, between which are blank lines. Raises DocumentRefused beyond `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: list[str] = []
        self._length = 0

    def __len__(self) -> int:
        """Where the next block will start."""
        return self._length

    def add(self, block: str) -> tuple[int, int]:
        """Where the block starts and ends."""
        start = self._length
        self._length += len(block) + 2
        if self._length - 2 > self._limit:
            raise too_long(self._limit)
        self._blocks.append(block)
        return start, start + len(block)

    @property
    def text(self) -> str:
        return "\n\n".join(self._blocks)


def read(reader: str, content: bytes, allowance: Allowance) -> Reading:
    """Raises DocumentRefused, whatever goes wrong but for memory."""
    try:
        module = importlib.import_module(f"app.ingest.readers.{reader}")
        return cast("Callable[[bytes, Allowance], Reading]", module.read)(content, allowance)
    except (DocumentRefused, MemoryError):
        raise
    except Exception as error:  # a library may raise anything on a hostile file, and that is the file's fault
        raise Unforeseen(f"{type(error).__name__}: {error}"[:500]) from error


def clean(text: str) -> str:
    """Text that a database can keep: one kind of line end, no control characters but tab, no lone surrogates."""
    return _NOT_TEXT.sub("", _LINE_END.sub("\n", text.removeprefix("\ufeff")))


def one_line(text: str | None) -> str | None:
    """A title as it may be shown, or None when nothing is left of it."""
    return _SPACE.sub(" ", clean(text or "")).strip()[:_LONGEST_TITLE] or None


def too_long(limit: int) -> DocumentRefused:
    return DocumentRefused(
        "too_large", f"The document has more than {limit:,} characters of text. Split it into parts."
    )
