"""Forwards through a node, with the real `ssh`: what they carry, where they may lead, and how they end."""

from __future__ import annotations

import asyncio
import getpass
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from asyncssh import ChannelOpenError
from asyncssh.constants import MSG_REQUEST_FAILURE
from asyncssh.packet import String, UInt32
from tests.security.test_security_mfa_leases import forced

from teleport.audit.events import Port, PortClosed
from teleport.errors import TeleportError
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.launcher.errand_client import ErrandFailed
from teleport.launcher.values import SpawnRequest
from teleport.node.reserved import ClusterPorts, is_local
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.values import Duration
from teleport.ssh.client import connect
from teleport.ssh.client_connection import ClientKey
from teleport.testing.loopback import free_port
from teleport.testing.running import Ran, run_client, wait_until
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.transport import search_domains

ME = getpass.getuser()


def ssh(lab: Lab, folder: Path, *arguments: str, login: str = ME, host: str = "direct") -> list[str]:
    """A command line; what follows the host is appended."""
    config = lab.client_config(folder, lab.authorities.user([ME, "nobody"]), login)
    return ["ssh", "-F", str(config), "-o", "ExitOnForwardFailure=yes", *arguments, host]


@asynccontextmanager
async def answering(
    answer: Callable[[bytes], bytes] = bytes.upper, *, path: str = "", host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """A server that reads all and then answers; its port (0 of a Unix socket)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.read()))
        writer.close()

    server = await (asyncio.start_unix_server(serve, path) if path else asyncio.start_server(serve, host, 0))
    async with server:
        yield 0 if path else int(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def client(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client that runs until the context ends."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(5):
                await process.communicate()
        except TimeoutError:  # OpenSSH may miss a signal that comes just before it waits
            process.kill()
            await process.communicate()


async def exchange(port: int, data: bytes, *, path: str = "") -> bytes:
    """Sends all, says that nothing follows, and reads to the end."""
    async with asyncio.timeout(20):
        while True:
            try:
                opened = asyncio.open_unix_connection(path) if path else asyncio.open_connection("127.0.0.1", port)
                reader, writer = await opened
                break
            except OSError:
                await asyncio.sleep(0.02)
        writer.write(data)
        writer.write_eof()
        try:
            received = await reader.read()
        except ConnectionResetError:
            received = b""
        writer.close()
    return received


async def w(lab: Lab, folder: Path, to: str, data: bytes = b"hello", *options: str) -> Ran:
    """`ssh -W`."""
    return await run_client(*ssh(lab, folder, *options, "-W", to), stdin=data)


async def opened_first(lab: Lab) -> Port:
    (event,) = await lab.events.wait_for("port")
    assert isinstance(event, Port)
    return event


def ports(lab: Lab, kind: str) -> list[Port]:
    return [event for event in lab.events.named("port") if isinstance(event, Port) and event.kind == kind]


async def closed(lab: Lab, count: int = 1) -> list[PortClosed]:
    return [event for event in await lab.events.wait_for("port.closed", count) if isinstance(event, PortClosed)]


async def test_a_forward_carries_every_byte_both_ways_and_is_on_record(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """T39: what is counted is what was relayed; each direction ends by itself."""
    data = random.Random(5).randbytes(3_000_001)
    async with running_lab(Launcher(launcher_end)) as lab, answering(lambda got: got[::-1] + b"end") as port:
        ran = await w(lab, tmp_path, f"127.0.0.1:{port}", data)
        assert (ran.status, ran.stdout == data[::-1] + b"end") == (0, True), ran.stderr
        (done,) = await closed(lab)
        (opened,) = ports(lab, "direct-tcpip")
        assert (opened.code, opened.success, opened.addr) == ("T3003I", True, f"127.0.0.1:{port}")
        assert (opened.login, opened.user, opened.resolved) == (ME, "alice", f"127.0.0.1:{port}")
        assert (done.code, done.rx, done.tx, done.error) == ("T9210I", len(data), len(data) + 3, "")
        assert done.connection == opened.connection != ""
        assert not lab.events.named("session.start")


async def test_many_forwards_of_one_client_at_once(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`-L` and `-N`: no session, 40 connections side by side, every event with the connection's id."""
    local = free_port()
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        async with client(*ssh(lab, tmp_path, "-N", "-L", f"{local}:localhost:{port}")):
            texts = [f"text {number} ".encode() * 5000 for number in range(40)]
            got = await asyncio.gather(*(exchange(local, text) for text in texts))
            assert got == [text.upper() for text in texts]
            done = await closed(lab, 40)
        assert {event.connection for event in done} == {done[0].connection}
        assert {event.connection for event in ports(lab, "direct-tcpip")} == {done[0].connection}
        assert sorted(event.rx for event in done) == sorted(len(text) for text in texts)
        assert not lab.events.named("session.start")


async def test_socks_leads_to_names_and_addresses(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`-D` with curl's socks5h: the name is resolved on the node."""
    local = free_port()
    page = b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npage"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page)
        writer.close()

    async with running_lab(Launcher(launcher_end)) as lab:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, client(*ssh(lab, tmp_path, "-N", "-D", str(local))):
            await wait_until(lambda: _listens(local))
            ran = await run_client("curl", "-sS", "-x", f"socks5h://127.0.0.1:{local}", f"http://localhost:{port}/")
            assert (ran.status, ran.stdout) == (0, b"page"), ran.stderr
        assert ports(lab, "direct-tcpip")[0].addr == f"localhost:{port}"


@pytest.mark.parametrize("name", ["local\u00adhost", "\uff4cocalhost", "local host"])
async def test_a_name_that_a_resolver_reads_as_another_is_refused(
    launcher_end: LauncherEnd, tmp_path: Path, name: str
) -> None:
    """Roles are asked about what the client wrote; what is resolved has to be the same."""
    came: list[asyncio.StreamWriter] = []
    async with running_lab(Launcher(launcher_end)) as lab:
        server = await asyncio.start_server(lambda _, writer: came.append(writer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            ran = await run_client(*ssh(lab, tmp_path, "-W", f"{name}:{port}"))
        assert (ran.status, came) == (255, [])
        assert "ASCII" in ran.stderr


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


REFUSED: dict[str, Callable[[Lab], str]] = {
    "own port": lambda lab: f"127.0.0.1:{lab.node_port}",
    "own port by another of the host's addresses": lambda lab: f"127.0.0.2:{lab.node_port}",
    "own port, unspecified address": lambda lab: f"0.0.0.0:{lab.node_port}",
    "own port, IPv4 in IPv6": lambda lab: f"[::ffff:127.0.0.1]:{lab.node_port}",
    "own port by name": lambda lab: f"localhost:{lab.node_port}",
    "own port by an odd number": lambda lab: f"2130706433:{lab.node_port}",
    "metadata": lambda lab: "169.254.169.254:80",
    "metadata in IPv6": lambda lab: "[fd00:ec2::254]:80",
    "link-local": lambda lab: "[fe80::1]:80",
    "another node": lambda lab: "192.0.2.7:3022",
    "an auth server": lambda lab: "127.0.0.1:3025",
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("listed", [False, True], ids=["without a list", "with * and networks"])
async def test_what_is_the_clusters_is_not_reached_by_the_way(
    launcher_end: LauncherEnd, tmp_path: Path, case: str, listed: bool
) -> None:
    """T26: only an entry that names host and port leads to the cluster's own ports or to metadata."""
    async with running_lab(Launcher(launcher_end)) as lab:
        if listed:
            lab.rules.allow(forward_to=("*:*", "0.0.0.0/0:*", "[::]/0:*"))
        ran = await w(lab, tmp_path, REFUSED[case](lab))
        assert ran.status != 0
        assert "Your roles do not allow port forwarding to" in ran.stderr
        (event,) = ports(lab, "direct-tcpip")
        assert (event.code, event.success) == ("T3003E", False)
        assert "not_granted" in event.error


async def test_what_is_named_exactly_is_reached(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.allow(forward_to=(f"127.0.0.1:{lab.node_port}",))
        ran = await w(lab, tmp_path, f"127.0.0.1:{lab.node_port}", b"SSH-2.0-x\r\n")
        assert ran.stdout.startswith(b"SSH-2.0-Teleport"), ran.stderr
        ran = await w(lab, tmp_path, f"127.0.0.2:{lab.node_port}")
        assert "Your roles do not allow" in ran.stderr


async def test_the_switches_of_roles_and_of_the_node(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        lab.rules.options(port_forwarding=False)
        assert "Your roles do not allow port forwarding" in (await w(lab, tmp_path, f"127.0.0.1:{port}")).stderr
        lab.rules.options(port_forwarding=True, local_forwarding=False)
        assert "Your roles do not allow port forwarding" in (await w(lab, tmp_path, f"127.0.0.1:{port}")).stderr
        lab.rules.options(local_forwarding=True)
        assert (await w(lab, tmp_path, f"127.0.0.1:{port}")).stdout == b"HELLO"
        assert [event.success for event in ports(lab, "direct-tcpip")] == [False, False, True]


async def test_a_node_that_forwards_nothing(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`ssh_service.port_forwarding: no`, whatever the roles say."""
    async with running_lab(Launcher(launcher_end), port_forwarding=False) as lab, answering() as port:
        ran = await w(lab, tmp_path, f"127.0.0.1:{port}")
        assert "Your roles do not allow port forwarding on this host" in ran.stderr
        ran = await run_client(*ssh(lab, tmp_path, "-N", "-R", "0:localhost:1"))
        assert ran.status != 0
        await lab.events.wait_for("port", 2)
        for event in (*ports(lab, "direct-tcpip"), *ports(lab, "tcpip-forward")):
            assert (event.success, "ssh_service.port_forwarding: no" in event.error) == (False, True)


class Rebinding:
    """A launcher whose errands see a name server that answers otherwise each time, and nothing that is dialled."""

    def __init__(self, launcher: Launcher, answers: Iterable[list[str]]) -> None:
        self.launcher = launcher
        self.answers = iter(answers)
        self.asked: list[str] = []
        self.dialled: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.launcher, name)

    async def errands(self, request: SpawnRequest) -> Any:
        errands = await self.launcher.errands(request)

        async def addresses(host: str, port: int) -> tuple[list[str], str]:
            self.asked.append(host)
            return next(self.answers), ""

        async def dial(address: str, port: int) -> int:
            self.dialled.append(address)
            raise ErrandFailed("Connection refused")

        errands.addresses = addresses  # type: ignore[method-assign]
        errands.connect = dial  # type: ignore[method-assign]
        return errands


async def test_a_name_is_resolved_once_and_only_what_was_judged_is_dialled(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """T26: a name that its owner points to loopback, at once or beside an address that is allowed."""
    rebinding = Rebinding(Launcher(launcher_end), [["192.0.2.1", "127.0.0.1"], ["127.0.0.1"], ["169.254.169.254"]])
    async with running_lab(cast(Launcher, rebinding)) as lab:
        lab.rules.allow(forward_to=("rebound.example.com:80",))
        ran = await w(lab, tmp_path, "rebound.example.com:80")
        assert "Connection refused" in ran.stderr
        assert (rebinding.asked, rebinding.dialled) == (["rebound.example.com"], ["192.0.2.1"])
        for count in (2, 3):
            ran = await w(lab, tmp_path, "rebound.example.com:80")
            assert "Your roles do not allow" in ran.stderr
            assert (len(rebinding.asked), rebinding.dialled) == (count, ["192.0.2.1"])


async def test_what_the_resolver_completes_does_not_get_around_a_deny(
    launcher_end: LauncherEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T26: a client that leaves the end of a name to the host's search domains means the name that is denied."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.53\nsearch corp.example.com example.com\n")
    monkeypatch.setattr(search_domains, "RESOLVER", resolver)
    rebinding = Rebinding(Launcher(launcher_end), [["192.0.2.1"]] * 10)
    async with running_lab(cast(Launcher, rebinding)) as lab:
        lab.rules.allow(forward_to=("*:*",))
        lab.rules.deny(forward_to=("secret.corp.example.com:*",))
        for name in ("secret", "SECRET", "secret.corp.example.com", "secret.corp.example.com."):
            ran = await w(lab, tmp_path, f"{name}:80")
            assert "Your roles do not allow" in ran.stderr, name
        assert rebinding.dialled == []
        ran = await w(lab, tmp_path, "secret.:80")
        assert "Connection refused" in ran.stderr, "a name that ends in a dot is whole"
        assert rebinding.dialled == ["192.0.2.1"]
        rebinding.answers = iter([["192.0.2.1"], ["192.0.2.9"]])  # the second one of secret.corp with a dot at its end
        ran = await w(lab, tmp_path, "secret.corp:80")
        assert "Your roles do not allow" in ran.stderr, "what it led to is not the name as it was written"
        lab.rules.deny(forward_to=("*.example.com:*",))
        rebinding.answers = iter([["192.0.2.1"]] * 2)
        ran = await w(lab, tmp_path, "www.other.org:80")
        assert "Connection refused" in ran.stderr, "a whole name is nobody's else"
        assert rebinding.asked[-2:] == ["www.other.org", "www.other.org."]


async def test_a_forced_command_is_all_there_is(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """A socket of the host may be as good as a shell."""
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        config = lab.client_config(tmp_path, forced(lab, tmp_path, "id"), ME)
        ran = await run_client("ssh", "-F", str(config), "-W", f"127.0.0.1:{port}", "direct")
        assert "Your roles do not allow anything but the command of your certificate" in ran.stderr
        (event,) = ports(lab, "direct-tcpip")
        assert "the certificate forces a command" in event.error


async def test_failures_say_what_failed(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        port = free_port()
        assert "Connection refused" in (await w(lab, tmp_path, f"127.0.0.1:{port}")).stderr
        assert "cannot be resolved" in (await w(lab, tmp_path, "no-such-name.invalid:80")).stderr
        assert [event.success for event in ports(lab, "direct-tcpip")] == [False, False]
        assert not lab.events.named("port.closed")


async def test_a_permit_that_no_longer_allows_a_forward_ends_it(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """T40: what is open is judged anew; what the new permit still allows goes on."""
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    other = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port, kept = (server.sockets[0].getsockname()[1] for server in (echo, other))
    locals_ = free_port(), free_port()
    async with running_lab(Launcher(launcher_end)) as lab, echo, other:
        forwards = [f"{locals_[0]}:127.0.0.1:{port}", f"{locals_[1]}:127.0.0.1:{kept}"]
        async with client(*ssh(lab, tmp_path, "-N", "-L", forwards[0], "-L", forwards[1])):
            await wait_until(lambda: all(map(_listens, locals_)))
            ways = [await asyncio.open_connection("127.0.0.1", local) for local in locals_]
            for reader, writer in ways:
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
            lab.rules.allow(forward_to=(f"127.0.0.1:{kept}",))
            lab.node.reconsider()
            async with asyncio.timeout(10):
                assert await ways[0][0].read() == b""
            ways[1][1].write(b"y")
            assert await ways[1][0].readexactly(1) == b"y"
            ended = [event for event in await closed(lab) if event.addr.endswith(str(port)) and event.rx]
            assert [(event.rx, event.tx) for event in ended] == [(1, 1)]
            assert "forward_to" in ended[0].error
            for _, writer in ways:
                writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_a_lock_ends_a_connection_that_has_only_forwards(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Also one that has none open at the moment: there is no session by which it could be told."""
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        local = free_port()
        async with client(*ssh(lab, tmp_path, "-N", "-L", f"{local}:127.0.0.1:{port}")) as process:
            assert await exchange(local, b"a") == b"A"
            lab.rules.locked = [Lock(metadata=Metadata(name="out"), spec=LockSpec(target=LockTarget(user="alice")))]
            lab.node.reconsider()
            async with asyncio.timeout(10):
                assert await process.wait() == 255
        await lab.events.wait_for("client.disconnect")
        await wait_until(lambda: lab.node.connections == 0)


async def test_forwards_keep_a_connection_from_being_idle(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Bytes are activity; a forward through which nothing goes is none."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port, local = server.sockets[0].getsockname()[1], free_port()
    async with running_lab(Launcher(launcher_end)) as lab, server:
        lab.rules.options(client_idle_timeout=Duration.of(seconds=2))
        async with client(*ssh(lab, tmp_path, "-N", "-L", f"{local}:127.0.0.1:{port}")) as process:
            await wait_until(lambda: _listens(local))
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            loop = asyncio.get_running_loop()
            until = loop.time() + 3
            while loop.time() < until:
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                await asyncio.sleep(0.3)
            assert process.returncode is None
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            (event,) = await lab.events.wait_for("client.disconnect")
            assert "idle" in getattr(event, "reason", "")
            writer.close()


async def test_what_cannot_be_put_on_record_is_not_forwarded(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """T40."""
    seen: list[bytes] = []

    def keep(got: bytes) -> bytes:
        seen.append(got)
        return b""

    async def emit(event: object) -> None:
        raise TeleportError("the disk is full")

    async with running_lab(Launcher(launcher_end)) as lab, answering(keep) as port:
        lab.events.emit = emit  # type: ignore[method-assign]
        ran = await w(lab, tmp_path, f"127.0.0.1:{port}", b"secret")
        assert "cannot write its audit log" in ran.stderr
        await wait_until(lambda: bool(seen))
        assert seen == [b""]


# listening for the client


async def test_listening_for_the_client_at_a_free_port(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`-R 0:...`: the port comes back, connections come with their origin, and the counts are on record."""
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        async with client(*ssh(lab, tmp_path, "-N", "-v", "-R", f"0:127.0.0.1:{port}")):
            event = await opened_first(lab)
            remote = int(event.addr.rpartition(":")[2])
            assert event.addr == f"localhost:{remote}"
            assert await exchange(remote, b"from the host") == b"FROM THE HOST"
            (done,) = await closed(lab)
            assert (done.kind, done.tx, done.rx) == ("forwarded-tcpip", 13, 13)
            assert ports(lab, "forwarded-tcpip")[0].origin.startswith("127.0.0.1:")
        *_, last = await closed(lab, 2)
        assert (last.kind, last.addr, last.tx, last.rx) == ("tcpip-forward", event.addr, 13, 13)
        await wait_until(lambda: not _listens(remote))


class Slow(Rebinding):
    """A host on which it takes a while until something listens."""

    async def errands(self, request: SpawnRequest) -> Any:
        errands = await self.launcher.errands(request)
        listen = errands.listen

        async def later(addresses: list[str], port: int) -> tuple[tuple[int, ...], int]:
            await asyncio.sleep(0.2)
            return await listen(addresses, port)

        errands.listen = later  # type: ignore[method-assign]
        return errands


async def test_what_a_client_asks_for_first_is_there_first(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """A command counts on the listener that was asked for before it."""
    async with running_lab(cast(Launcher, Slow(Launcher(launcher_end), []))) as lab, answering() as port:
        remotes = [free_port() for _ in range(5)]
        listens = [word for remote in remotes for word in ("-R", f"{remote}:127.0.0.1:{port}")]
        script = f"exec 3<>/dev/tcp/127.0.0.1/{remotes[-1]} || exit 9"
        ran = await run_client(*ssh(lab, tmp_path, *listens), f"bash -c '{script}'")
        assert ran.status == 0, ran.stderr


@pytest.mark.parametrize(
    ("bind", "rules", "taken"),
    [
        ("", (), True),
        ("127.0.0.1:", (), True),
        ("*:", (), False),
        ("0.0.0.0:", (), False),
        ("127.0.0.1:", ("127.0.0.1:1-2",), False),
        ("*:", ("*:*",), True),
        ("localhost:", ("localhost:*",), True),
    ],
)
async def test_where_a_client_may_have_something_listened_for(
    launcher_end: LauncherEnd, tmp_path: Path, bind: str, rules: tuple[str, ...], taken: bool
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        if rules:
            lab.rules.allow(listen_on=rules)
        remote = free_port()
        command = ssh(lab, tmp_path, "-N", "-R", f"{bind}{remote}:127.0.0.1:1")
        if taken:
            async with client(*command):
                await wait_until(lambda: _listens(remote))
        else:
            ran = await run_client(*command)
            assert "remote port forwarding failed" in ran.stderr
            assert not _listens(remote)
        (event,) = ports(lab, "tcpip-forward")
        assert (event.success, event.code) == (taken, "T3003I" if taken else "T3003E")


async def test_a_listener_is_its_own_connections_alone(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """T27: nobody else cancels it or takes its port, the same user over another connection included."""
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        remote = free_port()
        mux = tmp_path / "mux"
        own = ssh(lab, tmp_path, "-N", "-M", "-S", str(mux), "-R", f"{remote}:127.0.0.1:{port}")
        async with client(*own):
            assert await exchange(remote, b"x") == b"X"
            other = await _connected(lab)
            place = b"".join((String("localhost"), UInt32(remote)))
            for request in (b"cancel-tcpip-forward", b"tcpip-forward"):
                kind, _ = await other._make_global_request(request, place)
                assert kind == MSG_REQUEST_FAILURE
            assert await exchange(remote, b"y") == b"Y"
            other.abort()
            ran = await run_client("ssh", "-S", str(mux), "-O", "cancel", "-R", f"{remote}:127.0.0.1:{port}", "direct")
            assert ran.status == 0, ran.stderr
            await wait_until(lambda: not _listens(remote))


@pytest.mark.parametrize("kind", ["tun@openssh.com", "forwarded-tcpip", "x11", "auth-agent@openssh.com"])
async def test_channels_that_only_servers_open_and_tunnels_are_refused(launcher_end: LauncherEnd, kind: str) -> None:
    """T25."""
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await _connected(lab)
        with pytest.raises(ChannelOpenError, match="is not offered here"):
            await client.create_tcp_channel()._open_forward(object, kind.encode(), UInt32(1), UInt32(2))
        (event,) = await lab.events.wait_for("session.request_denied")
        assert getattr(event, "request", "") == kind
        client.abort()


async def _connected(lab: Lab) -> Any:
    """A client's raw connection."""
    user = lab.authorities.user([ME])
    key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())

    def check(certificate: bytes) -> None:
        lab.authorities.verify_host(certificate)

    return (await connect(("127.0.0.1", lab.node_port), login=ME, key=key, check=check))._connection


async def test_a_listener_ends_with_its_permission(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        remote = free_port()
        async with client(*ssh(lab, tmp_path, "-N", "-R", f"{remote}:127.0.0.1:1")):
            await wait_until(lambda: _listens(remote))
            lab.rules.options(remote_forwarding=False)
            lab.node.reconsider()
            await wait_until(lambda: not _listens(remote))
            *_, last = [event for event in await closed(lab) if event.kind == "tcpip-forward"]
            assert "allows no listening" in last.error


# Unix sockets


async def test_a_unix_socket_of_the_host_is_reached_where_it_really_lies(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """The decision is about the socket itself, whatever links lead to it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    real, link = tmp_path / "out" / "s", tmp_path / "in" / "s"
    link.symlink_to(real)
    local = tmp_path / "local"
    async with running_lab(Launcher(launcher_end)) as lab, answering(path=str(real)):
        for rule, path, allowed in (
            (f"unix:{tmp_path}/out/*", link, True),
            (f"unix:{tmp_path}/in/*", link, False),
            (f"unix:{tmp_path}/in/*", real, False),
        ):
            lab.rules.allow(forward_to=(rule,))
            local.unlink(missing_ok=True)
            async with client(*ssh(lab, tmp_path, "-N", "-L", f"{local}:{path}")):
                got = await exchange(0, b"hello", path=str(local))
                assert got == (b"HELLO" if allowed else b"")
        events = ports(lab, "direct-streamlocal@openssh.com")
        assert [(event.success, event.addr, event.resolved) for event in events] == [
            (True, str(link), str(real)),
            (False, str(link), str(real)),
            (False, str(real), str(real)),
        ]


async def test_a_unix_socket_is_made_for_the_client_and_taken_away(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Mode 0600; nothing that lies there is replaced; gone with the connection."""
    remote, there = tmp_path / "made", tmp_path / "there"
    there.write_text("kept")
    async with running_lab(Launcher(launcher_end)) as lab, answering() as port:
        async with client(*ssh(lab, tmp_path, "-N", "-R", f"{remote}:127.0.0.1:{port}")):
            assert await exchange(0, b"hello", path=str(remote)) == b"HELLO"
            assert remote.stat().st_mode & 0o777 == 0o600
        await wait_until(lambda: not remote.exists())
        ran = await run_client(*ssh(lab, tmp_path, "-N", "-R", f"{there}:127.0.0.1:{port}"))
        assert ran.status != 0
        assert there.read_text() == "kept"
        lab.rules.allow(listen_on=("unix:/run/app/*",))
        ran = await run_client(*ssh(lab, tmp_path, "-N", "-R", f"{remote}:127.0.0.1:{port}"))
        assert ran.status != 0
        assert not remote.exists()


def test_addresses_of_this_host_are_told_from_others() -> None:
    """By any of its addresses a port of the daemon is its own; elsewhere it may be anybody's."""
    ports = ClusterPorts(lambda: (4022,))
    assert ports("x", ip_address("127.0.0.9"), 4022)
    assert ports("x", ip_address("::1"), 4022)
    assert not ports("x", ip_address("192.0.2.1"), 4022)
    assert ports("x", ip_address("192.0.2.1"), 3025)
    assert not ports("auth.example.com", ip_address("192.0.2.1"), 443)
    ports.known = frozenset({("auth.example.com", 443)})
    assert ports("AUTH.example.com.", ip_address("192.0.2.1"), 443)
    assert is_local(ip_address("127.0.0.1"))
    assert not is_local(ip_address("192.0.2.1"))
