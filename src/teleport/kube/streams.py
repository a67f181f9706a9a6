"""Connections that change their protocol: streams into pods, as SPDY/3.1 or websockets, relayed as they are.

Only two protocols are known, and of a websocket's own protocols only those of Kubernetes: the API server would also
take a bearer token there (`base64url.bearer.authorization.k8s.io.`), by which a client could say who it is. Everything
else about an upgrade is written anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final

from teleport.kube.heads import Headers, named_by_connection, plain_name, values
from teleport.kube.http import READ, Client, Server

_PROTOCOLS: Final = {b"spdy/3.1": b"SPDY/3.1", b"websocket": b"websocket"}
_INNER: Final = re.compile(
    rb"((v[0-9]{1,2}\.)?(base64\.)?(channel|portforward)\.k8s\.io|SPDY/3\.1\+portforward\.k8s\.io)"
)
_ASKED: Final = (b"sec-websocket-key", b"sec-websocket-version", b"x-stream-protocol-version")
_ANSWERED: Final = (b"sec-websocket-accept", b"x-stream-protocol-version")
PROTOCOL: Final = b"sec-websocket-protocol"


def wanted(headers: Headers) -> bytes:
    """The protocol that is asked for, as the server is asked for it; empty for none that is known."""
    found = values(headers, b"upgrade")
    if len(found) != 1 or b"upgrade" not in named_by_connection(headers):
        return b""
    return _PROTOCOLS.get(found[0].strip().lower(), b"")


def asked(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers by which the server is asked for it."""
    inner = [
        one
        for value in values(headers, PROTOCOL)
        for token in value.split(b",")
        if _INNER.fullmatch(one := token.strip())
    ]
    return [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", wanted(headers)),
        *((name, value) for name in _ASKED for value in values(headers, name)),
        *([(b"Sec-WebSocket-Protocol", b", ".join(inner))] if inner else []),
    ]


def without(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Those that say nothing of another protocol: what is said of one is written anew."""
    said = (*_ASKED, PROTOCOL, b"sec-websocket-extensions")
    return [(name, value) for name, value in headers if plain_name(name) not in said]


def answered(headers: Headers, protocol: bytes) -> list[tuple[bytes, bytes]]:
    """The headers by which the client hears that it has `protocol` now."""
    return [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", protocol),
        *((name, value) for name in (*_ANSWERED, PROTOCOL) for value in values(headers, name)),
    ]


Moved = Callable[[bytes, bool], None]
"""Hears of bytes that go on, and whether the client sent them."""


async def relay(client: Client, server: Server, moved: Moved | None = None) -> None:
    """Bytes both ways until one side ends; each is read only as fast as the other takes it."""
    ways: Sequence[tuple[Client | Server, Client | Server]] = ((client, server), (server, client))
    pumps = [asyncio.create_task(_pump(source, sink, moved), name="a stream into a pod") for source, sink in ways]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.add_done_callback(_ended)
            pump.cancel()
        await asyncio.wait(pumps)


def _ended(pump: asyncio.Task[None]) -> None:
    if not pump.cancelled():
        pump.exception()  # a connection that broke has ended, too


async def _pump(source: Client | Server, sink: Client | Server, moved: Moved | None) -> None:
    data = source.rest()
    while data or (data := await source.reader.read(READ)):
        if moved is not None:
            moved(data, isinstance(source, Client))
        sink.writer.write(data)
        data = b""
        await sink.writer.drain()
