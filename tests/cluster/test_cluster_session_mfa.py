"""A second factor for each session with real daemons, tsh and OpenSSH."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.cluster.cluster_certificates import Mint, user_authority
from tests.cluster.cluster_shells import open_shell

from teleport.pki.sshformat import value
from teleport.testing.cluster import LOOPBACK, NODE, PUBLIC, Cluster, Person
from teleport.testing.processes import BIN
from teleport.testing.terminal import Terminal

ROLE = """kind: role
version: v4
metadata: {{name: {name}}}
spec:
  options: {{{options}}}
  allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}
"""
DUE = "This session needs a second factor."


def careful(cluster: Cluster, login: str, name: str, *roles: str, **options: str) -> Person:
    """Somebody with a role that asks for a second factor; logged in."""
    given = ", ".join(f"{key}: {value}" for key, value in {"require_session_mfa": "yes", **options}.items())
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(name=f"role-of-{name}", options=given, login=login)).ok()
    person = cluster.add_person(name, roles=[f"role-of-{name}", *roles], logins=[])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def mona(cluster: Cluster, login: str) -> Person:
    return careful(cluster, login, "mona", disconnect_expired_cert="yes")


def test_tsh_asks_for_the_code_by_itself_and_goes_on(cluster: Cluster, mona: Person, login: str) -> None:
    assert mona.tsh("ls", "--format=names").ok().stdout.split() == [NODE]
    words = [str(BIN / "tsh"), "ssh", f"{login}@{NODE}", "echo", "in:$((40+2))"]
    with Terminal(words, mona.environment, mona.home) as terminal:
        terminal.expect("the session on alpha needs a second factor")
        terminal.expect("One-time code: ")
        terminal.type(f"{mona.code()}\n")
        terminal.expect("in:42")
        assert terminal.ended() == 0
    proved = cluster.wait_event("session.mfa", user="mona", success=True)
    start = cluster.wait_event("session.start", user="mona")
    assert proved["purpose"] == "session"
    assert proved["server_id"] == start["server_id"]
    assert start["with_mfa"] == proved["mfa_device"]["mfa_device_uuid"]
    assert "mfa_lease" not in start
    listed = cluster.tctl("certs", "ls", "--format=json").json()
    assert [one["serial"] for one in listed if one["subject"] == "mona" and one["serial"] == start["cert_serial"]]


def test_where_nobody_can_be_asked_the_refusal_says_what_to_run(cluster: Cluster, mona: Person, login: str) -> None:
    done = mona.ssh(f"{login}@{NODE}.{cluster.name}", "true")
    assert done.status == 255
    assert f"{DUE} Next: tsh ssh asks for it." in done.stderr
    with_tsh = mona.tsh("ssh", f"{login}@{NODE}", "true")
    assert with_tsh.status == 255
    assert "there is nobody to ask for: One-time code" in with_tsh.stderr
    assert "hint: run it in a terminal" in with_tsh.stderr
    denied = cluster.wait_event("session.request_denied", user="mona")
    assert denied["reason"].startswith("mfa_required: role 'role-of-mona' requires MFA for each session")


def test_a_wrong_code_opens_nothing(cluster: Cluster, mona: Person, login: str) -> None:
    with Terminal([str(BIN / "tsh"), "ssh", f"{login}@{NODE}", "echo", "in"], mona.environment, mona.home) as terminal:
        terminal.expect("One-time code: ")
        terminal.type("000000\n")
        terminal.expect("the second factor is wrong, was used before, or came too late")
        assert terminal.ended() == 255
    failed = cluster.wait_event("session.mfa", user="mona", success=False)
    assert failed["code"] == "T9140W"


def test_files_and_commands_on_many_hosts_ask_too(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """Threat T35: no command of tsh is a way around; each goes on by itself once the factor was given."""
    mara = careful(cluster, login, "mara")
    (tmp_path / "file").write_bytes(b"content")
    words = [str(BIN / "tsh"), "scp", str(tmp_path / "file"), f"{login}@{NODE}:{tmp_path}/copy"]
    unasked = mara.tsh(*words[1:])
    assert (unasked.status == 0, (tmp_path / "copy").exists()) == (False, False)
    assert "there is nobody to ask for: One-time code" in unasked.stderr
    with Terminal(words, mara.environment, mara.home) as terminal:
        terminal.expect("the session on alpha needs a second factor")
        terminal.expect("One-time code: ")
        assert not (tmp_path / "copy").exists()
        terminal.type(f"{mara.code()}\n")
        terminal.expect("1 file, 0.0 MB")
        assert terminal.ended() == 0
    assert (tmp_path / "copy").read_bytes() == b"content"
    many = ["ssh", f"{login}@env=test", "echo in:$((40+2))"]
    refused = mara.tsh(*many)
    assert refused.status == 255
    assert f"alpha ({DUE}" in refused.stderr
    with Terminal([str(BIN / "tsh"), *many], mara.environment, mara.home) as terminal:
        terminal.expect("the session on alpha needs a second factor")
        terminal.expect("One-time code: ")
        terminal.type(f"{mara.code()}\n")
        terminal.expect(r"alpha\S* \| in:42")
        terminal.expect("1 host: 1 done")
        assert terminal.ended() == 0


def test_a_recording_is_played_once_a_second_factor_was_given(cluster: Cluster, alice: Person, login: str) -> None:
    """Calls that reveal something ask as sessions do, and the command goes on by itself."""
    rita = careful(cluster, login, "rita", "auditor")
    alice.tsh("ssh", f"{login}@{NODE}", "echo", "for-rita").ok()
    sid = cluster.wait_event("session.end", initial_command=["echo for-rita"])["sid"]
    cluster.wait_event("session.upload", sid=sid)
    unasked = rita.tsh("play", sid, "--format=text")
    assert unasked.status == 2
    assert "there is nobody to ask for: One-time code" in unasked.stderr
    with Terminal([str(BIN / "tsh"), "play", sid, "--format=text"], rita.environment) as terminal:
        terminal.expect("One-time code: ")
        terminal.type(f"{rita.code()}\n")
        terminal.expect("for-rita")
        assert terminal.ended() == 0
    assert cluster.wait_event("session.mfa", user="rita", purpose="api")["success"]


# leases of plain ssh


@pytest.fixture(scope="module")
def lena(cluster: Cluster, login: str) -> Person:
    return careful(cluster, login, "lena", mfa_lease_ttl="10m")


def from_address(person: Person, address: str) -> list[str]:
    """What makes both of `ssh`'s hops begin at an address."""
    command = next(
        line.split(None, 1)[1] for line in person.ssh_config.read_text().splitlines() if "ProxyCommand" in line
    )
    return ["-o", f"ProxyCommand={command.replace('ssh ', f'ssh -o BatchMode=yes -o BindAddress={address} ', 1)}"]


