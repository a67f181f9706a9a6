"""Agent and X11 forwarding to a session, with the real `ssh`, `ssh-agent` and `ssh-add` (threat T51, trap T-5)."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from teleport.audit.events import AgentForward, PortClosed, X11Forward
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.running import Ran, wait_until
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.wire.x11 import Setup, parse_setup

ME = getpass.getuser()


async def ssh(lab: Lab, folder: Path, *arguments: str, stdin: bytes = b"", mux: bool = False, **variables: str) -> Ran:
    config = lab.client_config(folder, lab.authorities.user([ME]), ME)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm", **variables}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "ssh", "-F", str(config), *arguments, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin)
    return Ran(process.returncode or 0, out, err.decode())


def offering(path: str) -> tuple[str, ...]:
    return "-o", f"IdentityAgent={path}", "-o", f"ForwardAgent={path}"


@asynccontextmanager
async def agent(folder: Path) -> AsyncIterator[str]:
    """A real agent with one key; its socket."""
    path = str(folder / "agent.sock")
    process = await asyncio.create_subprocess_exec("ssh-agent", "-D", "-a", path, stdout=asyncio.subprocess.DEVNULL)
    try:
        await wait_until(lambda: os.path.exists(path))
        key = folder / "agentkey"
        for command in (
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "carried", "-f", str(key)],
            ["ssh-add", str(key)],
        ):
            done = await asyncio.create_subprocess_exec(
                *command, env={"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": path}, stderr=asyncio.subprocess.DEVNULL
            )
            assert await done.wait() == 0
        yield path
    finally:
        process.terminate()
        await process.wait()


async def test_a_session_asks_the_clients_agent(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Its own socket, private, named in the session, several programs at once, gone at the end."""
    async with running_lab(Launcher(launcher_end)) as lab, agent(tmp_path) as path:
        lab.rules.options(forward_agent=True)
        script = (
            'stat -c "%a %U" "$SSH_AUTH_SOCK" "$(dirname "$SSH_AUTH_SOCK")"; echo "$SSH_AUTH_SOCK";'
            " for i in 1 2 3 4 5 6; do ssh-add -l & done; wait"
        )
        ran = await ssh(lab, tmp_path, *offering(path), "direct", script)
        lines = ran.stdout.decode().splitlines()
        assert lines[:2] == [f"600 {ME}", f"700 {ME}"], ran
        assert [line for line in lines[3:] if "carried (ED25519)" in line] == lines[3:]
        assert len(lines) == 9
        await wait_until(lambda: not Path(lines[2]).parent.exists())
        (event,) = lab.events.named("agent.forward")
        assert isinstance(event, AgentForward)
        assert (event.code, event.path) == ("T9211I", lines[2])
        done = await lab.events.wait_for("port.closed", 6)
        assert {one.kind for one in done if isinstance(one, PortClosed)} == {"auth-agent@openssh.com"}
        assert all(one.tx and one.rx for one in done if isinstance(one, PortClosed))


