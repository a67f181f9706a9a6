"""Threat T25: every way to ask for something, under every condition. A row without a way here fails.

`WAYS` has one entry for each row of the table that a role can allow or refuse: how to ask for it with the real `ssh`,
the role that allows it, and roles that do not. What refuses the connection refuses every way at once; tried, too.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_fields

from teleport.audit.events import AgentForward, Port, X11Forward
from teleport.authz.channel_table import TABLE, AskedKind, Rule
from teleport.authz.decision import ClusterDefaults
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import ExecMode, FileTransfer, Options
from teleport.testing.clock import FakeClock
from teleport.testing.lab_certificates import Authorities, LabUser
from teleport.testing.running import Ran, run_client
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()
ASKED_OF_ROLES = {Rule.START, Rule.LOCAL_FORWARD, Rule.REMOTE_FORWARD, Rule.AGENT, Rule.X11}
Attempt = Callable[[Lab, Path, LabUser], Awaitable[Ran]]


@dataclass(frozen=True)
class Terms:
    """What a role says: changes of its options, of `allow` and of `deny`."""

    options: Mapping[str, Any] = field(default_factory=dict)
    allow: Mapping[str, Any] = field(default_factory=dict)
    deny: Mapping[str, Any] = field(default_factory=dict)

    def put(self, lab: Lab) -> None:
        spec = lab.rules.role.spec
        spec = replace_fields(
            spec,
            options=Options(**self.options),
            allow=replace_fields(spec.allow, **self.allow),
            deny=replace_fields(spec.deny, **self.deny),
        )
        lab.rules.role = replace_fields(lab.rules.role, spec=spec)


@dataclass(frozen=True)
class Way:
    """`attempt` prints a line `in` and ends with 0 when it was let through. `record` is the event of a refusal."""

    attempt: Attempt
    denied: Mapping[str, Terms]
    allowed: Terms = Terms()
    record: str = "session.request_denied"


def ssh(*arguments: str, stdin: bytes = b"") -> Attempt:
    async def attempt(lab: Lab, folder: Path, user: LabUser) -> Ran:
        config = lab.client_config(folder, user, ME)
        return await run_client("ssh", "-F", str(config), *arguments, stdin=stdin)

    return attempt


async def sftp(lab: Lab, folder: Path, user: LabUser) -> Ran:
    (folder / "in").touch()
    config = lab.client_config(folder, user, ME)
    return await run_client("sftp", "-F", str(config), "-b", "-", "direct", stdin=f"ls {folder}/in\n".encode())


@asynccontextmanager
async def serving(path: str = "") -> AsyncIterator[int]:
    """Something that says `in` to whoever connects; its port, or 0 of a Unix socket."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"in\n")
        writer.close()

    server = await (asyncio.start_unix_server(serve, path) if path else asyncio.start_server(serve, "127.0.0.1", 0))
    async with server:
        yield 0 if path else int(server.sockets[0].getsockname()[1])


async def to_port(lab: Lab, folder: Path, user: LabUser) -> Ran:
    async with serving() as port:
        return await ssh("-W", f"127.0.0.1:{port}", "direct")(lab, folder, user)


