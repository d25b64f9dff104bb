"""What belongs to a site, and what an address on it promises to be."""

import mimetypes
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from yarl import URL

from app.errors import ConnectorRefused
from app.ingest import formats
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.patterns import Choice

_PAGES = {"text/html", "application/xhtml+xml"}
# Archives, data and letters that a site links to are rarely meant to be read as its documents.
_DOCUMENTS = tuple(
    one
    for one in formats.FORMATS
    if one not in (formats.HTML, formats.ZIP, formats.JSON, formats.EML, formats.MSG)
)
_DOCUMENT_EXTENSIONS = {extension for one in _DOCUMENTS for extension in one.extensions}
_DOCUMENT_TYPES = {one.media_type: one.extensions[0] for one in _DOCUMENTS}
_TRACKING = re.compile(r"^(utm_\w+|fbclid|gclid|msclkid|mc_[ce]id)$")
_LONGEST_NAME = 150
_UNUSUAL = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")


@dataclass(frozen=True, slots=True)
class Scope:
    """The pages of one host below the start, and documents of that host wherever they are."""

    start: URL
    choice: Choice
    guard: Guard

    def moved(self, target: URL) -> "Scope":
        """Where the start page redirects to, if it is the same site. Raises `ConnectorRefused`."""
        if _bare(target.host) != _bare(self.start.host):
            raise ConnectorRefused(
                "redirect",
                f"{self.start} redirects to {target.origin()}. Name that address if it is the one that is meant.",
            )
        return Scope(target, self.choice, self.guard)

    def page(self, base: URL, reference: str) -> URL | None:
        """The address of a page of this site, None for what is none of its pages."""
        url = self._on_host(base, reference)
        if url is None or not self._below(url.path) or not self.choice.takes(url.path):
            return None
        return url

    def place(self, base: URL, reference: str) -> URL | None:
        """The address of a page or a document of this site."""
        url = self._on_host(base, reference)
        if url is None or not self.choice.takes(url.path) or not _is_promising(url.path):
            return None
        return url if self._below(url.path) or is_document(url.path, "") else None

    def _on_host(self, base: URL, reference: str) -> URL | None:
        try:
            url = base.join(URL(reference.strip()))
            if url.scheme not in ("http", "https") or url.host != self.start.host:
                return None
            # One page is linked to by both schemes.
            if url.is_default_port() and self.start.is_default_port():
                url = url.with_scheme(self.start.scheme)
            url = url.with_query(
                [(name, value) for name, value in url.query.items() if not _TRACKING.match(name)]
            )
            return self.guard.check(str(url))
        except (ValueError, ConnectorRefused):
            return None

    def _below(self, path: str) -> bool:
        top = self.start.path
        if "." in PurePosixPath(top).name:
            top = str(PurePosixPath(top).parent)
        top = top.rstrip("/")
        return path == top or path.startswith(f"{top}/")


def is_page(media_type: str, content: bytes) -> bool:
    if media_type:
        return media_type in _PAGES
    return content[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def is_document(path: str, media_type: str) -> bool:
    """By its type where that is told, else by its name."""
    return _extension(path) in _DOCUMENT_EXTENSIONS or media_type in _DOCUMENT_TYPES


def file_name_of(url: URL, extension: str | None) -> str:
    """The last part of the path, with an extension that tells the format."""
    name = _UNUSUAL.sub("_", PurePosixPath(url.path).name)[:_LONGEST_NAME] or (url.host or "page")
    if extension is None or _extension(name) == extension:
        return name
    return f"{name}.{extension}"


def _is_promising(path: str) -> bool:
    """Not a picture, a film, a programme and the like."""
    guessed, _ = mimetypes.guess_type(path)
    extension = _extension(path)
    return (
        guessed is None
        or guessed in _PAGES
        or extension in _DOCUMENT_EXTENSIONS
        or (guessed.startswith("text/") and extension not in ("css", "js"))
    )


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix[1:].lower()


def _bare(host: str | None) -> str:
    return (host or "").removeprefix("www.")
