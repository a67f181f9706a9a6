"""The reference: `ssh -J` through two OpenSSH servers, set up as a careful administrator would for a fair race.

Users and hosts prove themselves with Ed25519 certificates of two authorities, names are not looked up, PAM is off, and
the cipher of the bulk benchmarks is the one that our side uses.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.programs import BenchmarkFailed, answers, free_ports, run, server, tail, wait_until


@dataclass(frozen=True, slots=True)
class Servers:
    """Two servers; `ssh -F config target` runs through the first to the second."""

    config: Path
    target: str = "target"


def _keys(folder: Path, login: str) -> None:
    for name in ("user_ca", "host_ca", "host", "id"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name, "-C", name])
    sign = ["ssh-keygen", "-q", "-V", "-1m:+1d", "-I", "bench"]
    run([*sign, "-s", folder / "host_ca", "-h", "-n", "127.0.0.1", folder / "host.pub"])
    run([*sign, "-s", folder / "user_ca", "-n", login, folder / "id.pub"])


def _server_config(folder: Path, name: str, port: int) -> Path:
    path = folder / f"sshd_{name}"
    path.write_text(
        f"""ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
HostCertificate {folder}/host-cert.pub
TrustedUserCAKeys {folder}/user_ca.pub
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
PidFile none
MaxStartups 100:30:200
"""
    )
    return path


@contextlib.contextmanager
def two_servers(folder: Path, login: str) -> Iterator[Servers]:
    """Runs both, for `login`, until the context ends. Raises `BenchmarkFailed` when there is no sshd here."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise BenchmarkFailed("there is no sshd here to compare with (Debian: openssh-server)")
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    _keys(folder, login)
    ports = dict(zip(("jump", "target"), free_ports(2), strict=True))
    (folder / "known_hosts").write_text(f"@cert-authority * {(folder / 'host_ca.pub').read_text()}")
    common = f"""  HostName 127.0.0.1
  User {login}
  IdentityFile {folder}/id
  CertificateFile {folder}/id-cert.pub
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  Ciphers aes128-gcm@openssh.com
  LogLevel ERROR
"""
    config = folder / "config"
    config.write_text(
        f"Host jump\n  Port {ports['jump']}\n{common}\n"
        f"Host target\n  Port {ports['target']}\n  ProxyJump jump\n{common}\n"
    )
    with contextlib.ExitStack() as stack:
        for name, port in ports.items():
            log = folder / f"{name}.log"
            stack.enter_context(server([program, "-D", "-e", "-f", _server_config(folder, name, port)], log))
        for name, port in ports.items():
            wait_until(lambda port=port: answers(port), f"sshd: {tail(folder / f'{name}.log')}", seconds=10)  # type: ignore[misc]
        yield Servers(config)
