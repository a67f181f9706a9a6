"""Leases of second factors with OpenSSH's client: asked once, for one key and address; nothing is loosened by it."""

from __future__ import annotations

import asyncio
import getpass
import subprocess
import sys
from pathlib import Path

import pytest
from tests.security.test_security_session_mfa import made_lease

from teleport.audit.events import AuthFailed
from teleport.errors import SECOND_FACTOR_DUE
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.pki.keys import PublicKey
from teleport.pki.sshformat import parse_certificate_line
from teleport.resources.values import Duration
from teleport.testing.lab_certificates import LabUser
from teleport.testing.lab_rules import CODE
from teleport.testing.running import Ran, run_client
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()


def leasing(lab: Lab) -> None:
    """The one role asks for a second factor for each session, and gives leases."""
    lab.rules.options(require_session_mfa=True, mfa_lease_ttl=Duration.of(minutes=30))


async def ssh(lab: Lab, folder: Path, user: LabUser, *arguments: str, code: str | None = CODE) -> Ran:
    """`ssh -F`; a program answers its questions, and notes that it was asked; None: with BatchMode."""
    config = lab.client_config(folder, user, ME)
    helper = folder / "askpass"
    helper.write_text(f"#!{sys.executable}\nopen({str(folder / 'asked')!r}, 'a').write('x')\nprint({code!r})\n")
    helper.chmod(0o700)
    if code is not None:
        config.write_text(config.read_text().replace("BatchMode yes", "NumberOfPasswordPrompts 1"))
    return await run_client(
        "env", f"SSH_ASKPASS={helper}", "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0", "ssh", "-F", str(config), *arguments
    )  # fmt: skip


def asked(folder: Path) -> int:
    """How often a person was asked."""
    noted = folder / "asked"
    return len(noted.read_text()) if noted.exists() else 0


@pytest.mark.parametrize("host", ["node1", "jump"])
async def test_ssh_asks_once_for_a_key_and_an_address(launcher_end: LauncherEnd, tmp_path: Path, host: str) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        leasing(lab)
        user, other = lab.authorities.user([ME]), lab.authorities.user([ME])
        for _ in range(3):
            ran = await ssh(lab, tmp_path, user, host, "echo in")
            assert (ran.status, ran.stdout) == (0, b"in\n"), ran.stderr
        assert asked(tmp_path) == 1
        if host == "node1":
            config = lab.client_config(tmp_path, user, ME)
            config.write_text(config.read_text().replace("Host proxy\n", "Host proxy\n  BindAddress 127.0.0.2\n"))
            there = await run_client("ssh", "-F", str(config), "node1", "echo in")  # BatchMode
            assert (there.status, there.stdout) == (255, b"")
            assert "A second factor is needed." in there.stderr
        again = await ssh(lab, tmp_path, other, host, "echo in")
        assert (again.status, asked(tmp_path)) == (0, 2)
        starts = await lab.events.wait_for("session.start", 4)
    assert {getattr(event, "mfa_lease", "") for event in starts} == {lease.name for lease in lab.rules.leased}


