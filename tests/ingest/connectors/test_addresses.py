"""Every family of addresses that is not public, in every spelling that some parser takes for it."""

import ipaddress
import itertools
import socket
from collections.abc import Iterator

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from app.errors import ConnectorRefused
from app.ingest.connectors.addresses import Guard, GuardedResolver

IPV4 = {
    "this network": ["0.0.0.0", "0.1.2.3"],  # noqa: S104  # asked for, not listened at
    "private": [
        "10.0.0.1",
        "10.255.255.254",
        "172.16.0.1",
        "172.31.255.254",
        "192.168.0.1",
        "192.168.255.254",
    ],
    "shared": ["100.64.0.1", "100.127.255.254"],
    "loopback": ["127.0.0.1", "127.255.255.254"],
    "link-local": ["169.254.169.254", "169.254.0.1"],
    "protocol assignments": ["192.0.0.1", "192.0.0.170"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1"],
    "6to4 relay": ["192.88.99.1"],
    "benchmarks": ["198.18.0.1", "198.19.255.254"],
    "multicast": ["224.0.0.1", "239.255.255.250"],
    "reserved": ["240.0.0.1", "255.255.255.255"],
}
IPV6 = {
    "unspecified": ["::"],
    "loopback": ["::1", "0:0:0:0:0:0:0:1"],
    "discard": ["100::1"],
    "unique local": ["fc00::1", "fd12:3456:789a::1"],
    "link-local": ["fe80::1", "fe80::a9fe:a9fe"],
    "site-local": ["fec0::1"],
    "multicast": ["ff02::1", "ff0e::1"],
    "documentation": ["2001:db8::1", "3fff::1"],
    "benchmarks": ["2001:2::1"],
    "identifiers": ["2001:10::1", "2001:20::1"],
    "unassigned": ["4000::1", "5f00::1"],
    "with a zone": ["fe80::1%eth0", "fe80::1%25eth0", "2606:4700::1%25eth0"],
}
NAMES = [
    "localhost", "LOCALHOST", "localhost.", "a.localhost", "ｌｏｃａｌｈｏｓｔ", "ⓛocalhost", "localhost.localdomain", "printer.local",
    "metadata.google.internal", "router.lan", "nas.home.arpa",
]  # fmt: skip


def _ipv4_spellings(text: str) -> Iterator[str]:
    number = int(ipaddress.IPv4Address(text))
    a, b, c, d = (number >> shift & 0xFF for shift in (24, 16, 8, 0))
    yield from (text, f"{text}.", str(number), f"{number}.", hex(number), hex(number).upper(), f"0{number:o}")
    yield from (f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}", f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}")
    yield from (
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a:03}.{b:03}.{c:03}.{d:03}",
        f"0x{a:x}.{b}.0{c:o}.{d}",
        f"{a}.0x{number & 0xFFFFFF:x}",
    )
    yield from (
        _wide(text),
        text.replace(".", "。"),
        text.replace(".", "．"),
        text.replace(".", "｡"),
        _circled(text),
    )
    yield from (text.replace(".", "%2e"), text[:-1] + f"%3{text[-1]}", f"{text}%00", f"{text}%20")
    yield from (
        f"[::ffff:{text}]",
        f"[::ffff:{a:x}{b:02x}:{c:x}{d:02x}]",
        f"[::{text}]",
        f"[64:ff9b::{text}]",
        f"[64:ff9b:1::{text}]",
    )
    yield from (
        f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1]",
        f"[2001:0:{a:02x}{b:02x}:{c:02x}{d:02x}::]",
        f"[::ffff:0:{text}]",
    )
    yield f"[2606:4700::5efe:{a:02x}{b:02x}:{c:02x}{d:02x}]"
    yield from (
        f"user@{text}",
        f"example.com@{text}",
        f"user:password@{text}",
        f"example.com%40{text}",
        f"example.com\\@{text}",
    )


def _wide(text: str) -> str:
    return "".join(chr(ord(sign) - ord("0") + ord("０")) if sign.isdigit() else sign for sign in text)


def _circled(text: str) -> str:
    return "".join("⓪①②③④⑤⑥⑦⑧⑨"[int(sign)] if sign.isdigit() else sign for sign in text)


