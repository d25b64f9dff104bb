import binascii
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.header import decode_header
from email.message import Message
from typing import cast

from app.errors import DocumentRefused
from app.ingest.headings import heading, literal
from app.ingest.readers import Allowance, Reading, html, one_line, text
from app.ingest.readers.members import Binder

_HEADERS = ("From", "To", "Cc", "Date")
_LONGEST_HEADER = 2_000


def read(content: bytes, allowance: Allowance) -> Reading:
    """The headers and the text, then what is attached, each under a heading of its name."""
    try:
        # The newer policy takes headers apart by a grammar, which hostile ones make slow.
        message: Message = message_from_bytes(content, policy=policy.compat32)
        if not any(message.get(name) for name in (*_HEADERS, "Subject", "Received", "MIME-Version")):
            raise DocumentRefused("broken", "The file should be an email, but has no headers of one.")
        return _read(message, allowance)
    except RecursionError as error:
        raise DocumentRefused("broken", "The email is nested too deeply to be read.") from error


def _read(message: Message, allowance: Allowance) -> Reading:
    parts = list(_leaves(message))
    allowance.room.take(members=len(parts))
    subject = _header(message, "Subject")
    lines = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    body = _body([part for part in parts if not _is_attached(part)], allowance.characters)
    binder = Binder(allowance, level=2)
    blocks = [heading(1, subject or "Email"), literal("\n".join(lines)), body]
    binder.add_own("\n\n".join(filter(None, blocks)))
    for number, part in enumerate(filter(_is_attached, parts), 1):
        _attach(part, f"attachment {number}", binder)
    return binder.reading(subject or None, "The email holds no text.")


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
    return part.get_content_disposition() == "attachment" or not is_text or bool(_file_name(part))


def _body(parts: list[Message], limit: int) -> str:
    shown: list[str] = []
    for part in parts:
        content = _payload(part)
        if not content.strip() or part.get_content_maintype() != "text":
            continue
        try:
            said, _ = text.decode(content, limit, hint=part.get_content_charset())
        except (DocumentRefused, ValueError):
            continue
        is_page = part.get_content_type() == "text/html"
        shown.append(html.to_markdown(said)[0] if is_page else literal(said.strip()))
    return "\n\n".join(filter(None, shown))


def _attach(part: Message, unnamed: str, binder: Binder) -> None:
    if part.get_content_type() == "message/rfc822" and part.is_multipart():
        letter = cast("list[Message]", part.get_payload())[0]
        subject = (_header(letter, "Subject") or unnamed).replace("/", "-")
        binder.add_from(f"{subject}.eml", lambda inside: _read(letter, inside))
    else:
        binder.add(_file_name(part) or unnamed, _payload(part), part.get_content_type())


def _file_name(part: Message) -> str:
    try:
        return _decoded(part.get_filename() or "")
    except ValueError:
        return ""


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
    value = value[:_LONGEST_HEADER].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        words = decode_header(value)
    except (ValueError, binascii.Error):
        words = [(value, None)]
    return one_line("".join(_word(word, charset) for word, charset in words)) or ""


def _word(word: str | bytes, charset: str | None) -> str:
    if isinstance(word, str):
        return word
    try:
        return word.decode(charset or "raw-unicode-escape", "replace")
    except (LookupError, ValueError):
        return word.decode("utf-8", "replace")
