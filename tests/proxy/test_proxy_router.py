"""The proxy's SSH port: what leads to a node, and everything else refused and on record."""

from __future__ import annotations

import getpass
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest

from teleport.audit.events import AuthFailed, SessionRequestDenied
from teleport.daemon.assembly import node_beside
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.lab_certificates import CLUSTER, Authorities
from teleport.testing.running import run_client
from teleport.testing.ssh_lab import running_lab

ME = getpass.getuser()


@pytest.mark.parametrize("host", ["node1", "jump"])
async def test_ssh_reaches_a_node_by_subsystem_and_by_proxyjump(
    launcher_end: LauncherEnd, tmp_path: Path, host: str
) -> None:
    """Done-when 2: both ways of OpenSSH, with the exit status."""
    async with running_lab(Launcher(launcher_end)) as lab:
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        ran = await run_client("ssh", "-F", str(config), host, "cat; exit 3", stdin=b"\0\xff" * 1000)
        start = (await lab.events.wait_for("session.end"))[0]
    assert (ran.status, ran.stdout) == (3, b"\0\xff" * 1000)
    assert getattr(start, "addr_remote", "").startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "denied"),
    [
        (["proxy", "id"], "exec"),
        (["proxy"], "shell"),
        (["proxy", "-s", "sftp"], "subsystem sftp"),
        (["-W", "127.0.0.9:1", "proxy"], "proxy:127.0.0.9:1"),
        (["-W", "169.254.169.254:80", "proxy"], "proxy:169.254.169.254:80"),
        (["-N", "-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes", "proxy"], "global request tcpip-forward"),
        (["-A", "-tt", "proxy"], "session request pty-req"),
    ],
    ids=["exec", "shell", "sftp", "unregistered", "metadata", "remote forward", "terminal"],
)
async def test_the_proxy_serves_nothing_but_the_way_to_nodes(
    launcher_end: LauncherEnd, tmp_path: Path, arguments: list[str], denied: str
) -> None:
    """Threat T28: each attempt fails and is on record."""
    async with running_lab(Launcher(launcher_end)) as lab:
        user = lab.authorities.user([ME])
        config = lab.client_config(tmp_path, user, ME)
        ran = await run_client("ssh", "-F", str(config), *arguments)
        events = await lab.events.wait_for("session.request_denied")
    assert ran.status != 0
    assert ran.stdout == b""
    assert denied in {event.request for event in events if isinstance(event, SessionRequestDenied)}
    assert {getattr(event, "user", "") for event in events} == {"alice"}


