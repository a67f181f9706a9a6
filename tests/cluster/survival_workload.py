"""A cluster under work, for tests that break it: writes, logins, joins and sessions, each noted when told done.

The work goes on while daemons are killed and started; what fails is counted and tried anew. Everything here is a real
client: the API over mutual TLS as tctl speaks it, the web API as tsh speaks it, OpenSSH.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from tests.cluster.cluster_accounts import unix_account

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.join import find_cluster, join_cluster
from teleport.api.sync_client import SyncAuthClient, direct
from teleport.errors import TeleportError
from teleport.pki.keys import PublicKey, generate_ed25519, generate_p256
from teleport.pki.x509cert import auth_server_name
from teleport.testing.cluster import (
    LOOPBACK,
    NODE,
    PASSWORD,
    Cluster,
    Host,
    at,
    free_port,
    processes_with,
    wait_until,
)
from teleport.testing.survival import Ledger, Ran
from teleport.transport.tls import cluster_client_context

ON_DISK = 1.0  # seconds after which what was recorded is on disk
SLACK = 2.0  # seconds that a busy machine may be late
PAUSE = 0.1  # seconds between two works of a sort

# Prints a number and the time, again and again. In one line, since another user's sessions cannot read our folders.
TICKER = (
    "python3 -c 'import itertools, time; any((print(n, time.time(), flush=True), time.sleep(0.02))[1]"
    " for n in itertools.count())'"
)


@pytest.fixture(scope="module")
def survivor(login: str) -> Iterator[str]:
    """Whose sessions are killed: another account's where that is possible. Killing what a person's own shell runs when
    it starts can leave that person's files locked."""
    if os.geteuid() != 0:
        yield login
        return
    with unix_account() as made:
        # a plain sshd without PAM lets nobody into an account that is locked
        subprocess.run(["usermod", "--password", "*", made.name], check=True)
        yield made.name


class Worked:
    """Auth, proxy and node, in one daemon or in three, and one person who may enter."""

    def __init__(self, folder: Path, login: str, *, apart: bool, mode: str = "node", disk: Path | None = None) -> None:
        """`mode` says where sessions are recorded. `disk`: where the data of node and proxy lies, when they are daemons
        of their own."""
        self.login = login
        self.folder = folder
        self.mode = mode
        self.disk = disk
        authentication = {"type": "local", "second_factor": "off"}
        self.auth = Cluster(folder / "auth", authentication=authentication, session_recording=mode)
        self.hosts: dict[str, Host] = {"auth": self.auth}
        self._stack = contextlib.ExitStack()
        self._apart = apart

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self._apart:
                proxy = dict(self.auth.config["proxy_service"])
                node = dict(self.auth.config["ssh_service"])
                self.auth.config["teleport"]["nodename"] = "vault"
                self.auth.config["proxy_service"] = {"enabled": False}
                self.auth.config["ssh_service"] = {"enabled": False}
                self.auth.write()
            stack.enter_context(self.auth)
            if self._apart:
                token = self.folder / "token"
                self.auth.tctl("tokens", "add", "--type=node,proxy", f"--out={token}").ok()
                joining = {"auth_token": str(token), "ca_pin": self.auth.ca_pin()}
                for name, section, key in (("proxy", proxy, "proxy_service"), ("node", node, "ssh_service")):
                    config = self.auth.node_config(NODE if name == "node" else "gate", **joining)
                    config["ssh_service"] = {"enabled": False}
                    config[key] = section
                    if self.disk is not None:
                        config["teleport"]["data_dir"] = str(self.disk / name)
                    self.hosts[name] = stack.enter_context(Host(self.folder / name, config, diag_port=free_port()))
            self.person = self.auth.add_person("erin", logins=[self.login])
            self.person.log_in()
            wait_until("the node is listed", lambda: NODE in self.person.tsh("ls", "--format=names").stdout.split())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def node(self) -> Host:
        """The host that runs sessions."""
        return self.hosts.get("node", self.auth)

    @property
    def data_dirs(self) -> list[Path]:
        return [Path(host.config["teleport"]["data_dir"]) for host in self.hosts.values()]

    @property
    def proxy(self) -> Host:
        """The host that leads to the others."""
        return self.hosts.get("proxy", self.auth)


