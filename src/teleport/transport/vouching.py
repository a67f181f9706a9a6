"""Connections to auth that a proxy opens for somebody else: they begin with the line that says who that is.

aiohttp asks a connector for connections; this one sends the line of `wire.vouch` before TLS, as a proxy's relays do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace


@contextmanager
def connecting(req: aiohttp.ClientRequest, timeout: aiohttp.ClientTimeout) -> Iterator[None]:
    """What fails while a connection for `req` is made, as aiohttp's own connector would tell it."""
    try:
        yield
    except TimeoutError:
        raise aiohttp.ConnectionTimeoutError(f"no connection within {timeout.sock_connect:g} s") from None
    except ssl.CertificateError as error:
        raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
    except ssl.SSLError as error:
        raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
    except OSError as error:
        raise aiohttp.ClientConnectorError(req.connection_key, error) from error


class VouchingConnector(aiohttp.BaseConnector):
    """`line` makes a fresh line for each connection; it may raise `TeleportError`."""

    def __init__(self, line: Callable[[], bytes]) -> None:
        super().__init__(limit=0, keepalive_timeout=30)
        self._line = line

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        """What `aiohttp.BaseConnector` asks its heirs for (tests/web/test_web_sessions.py keeps it)."""
        host, port = req.url.raw_host or "", req.url.port or 0
        context = req.ssl
        assert isinstance(context, ssl.SSLContext), "auth is spoken to by TLS alone"
        name = req.server_hostname or host
        with connecting(req, timeout):
            async with asyncio.timeout(timeout.sock_connect):
                opened = await _connected(host, port)
                try:
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(opened, self._line())
                    _, protocol = await loop.create_connection(
                        self._factory, sock=opened, ssl=context, server_hostname=name
                    )
                except BaseException:
                    opened.close()
                    raise
        return protocol


async def _connected(host: str, port: int) -> socket.socket:
    """A connected socket. Raises `OSError` of the last address that was tried."""
    loop = asyncio.get_running_loop()
    problem: OSError = OSError(f"no address of {host}")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            with suppress(OSError):
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            problem = error
            continue
        except BaseException:
            opened.close()
            raise
        return opened
    raise problem
