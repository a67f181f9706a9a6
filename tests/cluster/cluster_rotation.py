"""People who go on working while authorities are rotated: loops of connections, one long session, what they hold."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from teleport.client import profile, renewal
from teleport.client.home import Home
from teleport.testing.cluster import LOOPBACK, PUBLIC, Cluster, Person, Ran, plain_environment, run, wait_until

SECONDS = 30.0


@dataclass(slots=True)
class Attempt:
    """One connection of a loop."""

    began: datetime
    what: str
    ran: Ran


@dataclass(slots=True)
class Work:
    """Connections one after another, by `ssh` and by `tsh ssh`, until `stop`; every one is kept."""

    person: Person
    login: str
    hosts: tuple[str, ...]
    attempts: list[Attempt] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for way in (self._ssh, self._tsh):
            thread = threading.Thread(target=self._loop, args=(way,), name=way.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _ssh(self, host: str, word: str) -> Ran:
        target = f"{self.login}@{host}.{self.person.cluster.name}"
        return self.person.ssh(target, "echo", word, seconds=SECONDS)

    def _tsh(self, host: str, word: str) -> Ran:
        return self.person.tsh("ssh", f"{self.login}@{host}", "echo", word, seconds=SECONDS)

    def _loop(self, way: Any) -> None:
        number = 0
        while not self._stop.is_set():
            host = self.hosts[number % len(self.hosts)]
            began, word = datetime.now(UTC), f"word{number}"
            ran = way(host, word)
            if ran.status == 0 and ran.stdout.strip() != word:
                ran = Ran(ran.arguments, 99, ran.out, ran.err)
            self.attempts.append(Attempt(began, way.__name__, ran))
            number += 1

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()

    def failed(self) -> list[str]:
        """What did not work, to be read by a person."""
        return [
            f"{one.began:%H:%M:%S.%f} {one.what}: {one.ran.status} {one.ran.stdout!r} {one.ran.stderr!r}"
            for one in list(self.attempts)
            if one.ran.status != 0
        ]

    def wait_more(self, each: int = 1) -> None:
        """Until each loop has made so many whole connections that began from now on."""
        now = datetime.now(UTC)

        def done() -> bool:
            assert not self.failed(), "\n".join(self.failed())
            whole = [one.what for one in list(self.attempts) if one.began >= now]
            return all(whole.count(way) >= each for way in ("_ssh", "_tsh"))

        wait_until("both loops connected again", done, SECONDS * 2)


class LongSession:
    """A session that stays open and answers."""

    def __init__(self, person: Person, login: str, host: str) -> None:
        target = f"{login}@{host}.{person.cluster.name}"
        self._process = subprocess.Popen(
            person.ssh_arguments(target, "while read line; do echo got $line; done"),
            env=person.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def answers(self, word: str) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return self._process.stdout.readline().decode().strip() == f"got {word}"

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said on stderr."""
        _, told = self._process.communicate(timeout=SECONDS)
        return self._process.returncode, told.decode()

    def abandon(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextlib.contextmanager
def working(person: Person, login: str, *hosts: str) -> Iterator[tuple[Work, LongSession]]:
    """Both loops and the long session, from before the block to its end; no connection may fail."""
    work, session = Work(person, login, hosts), LongSession(person, login, hosts[0])
    try:
        assert session.answers("begin")
        work.start()
        yield work, session
        assert session.answers("end")
        status, told = session.end()
        assert (status, told) == (0, "")
    finally:
        work.end()
        session.abandon()
    assert not work.failed(), "\n".join(work.failed())


def follows(person: Person) -> bool:
    """Whether what a person's login holds is what the proxy says that it should hold."""
    home = Home(person.home / ".tsh")
    (found,) = profile.load_all(home)
    return renewal.held_digest(home, found) == renewal.ask(home, found)[0]


def look_now(person: Person) -> None:
    """With the next connection the login looks whether the authorities are others, and not in some seconds."""
    for stamp in (person.home / ".tsh" / "hosts").glob("*.looked"):
        stamp.unlink()


def rotate(cluster: Cluster, *arguments: str) -> Ran:
    return cluster.tctl("auth", "rotate", *arguments, seconds=90).ok()


def phase(cluster: Cluster, work: Work, name: str, *arguments: str) -> None:
    """Goes into a phase and waits until everybody has followed."""
    rotate(cluster, "--manual", f"--phase={name}", *arguments)
    wait_until(f"the login follows into {name}", lambda: follows(work.person), SECONDS)
    work.wait_more()


def pins(cluster: Cluster) -> list[str]:
    """The CA pins that `tctl status` prints."""
    return [word for word in status(cluster).split() if word.startswith("sha256:")]


def status(cluster: Cluster) -> str:
    return cluster.tctl("status").ok().stdout


class BareKey:
    """A key of `tctl auth sign`, used by plain ssh through the proxy with a known_hosts of its own."""

    def __init__(self, cluster: Cluster, folder: Path, user: str, login: str) -> None:
        folder.mkdir()
        self._cluster, self._folder, self._login = cluster, folder, login
        cluster.tctl("auth", "sign", f"--user={user}", "--format=openssh", f"--out={folder / 'key'}").ok()
        self.learn_hosts()

    def learn_hosts(self) -> None:
        """As an administrator who keeps known_hosts: every key of the host authority that is trusted now."""
        lines = self._cluster.tctl("auth", "export", "--type=host").ok().stdout
        others = f"{PUBLIC},[{PUBLIC}]:*,[{LOOPBACK}]:*"
        (self._folder / "known_hosts").write_text(lines + lines.replace(f"*.{self._cluster.name}", others))

    def ssh(self, host: str, command: str) -> Ran:
        options = [
            *("-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={self._folder / 'known_hosts'}", "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-i", str(self._folder / "key"), "-o", f"CertificateFile={self._folder / 'key-cert.pub'}"),
            *("-l", self._login),
        ]
        inner = " ".join(["ssh", *options, "-p", str(self._cluster.proxy_ssh_port), PUBLIC, "-s", "proxy:%h:%p"])
        target = f"{host}.{self._cluster.name}"
        return run(
            "ssh",
            *options,
            "-o",
            f"ProxyCommand={inner}",
            target,
            command,
            environment=plain_environment(self._folder),
            seconds=SECONDS,
        )
