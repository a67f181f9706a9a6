"""Our side: daemons of a throw-away cluster, a user with certificates, and client configurations that reach its node.

Everything goes through the commands that operators use.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.programs import BIN, BenchmarkFailed, free_ports, run, server, tail, wait_until

NAME = "bench.test"
NODE = "bench-node"
USER = "bench"


@dataclass(frozen=True, slots=True)
class Files:
    """A daemon's configuration and data, on ports of its own."""

    config: Path
    data_dir: Path
    diag: int
    auth: int
    ssh: int
    web: int
    log: Path


def all_in_one(folder: Path) -> Files:
    """Writes the configuration of an auth, proxy and node in one daemon."""
    folder.mkdir(parents=True)
    auth, node, ssh, web, diag = free_ports(5)
    files = Files(folder / "teleport.yaml", folder / "data", diag, auth, ssh, web, folder / "daemon.log")
    files.config.write_text(
        f"""teleport:
  nodename: {NODE}
  data_dir: {files.data_dir}
  auth_servers: ["127.0.0.1:{auth}"]
  diag_addr: 127.0.0.1:{diag}
auth_service:
  enabled: yes
  cluster_name: {NAME}
  listen_addr: 127.0.0.1:{auth}
  authentication:
    type: local
    second_factor: otp
proxy_service:
  enabled: yes
  listen_addr: 127.0.0.1:{ssh}
  web_listen_addr: 127.0.0.1:{web}
  tunnel_listen_addr: 127.0.0.1:0
  public_addr: localhost:{web}
  ssh_public_addr: localhost:{ssh}
ssh_service:
  enabled: yes
  listen_addr: 127.0.0.1:{node}
  labels:
    env: bench
"""
    )
    files.config.chmod(0o600)
    return files


def node_only(folder: Path, cluster: Files) -> Files:
    """Writes the configuration of a second host, which joins `cluster` with a token of its own."""
    folder.mkdir(parents=True)
    node, diag = free_ports(2)
    token = folder / "token"
    tctl(cluster, "tokens", "add", "--type=node", f"--out={token}")
    files = Files(folder / "teleport.yaml", folder / "data", diag, cluster.auth, 0, 0, folder / "daemon.log")
    files.config.write_text(
        f"""teleport:
  nodename: idle
  data_dir: {files.data_dir}
  auth_servers: ["127.0.0.1:{cluster.auth}"]
  auth_token: {token}
  ca_pin: "{ca_pin(cluster)}"
  diag_addr: 127.0.0.1:{diag}
auth_service:
  enabled: no
proxy_service:
  enabled: no
ssh_service:
  enabled: yes
  listen_addr: 127.0.0.1:{node}
"""
    )
    files.config.chmod(0o600)
    return files


def ready(port: int) -> bool:
    """What `/readyz` says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def daemon(files: Files) -> Iterator[tuple[int, float]]:
    """Runs `teleport start` until the context ends; yields its process id and the seconds until it was ready."""
    began = time.perf_counter()
    with server([BIN / "teleport", "start", f"--config={files.config}"], files.log) as process:

        def reached() -> bool:
            if process.poll() is not None:
                raise BenchmarkFailed(f"teleport start ended with {process.returncode}: {tail(files.log)}")
            return ready(files.diag)

        wait_until(reached, f"the daemon: {files.config}", every=0.005)
        yield process.pid, time.perf_counter() - began


def tctl(files: Files, *arguments: str) -> str:
    return run([BIN / "tctl", f"--config={files.config}", *arguments])


def ca_pin(files: Files) -> str:
    for word in tctl(files, "status").split():
        if word.startswith("sha256:"):
            return word
    raise BenchmarkFailed("tctl status prints no CA pin")


@dataclass(frozen=True, slots=True)
class Clients:
    """How clients reach the node: `ssh -F config` to the host `subsystem` or `jump`, `tsh` with its arguments."""

    config: Path
    tsh: tuple[str, ...]
    subsystem: str = "subsystem"
    jump: str = "jump"


def clients(files: Files, folder: Path, login: str) -> Clients:
    """Makes the user, certificates for it, and an OpenSSH configuration."""
    folder.mkdir()
    tctl(files, "users", "add", USER, "--roles=access", f"--logins={login}")
    identity = folder / "id"
    tctl(files, "auth", "sign", f"--user={USER}", "--format=openssh", f"--out={identity}")
    tctl(files, "auth", "sign", f"--user={USER}", "--format=file", f"--out={folder / 'identity.pem'}")
    authority = tctl(files, "auth", "export", "--type=host")
    (folder / "known_hosts").write_text(f"@cert-authority * {_key_of(authority)}\n")
    common = f"""  User {login}
  IdentityFile {identity}
  CertificateFile {identity}-cert.pub
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
        f"Host proxy\n  HostName 127.0.0.1\n  Port {files.ssh}\n{common}\n"
        f"Host jump\n  HostName {NODE}\n  ProxyJump proxy\n{common}\n"
        f"Host subsystem\n  HostName {NODE}\n  ProxyCommand ssh -F {config} proxy -s proxy:%h:%p@{NAME}\n{common}\n"
    )
    tsh = (str(BIN / "tsh"), f"--identity={folder / 'identity.pem'}", f"--proxy=localhost:{files.web},{files.ssh}")
    return Clients(config, (*tsh, "ssh", f"{login}@{NODE}"))


def _key_of(exported: str) -> str:
    """Key type and key from a known_hosts line."""
    words = exported.split()
    for index, word in enumerate(words):
        if word.startswith(("ssh-", "ecdsa-")):
            return " ".join(words[index : index + 2])
    raise BenchmarkFailed(f"tctl auth export printed no key: {exported[:200]}")


def uploads_done(files: Files) -> None:
    """Waits until no recording is open or waiting to be sent."""
    spool = files.data_dir / "log" / "upload"
    wait_until(lambda: not spool.exists() or not any(spool.rglob("*.rec*")), "recordings to be sent", seconds=120)


def forget_recordings(files: Files) -> None:
    """Deletes what the cluster keeps of its sessions: random bytes do not compress, and each turn adds as many."""
    uploads_done(files)
    for path in (files.data_dir / "log").rglob("*.rec"):
        path.unlink(missing_ok=True)
    os.sync()
