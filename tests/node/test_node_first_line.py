"""What may come before the SSH version, on real sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from teleport.audit.events import AuthFailed
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node.first_line import FirstLine
from teleport.node.service import _Gate
from teleport.ssh.listener import NoSlot
from teleport.ssh.surface import Peer, Refusal
from teleport.testing.lab_certificates import LabHost
from teleport.testing.running import wait_until
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.wire import vouch


def line_for(
    lab: Lab, *, by: LabHost | None = None, change: Callable[[vouch.Vouch], vouch.Vouch] = lambda vouch: vouch
) -> bytes:
    by = by or lab.proxy_host
    claim = vouch.Vouch("192.0.2.9", 4444, uuid4(), lab.node_host.host_id, datetime.now(UTC), os.urandom(16))
    return vouch.encode(change(claim), by.certificate, by.sign)


async def say(lab: Lab, *pieces: bytes) -> bytes:
    """Sends pieces, each when the loop has had a turn, and returns everything the node said until it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.node_port)
    try:
        async with asyncio.timeout(10):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            said = b""
            while b"curve25519" not in said:
                data = await reader.read(65536)
                if not data:
                    break
                said += data
            return said
    except ConnectionResetError:
        return b"reset"
    finally:
        writer.close()


async def test_a_vouched_connection_counts_as_the_clients_own(launcher_end: LauncherEnd) -> None:
    """The line may arrive in any pieces; the SSH version may follow in the same one."""
    async with running_lab(Launcher(launcher_end)) as lab:
        version = b"SSH-2.0-x\r\n"
        line = line_for(lab)
        assert b"curve25519" in await say(lab, line[:5], line[5:900], line[900:], version)
        assert b"curve25519" in await say(lab, line_for(lab) + version)
        assert b"curve25519" in await say(lab, version[:2], version[2:])
        assert lab.events.all == []


@pytest.mark.parametrize(
    "kind",
    ["a node vouches", "other target", "old", "changed", "too long", "unknown version"],
)
async def test_a_line_that_is_not_believed_ends_the_connection(launcher_end: LauncherEnd, kind: str) -> None:
    """Threat T24: never the peer's address instead; the attempt is on record."""
    async with running_lab(Launcher(launcher_end)) as lab:
        match kind:
            case "a node vouches":
                line = line_for(lab, by=lab.authorities.host(SystemRole.NODE, "node9"))
            case "other target":
                line = line_for(lab, change=lambda claim: replace(claim, target=UUID(int=9)))
            case "old":
                line = line_for(lab, change=lambda claim: replace(claim, time=claim.time - timedelta(seconds=40)))
            case "changed":
                line = line_for(lab)
                line = line[:40] + (b"A" if line[40:41] != b"A" else b"B") + line[41:]
            case "too long":
                line = vouch.PREFIX + b"A" * vouch.MAX_LINE
            case _:
                line = b"TELEPORT-VOUCH-9 x y\r\n"
        said = await say(lab, line + b"SSH-2.0-x\r\n")
        assert b"curve25519" not in said
        if kind != "unknown version":  # that is no line at all: nothing was claimed
            event = (await lab.events.wait_for("auth"))[0]
            assert isinstance(event, AuthFailed)
            assert event.error


async def test_a_line_is_believed_once(launcher_end: LauncherEnd) -> None:
    """A recorded line is of no use."""
    async with running_lab(Launcher(launcher_end)) as lab:
        line = line_for(lab) + b"SSH-2.0-x\r\n"
        assert b"curve25519" in await say(lab, line)
        assert b"curve25519" not in await say(lab, line)
        event = (await lab.events.wait_for("auth"))[0]
        assert getattr(event, "error", "") == "the vouch was used before"


async def test_a_client_that_waits_for_the_servers_version_gets_it(launcher_end: LauncherEnd) -> None:
    """ssh-keyscan and others say nothing before the server did."""
    async with running_lab(Launcher(launcher_end)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.node_port)
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"SSH-2.0-Teleport")
        writer.close()


async def test_other_protocols_are_turned_away(launcher_end: LauncherEnd) -> None:
    """No answer beyond the version."""
    async with running_lab(Launcher(launcher_end)) as lab:
        said = await say(lab, b"GET / HTTP/1.0\r\n\r\n")
        assert b"curve25519" not in said


async def test_an_address_that_another_clusters_proxy_says_counts_for_its_own_users_only(
    launcher_end: LauncherEnd,
) -> None:
    """Else that proxy would defeat the source pins and leases of this cluster's users."""
    heard: list[Peer] = []

    traces: list[str] = []

    def make(client: Peer, vouched: bool, trace: str) -> asyncio.Protocol:
        heard.append(client)
        traces.append(trace)
        return asyncio.Protocol()

    async with running_lab(Launcher(launcher_end)) as lab:
        line = line_for(lab, change=lambda claim: replace(claim, cluster="root.test", trace="00-of-any-words"))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: FirstLine(
                Peer("127.0.0.1", 1),
                greeting=b"",
                believe=lambda line: vouch.parse(line).vouch,
                make=make,
                refused=lambda *_: None,
                slot=NoSlot(),
            ),
            "127.0.0.1",
            0,
        )
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(line)
            await wait_until(lambda: bool(heard))
            writer.close()
        assert heard == [Peer("192.0.2.9", 4444, "root.test")]
        assert heard[0].counted == "cluster root.test"
        assert traces == ["00-of-any-words"]
        user = lab.authorities.user(["root"])
        admitted = await _Gate(lab.node, heard[0], True, traces[0]).admit("root", user.certificate.blob)
        assert isinstance(admitted, Refusal)
        assert "Through root.test come its own users only" in admitted.message
        event = (await lab.events.wait_for("auth"))[0]
        assert getattr(event, "error", "") == "the proxy of root.test leads its own users only"
