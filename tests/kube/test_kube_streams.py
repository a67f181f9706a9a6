"""Streams into pods: websockets and SPDY relayed as they are, to whom and for how long."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from teleport.audit.events import KubeRequest
from teleport.authz.decision import ClusterDefaults
from teleport.kube import streams
from teleport.kube.upstream import Upstream
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.values import HostPort
from teleport.testing.kube_lab import Lab, kube_lab

POD = "/api/v1/namespaces/dev/pods/web"
OFF = ClusterDefaults(record_sessions=False)


@asynccontextmanager
async def stream(
    lab: Lab, *words: str, pair: tuple[Path, Path] | None = None, protocols: tuple[str, ...] = ("v5.channel.k8s.io",)
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A command in the pod, by a websocket."""
    query = "&".join(f"command={word}" for word in words)
    context = lab.context(pair or lab.pair())
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{lab.port}{POD}/exec?{query}&stdin=true&stdout=true"
        async with session.ws_connect(url, ssl=context, protocols=protocols) as found:
            yield found


async def refused(lab: Lab, *, pair: tuple[Path, Path] | None = None) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with stream(lab, "echo", "a", pair=pair):
            raise AssertionError("it was let in")
    return caught.value.status


async def test_a_command_where_nothing_is_recorded(tmp_path: Path) -> None:
    """In the person's name, on record with the command; a token in the place of a protocol goes nowhere."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = OFF
        token = "base64url.bearer.authorization.k8s.io.c2VjcmV0"
        async with stream(lab, "echo", "hello", protocols=("v5.channel.k8s.io", token)) as found:
            assert found.protocol == "v5.channel.k8s.io"
            assert (await found.receive_bytes()) == b"\x01hello\n"
            assert (await found.receive_bytes())[:1] == b"\x03"
            assert (await found.receive()).type is aiohttp.WSMsgType.CLOSE
        seen = lab.api.calls[-1]
        assert seen.of("Sec-WebSocket-Protocol") == ["v5.channel.k8s.io"]
        assert seen.of("Impersonate-User") == ["alice"]
        (event,) = await lab.events.wait_for("kube.request")
        assert isinstance(event, KubeRequest)
        assert (event.resource_kind, event.response_code, event.verb) == ("pods/exec", 101, "get")
        assert event.request_path == f"{POD}/exec?command=echo&command=hello&stdin=true&stdout=true"


async def test_bytes_go_both_ways_as_they_are(tmp_path: Path) -> None:
    """Whatever they are, however they are cut, and more than fits in any buffer."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = OFF
        async with stream(lab, "cat") as found:
            for size in (1, 17, 4096, 300_000):
                data = os.urandom(size)
                await found.send_bytes(b"\x00" + data)
                got = b""
                while len(got) < size:
                    part = await found.receive_bytes()
                    assert part[:1] == b"\x01"
                    got += part[1:]
                assert got == data
            await found.send_bytes(b"\xff\x00")
            assert (await found.receive_bytes())[:1] == b"\x03"


@pytest.mark.parametrize("why", ["company", "lock", "no right"])
async def test_who_gets_no_stream(tmp_path: Path, why: str) -> None:
    """Nothing reaches the API server."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = OFF
        if why == "lock":
            lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
        roles = {"company": ("dev", "in-company"), "no right": ("prod-only",)}.get(why, ("dev",))
        assert await refused(lab, pair=lab.pair(roles=roles)) == 403
        assert lab.api.calls == []


async def test_no_node_runs_commands_for_who_needs_company(tmp_path: Path) -> None:
    """Whose roles ask for somebody else in sessions gets no command past that by a node's own service."""
    async with kube_lab(tmp_path) as lab, lab.connected(lab.pair(roles=("in-company",))) as wire:
        lab.defaults = OFF
        assert (await wire.ask("POST /api/v1/nodes/n/proxy/run/dev/web/main?cmd=id")).status == 403
        assert lab.api.calls == []