async def listened(lab: Lab, folder: Path, user: LabUser, forward: list[str], where: str) -> Ran:
    """Keeps `ssh -N` with a forward, and reads from `where` it listens: a path, or what `ssh` says of a port."""
    config = lab.client_config(folder, user, ME)
    process = await asyncio.create_subprocess_exec(
        *("ssh", "-F", str(config), "-N", "-o", "ExitOnForwardFailure=yes", *forward, "direct"),
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert process.stderr is not None
    said = got = b""
    try:
        async with asyncio.timeout(20):
            while process.returncode is None:
                if where and os.path.exists(where):  # noqa: ASYNC240 - it does not block
                    got = await read_all(asyncio.open_unix_connection(where))
                    break
                if not where:
                    said += await process.stderr.readline()
                    if found := re.search(rb"Allocated port (\d+)", said):
                        got = await read_all(asyncio.open_connection("127.0.0.1", int(found[1])))
                        break
                await asyncio.sleep(0.02)  # for ssh to listen, or to give up
    finally:
        if process.returncode is None:
            process.kill()
    said += (await process.communicate())[1]
    return Ran(0 if got else 255, got, said.decode(errors="replace"))


async def read_all(opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> bytes:
    """What comes until the end; nothing where nobody listens any more."""
    try:
        reader, writer = await opening
    except OSError:
        return b""
    try:
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


async def to_socket(lab: Lab, folder: Path, user: LabUser) -> Ran:
    there, here = folder / "there", folder / "here"
    here.unlink(missing_ok=True)
    there.unlink(missing_ok=True)
    async with serving(str(there)):
        return await listened(lab, folder, user, ["-L", f"{here}:{there}"], str(here))


async def from_port(lab: Lab, folder: Path, user: LabUser) -> Ran:
    async with serving() as port:
        return await listened(lab, folder, user, ["-R", f"127.0.0.1:0:127.0.0.1:{port}"], "")


async def from_socket(lab: Lab, folder: Path, user: LabUser) -> Ran:
    there = folder / "far"
    there.unlink(missing_ok=True)
    async with serving() as port:
        return await listened(lab, folder, user, ["-R", f"{there}:127.0.0.1:{port}"], str(there))


async def lent(lab: Lab, folder: Path, user: LabUser, variable: str, *options: str, **environment: str) -> Ran:
    """Whether a session has a variable that leads to something of the client's."""
    config = lab.client_config(folder, user, ME)
    process = await asyncio.create_subprocess_exec(
        *("ssh", "-F", str(config), *options, "direct", f'test -n "${variable}" && echo in'),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
    )
    async with asyncio.timeout(30):
        stdout, stderr = await process.communicate()
    return Ran(process.returncode or 0, stdout, stderr.decode(errors="replace"))


async def agent(lab: Lab, folder: Path, user: LabUser) -> Ran:
    path = folder / "agent"
    path.unlink(missing_ok=True)
    async with serving(str(path)):
        options = ("-o", f"IdentityAgent={path}", "-o", f"ForwardAgent={path}")
        return await lent(lab, folder, user, "SSH_AUTH_SOCK", *options)


async def x11(lab: Lab, folder: Path, user: LabUser) -> Ran:
    return await lent(lab, folder, user, "DISPLAY", "-Y", DISPLAY=":99")


_NO_FORWARDS = {"port_forwarding: no": Terms({"port_forwarding": False})}
_TO = {
    **_NO_FORWARDS,
    "local_forwarding: no": Terms({"local_forwarding": False}),
    "another destination": Terms(allow={"forward_to": ("10.0.0.0/8:*", "unix:/nowhere/*")}),
    "denied": Terms(deny={"forward_to": ("127.0.0.0/8:*", "unix:/**")}),
}
_FROM = {
    **_NO_FORWARDS,
    "remote_forwarding: no": Terms({"remote_forwarding": False}),
    "another place": Terms(allow={"listen_on": ("10.0.0.0/8:*", "unix:/nowhere/*")}),
    "denied": Terms(deny={"listen_on": ("127.0.0.0/8:*", "unix:/**")}),
}
_EXEC = {
    "exec: none": Terms({"exec": ExecMode.NONE}),
    "exec: transfer": Terms({"exec": ExecMode.TRANSFER}),
    "another command": Terms({"commands": ("uptime",)}),
}

_C, _G = AskedKind.CHANNEL, AskedKind.GLOBAL_REQUEST

WAYS: dict[tuple[AskedKind, str], Way] = {
    (AskedKind.SESSION_REQUEST, "shell"): Way(ssh("-T", "direct", stdin=b"echo in\n"), _EXEC),
    (AskedKind.SESSION_REQUEST, "subsystem"): Way(
        sftp,
        {
            "exec: none": _EXEC["exec: none"],
            "only commands": _EXEC["another command"],
            "neither way": Terms(
                {"exec": ExecMode.TRANSFER, "file_transfer": FileTransfer(download=False, upload=False)}
            ),
        },
        Terms({"exec": ExecMode.TRANSFER}),
    ),
    (AskedKind.SESSION_REQUEST, "exec"): Way(ssh("direct", "echo", "in"), _EXEC, Terms({"commands": ("echo *",)})),
    (AskedKind.SESSION_REQUEST, "auth-agent-req@openssh.com"): Way(
        agent, {"forward_agent: no": Terms()}, Terms({"forward_agent": True}), "agent.forward"
    ),
    (AskedKind.SESSION_REQUEST, "x11-req"): Way(
        x11, {"permit_x11_forwarding: no": Terms()}, Terms({"permit_x11_forwarding": True}), "x11-forward"
    ),
    (_C, "direct-tcpip"): Way(to_port, _TO, Terms(allow={"forward_to": ("127.0.0.1:*",)}), "port"),
    (_C, "direct-streamlocal@openssh.com"): Way(to_socket, _TO, Terms(allow={"forward_to": ("unix:/**",)}), "port"),
    (_G, "tcpip-forward"): Way(from_port, _FROM, Terms(allow={"listen_on": ("127.0.0.1:*",)}), "port"),
    (_G, "streamlocal-forward@openssh.com"): Way(from_socket, _FROM, Terms(allow={"listen_on": ("unix:/**",)}), "port"),
}


def test_every_row_that_roles_decide_about_has_a_way() -> None:
    rows = {(row.kind, row.name) for row in TABLE if row.rule in ASKED_OF_ROLES}
    assert rows == set(WAYS), "say in WAYS how the row is asked for, and which roles allow and refuse it"
    assert all(way.denied for way in WAYS.values())


@pytest.mark.parametrize("way", WAYS.values(), ids=[name for _, name in WAYS])
async def test_a_way_is_open_to_a_role_that_allows_it_and_closed_to_others(
    launcher_end: LauncherEnd, tmp_path: Path, way: Way
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        user, former = lab.authorities.user([ME]), lab.rules.role
        way.allowed.put(lab)
        ran = await way.attempt(lab, tmp_path, user)
        assert (ran.status, b"in\n" in ran.stdout) == (0, True), ran.stderr
        for number, (name, terms) in enumerate(way.denied.items(), 1):
            lab.rules.role = former
            terms.put(lab)
            ran = await way.attempt(lab, tmp_path, user)
            assert b"in\n" not in ran.stdout, name
            assert ran.status != 0, name
            assert "Traceback" not in ran.stderr, name
            await refusals(lab, way, number)


async def refusals(lab: Lab, way: Way, count: int) -> None:
    """Waits until so many refusals are on record."""

    def refused(event: object) -> bool:
        return not (isinstance(event, Port | X11Forward | AgentForward) and event.success)

    async with asyncio.timeout(10):
        while len([one for one in lab.events.named(way.record) if refused(one)]) < count:
            await lab.events.wait_for(way.record, len(lab.events.named(way.record)) + 1)


def _wrong_label(lab: Lab) -> None:
    Terms(allow={"node_labels": {"env": ("another",)}}).put(lab)


def _no_rule(lab: Lab) -> None:
    Terms(allow={"logins": (), "node_labels": None}).put(lab)


def _denied(lab: Lab) -> None:
    Terms(deny={"logins": (ME,)}).put(lab)


def _locked(lab: Lab) -> None:
    lab.rules.locked = [Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(user="alice")))]


def _factor_due(lab: Lab) -> None:
    lab.rules.cluster = ClusterDefaults(require_session_mfa=True)


def _expired(lab: Lab) -> None:
    lab.authorities.clock = lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(hours=2))


