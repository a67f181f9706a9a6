"""Forwards of our client against OpenSSH's sshd, with real sockets on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from teleport.errors import BadRequest, ConnectionProblem
from teleport.identity import SystemRole
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.testing.lab_certificates import Authorities
from teleport.testing.openssh_server import running_sshd
from teleport.testing.running import wait_until
from teleport.wire.forward_spec import Direction, Forward, SocketEnd, TcpEnd, parse

ME = getpass.getuser()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tsh", dir="/tmp") as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def connected(folder: Path, *settings: str) -> AsyncIterator[SshClient]:
    """Our client on an sshd with these settings."""
    authorities = Authorities()
    host = authorities.host(SystemRole.NODE, "sshd")
    with running_sshd(folder, authorities.user_key.public.line(), host, *settings) as port:
        user = authorities.user(
            [ME], permit_port_forwarding=True, permit_agent_forwarding=True, permit_x11_forwarding=True
        )
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
        client = await connect(("127.0.0.1", port), login=ME, key=key, check=lambda certificate: None)
        try:
            yield client
        finally:
            await client.close()


@contextlib.asynccontextmanager
async def echo(where: str | int) -> AsyncIterator[int]:
    """A server that answers with what it got, in capitals, once the other side has ended."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    if isinstance(where, str):
        server = await asyncio.start_unix_server(serve, where)
        port = 0
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", where)
        port = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
        await server.wait_closed()


async def asked(where: str | int, data: bytes) -> bytes:
    """What comes back for `data`; the connection's own error when it is reset."""
    opening = (
        asyncio.open_unix_connection(where) if isinstance(where, str) else asyncio.open_connection("127.0.0.1", where)
    )
    reader, writer = await opening
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_local_forwards_to_ports_and_sockets(tmp_path: Path, short: Path) -> None:
    big = os.urandom(3_000_000).hex().encode()
    async with connected(tmp_path) as client, echo(0) as port, echo(str(short / "there")):
        told: list[str] = []
        forwards = client.forwards(told.append)
        by_port = await forwards.add(parse(Direction.LOCAL, f"0:127.0.0.1:{port}"))
        assert await asked(by_port, b"one") == b"ONE"
        assert await asked(by_port, big) == big.upper()
        await forwards.add(parse(Direction.LOCAL, f"{short}/here:{short}/there"))
        assert await asked(str(short / "here"), b"two") == b"TWO"
        to_socket = await forwards.add(parse(Direction.LOCAL, f"0:{short}/there"))
        assert await asked(to_socket, b"three") == b"THREE"
        assert client.channels() == []
        assert told == []
        await forwards.close()
        with pytest.raises(OSError):
            await asked(by_port, b"closed")


async def test_remote_forwards_come_back_to_ports_and_sockets(tmp_path: Path, short: Path) -> None:
    async with connected(tmp_path) as client, echo(0) as port, echo(str(short / "here")):
        forwards = client.forwards(lambda text: None)
        there = await forwards.add(parse(Direction.REMOTE, f"0:127.0.0.1:{port}"))
        assert await asked(there, b"one") == b"ONE"
        await forwards.add(parse(Direction.REMOTE, f"{short}/there:{short}/here"))
        assert await asked(str(short / "there"), b"two") == b"TWO"
        await forwards.close()
        await wait_until(lambda: not _listens(there))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_what_cannot_be_reached_is_told_and_reset(tmp_path: Path) -> None:
    """So that a program sees a failure and no empty answer."""
    told: list[str] = []
    async with connected(tmp_path, "PermitOpen 127.0.0.1:1") as client:
        forwards = client.forwards(told.append)
        refused = await forwards.add(parse(Direction.LOCAL, "0:127.0.0.1:2"))
        with pytest.raises(ConnectionResetError):
            await asked(refused, b"x")
        assert told.pop().startswith("the host does not lead to 127.0.0.1:2: ")
        closed = await forwards.add(parse(Direction.LOCAL, "0:127.0.0.1:1"))
        with pytest.raises(ConnectionResetError):
            await asked(closed, b"x")
        assert "Connection refused" in told.pop()
        remote = await forwards.add(parse(Direction.REMOTE, "0:127.0.0.1:1"))
        with contextlib.suppress(ConnectionResetError):  # sshd's way to say so, or an empty answer
            assert await asked(remote, b"x") == b""
        await wait_until(lambda: bool(told))
        assert told.pop().startswith("127.0.0.1:1 on this machine cannot be reached")
        await forwards.close()


async def test_a_listener_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    async with connected(tmp_path, "AllowTcpForwarding local") as client, echo(0) as taken:
        forwards = client.forwards(lambda text: None)
        with pytest.raises(ConnectionProblem, match=f"cannot listen on 127.0.0.1:{taken}"):
            await forwards.add(parse(Direction.LOCAL, f"127.0.0.1:{taken}:a:1"))
        with pytest.raises(ConnectionProblem, match="the host does not listen on localhost:0"):
            await forwards.add(parse(Direction.REMOTE, "0:a:1"))
        await forwards.close()