async def test_with_batch_mode_nothing_opens_and_the_banner_says_what_to_run(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        leasing(lab)
        ran = await ssh(lab, tmp_path, lab.authorities.user([ME]), "node1", "echo in", code=None)
        (event,) = await lab.events.wait_for("auth")
    assert (ran.status, ran.stdout) == (255, b"")
    assert "with BatchMode it cannot: run ssh without BatchMode first, or tsh ssh." in ran.stderr
    assert isinstance(event, AuthFailed)
    assert event.error == "mfa_required: a second factor was asked for and not given"
    assert event.user == "alice"
    assert lab.leases.asked == []


async def test_a_wrong_code_opens_nothing_and_is_on_record(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        leasing(lab)
        ran = await ssh(lab, tmp_path, lab.authorities.user([ME]), "node1", "echo in", code="000000")
        (event,) = await lab.events.wait_for("auth")
    assert (ran.status, ran.stdout) == (255, b"")
    assert "The code is wrong or was used before." in ran.stderr
    assert isinstance(event, AuthFailed)
    assert event.error == "second factor: the code is wrong or was used before"
    assert (lab.leases.asked, lab.rules.leased) == (["000000"], [])


async def test_who_gave_the_code_gets_nowhere_while_no_lease_is_in_view(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """A proxy that lets somebody through its door opens no target by that; nor does a node whose view was cut off."""
    async with running_lab(Launcher(launcher_end)) as lab:
        leasing(lab)
        lab.leases.hold_back = True
        ran = await ssh(lab, tmp_path, lab.authorities.user([ME]), "node1", "echo in")
        assert (ran.status, ran.stdout) == (255, b"")
        assert SECOND_FACTOR_DUE in ran.stderr
        lab.leases.hold_back = False
        lab.directory.rules = None  # the proxy believes that nothing is due; the node does not see the lease
        lab.rules.leases = lambda *_: []  # type: ignore[method-assign]
        ran = await ssh(lab, tmp_path, lab.authorities.user([ME]), "node1", "echo in")
        assert (ran.status, ran.stdout) == (255, b"")
        assert SECOND_FACTOR_DUE in ran.stderr
        assert not lab.events.named("session.start")


async def test_a_lease_that_is_on_its_way_is_waited_for(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The proxy has it in view before the node: the first connection must not fail by that."""
    async with running_lab(Launcher(launcher_end)) as lab:
        leasing(lab)
        late = iter([True, True])

        def leases(*_: str) -> list[object]:
            if next(late, None):
                asyncio.get_running_loop().call_later(0.1, lab.node.lease_came)
                return []
            return list(lab.rules.leased)

        lab.directory.rules = None
        lab.rules.leases = leases  # type: ignore[assignment,method-assign]
        user = lab.authorities.user([ME])
        lab.leases.lifetime = lambda *_: None  # type: ignore[method-assign]
        lab.rules.leased = [made_lease(lab, user)]
        ran = await ssh(lab, tmp_path, user, "node1", "echo in", code=None)
    assert (ran.status, ran.stdout) == (0, b"in\n"), ran.stderr


@pytest.mark.parametrize("approved", [True, False])
async def test_a_link_is_shown_and_enter_goes_on_once_it_was_approved(
    launcher_end: LauncherEnd, tmp_path: Path, approved: bool
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        leasing(lab)
        lab.leases.link = "https://proxy.example.com/web/lease/secret"
        user = lab.authorities.user([ME])
        lab.leases.approve = made_lease(lab, user) if approved else None
        ran = await ssh(lab, tmp_path, user, "node1", "echo in", code="")
    assert "approve with your security key at https://proxy.example.com/web/lease/secret" in ran.stderr
    assert (ran.status, ran.stdout) == ((0, b"in\n") if approved else (255, b"")), ran.stderr
    assert lab.leases.asked == []
    if not approved:
        assert "Nobody approved it at the link." in ran.stderr


def forced(lab: Lab, folder: Path, command: str) -> LabUser:
    """A user whose certificate `ssh-keygen` restricted to one command."""
    user = lab.authorities.user([ME])
    path = user.write(folder)
    authority = folder / "authority"
    authority.write_bytes(lab.authorities.user_key.openssh_pem().reveal())
    authority.chmod(0o600)
    (folder / "id-cert.pub").unlink()
    subprocess.run(
        [
            "ssh-keygen", "-q", "-s", str(authority), "-I", "alice", "-n", ME, "-V", "-1m:+1h",
            "-O", f"force-command={command}", "-O", 'extension:teleport-roles={"version":"v1","roles":["access"]}',
            f"{path}.pub",
        ],
        check=True,
    )  # fmt: skip
    certificate = parse_certificate_line((folder / "id-cert.pub").read_text())
    assert isinstance(certificate.body.public_key, PublicKey)
    return LabUser(user.key, certificate)


@pytest.mark.parametrize(
    ("way", "due"),
    [(["node1"], True), (["jump"], True), (["-tt", "node1"], True), (["node1"], False)],
    ids=["subsystem", "ProxyJump", "terminal", "none due"],
)
async def test_a_forced_command_stays_forced(
    launcher_end: LauncherEnd, tmp_path: Path, way: list[str], due: bool
) -> None:
    """Trap T-1, T05: through the second factor, for a command, a shell and with a terminal."""
    async with running_lab(Launcher(launcher_end)) as lab:
        if due:
            leasing(lab)
        user = forced(lab, tmp_path, 'echo "forced:$SSH_ORIGINAL_COMMAND"')
        command = await ssh(lab, tmp_path, user, *way, "id; echo free")
        shell = await ssh(lab, tmp_path, user, *way)
        starts = await lab.events.wait_for("session.start", 2)
    assert (command.stdout.strip(), command.status) == (b"forced:id; echo free", 0), command.stderr
    assert (shell.stdout.strip(), shell.status) == (b"forced:", 0), shell.stderr
    assert asked(tmp_path) == (1 if due else 0)
    for event in starts:
        assert getattr(event, "initial_command", []) == ['echo "forced:$SSH_ORIGINAL_COMMAND"']
