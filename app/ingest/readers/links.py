"""What a crawler wants to know of an HTML page, as JSON: it is read where hostile pages are read."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser

from app.ingest.readers import Allowance, Reading
from app.ingest.readers.html import decoded, to_markdown

_MOST_LINKS = 5_000
_LONGEST_LINK = 2_000
_ROBOTS = re.compile(r"^(robots|freshet)$", re.IGNORECASE)


@dataclass(slots=True)
class PageLinks:
    """Addresses are as they stand in the page, which may begin with `base`. `text_sha256` is of the text that is kept of it,
    which changes less often than its bytes."""

    links: list[str] = field(default_factory=list[str])
    base: str | None = None
    canonical: str | None = None
    is_index: bool = True
    is_follow: bool = True
    text_sha256: str = ""


def read(content: bytes, allowance: Allowance) -> Reading:
    html, _ = decoded(content, allowance)
    reader = _Reader()
    reader.feed(html)
    reader.close()
    text, title = to_markdown(html)
    reader.page.text_sha256 = hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()
    return Reading(json.dumps(asdict(reader.page)))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = PageLinks()
        self._seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: (value or "").strip() for name, value in attrs}
        if tag in ("a", "area"):
            self._link(values)
        elif tag == "base" and self.page.base is None:
            self.page.base = values.get("href", "")[:_LONGEST_LINK] or None
        elif tag == "link" and "canonical" in values.get("rel", "").lower().split():
            self.page.canonical = self.page.canonical or values.get("href", "")[:_LONGEST_LINK] or None
        elif tag == "meta" and _ROBOTS.match(values.get("name", "")):
            words = set(re.split(r"[\s,]+", values.get("content", "").lower()))
            self.page.is_index &= not words & {"noindex", "none"}
            self.page.is_follow &= not words & {"nofollow", "none"}

    def _link(self, values: dict[str, str]) -> None:
        href = values.get("href", "")
        if not href or len(href) > _LONGEST_LINK or "nofollow" in values.get("rel", "").lower().split():
            return
        if href not in self._seen and len(self._seen) < _MOST_LINKS:
            self._seen.add(href)
            self.page.links.append(href)