async def test_each_session_of_a_connection_has_an_agent_socket_of_its_own(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab, agent(tmp_path) as path:
        lab.rules.options(forward_agent=True)
        mux = ["-S", str(tmp_path / "mux"), *offering(path), "direct"]
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        master = await asyncio.create_subprocess_exec(
            *("ssh", "-F", str(config), "-M", *mux, "echo $SSH_AUTH_SOCK; cat"),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert master.stdin is not None
        assert master.stdout is not None
        first = (await master.stdout.readline()).decode().strip()
        second = await ssh(lab, tmp_path, *mux, "echo $SSH_AUTH_SOCK; ssh-add -l")
        other, listed = second.stdout.decode().splitlines()
        assert first != other
        assert "carried" in listed
        await wait_until(lambda: not os.path.exists(other))
        assert stat.S_ISSOCK(os.stat(first).st_mode)
        master.stdin.close()
        await master.wait()
        await wait_until(lambda: not os.path.exists(first))


async def test_without_the_role_there_is_no_agent(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab, agent(tmp_path) as path:
        ran = await ssh(lab, tmp_path, *offering(path), "direct", "echo agent:$SSH_AUTH_SOCK")
        assert ran.stdout == b"agent:\n"
        (event,) = lab.events.named("agent.forward")
        assert isinstance(event, AgentForward)
        assert (event.code, event.error) == ("T9211W", "no role has forward_agent: yes")


async def test_an_agent_that_answers_nonsense_hurts_nobody(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """T51: too long a message, and success where data was to come: bytes are passed on, and ssh-add copes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(struct.pack(">I", 0x7FFFFFFF) + b"\x06" * 1_000_000)
        await writer.drain()
        writer.close()

    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.options(forward_agent=True)
        path = str(tmp_path / "bad.sock")
        async with await asyncio.start_unix_server(serve, path):
            ran = await ssh(lab, tmp_path, *offering(path), "direct", "ssh-add -l; echo status:$?")
        assert b"status:" in ran.stdout
        assert b"status:0" not in ran.stdout


async def test_a_role_taken_away_ends_agent_and_socket(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab, agent(tmp_path) as path:
        lab.rules.options(forward_agent=True)
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        process = await asyncio.create_subprocess_exec(
            *("ssh", "-F", str(config), *offering(path), "direct"),
            *("echo $SSH_AUTH_SOCK; read x; ssh-add -l; echo status:$?",),
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        there = (await process.stdout.readline()).decode().strip()
        assert os.path.exists(there)  # noqa: ASYNC240 - at once
        lab.rules.options(forward_agent=False)
        lab.node.reconsider()
        await wait_until(lambda: not os.path.exists(there))
        out, _ = await process.communicate(b"\n")
        assert b"status:2" in out


# X11

CLIENT = """
import os, socket, struct, sys
where, _, screen = os.environ["DISPLAY"].rpartition(":")
display = int(screen.split(".")[0])
data = open(os.environ["XAUTHORITY"], "rb").read()
at, parts = 2, []
for _ in range(4):
    (size,) = struct.unpack_from(">H", data, at)
    parts.append(data[at + 2 : at + 2 + size]); at += 2 + size
name, cookie = parts[2], parts[3]
if sys.argv[1:] == ["wrong"]:
    cookie = bytes(len(cookie))
if sys.argv[1:] == ["none"]:
    name = cookie = b""
pad = lambda text: text + bytes(-len(text) % 4)
sock = socket.create_connection((where, 6000 + display))
sock.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie)) + pad(name) + pad(cookie))
try:
    print("got", sock.recv(100))
except OSError:
    print("got b''")
"""


@asynccontextmanager
async def display(seen: list[Setup]) -> AsyncIterator[str]:
    """An X server that answers every setup; the DISPLAY that leads to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while (setup := parse_setup(data)) is None:
            more = await reader.read(1000)
            if not more:
                break
            data += more
        else:
            seen.append(setup)
            writer.write(b"welcome")
        writer.close()

    for port in range(6500, 7000):
        try:
            server = await asyncio.start_server(serve, "127.0.0.1", port)
            break
        except OSError:
            continue
    async with server:
        yield f"127.0.0.1:{port - 6000}.0"


async def x11(lab: Lab, folder: Path, shown: str, *arguments: str) -> Ran:
    (folder / "x.py").write_text(CLIENT)
    script = "echo $DISPLAY; " + "; ".join(f"python3 {folder}/x.py {argument}" for argument in arguments)
    return await ssh(lab, folder, "-Y", "direct", script, DISPLAY=shown)


async def test_a_program_of_the_session_reaches_the_clients_display(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """With the cookie of the session's own file; without it no channel is opened to the client at all."""
    seen: list[Setup] = []
    async with running_lab(Launcher(launcher_end)) as lab, display(seen) as shown:
        lab.rules.options(permit_x11_forwarding=True)
        ran = await x11(lab, tmp_path, shown, "", "wrong", "none", "")
        where, *got = ran.stdout.decode().splitlines()
        assert got == ["got b'welcome'", "got b''", "got b''", "got b'welcome'"], ran
        assert where.startswith("localhost:1")
        assert len(seen) == 2
        (event,) = lab.events.named("x11-forward")
        assert isinstance(event, X11Forward)
        assert (event.code, event.display) == ("T3008I", where)
        done = [one for one in await lab.events.wait_for("port.closed", 4) if isinstance(one, PortClosed)]
        assert sorted(one.error for one in done) == ["", "", *["it did not show the display's cookie"] * 2]
        port = 6000 + int(where.partition(":")[2].partition(".")[0])
        with socket.socket() as sock:
            await wait_until(lambda: sock.connect_ex(("127.0.0.1", port)) != 0)


async def test_without_the_role_there_is_no_display(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab, display([]) as shown:
        ran = await ssh(lab, tmp_path, "-Y", "direct", "echo display:$DISPLAY", DISPLAY=shown)
        assert ran.stdout == b"display:\n"
        assert "X11 forwarding request failed" in ran.stderr
        (event,) = lab.events.named("x11-forward")
        assert (event.code, getattr(event, "error", "")) == ("T3008W", "no role has permit_x11_forwarding: yes")
