"""Every path to a session asks for the second factor when it is due (threat T35).

One row for each path. Whatever is built later adds its rows here: a channel type, a request that starts something or a
call that reveals a secret, which is offered and has no row, fails the first test.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asyncssh.constants import MSG_REQUEST_FAILURE
from asyncssh.packet import String, UInt32
from msgspec.structs import replace as replace_fields

from teleport.audit.events import AuthFailed, SessionStart
from teleport.authz.channel_table import TABLE, AskedKind
from teleport.authz.decision import ClusterDefaults
from teleport.errors import SECOND_FACTOR_DUE, TeleportError
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node import channel_table
from teleport.proxy import ssh_router
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.values import Duration
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.testing.clock import FakeClock
from teleport.testing.lab_certificates import LabUser
from teleport.testing.running import Ran, run_client
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.wire.forward_spec import TcpEnd

ME = getpass.getuser()
DEVICE = "11111111-aaaa-4bbb-8ccc-222222222222"
STARTS = {"shell", "exec", "subsystem"}  # requests with which a session begins something


@dataclass(frozen=True)
class PathToASession:
    """`attempt` uses the path with a certificate and prints `in` when it leads there; `covers` is what it goes over."""

    attempt: Callable[[Lab, Path, LabUser], Awaitable[Ran]]
    covers: frozenset[tuple[str, str]]
    session: bool = True  # whether it begins a session, and not a forward


def _ssh(*arguments: str, stdin: bytes = b"") -> Callable[[Lab, Path, LabUser], Awaitable[Ran]]:
    async def attempt(lab: Lab, folder: Path, user: LabUser) -> Ran:
        config = lab.client_config(folder, user, ME)
        return await run_client("ssh", "-F", str(config), *arguments, stdin=stdin)

    return attempt


async def _sftp(lab: Lab, folder: Path, user: LabUser) -> Ran:
    (folder / "listed").mkdir(exist_ok=True)
    (folder / "listed" / "in").touch()
    config = lab.client_config(folder, user, ME)
    return await run_client("sftp", "-F", str(config), "-b", "-", "direct", stdin=f"ls {folder}/listed\n".encode())


def _forward(option: str) -> Callable[[Lab, Path, LabUser], Awaitable[Ran]]:
    """A forward, at whose other end `in` is to be read."""

    async def attempt(lab: Lab, folder: Path, user: LabUser) -> Ran:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"in")
            writer.close()

        near, far = folder / "near", folder / "far"
        near.unlink(missing_ok=True)
        far.unlink(missing_ok=True)
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        unix = await asyncio.start_unix_server(serve, str(far if option == "-L" else folder / "served"))
        port = server.sockets[0].getsockname()[1]
        config = str(lab.client_config(folder, user, ME))
        command = ["ssh", "-F", config, "-o", "ExitOnForwardFailure=yes"]
        async with server, unix:
            if option == "-W":
                return await run_client(*command, "-W", f"127.0.0.1:{port}", "direct")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                remote = free.getsockname()[1]
            what = {"-L": f"{near}:{far}", "-R": f"{remote}:{folder / 'served'}", "-R unix": f"{far}:127.0.0.1:{port}"}
            ssh = await asyncio.create_subprocess_exec(
                *(*command, "-N", option.split()[0], what[option], "direct"),
                env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
                stderr=asyncio.subprocess.PIPE,
            )
            read = b""
            while ssh.returncode is None and not read:
                with suppress(OSError):
                    way = str(near) if option == "-L" else str(far)
                    reader, writer = await (
                        asyncio.open_connection("127.0.0.1", remote)
                        if option == "-R"
                        else asyncio.open_unix_connection(way)
                    )
                    read = await reader.read()
                    writer.close()
                await asyncio.sleep(0.01)
            if read:
                ssh.terminate()
            _, stderr = await ssh.communicate()
            return Ran(0 if read else ssh.returncode or 0, read, stderr.decode())

    return attempt


PATHS: dict[str, PathToASession] = {
    "shell, straight to the node": PathToASession(
        _ssh("direct", stdin=b"echo in\n"), frozenset({("node", "session"), ("node", "shell")})
    ),
    "shell with a terminal": PathToASession(
        _ssh("-tt", "direct", stdin=b"echo in; exit\n"), frozenset({("node", "session"), ("node", "shell")})
    ),
    "exec, straight to the node": PathToASession(
        _ssh("direct", "echo", "in"), frozenset({("node", "session"), ("node", "exec")})
    ),
    "exec by the proxy's subsystem": PathToASession(
        _ssh("node1", "echo", "in"), frozenset({("proxy", "session"), ("proxy", "subsystem"), ("node", "exec")})
    ),
    "exec by direct-tcpip of ProxyJump": PathToASession(
        _ssh("jump", "echo", "in"), frozenset({("proxy", "direct-tcpip"), ("node", "exec")})
    ),
    "files by the node's subsystem": PathToASession(_sftp, frozenset({("node", "subsystem")})),
    "forward to a host": PathToASession(_forward("-W"), frozenset({("node", "direct-tcpip")}), session=False),
    "forward to a socket": PathToASession(
        _forward("-L"), frozenset({("node", "direct-streamlocal@openssh.com")}), session=False
    ),
    "listening at a port": PathToASession(_forward("-R"), frozenset({("node", "tcpip-forward")}), session=False),
    "listening at a socket": PathToASession(
        _forward("-R unix"), frozenset({("node", "streamlocal-forward@openssh.com")}), session=False
    ),
}
# what the proxy answers with a sentence and never starts, whoever asks
NOTHING_STARTS = {("proxy", "shell"), ("proxy", "exec")}
# global requests that are part of the protocol's housekeeping, or end something
BEGIN_NOTHING = {
    "keepalive@openssh.com",
    "no-more-sessions@openssh.com",
    "cancel-tcpip-forward",
    "cancel-streamlocal-forward@openssh.com",
    "recording-proxy@teleport.com",
    "trace@teleport",
}


def test_everything_that_is_offered_and_leads_to_a_session_has_a_row() -> None:
    offered = {("node", name) for name in channel_table.SURFACE.channels}
    offered |= {("node", name) for name in channel_table.SURFACE.session_requests & STARTS}
    offered |= {("proxy", name) for name in ssh_router.SURFACE.channels}
    offered |= {("proxy", name) for name in ssh_router.SURFACE.session_requests & STARTS}
    offered |= {("node", name) for name in channel_table.SURFACE.global_requests - BEGIN_NOTHING}
    offered |= {("proxy", name) for name in ssh_router.SURFACE.global_requests - BEGIN_NOTHING}
    assert offered - NOTHING_STARTS == set().union(*(path.covers for path in PATHS.values()))
    assert {row.name for row in TABLE if row.kind is AskedKind.CHANNEL} >= {"direct-tcpip", "session"}


def _marked(lab: Lab, target: str) -> LabUser:
    return lab.authorities.user([ME], mfa_device=DEVICE, mfa_target=target, ttl=timedelta(minutes=1))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_path_is_closed_without_the_factor_and_open_with_it(
    launcher_end: LauncherEnd, tmp_path: Path, path: PathToASession
) -> None:
    """Refused with the sentence that tsh knows, for a login's certificate and for a mark of another target; on record.
    With the mark for this node the same path leads there."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.cluster = ClusterDefaults(require_session_mfa=True)
        node = str(lab.node_host.host_id)
        for number, user in enumerate((lab.authorities.user([ME]), _marked(lab, str(uuid4())))):
            refused = await path.attempt(lab, tmp_path, user)
            assert refused.status != 0
            assert b"in" not in refused.stdout
            assert SECOND_FACTOR_DUE in refused.stderr
            events = [*lab.events.named("auth"), *lab.events.named("session.request_denied")]
            said = [e.error if isinstance(e, AuthFailed) else getattr(e, "reason", "") for e in events]
            assert len([text for text in said if text.startswith("mfa_required: ")]) == number + 1
        ran = await path.attempt(lab, tmp_path, _marked(lab, node))
        assert (ran.status, b"in" in ran.stdout) == (0, True), ran.stderr
        if not path.session:
            assert not lab.events.named("session.start")
            await lab.events.wait_for("port")
            return
        (start,) = await lab.events.wait_for("session.start")
    assert isinstance(start, SessionStart)
    assert start.with_mfa == DEVICE