def _ipv6_spellings(text: str) -> Iterator[str]:
    yield from (f"[{text}]", f"[{text.upper()}]")
    if "%" not in text:
        yield from (f"[{ipaddress.IPv6Address(text).exploded}]", f"[{text}].", _wide(f"[{text}]"))


HOSTS = [
    *dict.fromkeys(
        itertools.chain(
            *(_ipv4_spellings(text) for texts in IPV4.values() for text in texts),
            *(_ipv6_spellings(text) for texts in IPV6.values() for text in texts),
            NAMES,
        )
    )
]
PUBLIC = Guard()


def test_no_address_that_is_not_public_is_asked_however_it_is_spelled() -> None:
    addresses = [
        f"{scheme}://{host}{rest}" for host in HOSTS for scheme, rest in (("http", "/"), ("https", ":8080/a"))
    ]

    assert len(HOSTS) > 600
    assert [address for address in addresses if _is_asked(address)] == []


def _is_asked(address: str) -> bool:
    try:
        PUBLIC.check(address)
    except ConnectorRefused:
        return False
    return True


@pytest.mark.parametrize(
    "address",
    [
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com:70/", "javascript:alert(1)", "data:text/html,a",
        "//example.com/", "example.com", "", "http://", "http:///", "http:///example.com", "https:/example.com", "http://.", "http://..",
        "http://example.com:22/", "http://example.com:25", "http://example.com:5432/", "http://example.com:0/", "http://example.com:65536/",
        "http://user@example.com/", "http://user:secret@example.com/", "http://@example.com/", "http://:@example.com/",
        "http://exa mple.com/", " http://example.com/", "http://example.com/\n", "http://exam\tple.com/", "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1\\@example.com/", "http://example.com/a\r\nHost: b", "http://exam\u200bple.com/", "http://-example.com/",
        "http://example..com/", "http://[2606:4700::1", "http://[example.com]/", "http://" + "a" * 64 + ".com/", "http://a.com/" + "a" * 2_001,
    ],
)  # fmt: skip
def test_what_is_no_plain_address_of_the_web_is_refused(address: str) -> None:
    with pytest.raises(ConnectorRefused):
        PUBLIC.check(address)


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM./a?b=c#d", "https://example.com/a?b=c"),
        ("http://example.com:8080/a%20b", "http://example.com:8080/a%20b"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://1.1.1.1/", "https://1.1.1.1/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://1password.com/", "https://1password.com/"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
        ("https://example.com/a@b", "https://example.com/a@b"),
    ],
)
def test_a_public_address_is_asked_in_its_plain_form(address: str, asked: str) -> None:
    assert str(PUBLIC.check(address)) == asked


def test_a_connection_goes_to_public_addresses_alone() -> None:
    for text in itertools.chain(*IPV4.values(), *IPV6.values()):
        with pytest.raises(ConnectorRefused):
            PUBLIC.check_address("example.com", text.replace("%25", "%"))


def test_what_the_operator_allows_is_asked_on_any_port() -> None:
    guard = Guard.allowing(["10.0.0.0/8", "wiki.corp", "fd00::1"])

    for address in ("http://10.1.2.3:9000/", "http://wiki.corp:5000/", "http://[fd00::1]:81/"):
        assert str(guard.check(address)) == address
    guard.check_address("wiki.corp", "192.168.0.1")
    guard.check_address("example.com", "10.1.1.1")
    for address in (
        "http://10.1.2.3.wiki.local/",
        "http://11.1.2.3:9000/",
        "http://192.168.0.1/",
        "http://a.wiki.corp/",
    ):
        with pytest.raises(ConnectorRefused):
            guard.check(address)
    with pytest.raises(ConnectorRefused):
        guard.check_address("example.com", "192.168.0.1")


class Resolver(AbstractResolver):
    """Gives what it is told to."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


async def test_a_name_of_which_one_address_is_private_is_not_asked() -> None:
    with pytest.raises(ConnectorRefused):
        await GuardedResolver(PUBLIC, Resolver("1.1.1.1", "10.0.0.1")).resolve("example.com", 80)

    found = await GuardedResolver(PUBLIC, Resolver("1.1.1.1", "2606:4700::1111")).resolve("example.com", 80)
    assert [one["host"] for one in found] == ["1.1.1.1", "2606:4700::1111"]
