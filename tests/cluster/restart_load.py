"""What a cluster carries while it is replaced: knocks at every port, a copy, and connections that did nothing yet."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from teleport.pki.x509cert import auth_server_name
from teleport.testing.cluster import LOOPBACK, PASSWORD, Cluster, Person, Ran, run, wait_until
from teleport.web.origin import CSRF_COOKIE, CSRF_HEADER

CHUNK = 1 << 20
KNOCKERS = 4
SLOWLY = 64 << 10  # bytes that a slow reader takes in
SIP_EVERY = 5.0  # seconds
PATIENCE = 120.0  # seconds that a connection may wait for its answer on a busy machine


class Knocks:
    """Clients of every port of the cluster that come all the time, each on a connection of its own: HTTPS with a whole
    request, TLS to auth, SSH until the server has said what it is. One that is refused, cut or not answered counts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._trust = ssl.create_default_context(cadata=cluster.authority())
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._ways: list[tuple[str, Callable[[], None]]] = [
            ("web", self._web),
            ("auth", self._auth),
            *((name, self._ssh(port)) for name, port in self._ports().items()),
        ]
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._work, args=(at,), daemon=True) for at in range(KNOCKERS)]

    @property
    def done(self) -> int:
        with self._lock:
            return self.answered.total()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ports(self) -> dict[str, int]:
        cluster = self._cluster
        return {"proxy's SSH": cluster.proxy_ssh_port, "node": cluster.node_port, "tunnels": cluster.tunnel_port}

    def _work(self, first: int) -> None:
        for number in itertools.count(first):
            if self._over.is_set():
                return
            name, knock = self._ways[number % len(self._ways)]
            try:
                knock()
            except (OSError, http.client.HTTPException, AssertionError) as error:
                with self._lock:
                    self.failures.append(f"{name}: {type(error).__name__} {error}")
            else:
                with self._lock:
                    self.answered[name] += 1

    def _web(self) -> None:
        with self._secure(self._cluster.web_port, "teleport.cluster.local") as connection:
            connection.request("GET", "/webapi/ping", headers={"Connection": "close"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            json.loads(answer.read())

    def _auth(self) -> None:
        with self._secure(self._cluster.auth_port, auth_server_name(self._cluster.name)):
            pass

    def _ssh(self, port: int) -> Callable[[], None]:
        def knock() -> None:
            with socket.create_connection((LOOPBACK, port), PATIENCE) as raw, raw.makefile("rb") as lines:
                said = lines.readline()
                assert said.startswith(b"SSH-2.0-"), said

        return knock

    @contextmanager
    def _secure(self, port: int, name: str) -> Iterator[http.client.HTTPConnection]:
        with (
            socket.create_connection((LOOPBACK, port), PATIENCE) as raw,
            self._trust.wrap_socket(raw, server_hostname=name) as secure,
        ):
            connection = http.client.HTTPConnection(self._cluster.public_host, port)
            connection.sock = secure
            yield connection


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Copy:
    """One large file on its way to the host, by the older protocol of scp: so that SFTP is new to the daemon later."""

    def __init__(self, person: Person, target: str, folder: Path, mebibytes: int, *, limit: int = 0) -> None:
        """`limit`, if any, in KiB a second."""
        self.source, self.copy = folder / "large", folder / "large.copy"
        with self.source.open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(CHUNK))
        self.sha256 = digest(self.source)
        self.began = time.monotonic()
        slowed = ["-l", str(8 * limit)] if limit else []
        words = ["scp", "-O", *slowed, *person.ssh_arguments()[1:], str(self.source), f"{target}:{self.copy}"]
        self.client = subprocess.Popen(
            words, env=person.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

        self._most = mebibytes * CHUNK * 3 // 4
        self._released = threading.Event()
        self._holding = threading.Thread(target=self._hold, daemon=True)
        self._holding.start()

    @property
    def moved(self) -> int:
        """Bytes that have arrived."""
        return self.copy.stat().st_size if self.copy.exists() else 0

    def _hold(self) -> None:
        """Stops the client before the end, so that no machine is too slow for the copy to be under way in a restart."""
        while not self._released.wait(0.05):
            if self.moved > self._most:
                self.client.send_signal(signal.SIGSTOP)
                self._released.wait()
                self.client.send_signal(signal.SIGCONT)
                return

    def go_on(self) -> None:
        """To its end, from here on."""
        self._released.set()
        self._holding.join()

    def check(self, seconds: float) -> float:
        """Waits for its end, compares, and says how many seconds it took."""
        _, said = self.client.communicate(timeout=seconds)
        took = time.monotonic() - self.began
        assert self.client.returncode == 0, said
        assert digest(self.copy) == self.sha256
        return took

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()
        self.client.kill()
        self.client.communicate()
        for path in (self.source, self.copy):
            path.unlink(missing_ok=True)


class Unused:
    """A connection to the host on which nothing was done yet, and which whoever served then keeps."""

    def __init__(self, person: Person, target: str, folder: Path) -> None:
        self._person, self._target, self._folder = person, target, folder
        self._path = folder / "control"
        words = person.ssh_arguments("-N", "-M", "-S", self._path, target)
        self.client = subprocess.Popen(
            words, env=person.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wait_until("it is connected", lambda: self._ask("-O", "check").status == 0, PATIENCE)

    def _ask(self, *words: str) -> Ran:
        return self._person.ssh("-S", self._path, *words, self._target, seconds=PATIENCE)

    def use(self) -> None:
        """Files by SFTP, a way there, a way back, a command and a terminal: each over this very connection."""
        self._files()
        self._way_there()
        self._way_back()
        assert self._ask("-T").status == 0  # a shell that reads nothing
        assert self._person.ssh("-S", self._path, self._target, "echo still", seconds=PATIENCE).stdout == "still\n"
        terminal = self._person.ssh("-tt", "-S", self._path, self._target, "tty", seconds=PATIENCE)
        assert "/dev/pts/" in terminal.stdout
        assert self.client.poll() is None

    def _files(self) -> None:
        here, there, back = (self._folder / f"small{end}" for end in ("", ".there", ".back"))
        here.write_bytes(os.urandom(300_000))
        batch = self._folder / "batch"
        batch.write_text(f"put {here} {there}\nls -l {there}\nget {there} {back}\nrm {there}\n")
        words = [
            "sftp",
            "-b",
            batch,
            "-o",
            f"ControlPath={self._path}",
            *self._person.ssh_arguments()[1:],
            self._target,
        ]
        run(*map(str, words), environment=self._person.environment, seconds=PATIENCE).ok()
        assert back.read_bytes() == here.read_bytes()

    def _way_there(self) -> None:
        with socket.create_server((LOOPBACK, 0)) as listening:
            threading.Thread(target=_greet, args=(listening,), daemon=True).start()
            address = "{}:{}".format(*listening.getsockname())
            words = self._person.ssh_arguments("-S", self._path, "-W", address, self._target)
            assert run(*words, environment=self._person.environment, seconds=PATIENCE).stdout == "greeted"

    def _way_back(self) -> None:
        with socket.create_server((LOOPBACK, 0)) as listening:
            threading.Thread(target=_greet, args=(listening,), daemon=True).start()
            way = f"{LOOPBACK}:0:{LOOPBACK}:{listening.getsockname()[1]}"
            port = int(self._ask("-O", "forward", "-R", way).ok().stdout)
            with socket.create_connection((LOOPBACK, port), PATIENCE) as connection:
                assert connection.makefile("rb").read() == b"greeted"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.terminate()
        self.client.communicate(timeout=PATIENCE)


def _greet(listening: socket.socket) -> None:
    with contextlib.suppress(OSError), listening.accept()[0] as connection:
        connection.sendall(b"greeted")


class Watched:
    """Somebody in a browser, logged in, who begins to play a recording and reads on when told."""

    def __init__(self, person: Person, sid: str) -> None:
        self._person, self._sid = person, sid
        self._open: list[socket.socket] = []
        self._answers: list[http.client.HTTPResponse] = []
        cluster = person.cluster
        self._trust = ssl.create_default_context(cadata=cluster.authority())
        connection = self._connection()
        body = {
            "user": person.name,
            "pass": PASSWORD,
            "second_factor_token": person.code() if person.totp_secret else "",
        }
        connection.request("POST", "/webapi/sessions/web", json.dumps(body), self._headers("text"))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        self._cookies = [value.partition(";")[0] for name, value in answer.getheaders() if name.lower() == "set-cookie"]
        self._token = json.loads(answer.read())["token"]
        connection.close()
        self._answer = self._ask()
        self._begun = self._answer.read(SLOWLY)
        self._told = threading.Event()  # to read on
        self._sipping = threading.Thread(target=self._sip)
        self._sipping.start()

    def _sip(self) -> None:
        """A little more, now and then: who reads nothing for a minute is taken for gone, restart or no restart."""
        while not self._told.wait(SIP_EVERY):
            self._begun += self._answer.read(2 * SLOWLY)

    def _headers(self, csrf: str) -> dict[str, str]:
        cluster = self._person.cluster
        origin = f"https://{cluster.web_address}"
        return {
            "Cookie": f"{CSRF_COOKIE}={csrf}",
            CSRF_HEADER: csrf,
            "Origin": origin,
            "User-Agent": "Mozilla/5.0 (test)",
        }

    def _connection(self) -> http.client.HTTPConnection:
        cluster = self._person.cluster
        raw = socket.socket(socket.AF_INET6 if ":" in LOOPBACK else socket.AF_INET)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOWLY)
        raw.settimeout(PATIENCE)
        raw.connect((LOOPBACK, cluster.web_port))
        connection = http.client.HTTPConnection(cluster.public_host, cluster.web_port)
        connection.sock = self._trust.wrap_socket(raw, server_hostname="teleport.cluster.local")
        self._open.append(connection.sock)
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.set()
        self._sipping.join()
        for answer in self._answers:
            answer.close()
        for connection in self._open:
            connection.close()

    def _ask(self) -> http.client.HTTPResponse:
        headers = {**self._headers("text"), "Authorization": f"Bearer {self._token}"}
        headers["Cookie"] = "; ".join([headers["Cookie"], *self._cookies])
        connection = self._connection()
        path = f"/webapi/sites/{self._person.cluster.name}/sessions/{self._sid}/stream"
        connection.request("GET", path, None, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        self._answers.append(answer)
        return answer

    def go_on(self) -> tuple[str, str]:
        """The hash of what the player is given in all, and of what it is given when it begins anew."""
        self._told.set()
        self._sipping.join()
        return _shown(self._begun + self._answer.read()), _shown(self._ask().read())


def _shown(lines: bytes) -> str:
    """The hash of all output that a player gets; it must have got the end, too."""
    rows = [json.loads(line) for line in lines.splitlines()]
    assert isinstance(rows[-1], dict), rows[-1]
    text = "".join(row[2] for row in rows if isinstance(row, list) and row[0] == "o")
    return hashlib.sha256(re.sub(r"\s", "", text).encode()).hexdigest()
