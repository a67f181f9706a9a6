"""Real etcd servers on loopback, for tests: one, or the members of a cluster."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

READY = b"serving client traffic"
PATIENCE = 20.0  # seconds
MISSING = "there is no etcd here: apt-get install etcd-server"


def program() -> str | None:
    """Where the server is; None when it is not installed."""
    return shutil.which("etcd")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(frozen=True, slots=True)
class Tls:
    """Files; with `client_ca` a client needs a certificate."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class EtcdServer:
    """One member. Blocking: call it from a thread where a loop runs."""

    def __init__(
        self,
        directory: Path,
        name: str,
        client_port: int,
        peer_port: int,
        cluster: str,
        tls: Tls | None,
        more: Sequence[str],
    ) -> None:
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{client_port}"
        self._log = directory / f"{name}.log"
        peer = f"http://127.0.0.1:{peer_port}"
        self._command = [
            program() or "etcd",
            *("--name", name, "--data-dir", str(directory / name), "--logger", "zap"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", cluster, "--heartbeat-interval", "50", "--election-timeout", "500"),
            "--unsafe-no-fsync",
            *(() if tls is None else ("--cert-file", str(tls.cert), "--key-file", str(tls.key))),
            *(
                ()
                if tls is None or tls.client_ca is None
                else ("--client-cert-auth", "--trusted-ca-file", str(tls.client_ca))
            ),
            *more,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; `wait_ready` afterwards."""
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=subprocess.STDOUT)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while READY not in self._log.read_bytes():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"etcd did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def restart(self) -> None:
        """Kill it and start it again with what it has on disk."""
        self.kill()
        self.start()
        self.wait_ready()

    def kill(self) -> None:
        """At once, as when its machine loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class EtcdCluster:
    """`with EtcdCluster(directory) as cluster:`; its members are up then."""

    def __init__(self, directory: Path, *, members: int = 1, tls: Tls | None = None, more: Sequence[str] = ()) -> None:
        ports = free_ports(2 * members)
        cluster = ",".join(f"m{at}=http://127.0.0.1:{ports[2 * at + 1]}" for at in range(members))
        self.members = [
            EtcdServer(directory, f"m{at}", ports[2 * at], ports[2 * at + 1], cluster, tls, more)
            for at in range(members)
        ]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members)

    def __enter__(self) -> EtcdCluster:
        try:
            for member in self.members:
                member.start()
            for member in self.members:
                member.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self.stop()

    def stop(self) -> None:
        for member in self.members:
            member.kill()
