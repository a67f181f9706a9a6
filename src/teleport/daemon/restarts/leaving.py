"""Leaving gracefully: nothing new is accepted, what is open goes on, and the daemon ends when its clients have left.

Two ways, which differ in who answers for this host meanwhile:

- another process of it does (HUP, or QUIT to the parent of a child): clients that need not stay go there at once,
  watches of the auth API and tunnels to it included;
- nobody does (QUIT alone): listeners are closed, so that clients are refused rather than kept waiting, presence is
  withdrawn, and auth goes on answering until node and proxy are empty, since their sessions need it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Final, Protocol, runtime_checkable

from teleport.transport.listeners import arrived, begin

log = logging.getLogger(__name__)

POLL: Final = 0.25  # seconds between two looks at who is left
SAY_EVERY: Final = 10.0  # seconds between two lines about who is left (`operations.md` 1)
TUNNELS: Final = 15.0  # seconds that tunnels to auth have, which carry calls and watches that cannot be told apart
API: Final = 5.0  # seconds that calls of the auth API have when auth leaves last


class Door(Protocol):
    """What accepts connections and can stop it: an SSH service, or the listener of an HTTP application."""

    @property
    def open(self) -> int:
        """How many connections there are."""
        ...

    def pause(self) -> None: ...

    async def resume(self) -> None: ...


@runtime_checkable
class Entry(Protocol):
    """One whose listener is closed while clients still come."""

    def entrance(self) -> tuple[Sequence[socket], Callable[[], asyncio.Protocol]]:
        """The sockets that are accepted from now, and what each connection begins with."""
        ...


class HTTPDoor(Door, Protocol):
    """One whose clients keep connections without need."""

    def leave(self) -> None: ...

    def end_endless(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Doors:
    """All that accepts in this daemon, by the name of its listener."""

    ssh: dict[str, Door]  # node and proxy: whoever is there stays
    web: dict[str, HTTPDoor]
    auth: dict[str, HTTPDoor]
    diag: dict[str, Door]
    settle: list[Callable[[], Awaitable[None]]]  # what is to be finished after the last client has left
    peer: dict[str, Door] = field(default_factory=dict)  # for other proxies, whose clients are led on until the end

    async def settled(self) -> None:
        for finish in self.settle:
            await finish()

    def every(self) -> dict[str, Door]:
        return {**self.auth, **self.web, **self.ssh, **self.peer, **self.diag}

    def pause(self) -> None:
        for door in self.every().values():
            door.pause()

    async def resume(self) -> None:
        for door in self.every().values():
            await door.resume()


async def hand_over(doors: Doors) -> None:
    """Leaves everything new to another process that has the same listeners; returns when the last client has left.

    May be cancelled; `Doors.resume` then serves again.
    """
    doors.pause()
    await _until_left({**doors.ssh, **doors.web, **doors.auth}, [*doors.web.values()], [*doors.auth.values()])
    await doors.settled()


async def leave_alone(doors: Doors, close_listener: Callable[[str], None]) -> None:
    """Leaves when there is nobody to take over; returns when the last client has left.

    `close_listener` closes the listening socket of that name.
    """
    last: list[tuple[list[socket], Callable[[], asyncio.Protocol]]] = []
    for name, door in {**doors.ssh, **doors.web}.items():
        # nothing may come between these: who connects meanwhile would be reset, which no balancer mends
        if isinstance(door, Entry):
            listeners, make = door.entrance()
            last.append((arrived(listeners), make))
        door.pause()
        close_listener(name)
    for connections, make in last:
        await begin(connections, make)
    await _until_left({**doors.ssh, **doors.web}, [*doors.web.values()], [])
    await doors.settled()
    for name, api in doors.auth.items():
        api.pause()
        close_listener(name)
    try:
        async with asyncio.timeout(API):
            await _until_left({**doors.auth}, [], [*doors.auth.values()])
    except TimeoutError:
        log.warning("calls of the auth API are cut off")


async def _until_left(doors: dict[str, Door], webs: list[HTTPDoor], apis: list[HTTPDoor]) -> None:
    loop = asyncio.get_running_loop()
    began, said = loop.time(), loop.time() - SAY_EVERY
    while left := {name: door.open for name, door in doors.items() if door.open}:
        now = loop.time()
        for door in (*webs, *apis):  # again and again: a client may have asked for more on a connection that it had
            door.leave()
        for door in (*(webs if now - began >= TUNNELS else ()), *apis):
            door.end_endless()
        if now - said >= SAY_EVERY:
            said = now
            shown = ", ".join(f"{name} ({count} connection{'s' if count > 1 else ''})" for name, count in left.items())
            log.info("leaving when its clients have left; still running: %s", shown)
        await asyncio.sleep(POLL)
