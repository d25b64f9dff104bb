import gzip
from collections.abc import AsyncGenerator
from functools import partial

import anyio
import pytest
from aiohttp import web
from yarl import URL

from app.errors import ConnectorRefused
from app.ingest.connectors.addresses import Guard
from app.ingest.connectors.fetching import USER_AGENT, Patience, fetcher
from app.ingest.connectors.patterns import Choice
from app.ingest.connectors.scope import Scope
from app.ingest.connectors.web import Bounds, Mode, Site
from app.ingest.convert import Converter
from tests.ingest.connectors.finding import Kept, Names
from tests.ingest.connectors.site import (
    HOST,
    TestSite,
    page,
    redirect,
    running_site,
    serving,
    sitemapindex,
    urlset,
)

GUARD = Guard.allowing([HOST])


@pytest.fixture
async def converter() -> AsyncGenerator[Converter]:
    async with Converter() as converter:
        yield converter


@pytest.fixture
async def site() -> AsyncGenerator[TestSite]:
    async with running_site(TestSite()) as site:
        yield site


@pytest.fixture
def names() -> Names:
    return Names({HOST: "127.0.0.1"})


class Crawls:
    """Crawls of the test's site."""

    def __init__(self, site: TestSite, names: Names, converter: Converter) -> None:
        self._site = site
        self._names = names
        self._converter = converter

    def of(
        self,
        path: str = "/",
        *,
        mode: Mode = "auto",
        depth: int = 5,
        pages: int = 100,
        page_bytes: int = 100_000,
        all_bytes: int = 1_000_000,
        choice: Choice | None = None,
        patience: Patience | None = None,
        guard: Guard = GUARD,
    ) -> Site:
        return Site(
            scope=Scope(URL(f"{self._site.url}{path}"), choice or Choice(), guard),
            mode=mode,
            bounds=Bounds(depth, pages, page_bytes, all_bytes),
            delay_s=0.0,
            guard=guard,
            open_fetcher=partial(fetcher, guard, patience=patience, resolver=self._names),
            read_links=self._converter.links,
        )


@pytest.fixture
def crawls(site: TestSite, names: Names, converter: Converter) -> Crawls:
    return Crawls(site, names, converter)


async def test_links_are_followed_on_the_host_and_below_the_start_alone(
    site: TestSite, crawls: Crawls
) -> None:
    site.pages = {
        "/docs/": page("Start", "a.html", "/docs/b#part", "/blog/", "https://elsewhere.example.com/docs/", "mailto:a@b", "x.png"),
        "/docs/a.html": page("A", "b?utm_source=mail", "../docs/./c"),
        "/docs/b": page("B", "/docs/"),
        "/docs/c": page("C", "http://[bad", "javascript:void(0)"),
    }  # fmt: skip

    found = await Kept().round(crawls.of("/docs/"))

    assert found.is_complete
    assert [key.removeprefix(site.url) for key in found.changed] == [
        "/docs/",
        "/docs/a.html",
        "/docs/b",
        "/docs/c",
    ]
    assert not {"/blog/", "/docs/x.png"} & set(site.asked)
    page_of_b = found.changed[f"{site.url}/docs/b"]
    assert (page_of_b.file_name, page_of_b.declared_type, page_of_b.url) == (
        "b.html",
        "text/html",
        f"{site.url}/docs/b",
    )
    assert {headers["User-Agent"] for headers in site.seen} == {USER_AGENT}


async def test_links_are_followed_as_deep_as_is_allowed(site: TestSite, crawls: Crawls) -> None:
    site.pages = {
        "/": page("Start", "/0"),
        **{f"/{depth}": page(f"Page {depth}", f"/{depth + 1}") for depth in range(5)},
    }

    found = await Kept().round(crawls.of(depth=2))

    assert found.is_complete
    assert [key.removeprefix(site.url) for key in found.changed] == ["/", "/0", "/1"]


async def test_patterns_choose_among_the_paths_of_pages(site: TestSite, crawls: Crawls) -> None:
    site.pages = {
        "/": page("Start", "/guide/a", "/guide/drafts/b", "/other"),
        **{path: page(path) for path in ("/guide/a", "/guide/drafts/b", "/other")},
    }

    found = await Kept().round(crawls.of(choice=Choice(["/guide/**"], ["**/drafts/*"])))

    assert [key.removeprefix(site.url) for key in found.changed] == ["/", "/guide/a"]


