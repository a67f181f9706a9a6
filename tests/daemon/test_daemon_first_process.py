"""Process 1 of a container, in a real PID namespace: it reaps, hands signals on, and ends with the daemon's last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from teleport.daemon.restarts import first_process
from teleport.testing.processes import alive, descendants, run, wait_until

# What stands for the daemon: tells what it gets, in one word to a line, and does what the word on stdin asks.
BEGIN = """\
import os, signal, sys
from teleport.daemon.restarts import first_process
pipe = first_process.enter()
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def hear(name):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: say(name, signal.Signals(number).name))
hear("old")
say("began", os.getpid(), os.getppid())
"""
# A successor, as a restart makes one: it is told of, the old one ends, the new one stays until it is told to end.
SUCCESSION = """\
reading, writing = os.pipe()
new = os.fork()
if new == 0:
    os.close(writing)
    hear("new")
    first_process.tell_newest(pipe, os.getpid())
    say("new", os.getpid())
    sys.stdin.readline()
    os.read(reading, 1)          # until the old one ends
    while os.getppid() != 1:     # which closes its files first
        os.sched_yield()
    say("alone", os.getppid())
    while True:
        signal.pause() if not STATUS else sys.exit(STATUS)
os.close(reading)
while True:
    signal.pause()
"""


@dataclass
class Container:
    """Processes of their own, the first of which ran a script."""

    process: subprocess.Popen[str]

    @property
    def first(self) -> int:
        """Its process 1, as this machine numbers it."""
        (pid,) = descendants(self.process.pid)[:1]
        return pid

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def asked(self, text: str = "on\n") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.first, number)

    def ended(self) -> int:
        return self.process.wait(30)


@contextmanager
def container(script: str) -> Iterator[Container]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a PID namespace")
    if (probe := run("unshare", "--pid", "--fork", "true", environment=os.environ)).status:
        pytest.skip(f"no PID namespace can be made here: {probe.stderr.strip()}")
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", BEGIN + script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Container(process)
        finally:
            below = descendants(process.pid)
            process.kill()
            wait_until("all of it is gone", lambda: not any(map(alive, below)))


def test_another_process_than_the_first_is_left_as_it_is() -> None:
    assert first_process.enter() == first_process.NONE


def test_it_ends_with_the_status_of_the_daemon() -> None:
    for end, status in (("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9), ("sys.exit(0)", 0)):
        with container(end) as one:
            assert one.says() == "began 2 1"
            assert one.ended() == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_reach_the_daemon(number: signal.Signals) -> None:
    """Also those for which a process 1 has no handler, which the kernel would drop; none ends the first process."""
    with container("while True: signal.pause()") as one:
        one.says()
        for _ in range(2):
            one.signal(number)
            assert one.says() == f"old {number.name}"
        assert one.process.poll() is None


def test_whoever_loses_its_parent_is_reaped() -> None:
    """By the hundred, and while the daemon lives."""
    orphans = """
for _ in range(100):
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(between, 0)
say("made")
while True: signal.pause()
"""
    with container(orphans) as one:
        one.says()
        assert one.says() == "made"
        wait_until("all are reaped", lambda: len(descendants(one.first)) == 1)


def test_it_stays_when_the_daemon_has_left_to_another_process() -> None:
    """HUP goes to the newest, TERM to all; the status is that of the one that ended last."""
    with container(SUCCESSION.replace("STATUS", "7")) as one:
        one.says()
        newest = one.says()
        assert newest.startswith("new ")
        one.signal(signal.SIGHUP)
        assert one.says() == "new SIGHUP"
        one.signal(signal.SIGTERM)
        assert sorted([one.says(), one.says()]) == ["new SIGTERM", "old SIGTERM"]
        (old,) = descendants(one.first)[:1]
        os.kill(old, signal.SIGKILL)
        one.asked()
        assert one.says() == "alone 1"
        assert one.ended() == 7


def test_signals_go_to_the_old_one_again_where_the_new_one_is_gone() -> None:
    gone = """
new = os.fork()
if new == 0:
    first_process.tell_newest(pipe, os.getpid())
    os._exit(1)
os.waitpid(new, 0)
say("alone")
while True: signal.pause()
"""
    with container(gone) as one:
        one.says()
        assert one.says() == "alone"
        one.signal(signal.SIGHUP)
        assert one.says() == "old SIGHUP"


def test_a_release_that_tells_nothing_still_gets_signals() -> None:
    """The pipe has nobody at its other end then."""
    with container("os.close(pipe); say('closed')\nwhile True: signal.pause()") as one:
        one.says()
        assert one.says() == "closed"
        one.signal(signal.SIGHUP)
        assert one.says() == "old SIGHUP"
