"""What the requests of one SFTP client share."""

from __future__ import annotations

import os
import stat

import teleport.wire.sftp as wire
from teleport.launcher.transfer.control import Control, Done
from teleport.launcher.transfer.handles import Handles
from teleport.wire.sftp import Attributes

_MOST_SHOWN = 100_000  # accounts and groups that are remembered


class Work:
    """The socket to the daemon, what is open, and what the request of the moment tries to do."""

    def __init__(self, control: Control, handles: Handles, home: str) -> None:
        self.control = control
        self.handles = handles
        self.home = home
        self.attempt: Done | None = None  # told with the error, should it fail
        self._owners: set[int] = {os.getuid()}
        self._groups: set[int] = {os.getgid(), *os.getgroups()}

    def shown(self, path: bytes) -> str:
        """A path as the client named it, whole; for what was not found."""
        return os.path.join(self.home, os.fsdecode(path))

    def attributes(self, found: os.stat_result) -> Attributes:
        """What stat(2) says, for the client: it may ask for the names of whom it was shown."""
        if self.control.looks and len(self._owners) + len(self._groups) < _MOST_SHOWN:
            self._owners.add(found.st_uid)
            self._groups.add(found.st_gid)
        return attributes_of(found)

    def may_name(self, number: int, *, group: bool) -> bool:
        """Whether the name of an account or a group is told. Where roles name paths, of those that the client has met:
        by counting up it would else get the list of all accounts."""
        if not (self.control.asks and self.control.looks):
            return True
        return number in (self._groups if group else self._owners)

    def trying(self, action: str, path: str, target: str = "", direction: str = "upload") -> None:
        """From now on the request is about this."""
        self.attempt = Done(action, path, target, direction)

    def did(self, number: int) -> bytes:
        """It was done: replies once that is on record."""
        assert self.attempt is not None, "say what is tried first"
        self.control.reply_later(self.control.done(self.attempt), wire.status(number, wire.Status.OK))
        return b""


def attributes_of(found: os.stat_result) -> Attributes:
    """What stat(2) says, as SFTP has it."""
    return Attributes(
        found.st_size, found.st_uid, found.st_gid, found.st_mode, int(found.st_atime), int(found.st_mtime)
    )


def is_folder(mode: int) -> bool:
    return stat.S_ISDIR(mode)