async def test_what_has_not_changed_costs_a_304_and_its_links_are_followed_all_the_same(
    site: TestSite, crawls: Crawls
) -> None:
    kept = Kept()
    site.pages = {"/": page("Start", "/a"), "/a": page("A", "/b"), "/b": page("B")}
    await kept.round(crawls.of())
    site.pages["/b"] = page("B, again")

    found = await kept.round(crawls.of())

    assert site.not_modified.count("/a") == 1
    assert [key.removeprefix(site.url) for key in found.changed] == ["/b"]
    assert found.unchanged == [f"{site.url}/", f"{site.url}/a"]


async def test_a_page_whose_text_is_the_same_is_unchanged_whatever_its_bytes_are(
    site: TestSite, crawls: Crawls
) -> None:
    kept = Kept()
    site.pages = {"/": page("Start", head='<meta name="csrf" content="1">')}
    await kept.round(crawls.of())
    site.pages = {"/": page("Start", head='<meta name="csrf" content="2">')}

    found = await kept.round(crawls.of())

    assert (found.changed, found.unchanged) == ({}, [f"{site.url}/"])


async def test_pages_of_sitemaps_are_taken_through_an_index_and_compressed(
    site: TestSite, crawls: Crawls
) -> None:
    site.pages = {
        "/robots.txt": f"Sitemap: {site.url}/index.xml\n",
        "/index.xml": sitemapindex(f"{site.url}/one.xml", f"{site.url}/two.xml.gz", f"{site.url}/index.xml"),
        "/one.xml": urlset(f"{site.url}/a", f"{site.url}/gone", "https://elsewhere.example.com/b"),
        "/two.xml.gz": gzip.compress(urlset(f"{site.url}/b?c=1&d=2").encode()),
        "/": page("Start", "/not-in-the-sitemap"),
        "/a": page("A", "/not-in-the-sitemap", "/files/a.pdf"),
        "/b": page("B"),
        "/files/a.pdf": b"%PDF-1.7",
    }

    found = await Kept().round(crawls.of())

    assert found.is_complete
    assert [key.removeprefix(site.url) for key in found.changed] == ["/a", "/b?c=1&d=2", "/files/a.pdf"]
    assert found.gone == [f"{site.url}/gone"]


@pytest.mark.parametrize(
    "sitemap",
    [
        "<urlset><url><loc>http://a",
        '<!DOCTYPE a [<!ENTITY b "c">]><urlset><url><loc>&b;</loc></url></urlset>',
        "<html><body>Not found</body></html>",
        gzip.compress(b"<urlset>" * 1000)[:100],
        gzip.compress(bytes(60 * 1024 * 1024)),
    ],
    ids=["cut off", "entities", "a page", "cut off archive", "bomb"],
)
async def test_a_sitemap_that_cannot_be_read_is_a_failed_listing(
    site: TestSite, crawls: Crawls, sitemap: str | bytes
) -> None:
    site.pages = {
        "/robots.txt": f"Sitemap: {site.url}/sitemap.xml",
        "/sitemap.xml": sitemap,
        "/": page("Start"),
    }

    found = await Kept().round(crawls.of())

    assert found.refusal is not None
    assert (found.refusal.reason, found.found) == ("unreachable", [])


async def test_robots_txt_is_obeyed(site: TestSite, crawls: Crawls) -> None:
    site.pages = {
        "/robots.txt": "User-agent: *\nDisallow: /\n\nUser-agent: freshet\nDisallow: /private\nAllow: /private/open",
        "/": page("Start", "/private/a", "/private/open", "/public"),
        "/private/open": page("Open"),
        "/public": page("Public"),
    }

    found = await Kept().round(crawls.of())

    assert [key.removeprefix(site.url) for key in found.changed] == ["/", "/private/open", "/public"]
    assert "/private/a" not in site.asked
    site.pages["/robots.txt"] = "User-agent: *\nDisallow: /"
    with pytest.raises(ConnectorRefused, match=r"robots\.txt forbids"):
        await crawls.of().check()


async def test_a_site_whose_robots_txt_cannot_be_had_is_not_read(site: TestSite, crawls: Crawls) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    site.pages = {"/robots.txt": broken, "/": page("Start")}

    found = await Kept().round(crawls.of())

    assert found.refusal is not None
    assert (found.refusal.reason, site.asked) == ("robots", ["/robots.txt"])


async def test_the_delay_that_robots_txt_asks_for_is_kept(site: TestSite, crawls: Crawls) -> None:
    site.pages = {
        "/robots.txt": "User-agent: *\nCrawl-delay: 0.2",
        "/": page("Start", "/a", "/b"),
        "/a": page("A"),
        "/b": page("B"),
    }
    began = anyio.current_time()

    found = await Kept().round(crawls.of(mode="links"))

    assert len(found.changed) == 3
    assert anyio.current_time() - began >= 0.4


