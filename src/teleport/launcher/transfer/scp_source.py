"""The end of scp that gives files (`scp -f`)."""

from __future__ import annotations

import os
import stat

import teleport.wire.scp_lines as lines
from teleport.launcher.transfer.control import Control, Done, Refused
from teleport.launcher.transfer.paths import open_file, pinned, through
from teleport.launcher.transfer.scp import End, Failed, expand
from teleport.launcher.values import Transfer
from teleport.wire.scp_lines import Entry, Times

_DEEPEST = 256
_PIECE = 256 * 1024


class Source(End):
    """Gives what the client asked for."""

    def __init__(self, control: Control, transfer: Transfer, home: str) -> None:
        super().__init__(control, transfer)
        self._home = home
        self._page = memoryview(bytearray(_PIECE))

    def serve(self) -> int:
        """The exit status."""
        self.answered()
        for word in self.transfer.paths:
            for path in expand(self.control, self._home, word):
                self._give(path, os.fsdecode(path), 0)
        return int(self.errors > 0)

    def _give(self, path: bytes, shown: str, depth: int) -> None:
        real = os.path.join(self._home, shown)

        def judge(found: str) -> int:
            nonlocal real
            real = found
            if os.path.isdir(found):  # of which names and then each file are asked about
                raise IsADirectoryError
            return self.control.ask(("download", found, 0))

        try:
            try:
                judged = judge if self.control.asks else None
                descriptor, real, most = open_file(path, os.O_RDONLY, 0, judged)
            except IsADirectoryError:
                self._folder(path, shown, depth)
                return
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                os.close(descriptor)
                raise Failed("not a regular file")
        except Failed as error:
            self.failed(shown, error)
            return
        except (OSError, Refused, lines.Malformed) as error:
            why = error.why if isinstance(error, Refused) else getattr(error, "strerror", None) or str(error)
            self.tell(Done("read", real, direction="download", error=why))
            self.failed(shown, error)
            return
        self._file(descriptor, real, shown, found, most, _name(path, real))

    def _file(self, descriptor: int, real: str, shown: str, found: os.stat_result, most: int, name: bytes) -> None:
        passing = self.began(Done("read", real, direction="download"), descriptor)
        try:
            if most and found.st_size > most:
                raise PermissionError(1, f"your roles allow files of at most {most} bytes")
            self._announce(Entry(False, found.st_mode, found.st_size, name), found)
        except Failed as error:
            self.ended(f"the client says: {error}")
            return
        except (OSError, lines.Malformed) as error:
            self.ended(getattr(error, "strerror", None) or str(error))
            self.failed(shown, error)
            return
        trouble = ""
        left = found.st_size
        while left:
            count = 0
            self.heed()
            if self._most and found.st_size > self._most:
                trouble = trouble or f"your roles allow files of at most {self._most} bytes"
            if not trouble:
                try:
                    count = os.preadv(descriptor, [self._page[: min(left, _PIECE)]], passing.size)
                    trouble = "" if count else "it became shorter while it was read"
                except OSError as failed:
                    trouble = failed.strerror or "reading failed"
            if trouble:  # its length was promised
                self.stream.write(bytes(min(left, _PIECE)))
                left -= min(left, _PIECE)
                continue
            data = self._page[:count]
            passing.add(passing.size, data)
            self.stream.write(data)
            left -= count
        self.ended(trouble)
        if trouble:
            self.failed(shown, OSError(5, trouble))
        else:
            self.stream.write(b"\0")
        self._answered_or_counted()

    def _announce(self, entry: Entry, found: os.stat_result) -> None:
        line = lines.entry_line(entry)
        if self.transfer.preserve:
            self.stream.write(lines.times_line(Times(int(found.st_mtime), int(found.st_atime))))
            self.answered()
        self.stream.write(line)
        self.answered()

    def _answered_or_counted(self) -> None:
        try:
            self.answered()
        except Failed:
            return

    def _folder(self, path: bytes, shown: str, depth: int) -> None:
        with pinned(path) as (pin, real):
            self.control.look(real)
            if not self.transfer.recursive:
                raise Failed("not a regular file")
            if depth >= _DEEPEST:
                raise Failed("too many folders in one another")
            names = _names(pin)
            try:
                self._announce(Entry(True, os.fstat(pin).st_mode, 0, _name(path, real)), os.fstat(pin))
            except lines.Malformed as error:
                raise Failed(str(error)) from error
            except Failed:
                return
            for name in names:
                self._give(os.fsencode(through(pin)) + b"/" + name, os.path.join(shown, os.fsdecode(name)), depth + 1)
            self.stream.write(b"E\n")
            self._answered_or_counted()


def _names(pin: int) -> list[bytes]:
    listing = os.open(through(pin), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [os.fsencode(name) for name in os.listdir(listing)]
    finally:
        os.close(listing)


def _name(path: bytes, real: str) -> bytes:
    name = os.path.basename(path.rstrip(b"/"))
    return name if name not in (b"", b".", b"..") else os.fsencode(os.path.basename(real)) or b"root"
