"""A web site, by its sitemaps or by its links: one request at a time, as robots.txt has it, and 304 for what has not changed."""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from anyio import to_thread
from yarl import URL

from app.errors import ConnectorRefused, DocumentRefused
from app.ingest.connectors import (
    Changed,
    Failed,
    Found,
    Gone,
    Incomplete,
    PassedOver,
    State,
    Unchanged,
    sitemaps,
)
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.fetching import REDIRECTS, Fetched, Fetcher, FetchFailed
from app.ingest.connectors.robots import Robots, of_header
from app.ingest.connectors.scope import Scope, file_name_of, is_document, is_page
from app.ingest.connectors.sitemaps import NoSitemap
from app.ingest.readers.links import PageLinks

Mode = Literal["auto", "sitemap", "links"]
ReadLinks = Callable[[bytes], Awaitable[PageLinks]]

_MOST_SITEMAPS = 100
_MOST_SITEMAP_BYTES = 50 * 1024 * 1024
_MOST_LINKS_KEPT = 2_000
_MOST_HOPS = 5
_FAILURES_IN_A_ROW = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """`pages` are requests; `bytes` are of all answers together."""

    depth: int
    pages: int
    page_bytes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Site:
    """`open_fetcher` gives what asks, with the delay that the operator wants."""

    scope: Scope
    mode: Mode
    bounds: Bounds
    delay_s: float
    guard: Guard
    open_fetcher: Callable[[], AbstractAsyncContextManager[Fetcher]]
    read_links: ReadLinks

    async def check(self) -> None:
        async with self.open_fetcher() as fetcher:
            fetcher.delay_s = min(self.delay_s, 1.0)
            crawl = await self._begin(fetcher, {})
            await crawl.seeds()

    async def found(self, known: Mapping[str, State]) -> AsyncGenerator[Found]:
        async with self.open_fetcher() as fetcher:
            fetcher.delay_s = self.delay_s
            crawl = await self._begin(fetcher, known)
            fetcher.delay_s = max(self.delay_s, crawl.robots.delay_s())
            async with aclosing(crawl.run()) as found:
                async for one in found:
                    yield one

    async def _begin(self, fetcher: Fetcher, known: Mapping[str, State]) -> "_Crawl":
        """At the start page, or where it redirects to on the same site."""
        scope = self.scope
        for _ in range(_MOST_HOPS + 1):
            robots = await Robots.of(scope.start, fetcher)
            if not robots.allows(scope.start):
                raise ConnectorRefused("robots", f"The site's robots.txt forbids {scope.start}.")
            try:
                headers = _conditions(known.get(str(scope.start), {}))
                fetched = await fetcher.fetch(
                    scope.start, max_bytes=self.bounds.page_bytes, headers=headers, follow=False
                )
                if fetched.status not in REDIRECTS or "Location" not in fetched.headers:
                    break
                scope = scope.moved(fetcher.target(fetched))
            except FetchFailed as failed:
                raise ConnectorRefused("unreachable", f"{scope.start}: {failed.message}") from failed
        else:
            raise ConnectorRefused("redirect", f"{self.scope.start} redirects in circles.")
        if fetched.status not in (200, 304):
            reason = "forbidden" if fetched.status in (401, 403) else "missing"
            raise ConnectorRefused(reason, f"{scope.start}: the server answered {fetched.status}.")
        return _Crawl(replace(self, scope=scope), fetcher, robots, known)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the crawl goes: `depth` links away from where it began, after so many redirects."""

    url: URL
    depth: int
    hops: int = 0

    @property
    def key(self) -> str:
        return str(self.url)


@dataclass(slots=True)
class _Crawl:
    site: Site
    fetcher: Fetcher
    robots: Robots
    known: Mapping[str, State]
    follows_links: bool = True
    _queue: deque[_Place] = field(default_factory=deque[_Place])
    _seen: set[str] = field(default_factory=set[str])
    _elsewhere: set[str] = field(default_factory=set[str])
    _bytes: int = 0
    _missed: str | None = None

    async def run(self) -> AsyncGenerator[Found]:
        for url in await self.seeds():
            self._enqueue(url, 0)
        failures = 0
        bounds = self.site.bounds
        for _ in range(bounds.pages):
            if not self._queue or self._bytes > bounds.bytes:
                break
            found = await self._visit(self._queue.popleft())
            failures = failures + 1 if isinstance(found, Failed) else 0
            yield found
            if isinstance(found, Failed) and failures >= _FAILURES_IN_A_ROW:
                raise ConnectorRefused(
                    "unreachable", f"{failures} pages in a row could not be had, the last: {found.why}"
                )
        if self._queue:
            why = "bytes" if self._bytes > bounds.bytes else "pages"
            limit = bounds.bytes if why == "bytes" else bounds.pages
            yield Incomplete(f"The site has more than the {limit:,} {why} that are allowed for it.")
        elif self._missed is not None:
            yield Incomplete(self._missed)

    async def seeds(self) -> list[URL]:
        """Where to begin: the pages of the sitemaps, or the start. Raises `ConnectorRefused`."""
        if self.site.mode != "links":
            pages = await self._of_sitemaps()
            if pages:
                self.follows_links = False
                return pages
            if self.site.mode == "sitemap":
                raise ConnectorRefused("empty", "The site's sitemaps name no page below this address.")
        return [self.site.scope.start]

    async def _of_sitemaps(self) -> list[URL]:
        origin = self.site.scope.start.origin()
        named = self.robots.sitemaps or [str(origin / "sitemap.xml")]
        pages: dict[str, URL] = {}
        maps, seen = deque(named), set(named)
        while maps:
            address = maps.popleft()
            sitemap = await self._sitemap(address, is_guess=not self.robots.sitemaps)
            for url in filter(None, (self.site.scope.page(origin, text) for text in sitemap.pages)):
                pages.setdefault(str(url), url)
            for further in sitemap.maps:
                if further not in seen and len(seen) < _MOST_SITEMAPS:
                    seen.add(further)
                    maps.append(further)
        return list(pages.values())

    async def _sitemap(self, address: str, *, is_guess: bool) -> sitemaps.Sitemap:
        """Without one that is only looked for, there is none; one that is named and cannot be read is a failed listing."""
        try:
            fetched = await self.fetcher.fetch(self.site.guard.check(address), max_bytes=_MOST_SITEMAP_BYTES)
            if is_guess and 400 <= fetched.status < 500:
                return sitemaps.Sitemap()
            if fetched.content is None:
                raise NoSitemap(f"The server answered {fetched.status}.")
            return await to_thread.run_sync(sitemaps.parse, fetched.content)
        except (NoSitemap, FetchFailed) as error:
            # Many sites answer every address with a page.
            if is_guess and isinstance(error, NoSitemap) and self.site.mode == "auto":
                return sitemaps.Sitemap()
            raise ConnectorRefused(
                "unreachable", f"The sitemap {address:.200} cannot be read. {error}"
            ) from error

    def _enqueue(self, url: URL, depth: int, *, hops: int = 0) -> None:
        key = str(url)
        if key not in self._seen:
            self._seen.add(key)
            self._queue.append(_Place(url, depth, hops))

    async def _visit(self, place: _Place) -> Found:
        state = self.known.get(place.key, {})
        if not self.robots.allows(place.url):
            return PassedOver(place.key, "robots.txt forbids it.", {})
        try:
            fetched = await self.fetcher.fetch(
                place.url,
                max_bytes=self.site.bounds.page_bytes,
                headers=_conditions(state),
                follow=False,
            )
            self._bytes += len(fetched.content or b"")
            return await self._arrived(place, fetched, state)
        except (FetchFailed, ConnectorRefused, DocumentRefused) as failed:
            return self._failed(place, state, failed.message)

    async def _arrived(self, place: _Place, fetched: Fetched, state: State) -> Found:
        if fetched.status == 304 and state:
            self._follow(place, state.get("links", ()))
            if passed_over := state.get("passed_over"):
                self._enqueue_canonical(place, state.get("canonical"))
                return PassedOver(place.key, passed_over, state)
            return Unchanged(place.key)
        if fetched.status in (404, 410):
            return Gone(place.key)
        if fetched.status in REDIRECTS and "Location" in fetched.headers:
            return self._redirected(place, fetched)
        if fetched.content is None:
            return self._failed(place, state, f"The server answered {fetched.status}.")
        if is_page(fetched.media_type, fetched.content):
            return await self._page(place, fetched, fetched.content, state)
        return self._document(place, fetched, fetched.content)

    def _redirected(self, place: _Place, fetched: Fetched) -> Found:
        inside = self.site.scope.place(place.url, str(self.fetcher.target(fetched)))
        if inside is None:
            return PassedOver(place.key, "It redirects to what is not of this site.", {})
        if place.hops >= _MOST_HOPS:
            return Failed(place.key, "It redirects in circles.")
        self._enqueue(inside, place.depth, hops=place.hops + 1)
        return PassedOver(place.key, "It redirects to another page.", {})

    async def _page(self, place: _Place, fetched: Fetched, content: bytes, state: State) -> Found:
        page = await self.site.read_links(content)
        may_index, may_follow = of_header(fetched.headers.get("X-Robots-Tag", ""))
        base = _joined(place.url, page.base) or place.url
        links = self._inside(base, page.links) if page.is_follow and may_follow else []
        canonical = self._canonical(place, base, page)
        why = None
        if canonical is not None:
            why = "It names another page as canonical."
        elif not (page.is_index and may_index):
            why = "It asks not to be indexed."
        now: dict[str, Any] = {**_validators(fetched), "links": links, "sha": page.text_sha256}
        self._follow(place, links)
        if why is not None:
            self._enqueue_canonical(place, canonical)
            return PassedOver(place.key, why, now | {"passed_over": why, "canonical": canonical})
        if state.get("sha") == page.text_sha256 and not state.get("passed_over"):
            return Unchanged(place.key, now)
        return Changed(place.key, file_name_of(place.url, "html"), content, "text/html", place.key, now)

    def _document(self, place: _Place, fetched: Fetched, content: bytes) -> Found:
        if not is_document(place.url.path, fetched.media_type):
            return PassedOver(place.key, "It is of a format that cannot be read.", _validators(fetched))
        name = file_name_of(place.url, None)
        return Changed(place.key, name, content, fetched.media_type or None, place.key, _validators(fetched))

    def _canonical(self, place: _Place, base: URL, page: PageLinks) -> str | None:
        """Another page of this site that stands for this one."""
        target = self.site.scope.page(base, page.canonical) if page.canonical else None
        # Two pages that name each other would both be passed over.
        if target is None or target == place.url or str(target) in self._elsewhere:
            return None
        self._elsewhere.add(place.key)
        return str(target)

    def _enqueue_canonical(self, place: _Place, canonical: str | None) -> None:
        if canonical is not None:
            self._elsewhere.add(place.key)
            self._enqueue(URL(canonical), place.depth)

    def _inside(self, base: URL, links: Sequence[str]) -> list[str]:
        inside = (self.site.scope.place(base, link) for link in links)
        return list(dict.fromkeys(str(url) for url in inside if url is not None))[:_MOST_LINKS_KEPT]

    def _follow(self, place: _Place, links: Sequence[str]) -> None:
        """Pages as deep as is allowed; documents that a page links to belong to it."""
        for url in map(URL, links):
            if is_document(url.path, ""):
                self._enqueue(url, place.depth)
            elif self.follows_links and place.depth < self.site.bounds.depth:
                self._enqueue(url, place.depth + 1)

    def _failed(self, place: _Place, state: State, why: str) -> Failed:
        """What it linked to before is still gone to: a page that fails does not make others unreachable."""
        links: Sequence[str] = state.get("links", ())
        self._follow(place, links)
        if self.follows_links and not links and not is_document(place.url.path, ""):
            self._missed = "Some pages could not be had, and what they link to is not known."
        return Failed(place.key, why)


def _conditions(state: State) -> dict[str, str]:
    asked = {"If-None-Match": state.get("etag"), "If-Modified-Since": state.get("modified")}
    return {name: value for name, value in asked.items() if value}


def _validators(fetched: Fetched) -> dict[str, Any]:
    named = {"etag": fetched.headers.get("ETag"), "modified": fetched.headers.get("Last-Modified")}
    return {name: value for name, value in named.items() if value and len(value) < 500}


def _joined(base: URL, reference: str | None) -> URL | None:
    try:
        return base.join(URL(reference)) if reference else None
    except ValueError:
        return None
