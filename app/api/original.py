"""A file as it was given, as an HTTP answer: whole or a part, and so that it can do nothing where it is shown."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from app.db.documents import Original

_A_READ = 2**20
_RANGE = re.compile(r"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-([0-9]{1,15}))")
# Shown as what they are: a viewer of PDFs runs no script of them with the rights of the page, and text is text.
_AS_TEXT = frozenset({"text/plain", "text/markdown", "text/csv", "application/json"})
_PDF = "application/pdf"
_IN_A_BOX = "default-src 'none'; frame-ancestors 'self'; sandbox"
# Within a sandbox, browsers do not start their viewer.
_FOR_A_VIEWER = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"

ReadPart = Callable[[Original, int, int], Awaitable[bytes]]


def address(files: str, document_id: str, session_id: str, page_label: str | None) -> str:
    """Where a reader of the session opens the document, at that page: `files` is the address of all documents."""
    page = f"#page={quote(page_label, safe='')}" if page_label else ""
    return f"{files}/{document_id}/file?session_id={quote(session_id, safe='')}{page}"


def response(
    original: Original, read: ReadPart, *, wanted: str | None, condition: str | None, known: str | None
) -> Response:
    """`wanted` is the header Range, which counts unless `condition`, If-Range, names another file; `known` is If-None-Match."""
    etag = f'"{original.content_sha256.hex()}"'
    headers = _headers(original) | {"etag": etag}
    if known is not None and etag in known:
        return Response(status_code=304, headers=headers)
    size = original.size_bytes
    span = _span(wanted, size) if wanted is not None and condition in {None, etag} else (0, size)
    if span is None:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    start, end = span
    headers["content-length"] = str(end - start)
    if (start, end) == (0, size):
        return StreamingResponse(_parts(original, read, start, end), 200, headers)
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(_parts(original, read, start, end), 206, headers)


def _headers(original: Original) -> dict[str, str]:
    media_type = original.media_type or "application/octet-stream"
    shown = media_type == _PDF or media_type in _AS_TEXT
    name = quote(original.file_name, safe="")
    return {
        "content-type": "text/plain" if media_type in _AS_TEXT else media_type,
        "content-disposition": f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{name}",
        "content-security-policy": _FOR_A_VIEWER if media_type == _PDF else _IN_A_BOX,
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-cache",
        "accept-ranges": "bytes",
    }


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """From and up to which byte; all of them for what is no range, or several, and None for one that there is nothing in."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None:
        return 0, size
    first, last, from_end = match.groups()
    if from_end is not None:
        return (max(0, size - int(from_end)), size) if int(from_end) else None
    start, end = int(first), min(size, int(last) + 1) if last is not None else size
    if last is not None and int(last) < start:
        return 0, size
    return (start, end) if start < size else None


async def _parts(original: Original, read: ReadPart, start: int, end: int) -> AsyncGenerator[bytes]:
    for position in range(start, end, _A_READ):
        yield await read(original, position, min(_A_READ, end - position))
