"""A cluster of one auth and one proxy, each a daemon of its own, and as many hosts as are asked for.

Certificates are made here, with the authorities as auth's own storage has them: a second process of that storage, as
during a restart. It saves ten thousand joins, which is not what is measured.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import cluster
from bench.cluster import Files
from bench.programs import BIN, BenchmarkFailed, environment, free_ports, tail, wait_until
from bench.scale.values import Host

NAME: Final = "bench.test"
USER: Final = "bench"
LOGIN: Final = "nobody"
AT_ONCE: Final = 500  # records in one transaction


class Daemon:
    """`teleport start`, that can be killed and started again."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.files.log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(BIN / "teleport"), "start", f"--config={self.files.config}"],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process = self._process

        def reached() -> bool:
            if process.poll() is not None:
                raise BenchmarkFailed(f"teleport start ended with {process.returncode}: {tail(self.files.log)}")
            return cluster.ready(self.files.diag)

        wait_until(reached, f"the daemon: {self.files.config}", seconds=180)

    def kill(self) -> None:
        """As a power cut ends it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The two daemons' files, and the port of the proxy's tunnels."""

    auth: Files
    proxy: Files
    tunnel: int


def write_files(folder: Path) -> Cluster:
    """Both configurations. The ports are kept, so that a proxy that is started again is found."""
    auth_port, auth_diag, ssh, web, tunnel, proxy_diag = free_ports(6)
    made = []
    for name, diag in (("auth", auth_diag), ("proxy", proxy_diag)):
        place = folder / name
        place.mkdir(parents=True)
        made.append(Files(place / "teleport.yaml", place / "data", diag, auth_port, ssh, web, place / "daemon.log"))
    auth, proxy = made
    auth.config.write_text(
        f"""teleport:
  nodename: auth
  data_dir: {auth.data_dir}
  diag_addr: 127.0.0.1:{auth.diag}
auth_service:
  enabled: yes
  cluster_name: {NAME}
  listen_addr: 127.0.0.1:{auth_port}
proxy_service:
  enabled: no
ssh_service:
  enabled: no
"""
    )
    auth.config.chmod(0o600)
    return Cluster(auth, proxy, tunnel)


def write_proxy(made: Cluster) -> None:
    """The proxy's configuration, with a token from auth, which runs."""
    proxy, token = made.proxy, made.proxy.config.parent / "token"
    cluster.tctl(made.auth, "tokens", "add", "--type=proxy", f"--out={token}")
    proxy.config.write_text(
        f"""teleport:
  nodename: proxy
  data_dir: {proxy.data_dir}
  auth_servers: ["127.0.0.1:{made.auth.auth}"]
  auth_token: {token}
  ca_pin: "{cluster.ca_pin(made.auth)}"
  diag_addr: 127.0.0.1:{proxy.diag}
auth_service:
  enabled: no
proxy_service:
  enabled: yes
  listen_addr: 127.0.0.1:{proxy.ssh}
  web_listen_addr: 127.0.0.1:{proxy.web}
  tunnel_listen_addr: 127.0.0.1:{made.tunnel}
  public_addr: localhost:{proxy.web}
  ssh_public_addr: localhost:{proxy.ssh}
  tunnel_public_addr: 127.0.0.1:{made.tunnel}
ssh_service:
  enabled: no
"""
    )
    proxy.config.chmod(0o600)


@dataclass(frozen=True, slots=True)
class Made:
    """Hosts with their certificates, and what they share."""

    hosts: list[Host]
    ssh_key: str
    tls_key: str
    tls_ca_certs: list[str]
    ssh_ca_keys: list[str]
    seconds: float


def make_hosts(auth: Files, count: int) -> Made:
    """Certificates for `count` hosts, and their records in the storage of auth, which runs meanwhile."""
    return asyncio.run(_make_hosts(auth.data_dir / "backend", count))


async def _make_hosts(storage: Path, count: int) -> Made:
    from teleport.auth.authorities.certify import HostGrant
    from teleport.auth.state import ClusterState
    from teleport.backend.interface import PutOp
    from teleport.backend.sqlite import SqliteBackend
    from teleport.clock import SystemClock
    from teleport.identity import SystemRole
    from teleport.pki.keys import generate_ed25519, generate_p256
    from teleport.store.records import HOSTS, HostRecord
    from teleport.store.standing import with_role

    began, clock = time.perf_counter(), SystemClock()
    ssh, tls = generate_ed25519(), generate_p256()
    ssh_line, tls_pem = ssh.public.line("bench"), tls.public.spki_pem().decode()
    hosts: list[Host] = []
    found = None
    async with SqliteBackend(storage, clock, sweep_every=None) as backend:
        certifier = await ClusterState(backend, clock, NAME, on_events=lambda: None).certifier()
        for first in range(0, count, AT_ONCE):
            writes = []
            for number in range(first, min(first + AT_ONCE, count)):
                host_id, name, now = str(uuid.uuid4()), f"n{number:05}", clock.now()
                found = certifier.host_credentials(HostGrant(host_id, name, SystemRole.NODE), ssh_line, tls_pem, now)
                hosts.append(Host(host_id=host_id, name=name, ssh_cert=found.ssh_cert, tls_cert=found.tls_cert))
                record = with_role(HostRecord(host_id=host_id, node_name=name, joined=now), SystemRole.NODE, now)
                writes.append(PutOp(HOSTS + host_id, record.encode()))
            await backend.commit(writes)
    assert found is not None
    return Made(
        hosts,
        ssh.openssh_pem().reveal().decode(),
        tls.pkcs8_pem().reveal().decode(),
        found.tls_ca_certs,
        found.ssh_ca_keys,
        time.perf_counter() - began,
    )
