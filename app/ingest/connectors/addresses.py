"""Which addresses a connector may speak to. Without this, whoever names a site could have the server read what only it can reach.

An address counts when it is connected to: a name is resolved once, every address of it is checked, and the connection goes to
one of those. So neither a redirect nor a name that changes its address leads anywhere else.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app.errors import ConnectorRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = (80, 443, 8080, 8443)

_LONGEST_URL = 2_000
# Blanks, controls, and what one parser takes for the end of the host and another does not.
_AMBIGUOUS = re.compile(
    r"[\s\x00-\x20\x7f-\xa0\\^`{|}<>\"\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufff0-\uffff]"
)
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
# A host whose last part is a number is one: some resolvers read 127.1, 0x7f.1 and 2130706433 as 127.0.0.1.
_NUMBER_AT_END = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)$")
_LOCAL_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "lan", "intranet", "corp")

# IANA's registries of special-purpose addresses, and multicast.
_NOT_PUBLIC_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 "
        "198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4".split(),
    )
)
# All that is given out lies within the first; mapped, translated, local and multicast addresses lie outside of it.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_IPV6 = tuple(
    map(ipaddress.IPv6Network, "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split())
)
_ISATAP = {0x00005EFE, 0x02005EFE}


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_IPV4)
    return (
        address.scope_id is None
        and address in _GLOBAL_UNICAST
        and not any(address in network for network in _NOT_PUBLIC_IPV6)
        and (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP
    )


@dataclass(frozen=True, slots=True)
class Guard:
    """`hosts` and `networks` are allowed though they are not public, on any port; a host with whatever addresses it has.
    `ports` are those of all others."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = PORTS

    @classmethod
    def allowing(cls, names: Iterable[str]) -> Self:
        """Hosts, addresses, and networks such as `10.0.0.0/8`."""
        hosts: set[str] = set()
        networks: list[Network] = []
        for name in names:
            try:
                networks.append(ipaddress.ip_network(name, strict=False))
            except ValueError:
                hosts.add(name.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks))

    def also(self, host: str) -> "Guard":
        """With a host that whoever runs the server has named himself."""
        added = Guard.allowing([host])
        return Guard(self.hosts | added.hosts, self.networks + added.networks, self.ports)

    def check(self, text: str) -> URL:
        """The address of a request, in the form in which it is asked for. Raises `ConnectorRefused`."""
        if len(text) > _LONGEST_URL or _AMBIGUOUS.search(text):
            raise _refused("has characters that no address has, or is too long")
        try:
            url = URL(text)
            host, port = url.raw_host, url.port
        except ValueError as error:
            raise _refused("cannot be read") from error
        if url.scheme not in ("http", "https"):
            raise _refused("does not begin with http:// or https://")
        if not host or not url.is_absolute():
            raise _refused("has no host")
        if "@" in text.split("/", 3)[2]:
            raise _refused("holds a user or a password")
        host = host.lower().removesuffix(".")
        is_allowed = self._check_host(host)
        if port not in self.ports and not is_allowed:
            raise _refused(f"has another port than {', '.join(map(str, self.ports))}")
        url = url.with_host(host).with_fragment(None)
        return url.with_path("/", keep_query=True) if url.path == "/" else url

    def check_address(self, host: str, text: str) -> None:
        """Of a connection to `host`. Raises `ConnectorRefused`."""
        if host.lower().rstrip(".") not in self.hosts and not self._allows(ipaddress.ip_address(text)):
            raise _private()

    def _check_host(self, host: str) -> bool:
        """Whether it is one of those that are allowed by name."""
        if host in self.hosts:
            return True
        if ":" in host or _NUMBER_AT_END.search(host):
            try:
                address = ipaddress.ip_address(host)
            except ValueError as error:
                raise _refused("has a host that is no plain address") from error
            if not self._allows(address):
                raise _private()
            return not is_public(address)
        if not _HOST.fullmatch(host):
            raise _refused("has a host that is no name")
        if any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES):
            raise _private()
        return False

    def _allows(self, address: Address) -> bool:
        return is_public(address) or any(
            address.version == network.version and address in network for network in self.networks
        )


@dataclass(slots=True)
class GuardedResolver(AbstractResolver):
    """Gives the addresses of a name only if all of them may be spoken to."""

    guard: Guard
    resolver: AbstractResolver = field(default_factory=ThreadedResolver)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self.resolver.resolve(host, port, family)
        for one in found:
            self.guard.check_address(host, one["host"])
        return found

    async def close(self) -> None:
        await self.resolver.close()


def _refused(why: str) -> ConnectorRefused:
    return ConnectorRefused("address", f"This address is not asked: it {why}.")


def _private() -> ConnectorRefused:
    return ConnectorRefused(
        "address",
        "This address is not asked: it is not one of the public internet. CONNECTOR_ALLOW_PRIVATE names exceptions.",
    )