async def test_the_api_server_may_refuse(tmp_path: Path) -> None:
    """Its own answer comes through."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = OFF
        lab.api.rights.clear()
        assert await refused(lab) == 403
        assert len(lab.api.calls) == 1


@pytest.mark.parametrize("change", ["lock", "recording", "role"])
async def test_a_change_ends_open_streams(tmp_path: Path, change: str) -> None:
    """Also that sessions have to be recorded from now on."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = OFF
        async with stream(lab, "cat") as found:
            async with asyncio.timeout(10):
                await lab.api.wait_streams(1)
            match change:
                case "lock":
                    lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
                case "recording":
                    lab.defaults = ClusterDefaults()
                case "role":
                    lab.roles.clear()
            assert lab.server is not None
            lab.server.reconsider()
            async with asyncio.timeout(10):
                assert (await found.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
                await lab.api.wait_streams(0)


@asynccontextmanager
async def spdy_server(lab: Lab, folder: Path) -> AsyncIterator[list[bytes]]:
    """An API server `odd` that changes to SPDY and sends back what it gets; gives the heads that it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Secret: 1\r\n"
        writer.write(answer + b"X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\nfirst")
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*lab.api.authority.issue("localhost").write(folder, "odd"))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    lab.clusters["odd"] = Upstream(
        replace(lab.found, name="odd", address=HostPort(*server.sockets[0].getsockname()[:2]))
    )
    async with server:
        yield heads


async def test_ports_of_pods_where_sessions_are_recorded(tmp_path: Path) -> None:
    """By SPDY, which is not looked into; what came with the heads is part of the stream."""
    async with kube_lab(tmp_path) as lab, spdy_server(lab, tmp_path) as heads:
        async with lab.connected(lab.pair(kube_cluster="odd")) as wire:
            head = ["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: portforward.k8s.io"]
            await wire.send(f"POST {POD}/portforward", *head, "Content-Length: 0", body=b"early")
            status, headers = await wire.head()
            assert (status, headers["upgrade"], "x-secret" in headers) == (101, "SPDY/3.1", False)
            assert headers["x-stream-protocol-version"] == "portforward.k8s.io"
            wire.writer.write(b"\x80\x03late")
            async with asyncio.timeout(10):
                assert await wire.reader.readexactly(16) == b"firstearly\x80\x03late"
        assert b"Impersonate-User: alice\r\n" in heads[0]
        assert b"Upgrade: SPDY/3.1\r\n" in heads[0]


async def test_ports_that_roles_do_not_allow(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab, spdy_server(lab, tmp_path) as heads:
        async with lab.connected(lab.pair(roles=("no-ports",), kube_cluster="odd")) as wire:
            answer = await wire.ask(f"POST {POD}/portforward", "Connection: Upgrade", "Upgrade: SPDY/3.1")
            assert answer.status == 403
            assert b"do not allow port forwarding" in answer.body
        assert heads == []


async def test_a_command_too_long_for_the_record(tmp_path: Path) -> None:
    """What would be cut in the event is not run."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        lab.defaults = OFF
        line = f"POST {POD}/exec?command={'x' * 9000}"
        assert (await wire.ask(line, "Connection: Upgrade", "Upgrade: SPDY/3.1")).status == 400
        assert lab.api.calls == []


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b"spdy/3.1")], b"SPDY/3.1"),
        ([(b"connection", b"keep-alive, upgrade"), (b"upgrade", b"WebSocket")], b"websocket"),
        ([(b"Upgrade", b"websocket")], b""),
        ([(b"Connection", b"Upgrade")], b""),
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")], b""),
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket, SPDY/3.1")], b""),
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Upgrade", b"SPDY/3.1")], b""),
    ],
)
def test_protocols(headers: list[tuple[bytes, bytes]], found: bytes) -> None:
    """One that is known, asked for as it should be, or none."""
    assert streams.wanted(headers) == found


def test_inner_protocols() -> None:
    """Those of Kubernetes and no others."""
    offered = b"v5.channel.k8s.io, base64.channel.k8s.io,channel.k8s.io , SPDY/3.1+portforward.k8s.io, chat"
    token = b"base64url.bearer.authorization.k8s.io.x"
    headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    headers += [(b"Sec-WebSocket-Protocol", offered), (b"sec-websocket-protocol", token)]
    assert dict(streams.asked(headers))[b"Sec-WebSocket-Protocol"] == (
        b"v5.channel.k8s.io, base64.channel.k8s.io, channel.k8s.io, SPDY/3.1+portforward.k8s.io"
    )
    assert b"Sec-WebSocket-Protocol" not in dict(streams.asked([*headers[:2], (b"Sec-WebSocket-Protocol", token)]))
