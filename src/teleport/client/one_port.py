"""The proxy's one port, from a client's end: SSH inside TLS, or inside a websocket where a balancer ends TLS.

The SSH session inside proves the proxy and the host by itself; the TLS around it is proved as the profile's trust says,
so that nobody else even learns who comes. Which of the two ways a profile needs is found out at its login.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from teleport.client.addresses import join
from teleport.client.dial import INTERNAL_NAME, Untrusted, fingerprint, open_web
from teleport.client.trust import CertificateTrust, ClusterTrust, ProxyTrust, PublicTrust
from teleport.errors import ConnectionProblem
from teleport.transport.site_connect import connect_out
from teleport.transport.tls import cluster_client_context, public_client_context, unproved_client_context
from teleport.wire.alpn import PROXY_SSH

BY_TLS: Final = "true"  # in profiles, as other clients write it
BY_UPGRADE: Final = "upgrade"  # a balancer ends TLS

Reach = Callable[[asyncio.Protocol], Awaitable[None]]


def found_way(host: str, port: int, trust: ProxyTrust) -> str:
    """`BY_TLS` when TLS reaches the proxy itself, `BY_UPGRADE` when somebody between ends it. Blocks."""
    try:
        stream = open_web(host, port, trust, protocol=PROXY_SSH)
    except ConnectionProblem:
        return BY_UPGRADE  # the same address was proved a moment ago: what differs is the protocol asked for
    try:
        return BY_TLS if stream.protocol() == PROXY_SSH else BY_UPGRADE
    finally:
        stream.close()


def reach(kind: str, address: tuple[str, int], trust: ProxyTrust) -> Reach | None:
    """How SSH reaches the proxy at its web address; None when it has a port of its own."""
    if kind == BY_TLS:
        return lambda protocol: _by_tls(protocol, address, trust)
    if kind == BY_UPGRADE:
        return lambda protocol: _by_upgrade(protocol, address, trust)
    return None


def _context(trust: ProxyTrust, host: str) -> tuple[ssl.SSLContext, str]:
    match trust:
        case PublicTrust():
            return public_client_context(), host
        case ClusterTrust(ca_pems=pems):
            return cluster_client_context(pems), INTERNAL_NAME
        case CertificateTrust():
            return unproved_client_context(), host


def _check(trust: ProxyTrust, shown: bytes | None, address: tuple[str, int]) -> None:
    """What a trust in one certificate asks, which no context can."""
    if isinstance(trust, CertificateTrust) and not hmac.compare_digest(fingerprint(shown or b""), trust.fingerprint):
        raise Untrusted(
            f"{join(*address)} shows another certificate than the one that was accepted before",
            hint="somebody may be in between; ask the administrator for the pin: tsh login --ca-pin",
        )


async def _by_tls(protocol: asyncio.Protocol, address: tuple[str, int], trust: ProxyTrust) -> None:
    context, name = _context(trust, address[0])
    context.set_alpn_protocols([PROXY_SSH])
    loop, outer = asyncio.get_running_loop(), _Held()
    await connect_out(outer, *address)
    first = _Held()
    try:
        transport = await loop.start_tls(outer.transport, first, context, server_hostname=name)
    except BaseException:
        outer.transport.abort()
        raise
    assert transport is not None
    try:
        made = transport.get_extra_info("ssl_object")
        _check(trust, made.getpeercert(True), address)
        if made.selected_alpn_protocol() != PROXY_SSH:
            raise ConnectionProblem(
                f"{join(*address)} does not lead to the proxy's SSH any more: somebody between ends TLS",
                hint="tsh login, which finds the way anew",
            )
    except BaseException:
        transport.abort()
        raise
    first.go_on(transport, protocol)


class _Held(asyncio.Protocol):
    """Keeps what comes until it is known that the far end is the right one."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data

    def go_on(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data:
            protocol.data_received(self._data)


async def _by_upgrade(protocol: asyncio.Protocol, address: tuple[str, int], trust: ProxyTrust) -> None:
    from teleport.transport.upgrade import upgraded

    context, name = _context(trust, address[0])
    await upgraded(
        protocol,
        *address,
        context=context,
        server_name=name,
        check=lambda shown: _check(trust, shown, address),
    )
