"""The HTTP proxy by which connections leave a site: `HTTPS_PROXY` and `NO_PROXY`, CONNECT (RFC 9110 section 9.3.6).

What is carried proves its own ends: the site's proxy is trusted with addresses and with nothing else. It is asked for
the host by the name that is configured, which often only it can resolve.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from teleport.errors import BadRequest, ConnectionProblem
from teleport.resources.names import canonical_address, is_loopback
from teleport.transport.blocking import dial_tcp, shown_address

MAX_HEAD: Final = 16 * 1024  # bytes of an answer before what is carried
_SET_IT: Final = "set HTTPS_PROXY to http://HOST:PORT, or NO_PROXY to what is reached without it"


@dataclass(frozen=True, slots=True)
class SiteProxy:
    """An HTTP proxy, and what it is shown of who asks (the value of `Proxy-Authorization`, empty for nothing)."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Without what is secret."""
        return f"http://{shown_address(self.host, self.port)}"

    def request(self, host: str, port: int) -> bytes:
        """The head that asks for a connection to a host."""
        target = shown_address(host, port)
        if not target.isascii() or any(character <= " " for character in target):
            raise BadRequest(f"{target[:100]!a} is no address that a proxy can be asked for")
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def site_proxy(host: str, port: int, environ: Mapping[str, str] | None = None) -> SiteProxy | None:
    """The proxy by which `host` is reached, None for directly. Raises `BadRequest` when the variable cannot be meant.

    This machine itself is always reached directly.
    """
    environ = os.environ if environ is None else environ
    text = next((environ[name] for name in ("https_proxy", "HTTPS_PROXY") if environ.get(name)), "")
    without = next((environ[name] for name in ("no_proxy", "NO_PROXY") if environ.get(name)), "")
    if not text or is_loopback(host) or any(_covers(one.strip(), host, port) for one in without.split(",")):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        found, at = parts.hostname, parts.port or 80
    except ValueError:
        found, at = None, 0
    if parts.scheme != "http" or not found:
        raise BadRequest("HTTPS_PROXY is not the address of an HTTP proxy that is spoken to without TLS", hint=_SET_IT)
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return SiteProxy(found, at, authorization)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means a host: `*`, an address or network, a name or the end of one; with a port, if
    it names one."""
    if entry in ("", "*"):
        return entry == "*"
    address = canonical_address(host)
    if address:
        try:
            return ipaddress.ip_address(address) in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        return int(number[:6]) == port and _covers(name, host, port)
    wanted, asked = entry.lower().strip(".").removeprefix("*."), host.lower().rstrip(".")
    return asked == wanted or asked.endswith("." + wanted)


def taken(head: bytes, via: SiteProxy, target: str) -> None:
    """Raises `ConnectionProblem` unless the head of an answer says that the connection stands."""
    line = head.partition(b"\r\n")[0].decode("ascii", "replace")
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        raise ConnectionProblem(f"{via.url} is no HTTP proxy: it answers {line[:60]!a}", hint=_SET_IT)
    if not words[1].startswith("2"):
        hint = "give user and password in HTTPS_PROXY" if words[1] == "407" else "ask who runs it whether it may"
        raise ConnectionProblem(f"the HTTP proxy {via.url} does not lead to {target}: {line[9:80]!a}", hint=hint)


def dial_out(host: str, port: int, timeout: float) -> socket.socket:
    """As `dial_tcp`, by the site's proxy where there is one. Raises `ConnectionProblem`, `BadRequest`."""
    via = site_proxy(host, port)
    if via is None:
        return dial_tcp(host, port, timeout)
    connection = dial_tcp(via.host, via.port, timeout)
    try:
        connection.sendall(via.request(host, port))
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):  # by single bytes: what follows belongs to whoever gets the socket
            more = connection.recv(1)
            if not more or len(head) >= MAX_HEAD:
                raise ConnectionProblem(f"the HTTP proxy {via.url} does not answer as one", hint=_SET_IT)
            head += more
        taken(bytes(head), via, shown_address(host, port))
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise ConnectionProblem(f"the HTTP proxy {via.url}: {error.strerror or error}", hint=_SET_IT) from None
        raise
    return connection


def for_aiohttp(host: str, port: int) -> dict[str, Any]:
    """What aiohttp's requests to a host need to go by the site's proxy. Raises `BadRequest`."""
    via = site_proxy(host, port)
    if via is None:
        return {}
    shown = {"Proxy-Authorization": via.authorization} if via.authorization else None
    return {"proxy": via.url, "proxy_headers": shown}


async def connect_out(protocol: asyncio.Protocol, host: str, port: int) -> None:
    """Connects a protocol, by the site's proxy where there is one. The caller bounds the time.

    Raises `OSError`, `ConnectionProblem`, `BadRequest`.
    """
    loop, via = asyncio.get_running_loop(), site_proxy(host, port)
    if via is None:
        await loop.create_connection(lambda: protocol, host, port)
        return
    stands = loop.create_future()
    transport, _ = await loop.create_connection(lambda: _Asking(via, host, port, protocol, stands), via.host, via.port)
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
        self._target = shown_address(host, port)
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
                raise ConnectionProblem(f"the HTTP proxy {self._via.url} does not answer as one", hint=_SET_IT)
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
