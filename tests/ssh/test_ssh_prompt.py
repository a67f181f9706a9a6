"""Small reads are acknowledged at once: OpenSSH's `ssh -J` waits for the acknowledgement before it goes on."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.ssh_lab import Lab, running_lab

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked to acknowledge at once")


def _accepted(lab: Lab) -> socket.socket:
    """The proxy's end of its only connection."""
    (transport,) = lab.router._listener._transports
    end: socket.socket = transport.get_extra_info("socket")
    return end


async def test_a_small_read_is_acknowledged_although_the_server_has_answered_before(launcher_end: LauncherEnd) -> None:
    """Once a connection has seen an answer, Linux delays acknowledgements by 40 ms, hoping for the next one."""
    async with running_lab(Launcher(launcher_end)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.proxy_port)
        try:
            await reader.readline()
            writer.write(b"SSH-2.0-test\r\n")
            await reader.readexactly(4)  # of the server's key exchange
            end = _accepted(lab)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # as after many an answer
            writer.write(bytes(3))  # not yet a packet: nothing will be answered
            # Turns of the loop, not time: after 40 ms the kernel's timer does by itself what must be done at once.
            for _ in range(100):
                await asyncio.sleep(0)
                if end.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1:
                    return
            pytest.fail("the acknowledgement was left to the kernel's timer")
        finally:
            writer.close()
