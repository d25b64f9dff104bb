"""A web site and a store of objects over loopback, which note what they are asked."""

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape
from xml.sax.saxutils import escape as escape_xml

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST = "docs.example.com"


@dataclass(slots=True)
class TestSite:
    """`pages` are answers by path: text is a page, bytes are given as they are, and a function answers for itself.

    `asked` are the paths in the order in which they were asked, `not_modified` those that were answered by 304.
    """

    __test__ = False

    pages: dict[str, str | bytes | Answer] = field(default_factory=dict[str, "str | bytes | Answer"])
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    asked: list[str] = field(default_factory=list[str])
    not_modified: list[str] = field(default_factory=list[str])
    seen: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.seen.append(request.headers)
        page = self.pages.get(request.path_qs, self.pages.get(request.path))
        if page is None:
            return web.Response(status=404)
        if not isinstance(page, str | bytes):
            return await page(request)
        content = page.encode() if isinstance(page, str) else page
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == etag:
            self.not_modified.append(request.path_qs)
            return web.Response(status=304, headers={"ETag": etag})
        types = {
            "txt": "text/plain",
            "xml": "application/xml",
            "pdf": "application/pdf",
            "gz": "application/gzip",
        }
        kind = types.get(request.path.rsplit(".", 1)[-1], "text/html")
        headers = {"ETag": etag, "Content-Type": kind, **self.headers.get(request.path, {})}
        return web.Response(body=content, headers=headers)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncGenerator[int]:
    """The port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_site(site: TestSite) -> AsyncGenerator[TestSite]:
    async with serving(site.answer) as site.port:
        yield site


def page(title: str, *links: str, head: str = "", body: str = "") -> str:
    anchors = "".join(f'<p><a href="{escape(link)}">{escape(link)}</a></p>' for link in links)
    return (
        f"<!doctype html><html><head><title>{title}</title>{head}</head>"
        f"<body><main><h1>{title}</h1><p>About {title}.</p>{body}{anchors}</main></body></html>"
    )


def redirect(to: str, status: int = 302) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": to})

    return answer


def urlset(*addresses: str) -> str:
    locs = "".join(f"<url><loc>{escape_xml(address)}</loc></url>" for address in addresses)
    return f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locs}</urlset>'


def sitemapindex(*addresses: str) -> str:
    locs = "".join(f"<sitemap><loc>{escape_xml(address)}</loc></sitemap>" for address in addresses)
    return f'<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locs}</sitemapindex>'


@dataclass(slots=True)
class TestBucket:
    """Speaks as much of S3 as listing and reading take; in pages of two objects, so that listings have several."""

    __test__ = False

    name: str = "reports"
    access_key: str | None = "AKTEST"
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    broken: set[str] = field(default_factory=set[str])
    fails_after: int | None = None
    asked: list[str] = field(default_factory=list[str])
    authorizations: list[str] = field(default_factory=list[str])
    seen: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://store.example.com:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.seen.append(dict(request.headers))
        authorization = request.headers.get("Authorization", "")
        self.authorizations.append(authorization)
        if self.access_key is not None and f"Credential={self.access_key}/" not in authorization:
            return _error(403, "AccessDenied")
        bucket, _, key = request.path.removeprefix("/").partition("/")
        if bucket != self.name:
            return _error(404, "NoSuchBucket")
        if not key:
            return self._list(request)
        if key in self.broken:
            return _error(403, "AccessDenied")
        if key not in self.objects:
            return _error(404, "NoSuchKey")
        return web.Response(body=self.objects[key], headers=self._headers(key))

    def _list(self, request: web.Request) -> web.Response:
        start = int(request.query.get("continuation-token", "0"))
        if self.fails_after is not None and start >= self.fails_after:
            return _error(400, "InvalidRequest")
        keys = sorted(key for key in self.objects if key.startswith(request.query.get("prefix", "")))
        more = len(keys) > start + 2
        found = "".join(
            f"<Contents><Key>{escape_xml(key)}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
            f"<ETag>{_etag(self.objects[key])}</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in keys[start : start + 2]
        )
        token = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if more else ""
        return web.Response(
            text=f"<ListBucketResult><Name>{self.name}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}{found}"
            "</ListBucketResult>",
            content_type="application/xml",
        )

    def _headers(self, key: str) -> dict[str, str]:
        return {"ETag": _etag(self.objects[key]), "Last-Modified": formatdate(1_767_323_045, usegmt=True)}


@asynccontextmanager
async def running_bucket(bucket: TestBucket) -> AsyncGenerator[TestBucket]:
    async with serving(bucket.answer) as bucket.port:
        yield bucket


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _error(status: int, code: str) -> web.Response:
    return web.Response(
        status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml"
    )
