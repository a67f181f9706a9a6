"""Dials a host that somebody else named: what was judged is what is dialled.

Auth judges the addresses that hosts announce, and of a name it sees the name only. So a name is judged where it is
dialled, once: whoever answers for it could say something else the next time it is asked for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import TypeVar

from teleport.resources.names import canonical_address, not_dialable

P = TypeVar("P", bound=asyncio.Protocol)


async def dial(make: Callable[[], P], host: str, port: int) -> P:
    """Connects a protocol that `make` gives, by the first address of `host` that answers. Raises `OSError` when none
    does, and for a name that leads where nothing may that hosts announce. The caller bounds the time."""
    return await first(make, await meant(host, port), port)


async def first(make: Callable[[], P], addresses: Iterable[str], port: int) -> P:
    """Connects by the first of these addresses that answers. Raises `OSError`, that of the last, when none does."""
    problem = OSError("the name has no address")
    for address in addresses:
        try:
            _, made = await asyncio.get_running_loop().create_connection(make, address, port)
        except OSError as error:
            problem = error
        else:
            return made
    raise problem


async def meant(host: str, port: int) -> list[str]:
    """The addresses that are dialled for `host`. Raises `OSError` when one of them may not be announced.

    The loopback is let through, because many hosts give it their own name.
    """
    if canonical_address(host):
        return [host]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        if problem := not_dialable(address, loopback=True):
            raise OSError(f"{address} {problem}")
    return addresses
