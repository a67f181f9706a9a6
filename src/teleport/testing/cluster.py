"""Real daemons and real clients for end-to-end tests: `teleport start`, `tctl`, `tsh` and OpenSSH as processes.

    with Cluster(tmp_path) as cluster:
        alice = cluster.add_person("alice", logins=["root"])
        alice.log_in()
        alice.tsh("ssh", "root@alpha", "echo", "hello")

Everything lies below one folder and listens on free ports of one loopback address: 127.0.0.1, or the one that
TELEPORT_TEST_LOOPBACK names (`::1`). Daemons are stopped by their pid and must end with status 0 and without a
traceback in their log. People have a home of their own; nothing of the caller's is read.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import yaml

from teleport.auth import passwords
from teleport.resources.values import HostPort

T = TypeVar("T")
BIN = Path(sys.executable).parent
NAME = "example.test"  # of clusters that are made here
NODE = "alpha"  # and of their node
PASSWORD = "correct horse battery"
READY_SECONDS = 40.0
LOOPBACK = os.environ.get("TELEPORT_TEST_LOOPBACK") or "127.0.0.1"  # where every listener and every client is
PUBLIC = "localhost" if LOOPBACK == "127.0.0.1" else LOOPBACK  # what proxies call themselves
RUNNING: list[DaemonProcess] = []  # whose logs a failing test shows


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with loopback_socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def loopback_socket() -> socket.socket:
    """A TCP socket of the loopback address's family."""
    return socket.socket(socket.AF_INET6 if ":" in LOOPBACK else socket.AF_INET)


def at(port: int, host: str = LOOPBACK) -> str:
    """`host:port` as configurations, flags and URLs have it."""
    return str(HostPort(host, port))


def why_no_loopback() -> str:
    """Why nothing can listen on the loopback address here; empty when something can."""
    try:
        with loopback_socket() as probe:
            probe.bind((LOOPBACK, 0))
    except OSError as error:
        return f"nothing can listen on {LOOPBACK} (TELEPORT_TEST_LOOPBACK) on this machine: {error.strerror}"
    return ""


def wait_until(what: str, found: Callable[[], T | None], seconds: float = 20.0) -> T:
    """The first answer of `found` that is neither None nor False. Raises `AssertionError` naming `what` otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        answer = found()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def processes_with(marker: str, *, environment: bool = False) -> list[int]:
    """The processes, this one aside, whose command line (or also environment) contains `marker`."""
    wanted, found = marker.encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for name in ("cmdline", "environ") if environment else ("cmdline",):
            with contextlib.suppress(OSError):
                if wanted in (entry / name).read_bytes():
                    found.append(int(entry.name))
                    break
    return found


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, at whatever depth."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    """Whether the process runs: it exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    arguments: tuple[str, ...]
    status: int
    out: bytes
    err: bytes

    @property
    def stdout(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.err.decode(errors="replace")

    def ok(self) -> Self:
        """This, when the command succeeded."""
        assert self.status == 0, f"{' '.join(self.arguments)} ended with {self.status}\n{self.stdout}\n{self.stderr}"
        return self

    def json(self) -> Any:
        return json.loads(self.ok().out)


def plain_environment(home: Path) -> dict[str, str]:
    """What a command needs, and nothing of this process's own."""
    path = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(home), "TELEPORT_HOME": str(home / ".tsh"), "LANG": "C.UTF-8", "TERM": "xterm"}


def run(
    *arguments: str | Path,
    environment: Mapping[str, str],
    stdin: bytes | str = b"",
    seconds: float = 30.0,
    cwd: Path | None = None,
) -> Ran:
    """Runs a command to its end, which must come within `seconds`."""
    words = tuple(str(word) for word in arguments)
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        words, env=dict(environment), input=given, capture_output=True, timeout=seconds, check=False, cwd=cwd
    )
    return Ran(words, done.returncode, done.stdout, done.stderr)


