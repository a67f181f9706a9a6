"""Connections of an event loop that leave a site by its HTTP proxy (`site_proxy`)."""

from __future__ import annotations

import asyncio

from teleport.errors import ConnectionProblem
from teleport.transport.site_proxy import MAX_HEAD, SET_IT, SiteProxy, shown, site_proxy, taken


async def connect_out(protocol: asyncio.Protocol, host: str, port: int) -> None:
    """Connects a protocol, by the site's proxy where there is one. The caller bounds the time.

    Raises `OSError`, `ConnectionProblem`, `BadRequest`.
    """
    loop, via = asyncio.get_running_loop(), site_proxy(host, port)
    if via is None:
        await loop.create_connection(lambda: protocol, host, port)
        return
    stands = loop.create_future()
    try:
        transport, _ = await loop.create_connection(
            lambda: _Asking(via, host, port, protocol, stands), via.host, via.port
        )
    except OSError as error:
        raise ConnectionProblem(f"the HTTP proxy {via.url}: {error.strerror or error}", hint=SET_IT) from None
    try:
        await stands
    except BaseException:
        transport.abort()
        raise


class _Asking(asyncio.Protocol):
    """Asks the proxy, and hands the connection over once it stands."""

    def __init__(
        self, via: SiteProxy, host: str, port: int, protocol: asyncio.Protocol, stands: asyncio.Future[None]
    ) -> None:
        self._via = via
        self._target = shown(host, port)
        self._request = via.request(host, port)
        self._protocol = protocol
        self._stands = stands
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if self._stands.done() or self._transport is None:
            return
        try:
            if not end and len(self._head) < MAX_HEAD:
                return
            if not end:
                raise ConnectionProblem(f"the HTTP proxy {self._via.url} does not answer as one", hint=SET_IT)
            taken(head, self._via, self._target)
        except ConnectionProblem as error:
            self._stands.set_exception(error)
            return
        self._transport.set_protocol(self._protocol)
        self._protocol.connection_made(self._transport)
        if rest:
            self._protocol.data_received(rest)
        self._stands.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stands.done():
            self._stands.set_exception(ConnectionProblem(f"the HTTP proxy {self._via.url} ended the connection"))