async def test_pages_say_whether_they_and_their_links_are_to_be_taken(site: TestSite, crawls: Crawls) -> None:
    site.pages = {
        "/": page(
            "Start", "/noindex", "/nofollow", "/header", body='<a rel="nofollow" href="/unwanted">a</a>'
        ),
        "/noindex": page("No index", "/found-there", head='<meta name="robots" content="noindex">'),
        "/nofollow": page("No follow", "/unwanted", head='<META NAME="ROBOTS" CONTENT="index, nofollow">'),
        "/header": page("Header", "/unwanted"),
        "/found-there": page("Found"),
        "/unwanted": page("Unwanted"),
    }
    site.headers = {"/header": {"X-Robots-Tag": "otherbot: noarchive, noindex, nofollow"}}
    kept = Kept()

    first = await kept.round(crawls.of())
    found = await kept.round(crawls.of())

    for one in (first, found):
        assert set(one.passed_over) == {f"{site.url}/noindex", f"{site.url}/header"}
    assert "/unwanted" not in site.asked
    assert "/noindex" in site.not_modified
    assert f"{site.url}/found-there" in found.unchanged


async def test_the_page_that_another_names_as_canonical_stands_for_it(site: TestSite, crawls: Crawls) -> None:
    def canonical(address: str) -> str:
        return f'<link rel="canonical" href="{address}">'

    site.pages = {
        "/": page("Start", "/a?print=1", "/x", "/far"),
        "/a?print=1": page("A", head=canonical("/a")),
        "/a": page("A", head=canonical(f"{site.url}/a")),
        "/x": page("X", head=canonical("/y")),
        "/y": page("Y", head=canonical("/x")),
        "/far": page("Far", head=canonical("https://elsewhere.example.com/")),
    }

    found = await Kept().round(crawls.of())

    assert [key.removeprefix(site.url) for key in found.changed] == ["/", "/far", "/a", "/y"]
    assert set(found.passed_over) == {f"{site.url}/a?print=1", f"{site.url}/x"}


async def test_a_redirect_leads_to_pages_of_the_site_and_nowhere_else(
    site: TestSite, crawls: Crawls, names: Names
) -> None:
    async def secret(request: web.Request) -> web.StreamResponse:
        asked_inside.append(request.path)
        return web.Response(text="secret")

    asked_inside: list[str] = []
    async with serving(secret) as port:
        inside = f"http://127.0.0.1:{port}/"
        names.table["innocent.example.com"] = "127.0.0.1"
        site.pages = {
            "/": page(
                "Start", "/moved", "/inside", "/inside2", "/innocent", "/circle", "/file", "/endless/0"
            ),
            "/moved": redirect("/new", 301),
            "/new": page("New"),
            "/inside": redirect(inside),
            "/inside2": redirect(f"//[::ffff:7f00:1]:{port}/"),
            "/innocent": redirect(f"http://innocent.example.com:{port}/"),
            "/circle": redirect("/circle2"),
            "/circle2": redirect("/circle"),
            "/file": redirect("file:///etc/passwd"),
            **{f"/endless/{step}": redirect(f"/endless/{step + 1}") for step in range(20)},
        }

        found = await Kept().round(crawls.of())

    assert asked_inside == []
    assert [key.removeprefix(site.url) for key in found.changed] == ["/", "/new"]
    assert f"{site.url}/inside" in found.failed | found.passed_over
    assert "/endless/19" not in site.asked


async def test_robots_txt_and_sitemaps_are_not_looked_for_inside(site: TestSite, crawls: Crawls) -> None:
    async def secret(request: web.Request) -> web.StreamResponse:
        asked_inside.append(request.path)
        return web.Response(text="secret")

    asked_inside: list[str] = []
    async with serving(secret) as port:
        site.pages = {"/": page("Start"), "/robots.txt": redirect(f"http://127.0.0.1:{port}/robots.txt")}
        redirected = await Kept().round(crawls.of())
        site.pages["/robots.txt"] = f"Sitemap: http://127.0.0.1:{port}/sitemap.xml"
        named = await Kept().round(crawls.of())

    assert asked_inside == []
    assert redirected.refusal is not None
    assert named.refusal is not None
    assert (redirected.refusal.reason, named.refusal.reason) == ("address", "address")


async def test_a_start_that_redirects_to_another_site_is_refused_and_names_it(
    site: TestSite, crawls: Crawls, names: Names
) -> None:
    site.pages = {"/": redirect("https://other.example.com/")}

    with pytest.raises(ConnectorRefused, match=r"https://other\.example\.com") as refused:
        await crawls.of().check()

    assert refused.value.reason == "redirect"


