"""What a site says of itself in sitemaps, as https://www.sitemaps.org/protocol.html has them: XML or plain text, also compressed."""

import re
import zlib
from dataclasses import dataclass, field
from xml.parsers import expat

_MOST_BYTES = 50 * 1024 * 1024
_MOST_ADDRESSES = 50_000
_LONGEST_ADDRESS = 2_000
_GZIP = b"\x1f\x8b"


class NoSitemap(Exception):
    """The message is for people."""


@dataclass(slots=True)
class Sitemap:
    """`pages` are addresses of pages, `maps` those of further sitemaps."""

    pages: list[str] = field(default_factory=list[str])
    maps: list[str] = field(default_factory=list[str])


def parse(content: bytes) -> Sitemap:
    """Raises `NoSitemap`."""
    content = _unpacked(content) if content.startswith(_GZIP) else content
    if len(content) > _MOST_BYTES:
        raise NoSitemap(f"The sitemap is larger than {_MOST_BYTES:,} bytes.")
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"https?://", start):
        return _of_lines(content)
    if not start.startswith(b"<") or start[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise NoSitemap("What stands at the address of the sitemap is none.")
    return _of_xml(content)


def _unpacked(content: bytes) -> bytes:
    unpacking = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacking.decompress(content, _MOST_BYTES + 1)
    except zlib.error as error:
        raise NoSitemap("The compressed sitemap is damaged.") from error
    if not unpacking.eof and len(unpacked) <= _MOST_BYTES:
        raise NoSitemap("The compressed sitemap is cut off.")
    return unpacked


def _of_lines(content: bytes) -> Sitemap:
    lines = (line.strip() for line in content.decode("utf-8", "replace").lstrip("\ufeff").splitlines())
    return Sitemap([line for line in lines if 0 < len(line) <= _LONGEST_ADDRESS][:_MOST_ADDRESSES])


def _of_xml(content: bytes) -> Sitemap:
    reader = _Reader()
    try:
        reader.read(content)
    except expat.ExpatError as error:
        raise NoSitemap("The sitemap is no XML that can be read.") from error
    if not reader.is_sitemap:
        raise NoSitemap("What stands at the address of the sitemap is none.")
    return reader.sitemap


class _Reader:
    """Takes `<loc>` of `<url>` and `<sitemap>`, in whatever namespace."""

    def __init__(self) -> None:
        self.sitemap = Sitemap()
        self.is_sitemap = False
        self._path: list[str] = []
        self._text = ""

    def read(self, content: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.Parse(content, True)

    def _doctype(self, *_: object) -> None:
        # Where entities are declared, some of which are bombs.
        raise NoSitemap("The sitemap declares a document type, which none needs.")

    def _start(self, name: str, _: object) -> None:
        self._path.append(name.rpartition(":")[2].lower())
        self.is_sitemap |= self._path[0] in ("urlset", "sitemapindex")
        self._text = ""

    def _characters(self, text: str) -> None:
        if self._path[-1] == "loc" and len(self._text) <= _LONGEST_ADDRESS:
            self._text += text

    def _end(self, _: str) -> None:
        address = self._text.strip()
        if self._path[-1] == "loc" and 0 < len(address) <= _LONGEST_ADDRESS:
            within = self._path[-2] if len(self._path) > 1 else ""
            target = {"url": self.sitemap.pages, "sitemap": self.sitemap.maps}.get(within)
            if target is not None and len(target) < _MOST_ADDRESSES:
                target.append(address)
        self._path.pop()
        self._text = ""
