"""The socket between a process that moves files and the daemon: questions, answers, what was done, what is on record.

Every message is one packet of a SOCK_SEQPACKET socket, a JSON list that begins with its kind:

    child -> daemon   home PATH                             once: the login's home, resolved
                      ask NUMBER [[WHAT, PATH, SIZE], ...]  WHAT: download, upload, look; move with two paths; or
                                                        tree with a way and a folder: everything below it
                      opened HANDLE DIRECTION PATH          a file is open from now on
                      done NUMBER HANDLE {...}              something was done, or failed; HANDLE 0: no open file
    daemon -> child   answer NUMBER PUBLIC WHY MOST         PUBLIC empty: yes; MOST: bytes that may move, 0: any
                      kept NUMBER                           everything up to there is on record
                      terms ASKS LOOKS                      rules changed: what has to be asked from now on
                      stop HANDLE PUBLIC WHY MOST           of an open file; PUBLIC empty: MOST bytes of it may move

The end of the socket is the end of the daemon, or its wish.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import types
from collections import deque
from dataclasses import dataclass

from teleport.launcher.values import Transfer

MAX_PACKET = 131_072  # bytes; paths are at most 4096, which JSON may make six times as long
MOST_UNKEPT = 1000  # things told that are not on record yet, before the client has to wait


class Ended(BaseException):
    """The session is to end now."""


class Refused(Exception):
    """The rules forbid it. `str()` is for the client, `why` for the audit log."""

    def __init__(self, public: str, why: str) -> None:
        super().__init__(public)
        self.why = why


@dataclass(frozen=True, slots=True)
class Stop:
    """What changed rules mean for a file that is open: it may move no further, or `most` bytes of it (0: any)."""

    refused: Refused | None
    most: int


@dataclass(frozen=True, slots=True)
class Done:
    """Something that was done to a file, or was tried (`error`). Paths are whole; sizes are bytes."""

    action: str  # read, write, remove, rename, mkdir, rmdir, setstat, symlink, link; of refusals also stat, list
    path: str
    target: str = ""
    direction: str = ""  # download or upload
    size: int = 0
    sha256: str = ""
    hash_reason: str = ""  # why there is no hash, or of what it is
    error: str = ""


class Control:
    """The child's end. Blocking, except for `hear`."""

    def __init__(self, descriptor: int, transfer: Transfer) -> None:
        self._sock = socket.socket(fileno=descriptor)
        self.asks = transfer.asks
        self.looks = transfer.looks
        self._number = 0
        self._answer: tuple[int, str, str, int] | None = None
        self._told = 0
        self._kept = 0
        self.stops: dict[int, Stop] = {}  # by handle; whoever has the files open takes them out
        self.changed = False  # whether rules changed; whoever has folders open asks again, and sets it back
        self._replies: deque[tuple[int, bytes]] = deque()
        self._rings = False  # whether the kernel says when the daemon has spoken
        self._rung = True  # whether it has since `hear`

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def home(self, path: str) -> None:
        """Says where `~` is."""
        self._send(["home", path])

    def ask(self, *questions: tuple[str, str, int] | tuple[str, str, str]) -> int:
        """How many bytes may move (0: any) where the rules allow all of it, else `Refused`."""
        if not self.asks:
            return 0
        self._number += 1
        self._answer = None
        self._send(["ask", self._number, questions])
        while self._answer is None or self._answer[0] != self._number:
            self._receive(0)
        _, public, why, most = self._answer
        if public:
            raise Refused(public, why)
        return most

    def look(self, path: str) -> None:
        """`Refused` unless the name and attributes of a file may be seen."""
        if self.asks and self.looks:
            self.ask(("look", path, 0))

    def opened(self, handle: int, direction: str, path: str) -> None:
        """A file is open: should this process be killed, the daemon knows of it."""
        self._send(["opened", handle, direction, path])

    def done(self, done: Done, handle: int = 0) -> int:
        """Tells what was done; the number under which it will be on record."""
        self._told += 1
        fields = {name: getattr(done, name) for name in Done.__slots__ if getattr(done, name)}
        self._send(["done", self._told, handle, fields])
        return self._told

    def reply_later(self, number: int, reply: bytes) -> None:
        """Keeps a reply back until what was told under `number` is on record."""
        self._replies.append((number, reply))

    def replies(self) -> list[bytes]:
        """Replies that may go out now."""
        found = []
        while self._replies and self._replies[0][0] <= self._kept:
            found.append(self._replies.popleft()[1])
        return found

    @property
    def full(self) -> bool:
        """Whether so much is not on record that no more should be begun."""
        return self._told - self._kept >= MOST_UNKEPT

    def ring(self) -> None:
        """From now on a signal tells when the daemon has spoken (O_ASYNC, fcntl(2)), so that `hear` asks the kernel for
        nothing while it is silent. Where that cannot be had, it asks each time."""
        descriptor = self._sock.fileno()
        try:
            signal.signal(signal.SIGIO, self._spoken)
            signal.siginterrupt(signal.SIGIO, False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
        except (OSError, ValueError):
            return
        self._rings = self._rung = True  # what came before did not ring

    def _spoken(self, number: int, frame: types.FrameType | None) -> None:
        self._rung = True

    def spoke(self) -> None:
        """There is something to hear: `poll` says so, whether the signal came or not."""
        self._rung = True

    def hear(self) -> None:
        """Takes what the daemon has said; returns at once."""
        if self._rings and not self._rung:
            return
        self._rung = False  # first: who speaks meanwhile rings again
        while self._receive(socket.MSG_DONTWAIT):
            pass

    def wait_kept(self) -> None:
        """Until everything that was told is on record."""
        while self._kept < self._told:
            self._receive(0)

    def _send(self, message: list[object]) -> None:
        try:
            self._sock.send(json.dumps(message, separators=(",", ":")).encode(), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise Ended from error

    def _receive(self, flags: int) -> bool:
        try:
            packet = self._sock.recv(MAX_PACKET, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Ended from error
        if not packet:
            raise Ended
        match json.loads(packet):
            case ["answer", int(number), str(public), str(why), int(most)]:
                self._answer = (number, public, why, most)
            case ["kept", int(number)]:
                self._kept = number
            case ["terms", bool(asks), bool(looks)]:
                self.asks, self.looks, self.changed = asks, looks, True
            case ["stop", int(handle), str(public), str(why), int(most)]:
                self.stops[handle] = Stop(Refused(public, why) if public else None, most)
        return True


_said = 0
_MOST_SAID = 20


def say(text: str) -> None:
    """A sentence for the person at the client, whose program shows statuses in its own words only."""
    global _said
    _said += 1
    if _said <= _MOST_SAID:
        line = text if _said < _MOST_SAID else f"{text} (further ones are not shown)"
        safe = "".join(one if one.isprintable() else "?" for one in line)
        try:
            os.write(2, f"{safe}\n".encode("utf-8", "replace"))
        except OSError:
            return
