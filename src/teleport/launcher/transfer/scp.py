"""What both ends of scp's own protocol share: standard input and output, errors, and which files are meant."""

from __future__ import annotations

import glob
import os
import pwd

import teleport.wire.scp_lines as lines
from teleport.launcher.transfer.control import Control, Done, Ended, Refused, say
from teleport.launcher.transfer.hashing import Passing
from teleport.launcher.transfer.paths import pinned
from teleport.launcher.transfer.sftp_names import user_name
from teleport.launcher.values import Transfer

_PIECE = 256 * 1024


class Failed(Exception):
    """One file could not be moved; the others may be."""


class Withdrawn(Exception):
    """What moves may move no further: rules changed. It has been told; `str()` is for the client."""


class Stream:
    """Standard input, read in large pieces, and standard output."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_PIECE))
        self._start = self._end = 0

    def _fill(self) -> bool:
        self._start, self._end = 0, os.readv(0, [self._buffer])
        return self._end > 0

    def byte(self) -> int | None:
        """The next byte; None at the end."""
        if self._start == self._end and not self._fill():
            return None
        self._start += 1
        return self._buffer[self._start - 1]

    def line(self, first: int) -> bytes:
        """The rest of a line that begins with `first`, without its end; `lines.Malformed` when it does not end."""
        line = bytearray((first,))
        while (one := self.byte()) != 10:
            if one is None or len(line) > lines.MAX_LINE:
                raise lines.Malformed("a line is cut off or too long")
            line.append(one)
        return bytes(line)

    def piece(self, most: int) -> memoryview:
        """Some of the next bytes, valid until the next call; empty at the end."""
        if self._start == self._end and not self._fill():
            return self._buffer[:0]
        size = min(most, self._end - self._start)
        self._start += size
        return self._buffer[self._start - size : self._start]

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


class End:
    """One end. `errors` counts what could not be moved."""

    def __init__(self, control: Control, transfer: Transfer) -> None:
        self.control = control
        self.transfer = transfer
        self.stream = Stream()
        self.errors = 0
        self._handle = 0
        self._most = 0  # bytes of the file that moves that may move, 0: any
        self._open: tuple[int, Done, Passing, int] | None = None  # handle, what is told, what went by, descriptor

    def failed(self, path: str, error: Exception) -> None:
        """Tells the client why a file is not moved; its program shows it."""
        self.errors += 1
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        where = "" if isinstance(error, Refused) else f"{path}: "
        safe = "".join(one if one.isprintable() else "?" for one in f"{where}{why}")
        self.stream.write(b"\x01scp: " + safe.encode("utf-8", "replace")[:4000] + b"\n")

    def answered(self) -> None:
        """Waits for the client's word; `Failed` when it could not take the file, `Ended` when it gave up."""
        match self.stream.byte():
            case 0:
                return
            case None:
                raise Ended
            case first:
                trouble = lines.parse(self.stream.line(first))
        if not isinstance(trouble, lines.Trouble) or trouble.fatal:
            raise Ended
        self.errors += 1
        raise Failed(trouble.message.decode("utf-8", "backslashreplace"))

    def began(self, done: Done, descriptor: int) -> Passing:
        """A file is open and begins to move."""
        self._handle += 1
        passing, self._most = Passing(), 0
        self._open = (self._handle, done, passing, descriptor)
        self.control.opened(self._handle, done.direction, done.path)
        return passing

    def run(self) -> int:
        """Serves the client until it has no more, or may have no more; the exit status."""
        try:
            return self.serve()
        except Withdrawn as withdrawn:
            say(str(withdrawn))
            return 1

    def serve(self) -> int:
        """Serves the client until it has no more; the exit status."""
        raise NotImplementedError

    def heed(self) -> None:
        """Does what the daemon has said about the file that moves: `Withdrawn` when it may move no further.

        Nothing stands in for the bytes whose number was announced: a client with a whole file, half of it zeros, would
        be worse off than one that lost its connection.
        """
        self.control.hear()
        stop = self.control.stops.pop(self._handle, None)
        if stop is None or self._open is None:
            return
        if stop.refused is not None:
            self.ended(stop.refused.why)
            raise Withdrawn(str(stop.refused))
        self._most = stop.most

    def ended(self, error: str = "", *, hurry: bool = False) -> None:
        """It has moved, or not: closes it; returns once that is on record."""
        assert self._open is not None, "a file has begun"
        handle, done, passing, descriptor = self._open
        self._open = None
        try:
            written = done.direction == "upload"
            digest, reason = passing.result(descriptor, written=written, hurry=True)
            if error and not digest:
                reason = error
        finally:
            os.close(descriptor)
        self.control.done(
            Done(done.action, done.path, done.target, done.direction, passing.size, digest, reason, error), handle
        )
        if not hurry:
            self.control.wait_kept()

    def tell(self, done: Done) -> None:
        """Something was done, or failed; returns once that is on record."""
        self.control.done(done)
        self.control.wait_kept()

    def close(self) -> None:
        """Tells of the file that was moving when the session ended."""
        if self._open is not None:
            self.ended("the session ended before it was moved", hurry=True)


def expand(control: Control, home: str, word: tuple[str, str]) -> list[bytes]:
    """The paths that a word stands for, as the login's shell would have it. `home` is the login's."""
    how, text = word
    base = ""
    if how.startswith("~"):
        name = how[1:].rstrip("*")
        try:
            if name and control.asks and control.looks and name != user_name(os.getuid()):
                raise KeyError(name)  # where roles name paths, it is not told whether there is such an account
            base = pwd.getpwnam(name).pw_dir if name else home
        except (KeyError, UnicodeEncodeError):
            base = f"~{name}"
    if not how.endswith("*"):
        return [os.fsencode(os.path.join(base, text) if base else text)]
    pattern = os.path.join(glob.escape(base), text) if base else text
    found = sorted(glob.glob(pattern))
    if control.asks and control.looks:
        found = [one for one in found if _visible(control, one)]
    return [os.fsencode(one) for one in found] or [os.fsencode(pattern)]


def _visible(control: Control, path: str) -> bool:
    """Whether it may be known that there is such a file."""
    try:
        with pinned(os.fsencode(path)) as (_, real):
            control.look(real)
    except (OSError, Refused):
        return False
    return True
