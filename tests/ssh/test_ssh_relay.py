"""The proxy's leg to a node, on a real connection."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from typing import Any

from teleport.ssh.relay import NodeLeg


class Channel:
    """The client's side, which sends nothing here."""

    def write(self, data: bytes) -> None:
        raise AssertionError("nothing comes from the node")

    def write_eof(self) -> None:
        """The node sends no more."""

    def pause_reading(self) -> None:
        """Not needed."""

    def resume_reading(self) -> None:
        """Not needed."""


async def test_an_end_of_input_that_meets_a_node_killed_this_moment_ends_the_leg_only() -> None:
    """The reset is there before the loop has read it: the client's connection must not break over it."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        channel: Any = Channel()
        transport, leg = await loop.create_connection(
            lambda: NodeLeg(channel, b"", ended.set), *server.getsockname()[:2]
        )
        assert isinstance(leg, NodeLeg)
        leg.client_stopped()  # so that the loop does not look at the connection
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # RST, as the kernel sends for a killed process with unread bytes
        raw = transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(raw.fileno(), 0)
        assert poll.poll(10_000), "the reset has not come"
        leg.client_eof()
        leg.client_goes_on()
        async with asyncio.timeout(10):
            await ended.wait()
