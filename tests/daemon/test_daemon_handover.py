"""What a child is handed, what it believes of it, and children that do not become ready."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.daemon.host import open_host
from teleport.daemon.restarts import handover
from teleport.daemon.restarts.child import Child, start_child
from teleport.daemon.restarts.handover import VARIABLE, Handed, Inherited, describe, take
from teleport.errors import AlreadyExists, BadRequest, TeleportError
from teleport.transport.listeners import address_of, bind


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "daemon.lock", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def never(child: Child) -> None:
    raise AssertionError("it never was ready")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit(3)", "ended with status 3 before it was ready"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL before it was ready"),
        ("import os; os.write(3, b'failed: the port is taken'); os.close(3)", "the port is taken"),
        ("import time; time.sleep(60)", "it was not ready within 1 s"),
        ("import os, time; os.close(3); time.sleep(60)", "it closed the pipe"),
    ],
    ids=["exit", "signal", "reason", "silent", "closed"],
)
async def test_a_child_that_is_not_ready_is_an_error_that_says_why(
    lock: int, script: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teleport.daemon.restarts.child.KILL_AFTER", 1.0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TeleportError, match=reason):
        await start_child([sys.executable, "-c", script], [], lock, never, seconds=1.0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "descriptors are left"


async def test_a_program_that_is_not_there_is_named(lock: int) -> None:
    with pytest.raises(TeleportError, match="/nowhere/teleport cannot be started: No such file"):
        await start_child(["/nowhere/teleport"], [], lock, never)


async def test_a_child_gets_numbers_from_three_on_and_the_lock(lock: int, tmp_path: Path) -> None:
    """The listeners first, then the ready pipe, as `operations.md` 2 lists them; the end of a ready child is told."""
    listener = bind("127.0.0.1", 0, "a test", "none")
    fcntl.flock(lock, fcntl.LOCK_EX)
    out = tmp_path / "out"
    script = (
        "import fcntl, json, os, sys\n"
        f"given = json.loads(os.environ[{VARIABLE!r}])\n"
        "fcntl.flock(given[2]['fd'], fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        f"json.dump(given, open({str(out)!r}, 'w'))\n"
        "os.write(given[1]['fd'], f'{os.getpid()}\\n'.encode()); os.close(given[1]['fd'])\n"
        "os.read(given[3]['fd'], 1)\n"
        "sys.exit(7)\n"
    )
    ended: list[int | None] = []
    child, guard = await start_child(
        [sys.executable, "-c", script],
        [("node", "127.0.0.1:0", listener.fileno())],
        lock,
        lambda child: ended.append(child.status),
    )
    assert child.alive
    os.close(guard)  # this process serves no more: the child sees it
    await child.wait()
    assert ended == [7]
    given = json.loads(out.read_text())
    assert [(one["type"], one["fd"]) for one in given] == [
        ("node", 3),
        ("teleport-signal-pipe", 4),
        ("teleport-data-dir-lock", 5),
        ("teleport-parent-pipe", 6),
    ]
    listener.close()


def test_a_listener_is_taken_by_type_and_address_and_never_passed_on() -> None:
    listener = bind("127.0.0.1", 0, "a test", "none")
    port = address_of(listener)[1]
    copy = os.dup(listener.fileno())
    os.set_inheritable(copy, True)
    environment = {VARIABLE: describe([Handed("proxy:ssh", f"127.0.0.1:{port}", copy)]), "HOME": "/"}
    inherited = take(environment)
    assert inherited is not None
    assert environment == {"HOME": "/"}
    assert not os.get_inheritable(copy)
    assert inherited.take_listener("node", [("127.0.0.1", port)]) is None
    assert inherited.take_listener("proxy:ssh", [("127.0.0.1", port + 1)]) is None
    assert inherited.take_listener("proxy:ssh", [("127.0.0.2", 0)]) is None
    taken = inherited.take_listener("proxy:ssh", [("::1", 0), ("127.0.0.1", 0)])
    assert taken is not None
    assert address_of(taken) == ("127.0.0.1", port)
    assert inherited.close_listeners() == []
    taken.close()
    listener.close()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"type": "node"}]', '[{"type":"node","addr":"x","fd":5}]'])
def test_nonsense_in_the_variable_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=VARIABLE):
        take({VARIABLE: text})


@pytest.mark.parametrize("number", [0, 2, 9999])
def test_descriptors_that_cannot_be_are_refused(number: int) -> None:
    with pytest.raises(BadRequest, match=VARIABLE):
        take({VARIABLE: describe([Handed("node", "127.0.0.1:1", number)])})


def test_a_connected_socket_is_no_listener() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(BadRequest, match="is no node"):
        take({VARIABLE: describe([Handed("node", "127.0.0.1:1", one.fileno())])})


@pytest.fixture
def told() -> Iterator[tuple[int, int]]:
    """A ready pipe; its write end is taken by whoever takes what is handed over."""
    read, write = os.pipe()
    yield read, write
    os.close(read)


def test_of_a_later_release_what_is_optional_is_closed_and_what_is_not_is_refused(told: tuple[int, int]) -> None:
    read, write = told
    optional, other = os.pipe()
    ready = Handed("teleport-signal-pipe", "127.0.0.1:0", write)
    inherited = take({VARIABLE: describe([Handed("later", "127.0.0.1:0", optional, optional=True), ready])})
    assert inherited is not None
    assert inherited.descriptors == [write]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(optional)
    with pytest.raises(BadRequest, match="is no later"):
        take({VARIABLE: describe([Handed("later", "127.0.0.1:0", other), ready])})
    said = os.read(read, 4096).decode()
    assert re.fullmatch(r"failed: .* is no later; stop this daemon and start it again\n", said)
    os.close(other)


@pytest.mark.parametrize(("given", "needs"), [(handover.FORMAT + 1, handover.FORMAT + 1), (handover.OLDEST - 1, 0)])
def test_another_format_is_refused_and_the_parent_told_what_to_do(
    told: tuple[int, int], given: int, needs: int
) -> None:
    read, write = told
    entries = json.loads(describe([Handed("teleport-signal-pipe", "127.0.0.1:0", write)]))
    entries[0].update(format=given, needs=needs, version="99.1.0")
    with pytest.raises(BadRequest, match=r"cannot take over from a running 99\.1\.0"):
        take({VARIABLE: json.dumps(entries)})
    said = os.read(read, 4096).decode()
    assert re.match(r"failed: .* from a running 99.1.0 .* stop this daemon and start that release", said)


def test_without_a_format_it_is_the_first(told: tuple[int, int]) -> None:
    entry = {"type": "teleport-signal-pipe", "addr": "127.0.0.1:0", "fd": told[1], "fileName": "", "later": 1}
    inherited = take({VARIABLE: json.dumps([entry])})
    assert inherited is not None
    inherited.tell_ready()


def test_a_parent_that_is_gone_serves_no_more() -> None:
    read, write = os.pipe()
    inherited = Inherited(guard=read)
    assert inherited.parent_serves()
    os.close(write)
    assert not inherited.parent_serves()
    os.close(read)
    assert not handover.Inherited().parent_serves()


def test_the_lock_of_a_parent_opens_the_host_and_nobody_elses_does(tmp_path: Path) -> None:
    parent = open_host(tmp_path / "data")
    child = open_host(tmp_path / "data", os.dup(parent.lock))
    assert (child.host_id, child.epoch) == (parent.host_id, parent.epoch + 1)
    os.close(parent.lock)
    forged = os.open(tmp_path / "data" / "daemon.lock", os.O_RDWR)
    with pytest.raises(AlreadyExists, match="another daemon uses"):
        open_host(tmp_path / "data", forged)
    elsewhere = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    fcntl.flock(elsewhere, fcntl.LOCK_EX)
    with pytest.raises(AlreadyExists, match="another daemon uses"):
        open_host(tmp_path / "data", elsewhere)
    os.close(child.lock)
    os.close(open_host(tmp_path / "data").lock)