class Workload:
    """The threads. `marker` stands in the command line of every process of every session."""

    def __init__(self, worked: Worked, ledger: Ledger, more: Sequence[Callable[[Workload], None]] = ()) -> None:
        """`more`: works beside those that are here."""
        self.marker = f"marker-{uuid.uuid4()}"
        self.ledger = ledger
        self.folder = worked.folder
        self._worked = worked
        self._stop = threading.Event()
        self._broken: list[BaseException] = []
        self.cuts: defaultdict[str, list[float]] = defaultdict(list)  # host: when its sessions were cut off or held up
        self._clients: set[subprocess.Popen[bytes]] = set()
        works = [
            *((work.__name__, work) for work in (self._write, self._log_in, self._join)),
            ("_short_session", lambda: self.short_session(NODE)),
            ("_long_session", lambda: self.long_session(NODE)),
            *((work.__name__, functools.partial(work, self)) for work in more),
        ]
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, work), name=name, daemon=True) for name, work in works
        ]
        auth = worked.auth
        self._context = ssl.create_default_context(cadata=auth.authority())
        proc = auth.data_dir / "proc"
        cas = json.loads((proc / "cas.json").read_text())
        admin = cluster_client_context(cas["tls_ca_certs"], proc / "admin" / "tls.crt", proc / "admin" / "tls.key")
        self._admin = direct(LOOPBACK, auth.auth_port, admin, auth_server_name(cas["cluster"]))
        self._pin = auth.ca_pin()
        self._token = auth.tctl("tokens", "add", "--type=node", "--ttl=40h", "--format=json").json()["token"]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for client in list(self._clients):
            client.terminate()
        for thread in self._threads:
            thread.join(60)
        if kind is None:
            assert not any(thread.is_alive() for thread in self._threads), "a part of the workload hangs"
            assert self._broken == [], self._broken

    def processes(self) -> list[int]:
        """Processes of sessions: those with the marker that are no clients."""
        clients = {client.pid for client in self._clients}
        return [pid for pid in processes_with(self.marker) if pid not in clients and not _is_client(pid)]

    # one after another, each in its thread

    def _repeat(self, name: str, work: Callable[[], None]) -> None:
        while not self._stop.wait(PAUSE):
            try:
                work()
            except (TeleportError, OSError, ssl.SSLError, http.client.HTTPException):
                self.ledger.failed(name.strip("_").replace("_", " "))
                self._stop.wait(0.2)
            except BaseException as error:  # shown by the test that runs the workload
                self._broken.append(error)
                return

    def _call(self) -> SyncAuthClient:
        return SyncAuthClient(self._admin, at(self._worked.auth.auth_port))

    def _write(self) -> None:
        name, description = f"kept-{uuid.uuid4()}", str(uuid.uuid4())
        role = {
            "kind": "role",
            "version": "v4",
            "metadata": {"name": name, "description": description},
            "spec": {"allow": {"logins": ["nobody"]}},
        }
        with self._call() as client:
            client.call(routes.STORE["role"], m.StoreRequest(item=m.Document(json.dumps(role).encode())))
        self.ledger.wrote(name, description)

    def _log_in(self) -> None:
        key: PublicKey = generate_p256().public
        body = {
            "user": self._worked.person.name,
            "password": PASSWORD,
            "otp_token": "",
            "pub_key": base64.b64encode(key.line().encode()).decode(),
            "ttl": int(3600e9),
            "compatibility": "standard",
        }
        auth = self._worked.auth
        with (
            socket.create_connection((LOOPBACK, auth.web_port), 10) as raw,
            self._context.wrap_socket(raw, server_hostname="teleport.cluster.local") as secure,
        ):
            connection = http.client.HTTPConnection(auth.web_address)
            connection.sock = secure
            connection.request("POST", "/webapi/ssh/certs", json.dumps(body))
            answer = connection.getresponse()
            answer.read()
        if answer.status == 200:
            self.ledger.logged_in(key.fingerprint())
        else:
            self.ledger.failed("log in")
        self._stop.wait(0.3)

    def _join(self) -> None:
        host_id = str(uuid.uuid4())
        request = m.JoinRequest(
            token=self._token,
            host_id=host_id,
            node_name=f"joined-{host_id[:8]}",
            role="Node",
            public_ssh_key=generate_ed25519().public.line(),
            public_tls_key=generate_p256().public.spki_pem().decode(),
        )

        def now() -> datetime:
            return datetime.now(UTC)

        cluster = find_cluster([(LOOPBACK, self._worked.auth.auth_port)], [self._pin], now)
        join_cluster(cluster, request, now)
        self.ledger.joined(host_id)
        self._stop.wait(0.7)

    @property
    def worked(self) -> Worked:
        """Where it works."""
        return self._worked

    def target(self, host: str) -> str:
        """The login at a host, as clients of OpenSSH take it."""
        return f"{self._worked.login}@{host}.{self._worked.auth.name}"

    def ssh(self, *arguments: str | Path) -> list[str]:
        """The words of a plain ssh."""
        return self._worked.person.ssh_arguments(*arguments)

    def copier(self, program: str, *arguments: str | Path) -> list[str]:
        """The words of a plain sftp or scp."""
        return [program, *self.ssh()[1:], *(str(word) for word in arguments)]

    def rest(self, seconds: float) -> None:
        """Waits, at most until the work ends."""
        self._stop.wait(seconds)

    def client(self, arguments: Sequence[str], output: Path) -> int:
        """Runs a client until it ends or the work does; its status. What it prints goes to a file."""
        with output.open("wb") as file:
            client = subprocess.Popen(
                arguments,
                env=self._worked.person.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
            )
            self._clients.add(client)
            try:
                if self._stop.is_set():
                    client.terminate()
                return client.wait()
            finally:
                self._clients.discard(client)

    def short_session(self, host: str) -> None:
        """A command that ends."""
        tag = f"short-{uuid.uuid4()}"
        output = self.folder / f"{tag}.out"
        marker = self.marker if host == NODE else ""
        status = self.client(self.ssh(self.target(host), f"seq 1 300; echo {tag} {marker}"), output)
        if status == 0:
            self.ledger.ran(Ran(tag, output.read_bytes(), finished=True))
        else:
            self.ledger.failed("short session")
            self._stop.wait(0.2)
        output.unlink()

    def long_session(self, host: str) -> None:
        """A command that prints until it is cut off."""
        tag = f"long-{uuid.uuid4()}"
        output = self.folder / f"{tag}.out"
        began = time.time()
        if host == NODE:
            ticker = f"{TICKER} {tag} {self.marker}"
            # one process in the background, out of the session's process group and without its streams
            command = f"setsid {ticker} >/dev/null 2>&1 </dev/null & exec {ticker}"
        else:
            command = f"exec {TICKER} {tag}"
        self.client(self.ssh(self.target(host), command), output)
        cut = min([time.time(), *(when for when in self.cuts[host] if when > began)])
        kept = float("inf") if self._worked.mode.endswith("-sync") else cut - ON_DISK - SLACK
        self.ledger.ran(Ran(tag, output.read_bytes(), finished=False, acknowledged=kept))
        output.unlink()


def _is_client(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith((b"ssh\0", b"/usr/bin/ssh\0", b"sftp\0", b"scp\0"))
    except OSError:
        return False
