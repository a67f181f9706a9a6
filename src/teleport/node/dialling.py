"""From what a client asks for to a socket: the addresses of a name, and a connection to one that was judged."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from teleport.authz.forwarding import (
    Destination,
    listening_address,
    plain_address,
)
from teleport.errors import ConnectionProblem, TeleportError
from teleport.node.needs import Errands
from teleport.resources.destinations import Address
from teleport.transport.search_domains import other_names

RESOLVE_SECONDS: Final = 10.0
DIAL_SECONDS: Final = 10.0  # for one address
_LOCALHOST = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})


def addresses(address: str) -> list[str]:
    """Where to listen for what a client says (RFC 4254 section 7.1)."""
    where = listening_address(address)
    if where is None:
        return ["0.0.0.0", "::"] if address in ("", "*") else [address]  # noqa: S104 - judged before
    return ["127.0.0.1", "::1"] if address.lower() in _LOCALHOST else [str(where)]


async def resolved(errands: Errands, host: str, port: int) -> tuple[list[Address], tuple[str, ...]]:
    """The addresses of a host, each as a connection to it would end, and which other names it may have stood for."""
    try:
        return [plain_address(host)], ()
    except ValueError:
        pass
    if not host or "\0" in host:
        raise ConnectionProblem("No host was named.")
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found, canonical = await errands.addresses(host, port)

            async def look_up(name: str) -> tuple[list[str], str]:
                return await errands.addresses(name, port)

            also = await other_names(host, found, canonical, look_up)
    except TimeoutError:
        raise ConnectionProblem(f"{host} could not be resolved within {RESOLVE_SECONDS:g} s") from None
    return list(dict.fromkeys(plain_address(one) for one in found)), also


async def dialled(errands: Errands, allowed: list[Destination]) -> tuple[socket.socket, Destination]:
    """A connection to the first that takes one. The last failure is raised."""
    failure = TeleportError("no address is left to try")
    for to in allowed:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                return await connected(await errands.connect(str(to.address), to.port)), to
        except TimeoutError:
            failure = ConnectionProblem(f"connecting to {to} took longer than {DIAL_SECONDS:g} s")
        except (TeleportError, OSError) as error:
            said = error.message if isinstance(error, TeleportError) else error.strerror
            failure = ConnectionProblem(f"connecting to {to} failed: {said}")
    raise failure


async def connected(descriptor: int) -> socket.socket:
    """The socket, once it is connected. `OSError` when that fails; nothing stays open then."""
    sock = socket.socket(fileno=descriptor)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def writable() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_writer(sock.fileno(), writable)
    try:
        await done
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        loop.remove_writer(sock.fileno())
        sock.close()
        raise
    loop.remove_writer(sock.fileno())
    return sock
