"""Listening sockets, bound before anything else starts, so that a taken port stops a daemon before it did anything."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from teleport.errors import TeleportError

BACKLOG = 1024


def bind(host: str, port: int, what: str, key: str) -> socket.socket:
    """A listening TCP socket. `what` and `key` name the service and the configuration key in the error.

    Raises `TeleportError` when the address is taken, not of this host, or needs a privilege.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise TeleportError(f"{what} cannot listen on {shown}: {error.strerror}", hint=f"change {key}") from None
    family, kind, proto, _, address = infos[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = f"change {key}"
        if error.errno == errno.EADDRINUSE:
            hint = f"another program listens there (ss -ltnp 'sport = :{port}'); stop it or change {key}"
        elif error.errno == errno.EACCES:
            hint = f"ports below 1024 need root; change {key}"
        raise TeleportError(f"{what} cannot listen on {shown}: {error.strerror}", hint=hint) from None
    listener.setblocking(False)
    return listener


def arrived(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """The connections that wait in the kernel to be accepted: closing a listener would reset them."""
    found: list[socket.socket] = []
    for listener in listeners:
        with suppress(OSError):  # none waits (any more), or no descriptor is left
            for _ in range(BACKLOG + 1):  # as many as the kernel keeps
                connection, _ = listener.accept()
                connection.setblocking(False)
                found.append(connection)
    return found


async def begin(connections: Sequence[socket.socket], make: Callable[[], asyncio.Protocol]) -> None:
    """Serves connections that were accepted."""
    loop, left = asyncio.get_running_loop(), list(connections)
    try:
        while left:
            with suppress(OSError):  # it has gone meanwhile
                await loop.connect_accepted_socket(make, left.pop())
    finally:
        for connection in left:
            connection.close()


def resolved(host: str, port: int) -> list[tuple[str, int]]:
    """The addresses that `bind` could have bound for these; empty when the name is not known."""
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return []
    return [(str(address[0]), int(address[1])) for _, _, _, _, address in infos]


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port that a socket is bound to."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)
