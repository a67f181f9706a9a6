"""The proxy's one port, from a client's end: SSH inside TLS, or inside a websocket where a balancer ends TLS.

The SSH session inside proves the proxy and the host by itself; the TLS around it is proved as the profile's trust says,
so that nobody else even learns who comes. Which of the two ways a profile needs is found out at its login.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from teleport.client.addresses import join
from teleport.client.dial import INTERNAL_NAME, Untrusted, fingerprint, open_web
from teleport.client.trust import CertificateTrust, ClusterTrust, ProxyTrust, PublicTrust
from teleport.errors import ConnectionProblem
from teleport.transport.site_connect import connect_out
from teleport.transport.site_proxy import for_aiohttp
from teleport.transport.tls import cluster_client_context, public_client_context, unproved_client_context
from teleport.wire.alpn import PROXY_SSH, UPGRADE_PATH

if TYPE_CHECKING:
    import aiohttp

BY_TLS: Final = "true"  # in profiles, as other clients write it
BY_UPGRADE: Final = "upgrade"  # a balancer ends TLS
CHUNK: Final = 65536  # bytes
MAX_MESSAGE: Final = 1 << 20  # bytes of one websocket message
HEARTBEAT: Final = 30.0  # seconds

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
    import aiohttp

    from teleport.transport import memory_pair
    from teleport.transport.problems import said

    context, name = _context(trust, address[0])
    session = aiohttp.ClientSession(auto_decompress=False)
    try:
        socket = await session.ws_connect(
            f"wss://{join(*address)}{UPGRADE_PATH}",
            ssl=context,
            server_hostname=name,
            max_msg_size=MAX_MESSAGE,
            heartbeat=HEARTBEAT,
            compress=0,
            **for_aiohttp(*address),
        )
        made = socket.get_extra_info("ssl_object")
        _check(trust, made.getpeercert(True) if made is not None else None, address)
    except (aiohttp.ClientError, TimeoutError) as error:
        await session.close()
        raise ConnectionProblem(
            f"{join(*address)} lets no connection through: {said(error)}",
            hint="the balancer must pass websockets on; and proxy_service must serve one port (version: v2)",
        ) from None
    except BaseException:
        await session.close()
        raise

    def accept(far: asyncio.Transport) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=CHUNK)
        inner = asyncio.StreamReaderProtocol(reader)
        far.set_protocol(inner)
        inner.connection_made(far)
        writer = asyncio.StreamWriter(far, inner, reader, loop)
        task = loop.create_task(_relay(session, socket, reader, writer), name="the proxy's websocket")
        _RELAYS.add(task)
        task.add_done_callback(_RELAYS.discard)

    memory_pair.connect(lambda: protocol, accept, peername=address)


_RELAYS: Final = set[asyncio.Task[None]]()  # end with the connection that they carry; the loop alone keeps no task


async def _relay(
    session: aiohttp.ClientSession,
    socket: aiohttp.ClientWebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Copies both ways until either end closes."""
    import aiohttp

    async def down() -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            writer.write(message.data)
            await writer.drain()
        writer.close()

    receiving = asyncio.create_task(down(), name="the proxy's websocket, down")
    try:
        while data := await reader.read(CHUNK):
            await socket.send_bytes(data)
    except (OSError, aiohttp.ClientError):
        pass
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        writer.close()
        await socket.close()
        await session.close()
