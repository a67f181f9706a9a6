"""Where a host lets itself be led: the addresses of tunnels that web pages and proxies tell, and those nobody dials.

An address that a stranger chose is a way to make this host knock at doors that only it reaches. So only the
administrator's own words are dialled as they stand: every other address is refused when it leads to the link (where
clouds answer with a machine's secrets), to such a service elsewhere, to many or to nobody, and to this very host unless
the configuration leads there itself. Names are resolved once, and what is checked is what is dialled; where the site
has an HTTP proxy, that one resolves them and may go where it lets itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from teleport.errors import AccessDenied, BadRequest
from teleport.resources.names import canonical_address
from teleport.resources.values import HostPort
from teleport.transport import judged
from teleport.transport.site_connect import connect_out
from teleport.transport.site_proxy import site_proxy
from teleport.transport.tls import unproved_client_context
from teleport.transport.upgrade import upgraded

PORT: Final = 3024  # of an address that names none (`protocols.md` 1)
_METADATA: Final = frozenset({"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})
# RFC 6052 and RFC 8215: the last 32 bits are an IPv4 address
_IPV4_INSIDE: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# RFC 1122 section 3.2.1.3, RFC 1112 section 4, RFC 3879
_NOBODYS: Final = tuple(ipaddress.ip_network(one) for one in ("0.0.0.0/8", "240.0.0.0/4", "fec0::/10"))


def tunnel_address(text: str) -> HostPort:
    """The address of a tunnel listener; without a port that is `PORT`. Raises `BadRequest`."""
    try:
        found = HostPort.parse(text, PORT)
    except ValueError as error:
        raise BadRequest(f"{text[:100]!a} is no address of a tunnel listener: {error}") from None
    if not found.port:
        raise BadRequest(f"{text[:100]!a} is no address of a tunnel listener: the port is 0")
    return found


def why_not(address: str, *, loopback: bool, elsewhere: str = "auth_servers leads elsewhere") -> str:
    """Why this IP address is not dialled on a stranger's word; empty when it is. `loopback`: whether this host is;
    `elsewhere` says why it is not."""
    found = ipaddress.ip_address(canonical_address(address) or address)
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.sixtofour or (found.teredo or (None, None))[1]
        # the latter: RFC 4291 section 2.5.5.1
        if any(found in one for one in _IPV4_INSIDE) or 1 < int(found) < 1 << 32:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return why_not(str(inside), loopback=False, elsewhere=elsewhere)
    if found.is_link_local or str(found) in _METADATA:
        return "it is of the link, or a cloud's own service"
    if found.is_multicast or found.is_unspecified or any(found in one for one in _NOBODYS):
        return "it is nobody's address"
    if found.is_loopback and not loopback:
        return f"it is this very host, and {elsewhere}"
    return ""


class Ways:
    """Dials for tunnels. `configured` are the hosts that the configuration names."""

    def __init__(self, configured: Iterable[str] = ()) -> None:
        self._configured = frozenset(host.lower() for host in configured)
        self._loopback = any(is_loopback(host) for host in self._configured)

    async def connect(self, protocol: asyncio.Protocol, host: str, port: int) -> None:
        """Connects the protocol. The caller bounds the time. Raises `OSError`, `ConnectionProblem`, `BadRequest`, and
        `AccessDenied` for an address that nobody dials."""
        if host.lower() in self._configured:
            await connect_out(protocol, host, port)
            return
        literal = canonical_address(host)
        if literal:
            self._check(host, literal)
            await connect_out(protocol, literal, port)
        elif site_proxy(host, port) is not None:
            await connect_out(protocol, host, port)
        else:
            await self._resolved(protocol, host, port)

    async def upgrade(self, protocol: asyncio.Protocol, host: str, port: int) -> tuple[str, int]:
        """The same inside a websocket, for a balancer that ends TLS; gives the address at the other end. What is inside
        proves itself, so nothing is asked of the TLS."""
        resolver: AbstractResolver | None = None
        if host.lower() not in self._configured:
            literal = canonical_address(host)
            if literal:
                self._check(host, literal)
            elif site_proxy(host, port) is None:
                resolver = _Checked(self)
        context = unproved_client_context()
        return await upgraded(protocol, host, port, context=context, server_name=host, resolver=resolver)

    async def found(self, host: str, port: int) -> list[str]:
        """The addresses of a name that are dialled. Raises `OSError`, `AccessDenied` when none is."""
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        places, problem = list[str](), None
        for address in dict.fromkeys(str(info[4][0]) for info in infos):
            try:
                self._check(host, address.partition("%")[0])
                places.append(address)
            except AccessDenied as error:
                problem = error
        if not places:
            raise problem or OSError(f"{host} has no address")
        return places

    def _check(self, host: str, address: str) -> None:
        if reason := why_not(address, loopback=self._loopback):
            raise AccessDenied(
                f"{host} ({address}) is not dialled: {reason}",
                hint="if a proxy is reached there, name that host in auth_servers, or correct tunnel_public_addr",
            )

    async def _resolved(self, protocol: asyncio.Protocol, host: str, port: int) -> None:
        await judged.first(lambda: protocol, await self.found(host, port), port)


class _Checked(AbstractResolver):
    """Finds names for requests that a stranger has this host make."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._ways.found(host, port)
        ]

    async def close(self) -> None:
        return


def is_loopback(host: str) -> bool:
    """Whether it is `localhost` or an address of the loopback."""
    literal = canonical_address(host)
    return host.lower() == "localhost" or (bool(literal) and ipaddress.ip_address(literal).is_loopback)


__all__ = ["PORT", "Ways", "is_loopback", "tunnel_address", "why_not"]
