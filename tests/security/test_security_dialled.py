"""What nodes announce is what proxies connect to: nothing that only the proxy's own machine can reach."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.caller import Caller
from teleport.daemon.kube.reach import KubeReach
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.names import not_dialable
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.client import connect
from teleport.ssh.client_connection import ClientKey
from teleport.store.resolve import RegisteredNode
from teleport.testing.auth import running_auth
from teleport.testing.ssh_lab import running_lab
from teleport.transport import judged

NOWHERE = (
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
    "2852039166",
    "0xa9fea9fe",
    "169.254.43518",
    "127.1",
)
OF_ONESELF = ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "x.localhost")
ELSEWHERE = ("10.0.0.9", "192.168.1.4", "fd00::9", "203.0.113.9", "2001:db8::9", "node1.example.com", "node1", "n1.x2")


def test_only_addresses_that_mean_one_machine_to_everybody_are_dialled() -> None:
    assert all(not_dialable(host, loopback=True) for host in NOWHERE)
    assert all(not_dialable(host, loopback=False) for host in (*NOWHERE, *OF_ONESELF))
    assert not any(not_dialable(host, loopback=True) for host in (*OF_ONESELF, *ELSEWHERE))
    assert not any(not_dialable(host, loopback=False) for host in ELSEWHERE)


@pytest.mark.parametrize("field", ["addr", "public_addrs"])
async def test_a_node_announces_the_loopback_only_from_there_and_metadata_never(tmp_path: Path, field: str) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        assert node.cert is not None
        certificate = ssl.PEM_cert_to_DER_cert(node.cert.read_text())
        identity = await auth.service.authorizer.identify(certificate)
        announce = auth.service._handlers[routes.HEARTBEAT.name]

        async def heartbeat(host: str, come_from: str) -> None:
            address = f"[{host}]:3022" if ":" in host else f"{host}:3022"
            spec = ServerSpec(
                hostname="web1", **({"addr": address} if field == "addr" else {"public_addrs": (address,)})
            )
            item = m.Document(to_json(Server(metadata=Metadata(name=node.host_id), spec=spec)))
            await announce(Caller(identity, come_from), m.HeartbeatRequest(item=item))

        for come_from in ("127.0.0.1:4000", "[::1]:4000"):
            await heartbeat("127.0.0.1", come_from)
        for come_from in ("10.0.0.9:4000", "2001:db8::9:4000", ""):
            await heartbeat("192.168.1.4", come_from)
            with pytest.raises(AccessDenied, match="loopback"):
                await heartbeat("127.0.0.1", come_from)
        with pytest.raises(AccessDenied, match="link-local"):
            await heartbeat("169.254.169.254", "127.0.0.1:4000")


async def test_a_name_does_not_lead_the_proxy_where_no_address_may(launcher_end: LauncherEnd) -> None:
    """Auth sees the name that a node announces, and its owner decides what it means at any moment."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.directory.registered[:] = [
            RegisteredNode(str(lab.node_host.host_id), "node1", f"rebound.example.com:{lab.node_port}")
        ]
        loop = asyncio.get_running_loop()
        means = "127.0.0.1"

        async def resolved(host: str, port: int, **_: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (means, port))]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "getaddrinfo", resolved)
            assert await judged.meant("rebound.example.com", lab.node_port) == [means]
            for refused in ("169.254.169.254", "0.0.0.0", "fe80::1"):
                means = refused
                with pytest.raises(OSError, match="link-local"):
                    await judged.meant("rebound.example.com", lab.node_port)
            user = lab.authorities.user(["root"])
            key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
            outer = await connect(("127.0.0.1", lab.proxy_port), login="root", key=key, check=lambda certificate: None)
            with pytest.raises(TeleportError, match="does not answer"):
                await outer.through("node1", 0, login="root", check=lambda certificate: None)
            await outer.close()


async def test_the_address_that_was_judged_is_the_one_that_is_dialled(launcher_end: LauncherEnd) -> None:
    """Whoever answers for the name says something else each time it is asked."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.directory.registered[:] = [
            RegisteredNode(str(lab.node_host.host_id), "node1", f"rebound.example.com:{lab.node_port}")
        ]
        answers = ["127.0.0.1", "169.254.169.254"]

        async def resolved(host: str, port: int, **_: object) -> list[object]:
            assert host == "rebound.example.com"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
            user = lab.authorities.user(["root"])
            key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
            outer = await connect(("127.0.0.1", lab.proxy_port), login="root", key=key, check=lambda certificate: None)
            inner = await outer.through("node1", 0, login="root", check=lambda certificate: None)
            await inner.close()
            await outer.close()
        assert answers == ["169.254.169.254"]


async def test_the_name_of_a_kubernetes_service_is_judged_as_well() -> None:
    nobody: Any = None
    reach = KubeReach(nobody, nobody, nobody)
    service = Server(
        kind="kube_service", metadata=Metadata(name="one"), spec=ServerSpec(public_addrs=("rebound.example.com:3026",))
    )

    async def resolved(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        with pytest.raises(OSError, match="link-local"):
            await reach.connect(service, asyncio.Protocol)
