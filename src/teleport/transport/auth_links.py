"""A proxy's way to auth for those that it leads there: one connection to an auth server, for all of them (`mux`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from teleport.errors import ConnectionProblem
from teleport.transport.mux import Mux
from teleport.transport.probes import probe

DIAL_SECONDS: Final = 10.0  # for one auth server


class AuthLinks:
    """Connections to auth servers, each made when it is first needed and kept from there on."""

    def __init__(self, servers: Sequence[tuple[str, int]], first: Callable[[], bytes]) -> None:
        """`servers` are asked in this order, one that could not be reached after the others. `first` makes the line
        that proves that this is a proxy (`wire.vouch`); it raises `TeleportError`."""
        self._servers = list(servers)
        self._first = first
        self._links: dict[tuple[str, int], Mux] = {}
        self._all: set[Mux] = set()  # also those on which nothing new begins
        self._turn: dict[tuple[str, int], asyncio.Lock] = {}

    @property
    def streams(self) -> int:
        """How many connections are led now."""
        return sum(link.streams for link in self._all)

    async def connect(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Connects the protocol that `make` gives with the first auth server that can be reached. Raises
        `ConnectionProblem`, or what `first` raises."""
        for server in tuple(self._servers):
            link = await self._link(server)
            if link is not None:
                link.open(make)
                return
            self._servers.remove(server)  # so that not everybody waits for one that is silent
            self._servers.append(server)
        raise ConnectionProblem(
            "the proxy cannot reach the auth service",
            hint="look on the proxy's host: its auth_servers, and whether auth runs",
        )

    async def run(self) -> None:
        """Ends them all when it is cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            for link in list(self._all):
                link.abort()

    async def _link(self, server: tuple[str, int]) -> Mux | None:
        """A usable connection to an auth server, made if there is none; None when it cannot be reached."""
        link = self._links.get(server)
        if link is not None and link.usable:
            return link
        async with self._turn.setdefault(server, asyncio.Lock()):  # many ask at once after a restart
            link = self._links.get(server)
            if link is not None and link.usable:
                return link
            line = self._first()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(DIAL_SECONDS):
                    loop = asyncio.get_running_loop()
                    transport, link = await loop.create_connection(lambda: Mux(None, self._gone, first=line), *server)
                probe(transport)
                if link.usable:
                    self._links[server] = link
                    self._all.add(link)
                    return link
        return None

    def _gone(self, link: Mux) -> None:
        self._all.discard(link)
        for server, one in list(self._links.items()):
            if one is link:
                del self._links[server]