async def _open(lab: Lab, user: LabUser, port: int) -> SshClient:
    key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())

    def check(certificate: bytes) -> None:
        lab.authorities.verify_host(certificate)

    return await connect(("127.0.0.1", port), login=ME, key=key, check=check)


async def test_an_open_connection_starts_nothing_once_a_factor_is_due(launcher_end: LauncherEnd) -> None:
    """To the node a further session, at the proxy a further way: what was open before proves nothing for them."""
    async with running_lab(Launcher(launcher_end)) as lab:
        user = lab.authorities.user([ME])
        node, proxy = await _open(lab, user, lab.node_port), await _open(lab, user, lab.proxy_port)
        lab.rules.options(require_session_mfa=True)
        with pytest.raises(TeleportError, match=SECOND_FACTOR_DUE):
            await node.start(command="true", on_output=lambda data, stderr: None)
        with pytest.raises(TeleportError, match=SECOND_FACTOR_DUE):
            await proxy.through("node1", 0, login=ME, check=lambda certificate: None)
        with pytest.raises(TeleportError, match=SECOND_FACTOR_DUE):
            await node.stream(TcpEnd("127.0.0.1", 9), on_output=lambda data, stderr: None)
        raw: Any = node._connection
        for request, place in (
            (b"tcpip-forward", String("localhost") + UInt32(0)),
            (b"streamlocal-forward@openssh.com", String("/tmp/no-such-folder/socket")),
        ):
            kind, _ = await raw._make_global_request(request, place)
            assert kind == MSG_REQUEST_FAILURE
        assert not lab.events.named("session.start") + lab.events.named("port")
        await lab.events.wait_for("session.request_denied", 5)
        await node.close()
        await proxy.close()


