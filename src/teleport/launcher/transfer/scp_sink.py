"""The end of scp that takes files (`scp -t`).

Folders are held open while files are put into them, and names are names in a folder: neither the client nor somebody
who swaps links on the host leads a file elsewhere (threat T49).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import replace

import teleport.wire.scp_lines as lines
from teleport.launcher.transfer.control import Control, Done, Ended, Refused
from teleport.launcher.transfer.paths import PIN, open_file, place, presumed, real_path, through
from teleport.launcher.transfer.scp import End, expand
from teleport.launcher.transfer.sftp_names import set_attributes
from teleport.launcher.values import Transfer
from teleport.wire.scp_lines import EndOfFolder, Entry, Times, Trouble
from teleport.wire.sftp import Attributes

_DEEPEST = 256  # folders in one another


class Sink(End):
    """Takes what the client sends."""

    def __init__(self, control: Control, transfer: Transfer, home: str) -> None:
        super().__init__(control, transfer)
        self._home = home
        self._folders: list[int] = []  # held open, the innermost last
        # Times and mode that a folder gets when it is over, and whether it was made.
        self._times: list[tuple[Times | None, int, bool]] = []
        umask = os.umask(0o022)
        os.umask(umask)
        self._umask = umask

    def serve(self) -> int:
        """The exit status."""
        (target, *_) = expand(self.control, self._home, self.transfer.paths[0])
        try:
            self._folders.append(os.open(target or b".", PIN | os.O_DIRECTORY))
        except OSError as error:
            if self.transfer.folder:
                shown = os.fsdecode(target)
                try:
                    shown = presumed(target)
                    self.control.ask(("upload", shown, 0))
                    self.failed(os.fsdecode(target), error)
                except (OSError, Refused) as refused:
                    self._refused(shown, refused)
                return 1
        if self.transfer.folder:
            shown = os.fsdecode(target)
            try:
                shown = real_path(self._folders[0])
                self.control.ask(("upload", shown, 0))
            except (OSError, Refused) as refused:
                self._refused(shown, refused)
                return 1
        self.stream.write(b"\0")
        depth, times = len(self._folders), None
        while (first := self.stream.byte()) is not None:
            try:
                line = lines.parse(self.stream.line(first))
            except lines.Malformed as error:
                self.stream.write(b"\x02scp: " + str(error).encode() + b"\n")
                return 1
            match line:
                case Trouble(fatal=fatal):
                    self.errors += 1
                    if fatal:
                        return 1
                case Times():
                    times = line
                    self.stream.write(b"\0")
                case EndOfFolder():
                    if len(self._folders) <= depth:
                        return 1
                    self._leave()
                case Entry(folder=True):
                    if not self.transfer.recursive or len(self._folders) - depth >= _DEEPEST:
                        self.stream.write(b"\x02scp: a folder was not asked for\n")
                        return 1
                    if not self._enter(line, times, target):
                        return 1
                    times = None
                case Entry():
                    self._file(line, times, target)
                    times = None
        while len(self._folders) > depth:
            self._leave(answer=False)
        return int(self.errors > 0)

    def _refused(self, path: str, error: OSError | Refused) -> None:
        self.tell(Done("write", path, direction="upload", error=_why(error)))
        self.failed(path, error)

    def _at(self, name: bytes, target: bytes) -> bytes:
        """Where an entry goes: into the folder of the moment, or it is the target itself."""
        return os.fsencode(through(self._folders[-1])) + b"/" + name if self._folders else target

    def _enter(self, entry: Entry, times: Times | None, target: bytes) -> bool:
        """Begins a folder. False: nothing below it can be taken, so the client has to stop."""
        path, shown = self._at(entry.name, target), os.fsdecode(entry.name)
        made = False
        try:
            with place(path) as spot:
                shown = spot.path
                with suppress(FileExistsError):
                    self.control.ask(("upload", spot.path, 0))
                    os.mkdir(spot.name, (entry.mode & 0o777) | 0o700, dir_fd=spot.folder)
                    made = True
            descriptor = os.open(path, PIN | os.O_DIRECTORY | (os.O_NOFOLLOW if made else 0))
            try:
                shown = real_path(descriptor)
                if made:
                    self.tell(Done("mkdir", shown, direction="upload"))
                else:  # links were followed
                    self.control.ask(("upload", shown, 0))
            except BaseException:
                os.close(descriptor)
                raise
        except (OSError, Refused) as error:
            self.tell(Done("mkdir", shown, direction="upload", error=_why(error)))
            self.failed(shown, error)
            return False
        self._folders.append(descriptor)
        mode = entry.mode & 0o7777 if self.transfer.preserve else entry.mode & 0o777 & ~self._umask
        self._times.append((times, mode if made or self.transfer.preserve else -1, made))
        self.stream.write(b"\0")
        return True

    def _leave(self, *, answer: bool = True) -> None:
        descriptor = self._folders.pop()
        times, mode, made = self._times.pop()
        set_ = Attributes(
            permissions=mode if mode >= 0 else None,
            accessed=times.accessed if times is not None else None,
            modified=times.modified if times is not None else None,
        )
        done = None
        try:
            if str(set_) and not (made and times is None):  # the mode of a new folder is part of making it
                done = Done("setstat", real_path(descriptor), str(set_), direction="upload")
            set_attributes(through(descriptor), set_)
            if done is not None:
                self.tell(done)
        except OSError as error:
            if done is not None:
                self.tell(replace(done, error=_why(error)))
            if answer:
                self.failed(os.readlink(through(descriptor)), error)
                answer = False
        finally:
            os.close(descriptor)
        if answer:
            self.stream.write(b"\0")

    def _file(self, entry: Entry, times: Times | None, target: bytes) -> None:
        path = self._at(entry.name, target)
        real = os.fsdecode(entry.name if self._folders else target)

        def judge(found: str) -> int:
            nonlocal real
            real = found
            return self.control.ask(("upload", found, entry.size))

        mode = (entry.mode & 0o777) | 0o200
        try:
            judged = judge if self.control.asks else None
            descriptor, real, _ = open_file(path, os.O_WRONLY | os.O_CREAT, mode, judged)
        except (OSError, Refused) as error:
            self.tell(Done("write", real, direction="upload", error=_why(error)))
            self.failed(real, error)
            return
        passing = self.began(Done("write", real, direction="upload"), descriptor)
        self.stream.write(b"\0")
        trouble, arrived = "", 0
        while arrived < entry.size:
            piece = self.stream.piece(entry.size - arrived)
            if not piece:
                self.ended("the client stopped sending")
                raise Ended
            self.heed()
            if self._most and entry.size > self._most:
                trouble = trouble or f"your roles allow files of at most {self._most} bytes"
            at, arrived = arrived, arrived + len(piece)
            if trouble:
                continue  # its length was announced; nothing more of it is written
            passing.add(at, piece)
            try:
                done = 0
                while done < len(piece):
                    done += os.pwrite(descriptor, piece[done:], at + done)
            except OSError as failed:
                trouble = failed.strerror or "writing failed"
                passing.spoiled()
        try:
            if not trouble:
                os.ftruncate(descriptor, entry.size)
            self._set(descriptor, entry, times)
        except OSError as failed:
            if failed.errno != errno.EINVAL:  # a device has no size
                trouble = trouble or failed.strerror or "it could not be finished"
        told = self.stream.byte()
        if told is None:
            self.ended("the client stopped sending")
            raise Ended
        if told:
            said = getattr(lines.parse(self.stream.line(told)), "message", b"").decode("utf-8", "backslashreplace")
            trouble = trouble or f"the client says: {said}"
        self.ended(trouble)
        if trouble:
            self.failed(real, OSError(errno.EIO, trouble))
        else:
            self.stream.write(b"\0")

    def _set(self, descriptor: int, entry: Entry, times: Times | None) -> None:
        if self.transfer.preserve:
            os.fchmod(descriptor, entry.mode & 0o7777)
        elif not entry.mode & 0o200:
            os.fchmod(descriptor, entry.mode & 0o777 & ~self._umask)
        if times is not None:
            os.utime(descriptor, (times.accessed, times.modified))


def _why(error: OSError | Refused) -> str:
    return error.why if isinstance(error, Refused) else error.strerror or str(error)
