"""Certificates bound to the address of the login, with real clients that come from there and from elsewhere: through
the proxy, past it, to auth, and at a plain sshd."""

from __future__ import annotations

import getpass
import json
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from teleport.resources.values import HostPort
from teleport.testing.cluster import (
    BIN,
    LOOPBACK,
    NODE,
    Cluster,
    Person,
    Ran,
    at,
    free_port,
    plain_environment,
    run,
    wait_until,
)

ROLE = """
kind: role
version: v4
metadata: {{name: pinned}}
spec:
  options: {{pin_source_ip: yes}}
  allow: {{logins: ["{login}"], node_labels: {{"*": "*"}}}}
"""


@pytest.fixture(scope="module")
def pia(cluster: Cluster, login: str) -> Person:
    """Somebody whose role binds to the address, logged in from the usual one."""
    cluster.tctl("create", "-f", stdin=ROLE.format(login=login)).ok()
    pia = cluster.add_person("pia", roles=["pinned"])
    pia.log_in()
    return pia


@pytest.fixture(scope="module")
def elsewhere() -> str:
    """Another address of this machine, from which the loopback address is reached, too."""
    if ":" not in LOOPBACK:
        return "127.0.0.99"
    interfaces = Path("/proc/net/if_inet6")
    for line in interfaces.read_text().splitlines() if interfaces.exists() else []:
        digits, _, _, scope, *_ = line.split()
        if scope == "00":  # neither a link's nor the host's own
            return str(IPv6Address(int(digits, 16)))
    pytest.skip(f"this machine has no IPv6 address besides {LOOPBACK} that a client could come from")


def ssh_with(folder: Path, key: Path, certificate: Path, port: int, user: str, *words: str, source: str = "") -> Ran:
    """Plain ssh with a key and a certificate from an address of this machine."""
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    options += [f"CertificateFile={certificate}", *([f"BindAddress={source}"] if source else [])]
    flags = [word for option in options for word in ("-o", option)]
    arguments = ["-F", "none", *flags, "-i", str(key), "-p", str(port), f"{user}@{LOOPBACK}", *words]
    return run("ssh", *arguments, environment=plain_environment(folder))


def credentials(person: Person, folder: Path) -> tuple[Path, Path]:
    """Key and certificate of a login, where another machine may have copied them to."""
    (key,) = (path for path in person.home.glob(f".tsh/keys/*/{person.name}"))
    (certificate,) = person.home.glob(f".tsh/keys/*/{person.name}-ssh/*-cert.pub")
    copied = folder / "copied"
    copied.write_bytes(key.read_bytes())
    copied.chmod(0o600)
    (folder / "copied.pub").write_bytes(key.with_name(f"{key.name}.pub").read_bytes())
    return copied, certificate


def test_stolen_certificates_are_good_nowhere_else(
    cluster: Cluster, pia: Person, login: str, elsewhere: str, tmp_path: Path
) -> None:
    """At the proxy and at the node itself; told to whoever holds the key, and on record with the address."""
    assert pia.tsh("ssh", f"{login}@{NODE}", "echo", "bound").ok().stdout == "bound\n"
    assert pia.ssh(f"{login}@{NODE}.{cluster.name}", "echo", "plain").ok().stdout == "plain\n"
    assert NODE in pia.tsh("ls", "--format=names").ok().stdout.split()
    key, certificate = credentials(pia, tmp_path)
    there = ssh_with(tmp_path, key, certificate, cluster.node_port, login, "echo", "near", source=LOOPBACK)
    assert there.ok().stdout == "near\n"
    for port in (cluster.proxy_ssh_port, cluster.node_port):
        ran = ssh_with(tmp_path, key, certificate, port, login, "echo", "stolen", source=elsewhere)
        assert (ran.status, ran.stdout) == (255, "")
        assert f"holds only from {LOOPBACK}" in ran.stderr
    refused = cluster.tctl("audit", "ls", "--type=auth", "--user=pia", "--format=json").ok().stdout
    found = [json.loads(line) for line in refused.splitlines()]
    assert [HostPort.parse(event["addr.remote"]).host for event in found] == [elsewhere, elsewhere]


def test_the_administrator_signs_for_an_address(
    cluster: Cluster, pia: Person, login: str, elsewhere: str, tmp_path: Path
) -> None:
    out = tmp_path / "id"
    refused = cluster.tctl("auth", "sign", "--user=pia", f"--out={out}")
    assert (refused.status, "--source-ip" in refused.stderr, out.exists()) == (2, True, False)
    environment = plain_environment(tmp_path)
    for address, status in ((LOOPBACK, 0), (elsewhere, 255)):
        cluster.tctl("auth", "sign", "--user=pia", f"--out={out}", f"--source-ip={address}", "--overwrite").ok()
        proxy = f"--proxy={cluster.web_address},{cluster.proxy_ssh_port}"
        ran = run(BIN / "tsh", "-i", out, proxy, "ssh", f"{login}@{NODE}", "true", environment=environment)
        assert ran.status == status, ran.stderr


@pytest.fixture
def sshd_port(cluster: Cluster, tmp_path: Path) -> Iterator[int]:
    """A plain sshd that trusts the cluster's users."""
    line = cluster.tctl("auth", "export", "--type=user").ok().stdout.split()
    (tmp_path / "users.pub").write_text(" ".join(line[1:3]) + "\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "host")], check=True)
    port = free_port()
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress {at(port)}\nHostKey {tmp_path / 'host'}\nTrustedUserCAKeys {tmp_path / 'users.pub'}\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, b"")
        wait_until("sshd listens", lambda: b"listening" in next(lines), 10)
        yield port
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(getpass.getuser() != "root", reason="an sshd of one's own needs root")
def test_a_certificate_for_a_plain_sshd_is_held_to_its_address_there_and_taken_nowhere_else(
    cluster: Cluster, pia: Person, login: str, sshd_port: int, elsewhere: str, tmp_path: Path
) -> None:
    out = tmp_path / "pia"
    signed = ("auth", "sign", "--user=pia", "--format=openssh", f"--out={out}", "--overwrite", "--for-sshd")
    cluster.tctl(*signed, f"--source-ip={LOOPBACK}").ok()
    key, certificate = out, tmp_path / "pia-cert.pub"
    there = ssh_with(tmp_path, key, certificate, sshd_port, login, "echo", "sshd", source=LOOPBACK)
    assert there.ok().stdout == "sshd\n"
    stolen = ssh_with(tmp_path, key, certificate, sshd_port, login, "echo", "sshd", source=elsewhere)
    assert (stolen.status, stolen.stdout) == (255, "")
    ours = ssh_with(tmp_path, key, certificate, cluster.node_port, login, "echo", "node", source=LOOPBACK)
    assert (ours.status, "source-address" in ours.stderr) == (255, True)
