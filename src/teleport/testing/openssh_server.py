"""OpenSSH's own server on loopback, for clients of ours: certificates of a lab's authority, no look-ups, no PAM."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from teleport.testing.lab_certificates import LabHost
from teleport.testing.loopback import free_port

SSHD = "/usr/sbin/sshd"


@contextlib.contextmanager
def running_sshd(folder: Path, user_authority: str, host: LabHost, *settings: str) -> Iterator[int]:
    """Gives the port. `settings` are lines of sshd_config, and win over those here."""
    (folder / "host_key").write_bytes(host.host_key.private_key)
    (folder / "host_key").chmod(0o600)
    (folder / "host_key-cert.pub").write_text(host.host_key.certificate + "\n")
    (folder / "user_ca.pub").write_text(user_authority + "\n")
    port = free_port()
    lines = [
        *settings,
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder}/host_key",
        f"HostCertificate {folder}/host_key-cert.pub",
        f"TrustedUserCAKeys {folder}/user_ca.pub",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "UseDNS no",
        "LogLevel VERBOSE",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "StreamLocalBindUnlink yes",
    ]
    if not any(line.startswith("Subsystem sftp ") for line in settings):
        lines.append("Subsystem sftp /usr/lib/openssh/sftp-server")
    config = folder / "sshd_config"
    config.write_text("\n".join(lines) + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
        try:
            _wait_listening(process, port, folder / "sshd.log")
            yield port
        finally:
            process.terminate()
            process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 15
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"sshd does not run: {log.read_text()}")
        time.sleep(0.02)
