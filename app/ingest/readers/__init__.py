"""What turns the bytes of one format into text. Runs in a worker process: see `app.ingest.worker`.

Each module has one function, `read(content: bytes, limit: int) -> Reading`, where `limit` is in characters of text.
It raises DocumentRefused when it knows why a file cannot be read; any other error is taken for a broken file.
"""

import re
from dataclasses import dataclass

from app.errors import DocumentRefused

_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_LONGEST_TITLE = 300


@dataclass(frozen=True, slots=True)
class Reading:
    """`pages` are the label, start and end of each page in `text`; a page without text starts where it ends."""

    text: str
    title: str | None = None
    pages: tuple[tuple[str, int, int], ...] = ()
    warnings: tuple[str, ...] = ()


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
