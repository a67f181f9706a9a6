"""What a client has open: files with what went by, folders with what is left to list."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import teleport.wire.sftp as wire
from teleport.launcher.transfer.control import Control, Done, Refused, say
from teleport.launcher.transfer.hashing import Passing

MOST_HANDLES = 512


class OpenFile:
    """A file. What went by is told when it is closed, once for each way."""

    def __init__(self, descriptor: int, path: str, flags: int, most: int) -> None:
        """`most`: bytes that may move, 0: any."""
        self.descriptor = descriptor
        self.path = path
        self.read = Passing() if flags & wire.READ else None
        # who makes or empties a file changes it, though nothing can be written
        self.written = Passing() if flags & (wire.WRITE | wire.CREATE | wire.TRUNCATE) else None
        self.takes = bool(flags & wire.WRITE)
        self.appends = bool(flags & wire.APPEND)
        self.most = most
        self.changed: list[str] = []  # attributes that were set, in words
        self.cut = False  # whether its size was set
        self._too_large = False  # whether the person at the client knows why it moves no further

    def within(self, size: int) -> None:
        """`OSError` for a file of `size` bytes that the rules do not let move."""
        if self.most and size > self.most:
            why = f"your roles allow files of at most {self.most} bytes"
            if not self._too_large:  # programs show "Permission denied" alone, for each packet
                self._too_large = True
                say(f"{os.path.basename(self.path)}: {why}")
            raise PermissionError(1, why)

    def told(self, error: str = "", *, hurry: bool = False) -> Iterator[Done]:
        """What happened to it."""
        both = self.read is not None and self.written is not None
        for action, direction, way in (("read", "download", self.read), ("write", "upload", self.written)):
            if way is None or (both and action == "read" and not way.size):
                continue
            try:
                digest, reason = way.result(self.descriptor, written=action == "write", hurry=hurry)
            except OSError as failed:
                digest, reason = "", str(failed.strerror)
            changed = " ".join(self.changed) if action == "write" or not both else ""
            yield Done(action, self.path, changed, direction, way.size, digest, reason, error)


class OpenFolder:
    """A folder that is being listed, piece by piece however large it is."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self.left: Iterator[bytes] = self._names()

    def _names(self) -> Iterator[bytes]:
        yield from (b".", b"..")
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                yield os.fsencode(entry.name)


class Handles:
    """Everything that is open, by the names that the client got."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._open: dict[bytes, OpenFile | OpenFolder] = {}
        self._stopped: dict[bytes, Refused] = {}  # what the client has open, and rules have closed
        self._last = 0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = min(MOST_HANDLES, max(soft - 32, 8))

    def room(self) -> None:
        """`OSError` when nothing more may be open."""
        if len(self._open) + len(self._stopped) >= self.most:
            raise OSError(24, f"{self.most} files are open, which is as many as may be")

    def add(self, opened: OpenFile | OpenFolder) -> bytes:
        """The handle of what was opened."""
        self._last += 1
        name = self._last.to_bytes(4, "big")
        self._open[name] = opened
        if isinstance(opened, OpenFile):
            ways = (("download", opened.read), ("upload", opened.written))
            self._control.opened(self._last, "+".join(way for way, there in ways if there is not None), opened.path)
        return name

    def file(self, name: bytes) -> OpenFile:
        """An open file; `KeyError` when there is none by that name."""
        found = self.any(name)
        if not isinstance(found, OpenFile):
            raise KeyError(name)
        return found

    def folder(self, name: bytes) -> OpenFolder:
        found = self.any(name)
        if not isinstance(found, OpenFolder):
            raise KeyError(name)
        return found

    def any(self, name: bytes) -> OpenFile | OpenFolder:
        if (refused := self._stopped.get(name)) is not None:
            raise Refused(str(refused), refused.why)
        return self._open[name]

    def heed(self) -> None:
        """Does what the daemon has said since about what is open: of changed rules, closes what they take away."""
        self._control.hear()
        if self._control.changed:
            self._control.changed = False
            for name, opened in list(self._open.items()):
                if isinstance(opened, OpenFolder):
                    try:
                        self._control.look(opened.path)
                    except Refused as error:
                        self._stop(name, error)
        while self._control.stops:
            handle, stop = self._control.stops.popitem()
            name = handle.to_bytes(4, "big")
            file = self._open.get(name)
            if not isinstance(file, OpenFile):
                continue  # it was closed meanwhile
            file.most = stop.most
            refused = stop.refused
            if refused is None:
                try:
                    file.within(os.fstat(file.descriptor).st_size)
                except OSError as too_large:
                    why = too_large.strerror or "it is too large"
                    refused = Refused(why, why)
            if refused is not None:
                self._stop(name, refused)

    def _stop(self, name: bytes, refused: Refused) -> None:
        self._stopped[name] = refused
        self.close(name, refused.why, hurry=True)

    def close(self, name: bytes, error: str = "", *, hurry: bool = False) -> int:
        """Closes it, and tells what went by; the number under which that will be on record, 0: nothing to tell.

        `Refused` for what changed rules have closed already.
        """
        if name not in self._open and (refused := self._stopped.pop(name, None)) is not None:
            raise Refused(str(refused), refused.why)
        opened, number = self._open.pop(name), 0
        try:
            if isinstance(opened, OpenFile):
                handle = int.from_bytes(name, "big")
                for done in opened.told(error, hurry=hurry):
                    number = self._control.done(done, handle)
        finally:
            with contextlib.suppress(OSError):
                os.close(opened.descriptor)
        return number

    def close_all(self, error: str, *, hurry: bool) -> None:
        for name in list(self._open):
            self.close(name, error, hurry=hurry)
