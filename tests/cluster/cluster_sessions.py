"""Sessions that count, and clients that keep coming: what a restart must neither cut off nor refuse."""

from __future__ import annotations

import subprocess
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from teleport.testing.cluster import NODE, Cluster, Person, wait_until
from teleport.testing.survival import recorded_output

# Prints numbers until its stop file is there, then says so. What a login shell says of its own comes before.
COUNTER = """\
import itertools, os, sys, time
print("begin", flush=True)
for number in itertools.count():
    print(number, flush=True)
    if os.path.exists(sys.argv[1]):
        print("end", flush=True)
        break
    time.sleep(float(sys.argv[3]))
"""
AT_ONCE = 20  # sessions that are opened at the same time
PATIENCE = 120.0  # seconds for these on a busy machine


@dataclass
class Sessions:
    """Open sessions that count, each of a client of its own."""

    cluster: Cluster
    person: Person
    login: str
    clients: list[tuple[str, subprocess.Popen[bytes], Path]] = field(default_factory=list)

    @property
    def stop_file(self) -> Path:
        """Every session ends once it is there."""
        return self.cluster.folder / "stop"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_file.touch()
        for _, client, _ in self.clients:
            client.kill()
            client.wait()
        self.stop_file.unlink()

    def open(self, count: int, *, every: float = 0.05, host: str = NODE) -> Self:
        """`every`: seconds from one number to the next."""
        (self.cluster.folder / "counter.py").write_text(COUNTER)
        for number in range(count):
            marker = str(uuid.uuid4())
            command = f"exec python3 {self.cluster.folder}/counter.py {self.stop_file} {marker} {every}"
            terminal = ["-tt"] if number % 2 else []
            out = self.cluster.folder / f"{marker}.out"
            with out.open("wb") as file:
                client = subprocess.Popen(
                    self.person.ssh_arguments(*terminal, f"{self.login}@{host}.{self.cluster.name}", command),
                    env=self.person.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.DEVNULL,
                )
            self.clients.append((command, client, out))
            if number % AT_ONCE == AT_ONCE - 1:
                self._wait_counting()
        self._wait_counting()
        return self

    def _wait_counting(self) -> None:
        wait_until("every session counts", lambda: all(lines > 2 for lines in self.lines()), PATIENCE)

    def wait_recorded(self) -> Self:
        """Until the beginning of each is on disk, whoever is killed then: that is promised within a second."""
        wait_until("each has a beginning", lambda: all(lines > 40 for lines in self.lines()), PATIENCE)
        return self

    def lines(self) -> list[int]:
        return [out.read_bytes().count(b"\n") for _, _, out in self.clients]

    def go_on(self) -> None:
        """Each one prints more than before."""
        before = self.lines()
        wait_until(
            "every session goes on",
            lambda: all(now > then for now, then in zip(self.lines(), before, strict=True)),
            PATIENCE,
        )

    def stop(self) -> None:
        """Ends them all, and checks every line."""
        self.stop_file.touch()
        for _, client, out in self.clients:
            assert client.wait(PATIENCE) == 0, out.read_text()
            check_counted(out.read_text())

    def end(self) -> None:
        """Ends them all, checks every line, and that the recordings are whole and show the same."""
        self.stop()
        sids = {event["initial_command"][0]: event["sid"] for event in self.cluster.events("--type=session.start")}
        for command, _, out in self.clients:
            sid = sids[command]
            end = self.cluster.wait_event("session.end", sid=sid)
            assert end.get("reason", "") in ("", "exited"), end
            self.cluster.wait_event("session.upload", sid=sid)
            played = self.person.tsh("play", sid, "--format=text").ok().stdout
            assert counted(played) == counted(out.read_text())

    def end_many(self) -> None:
        """As `end`, with recordings read from the folder of the cluster."""
        self.stop()
        commands = {command: out for command, _, out in self.clients}

        def told(kind: str, count: int) -> list[dict[str, Any]] | None:
            found = [
                event for event in self.cluster.events(f"--type={kind}", "--limit=10000") if event["sid"] in starts
            ]
            return found if len(found) >= count else None

        starts = {
            event["sid"]: commands[event["initial_command"][0]]
            for event in self.cluster.events("--type=session.start", "--limit=10000")
            if event["initial_command"] and event["initial_command"][0] in commands
        }
        assert len(starts) == len(commands)
        for kind in ("session.end", "session.upload"):
            events = wait_until(f"{kind} of all", lambda kind=kind: told(kind, len(starts)), PATIENCE)  # type: ignore[misc]
            assert sorted(event["sid"] for event in events) == sorted(starts)
            assert {event.get("reason", "") for event in events} <= {"", "exited"}
        for sid, out in starts.items():
            recorded = recorded_output(self.cluster.data_dir / "log" / "records" / f"{sid}.rec")
            assert isinstance(recorded, bytes), recorded
            assert counted(recorded.decode()) == counted(out.read_text())

    def sids(self) -> set[str]:
        wanted = {command for command, _, _ in self.clients}
        events = self.cluster.events("--type=session.start")
        return {event["sid"] for event in events if event["initial_command"][0] in wanted}


def counted(text: str) -> list[str]:
    """What a session printed, of all that was seen of it."""
    words = text.split()
    return words[words.index("begin") + 1 :] if "begin" in words else words


def check_counted(text: str) -> None:
    """Every number, once, in order, to the end."""
    words = counted(text)
    assert words[-1] == "end", words[-3:]
    assert words[:-1] == [str(number) for number in range(len(words) - 1)]


class Newcomers:
    """Clients that connect all the time, plain `ssh` and now and then `tsh`; counts those that are refused."""

    def __init__(self, person: Person, login: str, count: int, at_once: int) -> None:
        self._person = person
        self._login = login
        self._left = count
        self._lock = threading.Lock()
        self.done = 0
        self.failures: list[str] = []
        self._pool = ThreadPoolExecutor(at_once)
        self._futures = [self._pool.submit(self._work) for _ in range(at_once)]

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._left:
                    return
                self._left -= 1
                number = self._left
            if number % 10 == 0:
                ran = self._person.tsh("ls", seconds=60)
            else:
                target = f"{self._login}@{NODE}.{self._person.cluster.name}"
                ran = self._person.ssh(target, f"echo hello {number}", seconds=60)
            wanted = "alpha" if number % 10 == 0 else f"hello {number}"
            with self._lock:
                self.done += 1
                if ran.status or wanted not in ran.stdout:
                    self.failures.append(f"{number}: {ran.status} {ran.stdout} {ran.stderr}")

    def join(self) -> None:
        for future in self._futures:
            future.result()
        self._pool.shutdown()