def test_plain_ssh_asks_once_for_a_lease_and_again_from_another_address(
    cluster: Cluster, lena: Person, login: str
) -> None:
    """A loop of ssh, then the lease is taken away: what rests on it ends, and ssh is asked again."""
    where = f"{login}@{NODE}.{cluster.name}"
    refused = lena.ssh(*from_address(lena, LOOPBACK), where, "true")
    assert refused.status == 255
    assert "A second factor is needed. ssh asks for it now, once for 10m" in refused.stderr
    words = [word for word in lena.ssh_arguments(where, "echo in:$((40+2))") if word != "BatchMode=yes"]
    words.remove("-o")
    with Terminal(words, lena.environment, lena.home) as terminal:
        terminal.expect("One-time code: ")
        terminal.type(f"{lena.code()}\n")
        terminal.expect("in:42")
        assert terminal.ended() == 0
    for _ in range(3):
        assert lena.ssh(*from_address(lena, LOOPBACK), where, "echo in").ok().stdout == "in\n"
    assert len(cluster.events("--type=session.mfa", "--user=lena")) == 1
    if LOOPBACK == "127.0.0.1":
        elsewhere = lena.ssh(*from_address(lena, "127.0.0.2"), where, "true")
        assert (elsewhere.status, "A second factor is needed." in elsewhere.stderr) == (255, True)
    (lease,) = cluster.tctl("mfa", "leases", "ls", "--user=lena", "--format=json").json()
    assert lease["spec"]["client_address"] == LOOPBACK
    assert "lena" in cluster.tctl("mfa", "leases", "ls").ok().stdout
    starts = cluster.events("--type=session.start", "--user=lena")
    assert {event["mfa_lease"] for event in starts} == {lease["metadata"]["name"]}
    with open_shell(lena, login) as shell:
        cluster.tctl("mfa", "leases", "rm", lease["metadata"]["name"]).ok()
        begun = time.monotonic()
        assert DUE in shell.ends()
        print(f"the session ended {time.monotonic() - begun:.2f} s after its lease was taken away")
    cluster.wait_event("mfa_lease.deleted", lease_user="lena")
    assert lena.ssh(*from_address(lena, LOOPBACK), where, "true").status == 255


def test_a_forced_command_stays_forced_through_the_second_factor(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """Trap T-1: what the certificate restricts is not lost with the second step."""
    frida = careful(cluster, login, "frida", mfa_lease_ttl="10m")
    forced = {"force-command": value('echo "forced:$SSH_ORIGINAL_COMMAND"')}
    mint = Mint(cluster, user_authority(cluster), tmp_path)
    held = mint.identity("frida", login, roles=["role-of-frida"], critical=forced)
    where, free = f"{NODE}.{cluster.name}", "id; echo free"
    assert held.ssh(where, free).status == 255
    options = ["-F", "none", "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={tmp_path}/frida/known_hosts"]
    options += ["-i", str(held.key), "-o", f"CertificateFile={held.key}-cert.pub", "-l", login]
    inner = " ".join(["ssh", *options, "-p", str(cluster.proxy_ssh_port), PUBLIC, "-s", "proxy:%h:%p"])
    with Terminal(["ssh", *options, "-o", f"ProxyCommand={inner}", where, free], frida.environment) as terminal:
        terminal.expect("One-time code: ")
        terminal.type(f"{frida.code()}\n")
        terminal.expect("forced:id; echo free")
        assert terminal.ended() == 0
    done = held.ssh(where, free).ok()
    assert done.stdout == "forced:id; echo free\n"
    starts = cluster.events("--type=session.start", "--user=frida")
    assert [event["initial_command"] for event in starts] == [['echo "forced:$SSH_ORIGINAL_COMMAND"']] * 2
