"""What a client of SFTP has sent ahead does not outlive the permission; sizes and ways are told as they are."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import teleport.wire.sftp as wire
from teleport.launcher.transfer.control import Control, Ended
from teleport.launcher.values import Transfer
from teleport.wire.sftp import Packet, Status

PROGRAM = """
import sys
from teleport.launcher.transfer.control import Control, Ended
from teleport.launcher.transfer.sftp import Server
from teleport.launcher.values import Transfer

class Counted(Control):
    asked = 0

    def _receive(self, flags):
        self.asked += 1
        return super()._receive(flags)

if sys.argv[3] == "deaf":
    Counted._spoken = lambda *_: None

control = Counted(int(sys.argv[1]), Transfer(asks=True, looks=False))
try:
    server = Server(control, sys.argv[2])
    server.run()
except Ended:
    server.close()
print(control.asked, file=sys.stderr)
"""


class Client:
    """Both ends of a server: the client, and a daemon that allows `most` bytes and keeps everything on record."""

    def __init__(self, client: socket.socket, daemon: socket.socket, most: int) -> None:
        self._client = client
        self._reader = client.makefile("rb")
        self._daemon = daemon
        self._most = most
        self._number = 0
        self.done: list[dict[str, object]] = []
        self.asked = 0  # how often the server has asked the kernel what the daemon says; known at its end
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while packet := self._daemon.recv(200_000):
            match json.loads(packet):
                case ["ask", number, _]:
                    self.say("answer", number, "", "", self._most)
                case ["done", number, _, fields]:
                    self.done.append(fields)
                    self.say("kept", number)

    def say(self, *message: object) -> None:
        self._daemon.send(json.dumps(message).encode())

    def send(self, kind: int, *parts: bytes) -> None:
        self.send_together((kind, *parts))

    def send_together(self, *requests: tuple[Any, ...]) -> None:
        packets = []
        for kind, *parts in requests:
            self._number += 1
            packets.append(wire.packet(kind, self._number, *parts))
        self._client.sendall(b"".join(packets))

    def begin(self) -> None:
        self._client.sendall(struct.pack(">IBI", 5, Packet.INIT, 3))
        assert self.answer()[0] == Packet.VERSION

    def answer(self) -> bytes:
        (size,) = struct.unpack(">I", self._reader.read(4))
        return self._reader.read(size)

    def open(self, path: Path, flags: int) -> bytes:
        self.send(Packet.OPEN, wire.string(os.fsencode(path)), struct.pack(">II", flags, 0))
        answer = self.answer()
        assert answer[0] == Packet.HANDLE
        return answer[9:]

    def status(self) -> int:
        answer = self.answer()
        assert answer[0] == Packet.STATUS
        return int.from_bytes(answer[5:9], "big")

    def close(self) -> None:
        self._reader.close()
        self._client.close()
        self._thread.join()


@contextmanager
def serving(home: Path, most: int = 0, *, deaf: bool = False) -> Iterator[Client]:
    """`deaf`: no signal tells the server that the daemon has spoken."""
    client, its_end = socket.socketpair()
    daemon, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-c", PROGRAM, str(control.fileno()), str(home), "deaf" if deaf else ""]
    started = subprocess.Popen(
        words, stdin=its_end.fileno(), stdout=its_end.fileno(), stderr=subprocess.PIPE, pass_fds=[control.fileno()]
    )
    with client, daemon, started as process:
        its_end.close()
        control.close()
        ends = Client(client, daemon, most)
        try:
            ends.begin()
            yield ends
        finally:
            ends.close()
            assert process.wait(20) == 0
            assert process.stderr is not None
            ends.asked = int(process.stderr.read().split()[-1])


def test_what_was_asked_ahead_is_refused_once_the_permission_is_taken_away(tmp_path: Path) -> None:
    """A client that asks for much and reads nothing cannot keep an open file for later."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    asked = 1000
    with serving(tmp_path) as client:
        handle = client.open(big, wire.READ)
        places = [struct.pack(">QI", number * 65536, 65536) for number in range(asked)]
        client.send_together(*((Packet.READ, wire.string(handle), place) for place in places))
        client.say("terms", True, False)
        client.say("stop", int.from_bytes(handle, "big"), "no more", "a role changed", 0)
        while not client.done:  # told by the file's end, though nobody reads
            threading.Event().wait(0.01)
        kinds = [client.answer()[0] for _ in range(asked)]
    served = kinds.count(Packet.DATA)
    assert served < 100, "what had left before, and no more"
    assert kinds[served:] == [Packet.STATUS] * (asked - served)
    assert (client.done[0]["action"], client.done[0]["error"]) == ("read", "a role changed")


def test_requests_cost_no_question_to_a_silent_daemon(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x")
    with serving(tmp_path) as client:
        handle = client.open(small, wire.READ)
        place = wire.string(handle) + struct.pack(">QI", 0, 1)
        client.send_together(*((Packet.READ, place) for _ in range(1000)))
        assert {client.answer()[0] for _ in range(1000)} == {Packet.DATA}
    assert 0 < client.asked < 100


def test_without_the_signal_the_daemon_is_heard_all_the_same(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x")
    with serving(tmp_path, deaf=True) as client:
        handle = client.open(small, wire.READ)
        client.say("stop", int.from_bytes(handle, "big"), "no more", "a role changed", 0)
        client.send(Packet.READ, wire.string(handle), struct.pack(">QI", 0, 1))
        assert client.status() == Status.PERMISSION_DENIED


def test_what_the_daemon_says_is_heard_with_the_next_word_about_it() -> None:
    """Without a loop that would see it: the signal came when the daemon had spoken, and what came before it counts."""
    before = signal.getsignal(signal.SIGIO)
    daemon, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control = Control(end.detach(), Transfer(asks=True, looks=False))
    try:
        daemon.send(json.dumps(["stop", 1, "no more", "a role", 0]).encode())
        control.ring()
        control.hear()
        assert set(control.stops) == {1}
        for handle in (2, 3):
            control.hear()
            daemon.send(json.dumps(["stop", handle, "no more", "a role", 0]).encode())
            control.hear()
            assert handle in control.stops
        daemon.close()
        with pytest.raises(Ended):
            control.hear()
    finally:
        control.close()
        daemon.close()
        signal.signal(signal.SIGIO, before)


def test_a_copy_to_the_end_of_a_file_keeps_to_the_largest_size(tmp_path: Path) -> None:
    """The kernel appends whatever the place that a client names."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 900)
    with serving(tmp_path, most=1000) as client:
        first = client.open(source, wire.READ)
        second = client.open(target, wire.WRITE | wire.APPEND | wire.CREATE)
        found = []
        for _ in range(3):
            words = wire.string(b"copy-data") + wire.string(first) + struct.pack(">QQ", 0, 0) + wire.string(second)
            client.send(Packet.EXTENDED, words, struct.pack(">Q", 0))
            found.append(client.status())
    assert found == [Status.OK, Status.PERMISSION_DENIED, Status.PERMISSION_DENIED]
    assert target.stat().st_size == 900


def test_a_file_that_is_emptied_by_who_only_reads_is_on_record_as_written(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * 500)
    with serving(tmp_path) as client:
        handle = client.open(victim, wire.READ | wire.TRUNCATE)
        client.send(Packet.WRITE, wire.string(handle), struct.pack(">Q", 0), wire.string(b"more"))
        assert client.status() != Status.OK, "it was not opened to be written"
        client.send(Packet.CLOSE, wire.string(handle))
        assert client.status() == Status.OK
    assert victim.stat().st_size == 0
    assert [(told["action"], told["direction"]) for told in client.done] == [("write", "upload")]