async def test_a_session_outlives_the_minute_of_its_certificate(launcher_end: LauncherEnd) -> None:
    """The connection goes on when everything is decided anew; another session needs another factor."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.options(require_session_mfa=True)
        client = await _open(lab, _marked(lab, str(lab.node_host.host_id)), lab.node_port)
        session = await client.start(command="cat", on_output=lambda data, stderr: None)
        lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(minutes=5))
        lab.node.reconsider()
        with pytest.raises(TeleportError, match="expired"):
            await client.start(command="true", on_output=lambda data, stderr: None)
        session.write_eof()
        assert (await session.wait()).status == 0
        await client.close()


@pytest.mark.parametrize("ended", ["the login", "another"])
async def test_ending_the_certificate_of_the_login_ends_the_sessions_that_came_of_it(
    launcher_end: LauncherEnd, ended: str
) -> None:
    """T09: also when the certificate for the session is over, of which no list tells any more."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.options(require_session_mfa=True)
        host_id = str(lab.node_host.host_id)
        user = lab.authorities.user([ME], mfa_device=DEVICE, mfa_target=host_id, login_serial="4711")
        client = await _open(lab, user, lab.node_port)
        session = await client.start(command="cat", on_output=lambda data, stderr: None)
        lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(minutes=5))
        target = LockTarget(serial="4711" if ended == "the login" else "4712")
        lab.rules.locked = [Lock(metadata=Metadata(name="revoked"), spec=LockSpec(target=target))]
        lab.node.reconsider()
        if ended == "the login":
            await lab.events.wait_for("client.disconnect")
            assert (await session.wait()).status != 0
        else:
            session.write_eof()
            assert (await session.wait()).status == 0
        await client.close()


def made_lease(lab: Lab, user: LabUser, address: str = "127.0.0.1", minutes: int = 20) -> MfaLease:
    now, key = lab.node.clock.now(), user.key.public.fingerprint()
    end = now + timedelta(minutes=minutes)
    spec = MfaLeaseSpec(user="alice", key=key, client_address=address, device=DEVICE, granted=now, expires=end)
    return MfaLease(metadata=Metadata(name=lease_name("alice", key, address), expires=end), spec=spec)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_lease_opens_a_path_only_through_a_proxy_that_vouches(
    launcher_end: LauncherEnd, tmp_path: Path, path: PathToASession
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.options(require_session_mfa=True, mfa_lease_ttl=Duration.of(minutes=30))
        user, other = lab.authorities.user([ME]), lab.authorities.user([ME])
        lab.rules.leased = [made_lease(lab, other), made_lease(lab, user, "127.0.0.2")]
        proxied = not path.covers.isdisjoint({("proxy", "session"), ("proxy", "direct-tcpip")})
        refused = await path.attempt(lab, tmp_path, user)
        assert refused.status != 0
        assert ("A second factor is needed." if proxied else SECOND_FACTOR_DUE) in refused.stderr
        assert not lab.events.named("session.start")
        lab.rules.leased = [lease := made_lease(lab, user)]
        ran = await path.attempt(lab, tmp_path, user)
        if not proxied:
            assert SECOND_FACTOR_DUE in ran.stderr
            return
        assert (ran.status, b"in" in ran.stdout) == (0, True), ran.stderr
        (start,) = await lab.events.wait_for("session.start")
    assert isinstance(start, SessionStart)
    assert (start.with_mfa, start.mfa_lease) == (DEVICE, lease.name)


@pytest.mark.parametrize("how", ["taken away", "over", "over, and the options say so"])
async def test_what_a_lease_let_in_ends_when_it_is_taken_away(launcher_end: LauncherEnd, how: str) -> None:
    """Not when its time is over, unless `disconnect_expired_cert` says so; then nothing new begins either way."""
    async with running_lab(Launcher(launcher_end)) as lab:
        disconnect = how.endswith("say so")
        lab.rules.options(
            require_session_mfa=True, mfa_lease_ttl=Duration.of(minutes=30), disconnect_expired_cert=disconnect
        )
        user = lab.authorities.user([ME])
        lease = made_lease(lab, user)
        if disconnect:
            short = lab.node.clock.now() + timedelta(seconds=2)
            lease = MfaLease(metadata=lease.metadata, spec=replace_fields(lease.spec, expires=short))
        lab.rules.leased = [lease]
        proxy = await _open(lab, user, lab.proxy_port)
        client = await proxy.through("node1", 0, login=ME, check=lambda certificate: None)
        session = await client.start(command="cat", on_output=lambda data, stderr: None)
        lab.rules.leased = []
        if how != "taken away" and not disconnect:
            lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(minutes=25))
        if not disconnect:
            lab.node.lease_gone()
        if how == "over":
            with pytest.raises(TeleportError, match=SECOND_FACTOR_DUE):
                await client.start(command="true", on_output=lambda data, stderr: None)
            session.write_eof()
            assert (await session.wait()).status == 0
        else:
            assert (await session.wait()).status is None
            (event,) = await lab.events.wait_for("client.disconnect")
            wanted = "the certificate has expired" if disconnect else "no longer allowed: "
            assert getattr(event, "reason", "").startswith(wanted)
        await client.close()
