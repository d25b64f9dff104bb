"""Messages that Outlook has saved: an OLE2 file whose streams are named for the properties they hold (MS-OXMSG, section 2)."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Protocol, cast

import olefile

from app.errors import DocumentRefused
from app.ingest.headings import heading, literal
from app.ingest.readers import Allowance, Reading, html, one_line, text
from app.ingest.readers.members import Binder

_SUBJECT, _SENDER, _SENDER_ADDRESS, _SENDER_SMTP = 0x0037, 0x0C1A, 0x0C1F, 0x5D01
_TO, _CC, _SUBMITTED, _DELIVERED = 0x0E04, 0x0E03, 0x0039, 0x0E06
_BODY, _HTML = 0x1000, 0x1013
_LONG_NAME, _NAME, _CONTENT, _DISPLAY_NAME = 0x3707, 0x3704, 0x3701, 0x3001
_CODEPAGES = (0x3FDE, 0x3FFD)
_UNICODE, _8_BIT, _BINARY, _STORAGE = "001F", "001E", "0102", "000D"
_PROPERTIES = "__properties_version1.0"
_ATTACHMENT = "__attach_version1.0_#"
_ENTRY = struct.Struct("<HHIQ")
# The head of the properties of a message, and of one that is attached to another.
_HEAD, _HEAD_INSIDE = 32, 24
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class _Ole(Protocol):
    """What is used of `olefile.OleFileIO`, which has no types."""

    def listdir(self, *, streams: bool, storages: bool) -> list[list[str]]: ...
    def openstream(self, filename: list[str]) -> BinaryIO: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Message:
    """What is stored under `path`."""

    ole: _Ole
    path: tuple[str, ...]
    limit: int

    def stream(self, *names: str) -> bytes:
        try:
            return self.ole.openstream([*self.path, *names]).read()
        except OSError:
            return b""

    def said(self, number: int, *folder: str) -> str:
        """A property that is text, or nothing."""
        if wide := self.stream(*folder, f"__substg1.0_{number:04X}{_UNICODE}"):
            return wide.decode("utf-16-le", "replace")
        narrow = self.stream(*folder, f"__substg1.0_{number:04X}{_8_BIT}")
        return self.decoded(narrow) if narrow else ""

    def decoded(self, content: bytes) -> str:
        page = next(filter(None, map(self.fixed().get, _CODEPAGES)), None)
        try:
            return text.decode(content, self.limit, hint=f"cp{page}" if page else None)[0]
        except DocumentRefused:
            return ""

    def fixed(self) -> dict[int, int]:
        """The numbers and times, which have no streams of their own."""
        entries = self.stream(_PROPERTIES)[_HEAD_INSIDE if self.path else _HEAD :]
        whole = len(entries) - len(entries) % _ENTRY.size
        return {number: value for _, number, _, value in _ENTRY.iter_unpack(entries[:whole])}

    def attachments(self) -> list[str]:
        found = self.ole.listdir(streams=False, storages=True)
        depth = len(self.path)
        inside = (one[depth] for one in found if tuple(one[:depth]) == self.path and len(one) == depth + 1)
        return [name for name in inside if name.startswith(_ATTACHMENT)]


def read(content: bytes, allowance: Allowance) -> Reading:
    """The headers and the text, then what is attached, each under a heading of its name."""
    open_ole = cast("Callable[[BinaryIO], _Ole]", olefile.OleFileIO)
    ole = open_ole(io.BytesIO(content))
    try:
        message = _Message(ole, (), allowance.characters)
        if not message.stream(_PROPERTIES):
            raise DocumentRefused("broken", "The file should be an Outlook message (.msg), but holds none.")
        return _read(message, allowance)
    finally:
        ole.close()


def _read(message: _Message, allowance: Allowance) -> Reading:
    subject = one_line(message.said(_SUBJECT))
    headers = {
        "From": _sender(message),
        "To": message.said(_TO),
        "Cc": message.said(_CC),
        "Date": _date(message),
    }
    lines = [f"{name}: {shown}" for name, value in headers.items() if (shown := one_line(value))]
    binder = Binder(allowance, level=2)
    blocks = [heading(1, subject or "Email"), literal("\n".join(lines)), _body(message)]
    binder.add_own("\n\n".join(filter(None, blocks)))
    attachments = message.attachments()
    allowance.room.take(members=len(attachments))
    for number, folder in enumerate(attachments, 1):
        _attach(message, folder, f"attachment {number}", binder)
    return binder.reading(subject, "The message holds no text.")


def _attach(message: _Message, folder: str, unnamed: str, binder: Binder) -> None:
    name = message.said(_LONG_NAME, folder) or message.said(_NAME, folder)
    if content := message.stream(folder, f"__substg1.0_{_CONTENT:04X}{_BINARY}"):
        binder.add(one_line(name) or unnamed, content)
        return
    inner = _Message(
        message.ole, (*message.path, folder, f"__substg1.0_{_CONTENT:04X}{_STORAGE}"), message.limit
    )
    if inner.stream(_PROPERTIES):
        name = one_line(inner.said(_SUBJECT) or message.said(_DISPLAY_NAME, folder)) or unnamed
        binder.add_from(f"{name.replace('/', '-')}.msg", lambda inside: _read(inner, inside))


def _sender(message: _Message) -> str:
    name, address = message.said(_SENDER), message.said(_SENDER_SMTP) or message.said(_SENDER_ADDRESS)
    return f"{name} <{address}>" if address and address != name else name


def _date(message: _Message) -> str:
    """In tenths of microseconds since 1601."""
    fixed = message.fixed()
    ticks = fixed.get(_SUBMITTED) or fixed.get(_DELIVERED)
    if not ticks:
        return ""
    try:
        return (_EPOCH + timedelta(microseconds=ticks // 10)).strftime("%Y-%m-%d %H:%M UTC")
    except OverflowError:
        return ""


def _body(message: _Message) -> str:
    if plain := message.said(_BODY).strip():
        return literal(text.clean(plain))
    page = message.said(_HTML) or message.decoded(message.stream(f"__substg1.0_{_HTML:04X}{_BINARY}"))
    return html.to_markdown(page)[0]
