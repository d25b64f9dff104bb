import binascii
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.header import decode_header
from email.message import Message
from typing import cast

from app.errors import DocumentRefused
from app.ingest.headings import heading, literal
from app.ingest.readers import Allowance, Reading, clean, html, one_line, text
from app.ingest.readers.members import Binder

_HEADERS = ("From", "To", "Cc", "Date")
_LONGEST_HEADER = 2_000


def read(content: bytes, allowance: Allowance) -> Reading:
    """The headers and the text, then what is attached, each under a heading of its name."""
    try:
        # The newer policy takes headers apart by a grammar, which hostile ones make slow.
        message: Message = message_from_bytes(content, policy=policy.compat32)
        parts = list(_leaves(message))
    except RecursionError as error:
        raise DocumentRefused("broken", "The email is nested too deeply to be read.") from error
    if not any(message.get(name) for name in (*_HEADERS, "Subject", "Received", "MIME-Version")):
        raise DocumentRefused("broken", "The file should be an email, but has no headers of one.")
    allowance.room.take(members=len(parts))
    attached = [part for part in parts if _is_attached(part)]
    subject = _header(message, "Subject")
    binder = Binder(allowance, level=2)
    lines = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    body = _body([part for part in parts if not _is_attached(part)], allowance.characters)
    blocks = [heading(1, subject or "Email"), literal("\n".join(lines)), body]
    binder.add_own("\n\n".join(filter(None, blocks)))
    for number, part in enumerate(attached, 1):
        binder.add(*_attachment(part, number))
    return binder.reading(subject, "The email holds no text.")


def _leaves(message: Message) -> Iterator[Message]:
    """Parts that hold no others. Of the versions of a text the plain one, with what is attached to any. A letter in a letter
    is one part."""
    if message.get_content_type() == "message/rfc822" or not message.is_multipart():
        yield message
        return
    leaves = [leaf for part in cast("list[Message]", message.get_payload()) for leaf in _leaves(part)]
    texts = [leaf for leaf in leaves if not _is_attached(leaf)]
    plain = [leaf for leaf in texts if leaf.get_content_type() == "text/plain" and _payload(leaf).strip()]
    if message.get_content_type() == "multipart/alternative" and plain:
        texts = plain
    yield from texts
    yield from (leaf for leaf in leaves if _is_attached(leaf))


def _is_attached(part: Message) -> bool:
    """Pictures that a page shows are no attachments: they say nothing to us."""
    if part.get_content_maintype() == "image" and part.get("Content-ID"):
        return False
    is_text = part.get_content_type() in ("text/plain", "text/html")
    return part.get_content_disposition() == "attachment" or not is_text or bool(part.get_filename())


def _body(parts: list[Message], limit: int) -> str:
    shown: list[str] = []
    for part in parts:
        content = _payload(part)
        if not content.strip() or part.get_content_maintype() != "text":
            continue
        try:
            said, _ = text.decode(content, limit, hint=part.get_content_charset())
        except DocumentRefused:
            continue
        is_page = part.get_content_type() == "text/html"
        shown.append(html.to_markdown(said)[0] if is_page else literal(said.strip()))
    return "\n\n".join(filter(None, shown))


def _attachment(part: Message, number: int) -> tuple[str, bytes, str | None]:
    """Its name, content and type."""
    if part.get_content_type() == "message/rfc822":
        letter = cast("Message", part.get_payload(0)) if part.is_multipart() else part
        subject = (_header(letter, "Subject") or f"attachment {number}").replace("/", "-")
        return f"{subject}.eml", letter.as_bytes(policy=policy.compat32), None
    name = _decoded(part.get_filename() or "")
    return name or f"attachment {number}", _payload(part), part.get_content_type()


def _payload(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except (ValueError, binascii.Error):
        return b""
    return payload if isinstance(payload, bytes) else b""


def _header(message: Message, name: str) -> str:
    return _decoded(next((value for key, value in message.raw_items() if key.lower() == name.lower()), ""))


def _decoded(value: str) -> str:
    """Words in other encodings are marked as such; bytes that are not, are mostly UTF-8."""
    pieces: list[str] = []
    try:
        words = decode_header(value[:_LONGEST_HEADER])
    except (ValueError, binascii.Error):
        words = [(value[:_LONGEST_HEADER], None)]
    for word, charset in words:
        if isinstance(word, str):
            word = word.encode("utf-8", "surrogateescape")
        try:
            pieces.append(word.decode(charset or "utf-8", "replace"))
        except LookupError:
            pieces.append(word.decode("utf-8", "replace"))
    return one_line(clean("".join(pieces))) or ""