async def test_an_unknown_host_is_refused_with_a_sentence(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The user of plain ssh sees why, and the nearest name."""
    async with running_lab(Launcher(launcher_end)) as lab:
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        ran = await run_client("ssh", "-F", str(config), "proxy", "-s", f"proxy:node2:22@{CLUSTER}")
    assert ran.status != 0
    assert "No node node2 is registered here for you. Did you mean node1?" in ran.stderr


@pytest.mark.parametrize("kind", ["host certificate", "other cluster", "no certificate", "expired", "pinned elsewhere"])
async def test_only_user_certificates_of_this_cluster_come_in(
    launcher_end: LauncherEnd, tmp_path: Path, kind: str
) -> None:
    """Threats T01, T02, T04: refused with a sentence where the key was proved, and on record."""
    async with running_lab(Launcher(launcher_end)) as lab:
        user = lab.authorities.user([ME])
        if kind == "other cluster":
            user = Authorities("elsewhere.test").user([ME])
        elif kind == "pinned elsewhere":
            user = lab.authorities.user([ME], source_ip="192.0.2.1")
        config = lab.client_config(tmp_path, user, ME)
        said = "Permission denied"
        if kind == "no certificate":
            (tmp_path / "id-cert.pub").unlink()
        elif kind == "host certificate":
            (tmp_path / "id").write_bytes(lab.node_host.key.openssh_pem().reveal())
            (tmp_path / "id.pub").write_text(lab.node_host.key.public.line() + "\n")
            (tmp_path / "id-cert.pub").write_text(lab.node_host.cert.line() + "\n")
        elif kind == "expired":
            moved = lab.authorities.clock.now()
            lab.router.clock = lab.node.clock = lab.authorities.clock = _Late(moved)  # type: ignore[assignment]
            said = "expired at"
        elif kind == "pinned elsewhere":
            said = "holds only from 192.0.2.1"
        elif kind == "other cluster":
            said = "not signed by a user authority that is trusted here"
        ran = await run_client("ssh", "-F", str(config), "-W", "node1:22", "proxy")
        if kind != "host certificate":  # OpenSSH itself does not offer one
            event = (await lab.events.wait_for("auth"))[0]
            assert isinstance(event, AuthFailed)
            assert event.code == "T3007W"
            assert event.error
    assert ran.status == 255
    assert said in ran.stderr


class _Late:
    """A clock two hours on."""

    def __init__(self, now: object) -> None:
        self._now = now

    def now(self) -> object:
        from datetime import datetime, timedelta

        assert isinstance(self._now, datetime)
        return self._now + timedelta(hours=2)


async def test_a_node_of_the_same_process_is_reached_without_a_socket(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """With the vouch, the certificate and the permit that it asks for over the network; many bytes, both ways."""
    sent = random.Random(1).randbytes(3_000_000)
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.router.dialer.beside = lambda host_id: lab.node.accepted if host_id == str(lab.node_host.host_id) else None
        lab.directory.registered[:] = [
            replace(node, address="127.0.0.1:1") for node in lab.directory.registered
        ]  # where nobody listens
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        ran = await run_client("ssh", "-F", str(config), "node1", "cat; exit 3", stdin=sent)
        end = (await lab.events.wait_for("session.end"))[0]
        assert (ran.status, ran.stdout) == (3, sent)
        assert getattr(end, "addr_remote", "").startswith("127.0.0.1:")
        assert not getattr(end, "addr_remote", "").endswith(":0"), "the client's address, which the proxy vouched for"
        lab.rules.role = type(lab.rules)(["somebody-else"]).role
        refused = await run_client("ssh", "-F", str(config), "node1", "true")
    assert refused.status == 255
    assert lab.node.open == 0


async def test_a_node_of_the_same_process_that_is_leaving_is_dialled(launcher_end: LauncherEnd) -> None:
    """Its listener is another process's by then."""
    async with running_lab(Launcher(launcher_end)) as lab:
        beside = node_beside(str(lab.node_host.host_id), lab.node)
        assert beside(str(lab.node_host.host_id)) == lab.node.accepted
        assert beside(str(lab.proxy_host.host_id)) is None
        lab.node.pause()
        assert beside(str(lab.node_host.host_id)) is None
        await lab.node.resume()
        assert beside(str(lab.node_host.host_id)) == lab.node.accepted


class Records:
    """What says whether the proxy records."""

    def __init__(self, everything: bool) -> None:
        self.everything = everything


@pytest.mark.parametrize("records", [True, False, None])
async def test_a_client_may_ask_whether_the_proxy_records(launcher_end: LauncherEnd, records: bool | None) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.router.recording = None if records is None else cast(Any, Records(records))
        user = lab.authorities.user([ME])
        key = asyncssh.import_private_key(user.key.openssh_pem().reveal())
        certificate = asyncssh.import_certificate(user.certificate.line())
        async with asyncssh.connect(
            "127.0.0.1", lab.proxy_port, config=None, username=ME, client_keys=[(key, certificate)], known_hosts=None
        ) as connection:
            kind, packet = await connection._make_global_request(b"recording-proxy@teleport.com")
            assert (kind, packet.get_remaining_payload()) == (81, b"true" if records else b"false")
    assert not lab.events.named("session.request_denied")
