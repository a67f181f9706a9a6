"""What a server brings to its client: connections to what listens there for it, its agent, its display.

A channel that the server opens is taken only for something that was asked for and is still wanted; whoever takes it is
asked each time (`Came`), before the server hears that it is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import asyncssh
from asyncssh import ChannelOpenError
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED

from teleport.errors import ConnectionProblem
from teleport.ssh.client_session import RemoteSession, brought_session
from teleport.ssh.surface import Place, TcpPlace

if TYPE_CHECKING:
    from teleport.ssh.client_forwards import ForwardPath

CANCEL_SECONDS = 10.0  # for the server to say that it listens no more


class Taker(Protocol):
    """Takes what comes over one channel."""

    def output(self, data: bytes, is_stderr: bool) -> None: ...
    def input_taken(self, writable: bool) -> None: ...
    def no_more_output(self) -> None: ...

    def joined(self, remote: RemoteSession) -> None:
        """The channel is open; called once, before anything comes."""
        ...


Came = Callable[[tuple[str, int]], Awaitable[Taker | None]]
"""Decides about a channel, by where its connection came from (an IP address and a port; empty and 0 of none)."""


class Listened:
    """What listens at the server for this client."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener
        self.port: int = int(listener.get_port()) if hasattr(listener, "get_port") else 0

    async def close(self) -> None:
        """Has the server listen no more; what came goes on."""
        self._listener.close()
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._listener.wait_closed()
        except (TimeoutError, asyncssh.Error, OSError):
            pass  # the connection is ending, and the listener with it


async def listen(connection: ForwardPath, place: Place, came: Came) -> Listened:
    """Has the server listen. Raises `ConnectionProblem`."""

    def reached(*origin: Any) -> Any:
        where = (str(origin[0]), int(origin[1])) if len(origin) == 2 else ("", 0)
        return brought(came, where)

    try:
        if isinstance(place, TcpPlace):
            return Listened(await connection.create_server(reached, place.address, place.port))
        return Listened(await connection.create_unix_server(reached, place.path))
    except (asyncssh.Error, asyncssh.ChannelListenError, OSError, UnicodeError) as error:
        raise ConnectionProblem(
            "the host does not listen there", hint="its own settings do not allow it, or the place is taken"
        ) from error


async def brought(came: Came, origin: tuple[str, int]) -> Any:
    """The session of a channel that the server wants to open."""
    taker = await came(origin)
    if taker is None:
        raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "it is not taken")
    return brought_session(taker)
