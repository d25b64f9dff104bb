"""What a site lets a crawler do, by its robots.txt as RFC 9309 has it."""

from dataclasses import dataclass

from protego import Protego
from yarl import URL

from app.errors import ConnectorRefused
from app.ingest.connectors.fetching import USER_AGENT, Fetcher, FetchFailed

_MOST_BYTES = 512 * 1024
_LONGEST_DELAY_S = 60.0
_AGENT = USER_AGENT.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Robots:
    rules: Protego

    @classmethod
    async def of(cls, site: URL, fetcher: Fetcher) -> "Robots":
        """Without a file, all is allowed; where it cannot be had, nothing is. Raises `ConnectorRefused`."""
        address = site.origin() / "robots.txt"
        try:
            fetched = await fetcher.fetch(address, max_bytes=_MOST_BYTES)
        except FetchFailed as failed:
            raise ConnectorRefused("unreachable", f"{address} cannot be read. {failed.message}") from failed
        if fetched.status >= 500 or fetched.status == 429:
            raise ConnectorRefused(
                "robots",
                f"{address} cannot be read, so that nothing is: the server answered {fetched.status}.",
            )
        text = (fetched.content or b"").decode("utf-8", "replace")
        return cls(Protego.parse(text))

    def allows(self, url: URL) -> bool:
        return self.rules.can_fetch(str(url), _AGENT)

    def delay_s(self) -> float:
        """What it asks to be waited between requests, within reason."""
        asked = self.rules.crawl_delay(_AGENT) or 0.0
        if rate := self.rules.request_rate(_AGENT):
            asked = max(asked, rate.seconds / max(rate.requests, 1))
        return min(float(asked), _LONGEST_DELAY_S)

    @property
    def sitemaps(self) -> list[str]:
        return list(self.rules.sitemaps)


def of_header(value: str) -> tuple[bool, bool]:
    """Whether X-Robots-Tag lets a page be indexed, and its links be followed."""
    words: set[str] = set()
    for part in value.lower().split(","):
        agent, colon, rest = part.rpartition(":")
        if not colon or agent.strip() == _AGENT.lower():
            words.add(rest.strip())
    return not words & {"noindex", "none"}, not words & {"nofollow", "none"}