async def test_socks_leads_where_it_is_told(tmp_path: Path) -> None:
    """With curl as the client, which speaks 5 with names resolved there, and 4a."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: it is the SOCKS client of another author")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = web.sockets[0].getsockname()[1]
    told: list[str] = []
    async with connected(tmp_path, f"PermitOpen localhost:{port}") as client:
        forwards = client.forwards(told.append)
        proxy = await forwards.add(parse(Direction.DYNAMIC, "0"))

        async def curl(scheme: str, url: str) -> subprocess.CompletedProcess[bytes]:
            command = ["curl", "-sS", "--max-time", "20", "--proxy", f"{scheme}://127.0.0.1:{proxy}", url]
            return await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)

        for scheme in ("socks5h", "socks4a"):
            done = await curl(scheme, f"http://localhost:{port}/")
            assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
        refused = await curl("socks5h", "http://elsewhere.test:80/")
        assert (refused.returncode, refused.stdout) == (97, b""), "curl's code for what a SOCKS server refuses"
        assert told.pop().startswith("the host does not lead to elsewhere.test:80")
        with contextlib.suppress(ConnectionResetError):
            assert await asked(proxy, b"GET / HTTP/1.0\r\n\r\n") == b""
        await forwards.close()
    web.close()
    await web.wait_closed()


async def test_stdin_and_stdout_lead_through_a_stream(tmp_path: Path) -> None:
    got = bytearray()
    async with connected(tmp_path) as client, echo(0) as port:
        session = await client.stream(TcpEnd("127.0.0.1", port), on_output=lambda data, _: got.extend(data))
        assert not session.agent_refused
        session.write(b"through")
        session.write_eof()
        await session.wait()
        assert got == b"THROUGH"
        with pytest.raises(ConnectionProblem, match=r"does not lead to 127\.0\.0\.1:1"):
            await client.stream(TcpEnd("127.0.0.1", 1), on_output=lambda data, _: None)


async def test_an_agent_is_asked_by_the_host_only_while_it_is_offered(tmp_path: Path, short: Path) -> None:
    """Threat T51, this side: a host that was offered nothing reaches nothing."""
    key, agent = short / "key", str(short / "agent")
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mine", "-f", str(key)]
    await asyncio.to_thread(subprocess.run, make, check=True)
    process = await asyncio.create_subprocess_exec("ssh-agent", "-D", "-a", agent, stdout=subprocess.DEVNULL)
    try:
        await wait_until(lambda: Path(agent).exists())
        added = await asyncio.create_subprocess_exec(
            "ssh-add", "-q", str(key), env={**os.environ, "SSH_AUTH_SOCK": agent}, stderr=subprocess.DEVNULL
        )
        assert await added.wait() == 0
        async with connected(tmp_path) as client:
            for offered, seen in ((agent, b"mine"), ("", b"")):
                got = bytearray()
                session = await client.start(
                    command="ssh-add -l 2>/dev/null; true",
                    agent=offered,
                    on_output=lambda data, _, got=got: got.extend(data),  # type: ignore[misc]
                )
                await session.wait()
                assert not session.agent_refused
                assert seen in got
                assert bool(got) == bool(seen)
    finally:
        process.terminate()
        await process.wait()


async def test_an_agent_that_is_not_taken_is_told(tmp_path: Path) -> None:
    async with connected(tmp_path, "AllowAgentForwarding no") as client:
        session = await client.start(command="true", agent="/nonexistent", on_output=lambda data, _: None)
        assert session.agent_refused
        assert (await session.wait()).status == 0


async def test_windows_of_the_host_come_here(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X11: the host sees another cookie than the display's own, and the display gets its own."""
    if shutil.which("xauth") is None:
        pytest.skip("xauth is not installed: sshd forwards X11 only with it")
    greetings: list[bytes] = []

    async def display(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings.append(await reader.readexactly(12 + 20 + 16))
        writer.write(b"X" * 8)
        await writer.drain()
        writer.close()

    os.makedirs("/tmp/.X11-unix", exist_ok=True)
    number = 4000 + os.getpid() % 4000
    socket_path = f"/tmp/.X11-unix/X{number}"
    server = await asyncio.start_unix_server(display, socket_path)
    cookie, authority = os.urandom(16), short / "xauthority"
    monkeypatch.setenv("DISPLAY", f":{number}")
    monkeypatch.setenv("XAUTHORITY", str(authority))
    add = ["xauth", "-q", "-f", str(authority), "add", f":{number}", "MIT-MAGIC-COOKIE-1", cookie.hex()]
    await asyncio.to_thread(subprocess.run, add, check=True)
    program = (
        "import os,re,socket,subprocess\n"
        "host,number=os.environ['DISPLAY'].split(':');number=int(number.split('.')[0])\n"
        "lines=subprocess.run(['xauth','list',os.environ['DISPLAY']],capture_output=True,text=True).stdout.split()\n"
        "s=socket.create_connection((host,6000+number))\n"
        "s.sendall(b'l\\0\\x0b\\0\\0\\0\\x12\\0\\x10\\0\\0\\0MIT-MAGIC-COOKIE-1\\0\\0'+bytes.fromhex(lines[2]))\n"
        "print(lines[2],s.recv(8).decode())\n"
    )
    async with connected(tmp_path, "X11Forwarding yes", "X11UseLocalhost yes") as client:
        got = bytearray()
        session = await client.start(
            command=f"python3 {_script(short, program)}",
            x11=True,
            on_output=lambda data, _: got.extend(data),
        )
        await session.wait()
    server.close()
    await server.wait_closed()
    os.unlink(socket_path)
    shown, answer = got.decode().split()[-2:]
    assert answer == "X" * 8
    assert greetings[0].endswith(cookie)
    assert bytes.fromhex(shown) != cookie


def _script(folder: Path, text: str) -> Path:
    path = folder / "client.py"
    path.write_text(text)
    return path


async def test_a_system_without_unix_sockets_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(tmp_path) as client:
        monkeypatch.delattr(socket, "AF_UNIX")
        with pytest.raises(BadRequest, match="has no Unix sockets"):
            await client.forwards(print).add(
                Forward(Direction.LOCAL, SocketEnd(str(tmp_path / "x")), TcpEnd("localhost", 1))
            )