async def test_a_name_that_changes_its_address_meanwhile_is_asked_only_where_it_may_be(
    site: TestSite, crawls: Crawls, names: Names
) -> None:
    # The number is allowed and not the name, so that the name counts by where it leads.
    guard = Guard(networks=Guard.allowing(["127.0.0.1"]).networks, ports=(site.port,))

    async def rebind(_: web.Request) -> web.StreamResponse:
        names.table[HOST] = "127.0.0.2"
        response = web.Response(text=page("A", "/b"), content_type="text/html")
        response.force_close()
        return response

    site.pages = {"/": page("Start", "/a"), "/a": page("A", "/b"), "/b": page("B")}
    assert len((await Kept().round(crawls.of(guard=guard))).changed) == 3
    site.pages["/a"] = rebind
    site.asked.clear()

    found = await Kept().round(crawls.of(guard=guard, mode="links"))

    assert "not one of the public internet" in found.failed[f"{site.url}/b"]
    assert "/b" not in site.asked


async def test_answers_that_are_huge_slow_or_unpacked_without_end_are_given_up(
    site: TestSite, crawls: Crawls
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        while True:
            await response.write(b"a" * 65_536)

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        await anyio.sleep_forever()
        return response

    async def bomb(_: web.Request) -> web.StreamResponse:
        packed = gzip.compress(bytes(50_000_000))
        return web.Response(body=packed, headers={"Content-Type": "text/html", "Content-Encoding": "gzip"})

    site.pages = {
        "/": page("Start", "/endless", "/silent", "/bomb", "/good"),
        "/endless": endless,
        "/silent": silent,
        "/bomb": bomb,
        "/good": page("Good"),
    }

    with anyio.fail_after(20):
        found = await Kept().round(crawls.of(patience=Patience(read_s=0.3, whole_s=5)))

    assert set(found.failed) == {f"{site.url}/{name}" for name in ("endless", "silent", "bomb")}
    assert f"{site.url}/good" in found.changed
    assert not found.is_complete


async def test_a_site_without_end_is_left_at_the_limit_and_is_not_complete(
    site: TestSite, crawls: Crawls
) -> None:
    async def calendar(request: web.Request) -> web.StreamResponse:
        day = int(request.query.get("day", "0"))
        return web.Response(text=page(f"Day {day}", f"/?day={day + 1}"), content_type="text/html")

    site.pages = {"/": calendar}

    found = await Kept().round(crawls.of(pages=10, depth=1_000))
    assert (len(found.changed), found.is_complete) == (10, False)
    found = await Kept().round(crawls.of(all_bytes=1_000, depth=1_000))
    assert (len(found.changed) < 10, found.is_complete) == (True, False)


async def test_a_server_that_asks_to_wait_is_waited_for(site: TestSite, crawls: Crawls) -> None:
    async def busy(_: web.Request) -> web.StreamResponse:
        if site.asked.count("/busy") == 1:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return web.Response(text=page("Busy"), content_type="text/html")

    async def overloaded(_: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "3600"})

    site.pages = {"/": page("Start", "/busy", "/overloaded"), "/busy": busy, "/overloaded": overloaded}

    with anyio.fail_after(20):
        found = await Kept().round(crawls.of())

    assert f"{site.url}/busy" in found.changed
    assert found.failed == {f"{site.url}/overloaded": "The server answered 429."}


async def test_a_page_that_fails_hides_none_of_those_that_it_linked_to(
    site: TestSite, crawls: Crawls
) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    kept = Kept()
    site.pages = {"/": page("Start", "/a"), "/a": page("A", "/b"), "/b": page("B")}
    await kept.round(crawls.of())
    site.pages["/a"] = broken

    found = await kept.round(crawls.of())

    assert found.failed == {f"{site.url}/a": "The server answered 500."}
    assert (f"{site.url}/b" in found.unchanged, found.is_complete) == (True, True)


async def test_a_site_that_fails_page_after_page_is_left(site: TestSite, crawls: Crawls) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    site.pages = {"/": page("Start", *(f"/{number}" for number in range(50)))}
    site.pages |= {f"/{number}": broken for number in range(50)}

    found = await Kept().round(crawls.of())

    assert found.refusal is not None
    assert len(site.asked) < 20


@pytest.mark.parametrize(("status", "reason"), [(404, "missing"), (403, "forbidden"), (500, "missing")])
async def test_a_start_that_is_not_there_is_told(
    site: TestSite, crawls: Crawls, status: int, reason: str
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    site.pages = {"/": answer}

    with pytest.raises(ConnectorRefused, match=str(status)) as refused:
        await crawls.of().check()

    assert refused.value.reason == reason