CONDITIONS: dict[str, Callable[[Lab], object]] = {
    "no rule": _no_rule,
    "a role denies": _denied,
    "wrong login": lambda lab: None,
    "wrong label": _wrong_label,
    "expired": _expired,
    "locked": _locked,
    "a second factor is due": _factor_due,
    "wrong cluster": lambda lab: None,
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(
    "name", [name if place < 2 else pytest.param(name, marks=pytest.mark.long) for place, (_, name) in enumerate(WAYS)]
)
async def test_what_refuses_a_connection_refuses_every_way(
    launcher_end: LauncherEnd, tmp_path: Path, condition: str, name: str
) -> None:
    (way,) = (way for (_, called), way in WAYS.items() if called == name)
    async with running_lab(Launcher(launcher_end)) as lab:
        way.allowed.put(lab)
        authorities = Authorities("another.test") if condition == "wrong cluster" else lab.authorities
        user = authorities.user(["nobody" if condition == "wrong login" else ME])
        CONDITIONS[condition](lab)
        ran = await way.attempt(lab, tmp_path, user)
        assert ran.status == 255
        assert b"in\n" not in ran.stdout
        assert "Traceback" not in ran.stderr
        await lab.events.wait_for("auth")
        assert lab.node.connections == 0
        assert not lab.events.named("session.start")
