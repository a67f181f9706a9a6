"""What the SSH services of proxy and node share: sockets, a server, its host keys, and who owns the work they begin."""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from teleport.ssh.listener import Address, Before, Listener, Slot, Slots
from teleport.ssh.server import HostKey, SshServer
from teleport.ssh.surface import KeepAlive, Peer, ServerLimits, Surface

log = logging.getLogger(__name__)


InBackground = Callable[[Coroutine[Any, Any, None], str], None]


class SshService(ABC):
    """Serves SSH on sockets that somebody else bound. A service says with `_protocol` what a connection begins with."""

    def __init__(self, surface: Surface, limits: ServerLimits, host_keys: Sequence[HostKey], slots: Slots) -> None:
        """`slots` bounds the connections that have not authenticated yet."""
        self._surface = surface
        self._limits = limits
        self._host_keys = host_keys
        self._running: SshServer | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._listener = Listener(self._protocol, slots=slots)
        self._keep_alive: KeepAlive | None = None

    async def run(self, sockets: Sequence[socket.socket], started: Callable[[], None]) -> None:
        """Serves until cancelled; then every connection is closed, and what was begun in the background finishes."""
        self._running = await SshServer.create(self._host_keys, self._surface, limits=self._limits)
        if self._keep_alive is not None:
            self._running.keep_alive(self._keep_alive)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._listener.serve(sockets, started)

    async def reload(self, host_keys: Sequence[HostKey]) -> None:
        """New connections see these host keys."""
        self._host_keys = host_keys
        if self._running is not None:
            await self._running.reload(host_keys)

    def keep_alive(self, every: KeepAlive) -> None:
        """How often clients are asked whether they are there; those that are connected, too."""
        self._keep_alive = every
        if self._running is not None:
            self._running.keep_alive(every)

    def begin_with(self, before: Before) -> None:
        """What stands before SSH on each connection that is accepted here."""
        self._listener.before = before

    def pause(self) -> None:
        """Accepts nothing more; what is open goes on."""
        self._listener.pause()

    async def resume(self) -> None:
        """Accepts again."""
        await self._listener.resume()

    def entrance(self) -> tuple[Sequence[socket.socket], Callable[[], asyncio.Protocol]]:
        """The sockets that are accepted from now, and what each connection begins with."""
        return self._listener.entrance()

    @property
    def accepting(self) -> bool:
        """Whether new connections are taken here now: not before `run`, and not while paused."""
        return self._listener.accepting

    @property
    def open(self) -> int:
        """How many connections there are, authenticated or not."""
        return self._listener.open

    def accepted(self, transport: asyncio.Transport, client: Address | None = None, data: bytes = b"") -> None:
        """Takes over a connection accepted elsewhere: on a shared port, through a tunnel, or from this very process."""
        self._listener.accepted(transport, client, data)

    def in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs `work`, owned by `run`; its failure is logged and ends nothing else."""
        owned = _logged(work, name)
        try:
            if self._tasks is None:
                raise RuntimeError("not running")
            self._tasks.create_task(owned, name=name)
        except RuntimeError as error:  # before or after `run`
            owned.close()
            work.close()
            log.warning("not done: %s: %s", name, error)

    @property
    def _server(self) -> SshServer:
        assert self._running is not None, "run() makes the server before it listens"
        return self._running

    @abstractmethod
    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        """What a new connection is given to, None when it may not come in.

        `slot` is told of the client's true address, and when it has authenticated or is gone.
        """


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        log.exception("failed: %s", name)
