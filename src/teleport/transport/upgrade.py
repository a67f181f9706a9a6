"""A connection to a proxy's one port inside a websocket, for clients behind a balancer that ends TLS.

What is inside proves itself, at both ends; the TLS around it is proved as the caller says, and is not followed to
anywhere else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver

from teleport.errors import ConnectionProblem
from teleport.resources.names import peer_address
from teleport.transport import memory_pair
from teleport.transport.blocking import shown_address
from teleport.transport.problems import said
from teleport.transport.site_proxy import for_aiohttp
from teleport.wire.alpn import UPGRADE_PATH

CHUNK: Final = 65536  # bytes
MAX_MESSAGE: Final = 1 << 20  # bytes of one websocket message
HEARTBEAT: Final = 30.0  # seconds


async def upgraded(
    protocol: asyncio.Protocol,
    host: str,
    port: int,
    *,
    context: ssl.SSLContext,
    server_name: str,
    check: Callable[[bytes | None], None] = lambda shown: None,
    resolver: AbstractResolver | None = None,
) -> tuple[str, int]:
    """Connects the protocol, by the site's HTTP proxy where there is one; gives the address at the other end.

    `check` gets the certificate that was shown and may raise. `resolver` finds the addresses of names. The caller
    bounds the time. Raises `ConnectionProblem`, and what `check` and `resolver` raised.
    """
    address = shown_address(host, port)
    session = aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(resolver=resolver) if resolver is not None else None,
        trace_configs=[stays()],
    )
    try:
        socket = await session.ws_connect(
            f"wss://{address}{UPGRADE_PATH}",
            ssl=context,
            server_hostname=server_name,
            max_msg_size=MAX_MESSAGE,
            heartbeat=HEARTBEAT,
            compress=0,
            **for_aiohttp(host, port),
        )
        made = socket.get_extra_info("ssl_object")
        check(made.getpeercert(True) if made is not None else None)
    except (aiohttp.ClientError, TimeoutError) as error:
        await session.close()
        raise ConnectionProblem(
            f"{address} lets no connection through: {said(error)}",
            hint="the balancer must pass websockets on; and proxy_service must serve one port (version: v2)",
        ) from None
    except BaseException:
        await session.close()
        raise
    peer = peer_address(socket.get_extra_info("peername"))

    def accept(far: asyncio.Transport) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=CHUNK)
        inner = asyncio.StreamReaderProtocol(reader)
        far.set_protocol(inner)
        inner.connection_made(far)
        writer = asyncio.StreamWriter(far, inner, reader, loop)
        task = loop.create_task(_relay(session, socket, reader, writer), name="the proxy's websocket")
        _RELAYS.add(task)
        task.add_done_callback(_RELAYS.discard)

    memory_pair.connect(lambda: protocol, accept, peername=(host, port))
    return peer


def stays() -> aiohttp.TraceConfig:
    """Has a session go nowhere else: whoever answers is not proved yet."""

    async def redirected(_: aiohttp.ClientSession, __: SimpleNamespace, ___: object) -> None:
        raise ConnectionProblem("whoever answers leads elsewhere instead of opening a websocket")

    stays = aiohttp.TraceConfig()
    stays.on_request_redirect.append(redirected)
    return stays


_RELAYS: Final = set[asyncio.Task[None]]()  # end with the connection that they carry; the loop alone keeps no task


async def _relay(
    session: aiohttp.ClientSession,
    socket: aiohttp.ClientWebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Copies both ways until either end closes."""

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


__all__ = ["stays", "upgraded"]
