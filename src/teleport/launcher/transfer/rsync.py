"""rsync: the host's own program, run by its arguments, without a shell, after its paths were judged.

rsync goes by names, not by what was held open when they were judged. So where rules are about paths it starts *in* the
folder that was judged, reached by a descriptor, and gets names below it; what rsync itself follows from there on is up
to its options, of which only those are let through that keep it inside (`wire.transfer_command`).
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from typing import NoReturn

from teleport.launcher import processes
from teleport.launcher.accounts import Account
from teleport.launcher.transfer.control import Control, Refused, say
from teleport.launcher.transfer.paths import pinned, place, presumed
from teleport.launcher.transfer.scp import expand
from teleport.launcher.values import Transfer

_PROGRAMS = ("/usr/bin/rsync", "/usr/local/bin/rsync", "/bin/rsync")
_NOT_FOUND = 127
_FAILED = 1  # rsync(1): "syntax or usage error"


def run(account: Account, transfer: Transfer, control: Control, home: str) -> int:
    """Becomes rsync; the exit status where it does not."""
    program = next((one for one in _PROGRAMS if os.access(one, os.X_OK)), "")
    if not program:
        say("rsync is not installed on this host.")
        return _NOT_FOUND
    try:
        paths = [path for word in transfer.paths for path in expand(control, home, word)]
        options = list(transfer.options)
        if control.asks:
            paths, most = _judged(control, transfer, paths)
            if most:
                options.append(f"--max-size={most}")
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    except Refused as error:
        say(str(error))
        return _FAILED
    except OSError as error:
        say(f"rsync: {error.strerror or error}")
        return _FAILED
    sender = [] if transfer.sink else ["--sender"]
    arguments = [b"rsync", b"--server", *map(os.fsencode, [*sender, *options]), b".", *map(_plain, paths)]
    _become(program, arguments, account)


def _plain(path: bytes) -> bytes:
    """A path that is no option."""
    return b"./" + path if path.startswith(b"-") else path


def _become(program: str, arguments: list[bytes], account: Account) -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    processes.set_no_new_privileges()
    variables = {
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
    }
    os.execve(program, arguments, variables)  # noqa: S606 - one of three programs, with options from a list


def _judged(control: Control, transfer: Transfer, paths: list[bytes]) -> tuple[list[bytes], int]:
    """The paths as rsync gets them, and how large a file it may write; `Refused` or `OSError` when it may not run."""
    if transfer.sink:
        return _taking(control, paths[0])
    if control.looks and len({os.path.dirname(path.rstrip(b"/")) for path in paths}) != 1:
        raise PermissionError(errno.EPERM, "your roles name paths, so name files of one folder at a time")
    found = [_giving(control, path) for path in paths]
    return found, 0


def _taking(control: Control, path: bytes) -> tuple[list[bytes], int]:
    if not control.looks:
        return [path], control.ask(("upload", os.fsdecode(os.path.join(os.fsencode(os.getcwd()), path)), 0))
    try:
        with pinned(path) as (pin, real):
            if not stat.S_ISDIR(os.fstat(pin).st_mode):
                raise NotADirectoryError
            most = control.ask(("tree", "upload", real), ("upload", real, 0))
            os.fchdir(pin)
    except (FileNotFoundError, NotADirectoryError):
        control.ask(("upload", presumed(path), 0))
        raise PermissionError(
            errno.EPERM, "your roles name paths, so the target of rsync has to be a folder that exists"
        ) from None
    return [b"./"], most


def _giving(control: Control, path: bytes) -> bytes:
    if not os.path.exists(path):
        control.ask(("download", presumed(path), 0))
    with pinned(path) as (pin, real):
        folder = stat.S_ISDIR(os.fstat(pin).st_mode)
        most = control.ask(("tree", "download", real)) if folder else 0
        most = control.ask(("download", real, 0)) or most
        if most and (folder or os.fstat(pin).st_size > most):
            raise PermissionError(errno.EPERM, f"your roles allow files of at most {most} bytes, each by its own name")
        if not control.looks:
            return path
        if folder and (path.endswith(b"/") or os.path.basename(path) in (b"", b".", b"..")):
            os.fchdir(pin)
            return b"./"
    with place(path) as spot:
        if spot.path != real:  # a link: rsync would send it as one
            control.ask(("download", spot.path, 0))
        os.fchdir(spot.folder)
        return b"./" + spot.name