class DaemonProcess:
    """One `teleport start`."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str | Path],
        *,
        diag_port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`arguments` of the start command; `diag_port` is asked for readiness when it is not 0."""
        self.folder = folder
        self.log_path = folder / "daemon.log"
        self._arguments = [str(BIN / "teleport"), "start", *(str(word) for word in arguments)]
        self._diag_port = diag_port
        self._environment = dict(environment or plain_environment(folder))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.abandon()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def log(self) -> str:
        """Everything it said on stdout and stderr so far, over all its runs."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def begin(self) -> Self:
        """Starts it and waits for nothing."""
        assert self._process is None or self._process.poll() is not None, "runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        RUNNING.append(self)
        return self

    def start(self) -> Self:
        """Starts it and waits until every service takes connections."""
        self.begin()
        try:
            wait_until(f"ready: {self.folder.name}", self.ready, READY_SECONDS)
        except BaseException:
            self.abandon()
            raise
        return self

    def ready(self) -> bool:
        """Whether `/readyz` says so. Raises `AssertionError` once the daemon has ended."""
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"the daemon ended with {status}:\n{self.log()}"
        connection = http.client.HTTPConnection(LOOPBACK, self._diag_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def ended(self, seconds: float = READY_SECONDS) -> int:
        """The status with which it ended by itself."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        finally:
            self._forget()

    def stop(self, seconds: float = 20.0) -> None:
        """TERM: it must end with status 0, soon, having met no unexpected error, and leave no process behind."""
        assert self._process is not None
        below = descendants(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise AssertionError(f"did not stop within {seconds:g} s:\n{self.log()}") from None
        finally:
            self._forget()
        assert status == 0, f"ended with {status}:\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()
        _wait_gone(below)

    def kill(self) -> None:
        """KILL, as a crash. The launcher and all sessions must be gone soon after."""
        below = descendants(self.pid)
        self.abandon()
        _wait_gone(below)

    def abandon(self) -> None:
        """Makes sure that it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self in RUNNING:
            RUNNING.remove(self)


def _wait_gone(pids: Sequence[int]) -> None:
    wait_until("nothing that the daemon started is left", lambda: not any(map(alive, pids)))


@dataclass
class Host(contextlib.AbstractContextManager["Host"]):
    """A daemon with a folder, a configuration and ports of its own."""

    folder: Path
    config: dict[str, Any]
    diag_port: int = field(default_factory=free_port)
    arguments: Sequence[str | Path] = ()
    daemon: DaemonProcess = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config["teleport"].setdefault("data_dir", str(self.data_dir))
        self.config["teleport"].setdefault("diag_addr", at(self.diag_port))
        self.write()
        self.daemon = DaemonProcess(
            self.folder, ["--config", self.config_path, *self.arguments], diag_port=self.diag_port
        )

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def config_path(self) -> Path:
        return self.folder / "teleport.yaml"

    def write(self) -> None:
        """Writes the configuration again after `config` was changed."""
        self.config_path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        self.config_path.chmod(0o600)

    def __enter__(self) -> Self:
        self.daemon.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.__exit__(kind, error, trace)

    def tctl(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 30.0) -> Ran:
        """`tctl` as the administrator of this host."""
        return run(
            BIN / "tctl",
            "--config",
            self.config_path,
            *arguments,
            environment=plain_environment(self.folder),
            stdin=stdin,
            seconds=seconds,
        )


class Cluster(Host):
    """Auth, proxy and node in one daemon."""

    def __init__(self, folder: Path, *, name: str = NAME, **auth_service: Any) -> None:
        """`auth_service`: further keys of that section."""
        self.name = name
        self._pin = self._authority = ""
        self.auth_port, self.proxy_ssh_port, self.web_port, self.node_port = (free_port() for _ in range(4))
        config = {
            "teleport": {"nodename": NODE, "auth_servers": [at(self.auth_port)]},
            "auth_service": {
                "enabled": True,
                "cluster_name": name,
                "listen_addr": at(self.auth_port),
                **auth_service,
            },
            "proxy_service": {
                "enabled": True,
                "listen_addr": at(self.proxy_ssh_port),
                "web_listen_addr": at(self.web_port),
                "public_addr": at(self.web_port, PUBLIC),
                "ssh_public_addr": at(self.proxy_ssh_port, PUBLIC),
            },
            "ssh_service": {
                "enabled": True,
                "listen_addr": at(self.node_port),
                "labels": {"env": "test", "team": "core"},
            },
        }
        super().__init__(folder, config)

    @property
    def web_address(self) -> str:
        return at(self.web_port, PUBLIC)

    def ca_pin(self) -> str:
        """As `tctl status` prints it."""
        if not self._pin:
            words = self.tctl("status").ok().stdout.split()
            self._pin = next(word for word in words if word.startswith("sha256:"))
        return self._pin

    def authority(self) -> str:
        """The host authority's certificate, PEM."""
        if not self._authority:
            self._authority = self.tctl("auth", "export", "--type=tls").ok().stdout
        return self._authority

    def node_config(self, name: str, **teleport: Any) -> dict[str, Any]:
        """The configuration of a host that runs the node service only; `teleport`: keys of that section."""
        return {
            "teleport": {"nodename": name, "auth_servers": [at(self.auth_port)], **teleport},
            "auth_service": {"enabled": False},
            "proxy_service": {"enabled": False},
            "ssh_service": {
                "enabled": True,
                "listen_addr": at(free_port()),
                "labels": {"host": name},
            },
        }

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        """`tctl audit ls --format=json` with more arguments; oldest first."""
        lines = self.tctl("audit", "ls", "--format=json", *arguments).ok().stdout.splitlines()
        return sorted(map(json.loads, lines), key=lambda event: (event["time"], event["emitter"], event["seq"]))

    def wait_event(self, kind: str, seconds: float = 30.0, **fields: object) -> dict[str, Any]:
        """The first event called `kind` with these fields, once auth has it."""

        def found() -> dict[str, Any] | None:
            for event in self.events(f"--type={kind}"):
                if all(event.get(name) == value for name, value in fields.items()):
                    return event
            return None

        return wait_until(f"an event {kind} with {fields}", found, seconds)

    def add_person(self, name: str, *, roles: Sequence[str] = ("access",), logins: Sequence[str] = ("root",)) -> Person:
        """A user who has followed the invitation, by the web API, and has logged in nowhere yet."""
        added = self.tctl(
            "users", "add", name, f"--roles={','.join(roles)}", f"--logins={','.join(logins)}", "--format=json"
        ).json()
        person = Person(self, name, self.folder / "homes" / name)
        person.accept(added["url"])
        return person


class Person:
    """Somebody with a home, a password and an authenticator."""

    def __init__(self, cluster: Cluster, name: str, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.name = name
        self.home = home
        self.totp_secret = ""
        self._last_period = 0

    @property
    def environment(self) -> dict[str, str]:
        return plain_environment(self.home)

    @property
    def ssh_config(self) -> Path:
        return self.home / "ssh_config"

    def code(self) -> str:
        """A code of the authenticator that was not used yet and is good now, or as soon as there is one."""
        period = max(self._last_period + 1, int(time.time()) // passwords.TOTP_PERIOD - passwords.TOTP_SKEW)

        def due() -> bool:
            return period <= int(time.time()) // passwords.TOTP_PERIOD + passwords.TOTP_SKEW

        wait_until("a code that is good", due, 2 * passwords.TOTP_PERIOD)
        self._last_period = period
        return passwords.totp_code(self.totp_secret, period)

    def accept(self, url: str) -> None:
        """Follows a link as the page does, over TLS that the cluster's own authority proves."""
        context = ssl.create_default_context(cadata=self.cluster.authority())
        token = urlsplit(url).path.rpartition("/")[2]
        with (
            socket.create_connection((LOOPBACK, self.cluster.web_port), 10) as raw,
            context.wrap_socket(raw, server_hostname="teleport.cluster.local") as secure,
        ):
            connection = http.client.HTTPConnection(PUBLIC, self.cluster.web_port)
            connection.sock = secure
            connection.request("GET", f"/webapi/users/password/token/{token}")
            answer = json.loads(connection.getresponse().read())
            self.totp_secret = answer.get("totp_secret", "")
            body = {
                "token": token,
                "password": base64.b64encode(PASSWORD.encode()).decode(),
                "second_factor_token": self.code() if self.totp_secret else "",
            }
            connection.request("PUT", "/webapi/users/password/token", json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, text

    def tsh(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 30.0) -> Ran:
        return run(BIN / "tsh", *arguments, environment=self.environment, stdin=stdin, seconds=seconds)

    def log_in(self, *arguments: str) -> Ran:
        """`tsh login` with the pin, password and code on stdin; then writes what `tsh config` prints for ssh."""
        done = self.tsh(
            "login",
            f"--proxy={self.cluster.web_address}",
            f"--user={self.name}",
            f"--ca-pin={self.cluster.ca_pin()}",
            *arguments,
            stdin=f"{PASSWORD}\n{self.code() if self.totp_secret else ''}\n",
        ).ok()
        self.ssh_config.write_text(self.tsh("config").ok().stdout)
        return done

    def ssh_arguments(self, *arguments: str | Path) -> list[str]:
        """Plain ssh with the configuration that `log_in` wrote and nothing else, asking nobody."""
        options = ["-F", str(self.ssh_config), "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null"]
        return ["ssh", *options, *(str(word) for word in arguments)]

    def ssh(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 30.0) -> Ran:
        return run(*self.ssh_arguments(*arguments), environment=self.environment, stdin=stdin, seconds=seconds)
