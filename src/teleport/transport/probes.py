"""Has the kernel notice that the other end of a connection is gone, also while nothing is sent (`ours.md`: tunnels).

An idle connection is probed after 10 s, every 5 s, and ends after 3 probes without an answer; what was sent and not
acknowledged within 25 s ends it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

IDLE: Final = 10  # seconds
EVERY: Final = 5  # seconds
COUNT: Final = 3


def gone_after(idle: int) -> int:
    """Seconds after which a connection is dead that is first probed after `idle`. Where the kernel is told this time it
    counts no probes: a shorter one would make a single lost probe the end."""
    return idle + EVERY * COUNT


_OPTIONS: Final = (
    ("TCP_KEEPIDLE", IDLE),
    ("TCP_KEEPINTVL", EVERY),
    ("TCP_KEEPCNT", COUNT),
    ("TCP_USER_TIMEOUT", gone_after(IDLE) * 1000),
)


def probe(transport: asyncio.BaseTransport) -> None:
    """Sets the probes; does nothing where there is no TCP socket below, or the peer has gone meanwhile."""
    below = transport.get_extra_info("socket")
    if below is None or below.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        below.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS:
            option = getattr(socket, name, None)  # of Linux
            if option is not None:
                below.setsockopt(socket.IPPROTO_TCP, option, value)


class Probed(asyncio.Protocol):
    """The first protocol of a connection: sets the probes, then hands the transport to the real one."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        probe(transport)
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """What was read before: the transport's own deliveries go to the real protocol."""
        self._protocol.data_received(data)
