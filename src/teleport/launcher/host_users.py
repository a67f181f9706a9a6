"""Accounts that are made on a host for sessions of people who have none, and removed when nothing of theirs runs.

An account is ours when it was made here: `STATE/users/NAME` says so, with its uid. Every other account is left alone,
whatever a role says. The rules (threat T52):

- a uid belongs to its name for ever, also while there is no such account: nobody inherits another one's files;
- homes are made by useradd where nothing is, and never removed, moved, chowned or followed. What lies at the place of a
  home and is not that user's own directory, a link above all, refuses the account;
- groups are what the roles say at the newest login: what they say no more is taken away, also from an account that is
  in use;
- an account is removed when its last session is over and no process of its uid is left, by whoever notices it: the
  session's monitor, or the next daemon. One lock of each name, shared by its sessions, tells; one lock of all keeps
  changes of accounts apart.

What was made and removed is written into a folder that the daemon names, from where it puts it on record. The folder of
the daemon that made an account is kept with its uid: other daemons of the host do not tell of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from teleport.launcher.values import HostUserRequest, LauncherRefused, Reason

STATE: Final = "/var/lib/teleport-host-users"
_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_SHELLS: Final = ("/bin/bash", "/bin/sh")
TRIES: Final = 5  # numbers for one account, where others take them meanwhile
_COMMENT: Final = "made by teleport for sessions"
_UIDS: Final = (1000, 60_000)  # what login.defs says when it says nothing


@dataclass(frozen=True, slots=True)
class Held:
    """The account of a session that is made here; it is not removed while this is open."""

    name: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class _Made:
    """What is kept of a name for ever: its uid, and where its daemon wants to be told."""

    uid: int
    told: str


@dataclass(frozen=True, slots=True)
class HostUsers:
    """The accounts that are made on this host. For root only."""

    state: str = STATE
    homes: str = "/home"

    def enter(self, name: str, wanted: HostUserRequest | None, sid: str = "") -> Held | None:
        """Before a session's account is looked up: makes it where there is none, or brings its groups up to date.

        `wanted` None: the roles let no account be made. None comes back for accounts that are not ours.
        `LauncherRefused` when it cannot be made.
        """
        if wanted is None and not os.path.exists(os.path.join(self.state, "users", name)):
            return None
        if not _NAME.fullmatch(name):
            if wanted is None:
                return None
            _no_account(name, "its name is none for an account that is made")
        self._prepare()
        held = Held(name, self._lock("locks", name, fcntl.LOCK_SH))
        try:
            with self._all_locked():
                ours = self._update(name, wanted, sid)
        except BaseException:
            os.close(held.descriptor)
            raise
        if not ours:
            os.close(held.descriptor)
            return None
        return held

    def leave(self, held: Held) -> None:
        """A session is over: removes its account, unless another session or a process needs it."""
        os.close(held.descriptor)
        self._remove(held.name)

    def sweep(self) -> None:
        """Removes what earlier daemons left and nothing needs any more."""
        with contextlib.suppress(OSError):
            for name in os.listdir(os.path.join(self.state, "users")):
                with contextlib.suppress(LauncherRefused):
                    self._remove(name)

    # one name

    def _update(self, name: str, wanted: HostUserRequest | None, sid: str) -> bool:
        """Whether the account is ours, after it was made or changed as wanted."""
        made, entry = self._made(name), _entry(name)
        if entry is not None:
            if made is None or made.uid != entry.pw_uid:
                return False
            if wanted is not None:
                self._regroup(name, made, wanted.groups, sid)
            return True
        if wanted is None:
            return False
        self._make(name, made, wanted, sid)
        return True

    def _make(self, name: str, former: _Made | None, wanted: HostUserRequest, sid: str) -> None:
        if former is None and _group(name) is not None:
            _no_account(name, f"a group {name} exists")
        home = os.path.join(self.homes, name)
        there = self._check_home(name, home, former)
        for group in wanted.groups:
            if _group(group) is None:
                self._change(name, "groupadd", group)
        made = self._with_group(name, former, wanted)
        _tell("create", name, made, wanted.groups, sid)
        try:
            self._change(
                name,
                *("useradd", "--uid", str(made.uid), "--gid", str(made.uid)),
                *(("--groups", ",".join(wanted.groups)) if wanted.groups else ()),
                *("--home-dir", home, "--no-create-home" if there else "--create-home", "--shell", _shell()),
                *("--comment", _COMMENT, name),
            )
        except LauncherRefused as refusal:
            _tell("create", name, made, wanted.groups, sid, error=refusal.message)
            raise

    def _with_group(self, name: str, former: _Made | None, wanted: HostUserRequest) -> _Made:
        """Writes down whose uid it is, and makes the account's own group of the same number. Who else makes accounts on
        the host meanwhile may take a number that was free: then it is the next one."""
        for left in reversed(range(TRIES)):
            made = _Made(self._free_uid() if former is None else former.uid, wanted.told)
            _write(os.path.join(self.state, "users", name), json.dumps([made.uid, made.told]))
            of_its_own = _group(name)
            if of_its_own is not None:
                if of_its_own.gr_gid != made.uid:
                    _no_account(name, f"a group {name} exists")
                return made
            try:
                self._change(name, "groupadd", "--gid", str(made.uid), name)
                return made
            except LauncherRefused:
                if former is not None or not left or not _uid_used(made.uid):
                    raise
        raise AssertionError("the last try raises or returns")

    def _check_home(self, name: str, home: str, former: _Made | None) -> bool:
        """Whether the user's home of an earlier time is there."""
        base = os.lstat(self.homes)
        if not stat.S_ISDIR(base.st_mode) or base.st_uid != 0 or base.st_mode & 0o022:
            _no_account(name, f"{self.homes} is not a directory that only root may change")
        try:
            found = os.lstat(home)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode) or former is None or found.st_uid != former.uid:
            _no_account(name, f"{home} exists and is not a home that was made for it")
        return True

    def _free_uid(self) -> int:
        """One that no account and no group has, and that was never given to another name."""
        first, last = _uid_range()
        given = [made.uid for name in os.listdir(os.path.join(self.state, "users")) if (made := self._made(name))]
        for number in range(max(first, max(given, default=0) + 1), last + 1):
            if not _uid_used(number):
                return number
        raise LauncherRefused(Reason.LIMIT, "The host has no uid left for another account")

    def _regroup(self, name: str, made: _Made, groups: Sequence[str], sid: str) -> None:
        now = {group.gr_name for group in grp.getgrall() if name in group.gr_mem}
        if now == set(groups):
            return
        for group in groups:
            if _group(group) is None:
                self._change(name, "groupadd", group)
        self._change(name, "usermod", "--groups", ",".join(groups), name)
        _tell("update", name, made, groups, sid)

    def _remove(self, name: str) -> None:
        try:
            descriptor = self._lock("locks", name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another session has it
        try:
            with self._all_locked():
                made, entry = self._made(name), _entry(name)
                if made is None or entry is None or made.uid != entry.pw_uid or _processes_of(made.uid):
                    return
                with contextlib.suppress(LauncherRefused):  # it is in use after all: the next one tries again
                    self._change(name, "userdel", name)
                    group = _group(name)
                    if group is not None and group.gr_gid == made.uid:
                        self._change(name, "groupdel", name)
                    _tell("delete", name, made, (), "")
        finally:
            os.close(descriptor)

    # files

    def _prepare(self) -> None:
        for folder in (self.state, *(os.path.join(self.state, part) for part in ("users", "locks"))):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o077:
                raise LauncherRefused(
                    Reason.FAILED, f"{folder} is not a directory of root's alone", hint=f"look who made {folder}"
                )

    def _lock(self, folder: str, name: str, kind: int) -> int:
        path = os.path.join(self.state, folder, name)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, kind)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextlib.contextmanager
    def _all_locked(self) -> Iterator[None]:
        descriptor = self._lock("", "lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def _made(self, name: str) -> _Made | None:
        """What belongs to a name; None when no account of that name was ever made."""
        try:
            with open(os.path.join(self.state, "users", name), encoding="utf-8") as file:
                uid, told = json.load(file)
                return _Made(int(uid), str(told))
        except (FileNotFoundError, ValueError):
            return None

    def _change(self, name: str, program: str, *arguments: str) -> None:
        """Runs one of the host's own programs; `LauncherRefused` with what it said."""
        path = shutil.which(program, path=_PATH)
        if path is None:
            _no_account(name, f"this host has no {program}")
        status, said = _run(path, *arguments)
        if status != 0:
            _no_account(name, f"{program} failed: {said or f'status {status}'}")


def _write(path: str, text: str) -> None:
    """On disk, whole, when it returns."""
    folder = os.path.dirname(path)
    draft = os.path.join(folder, f".{uuid.uuid4().hex}")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, path)
    directory = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _tell(what: str, name: str, made: _Made, groups: Sequence[str], sid: str, *, error: str = "") -> None:
    """For the daemon that made the account; nobody is left to tell when its folder is gone."""
    told = {"what": what, "name": name, "uid": made.uid, "groups": list(groups), "sid": sid, "error": error}
    told["time"] = time.time()
    with contextlib.suppress(FileNotFoundError):
        _write(os.path.join(made.told, f"{time.time_ns():020}-{uuid.uuid4().hex}"), json.dumps(told))


def _no_account(name: str, why: str) -> NoReturn:
    raise LauncherRefused(
        Reason.FAILED,
        f"No account {name} can be made on this host: {why}",
        hint="an administrator of the host can make the account, or put right what is said",
    )


def _run(path: str, *arguments: str) -> tuple[int, str]:
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            path,
            [path, *arguments],
            {"PATH": _PATH, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, write, 2),
            ],
        )
    finally:
        os.close(write)
        os.close(null)
    with open(read, "rb") as file:
        said = file.read(4096)
        while file.read(4096):
            continue
    _, status = os.waitpid(pid, 0)
    text = " ".join(said.decode(errors="replace").split())
    return os.waitstatus_to_exitcode(status), "".join(letter for letter in text if letter.isprintable())[:300]


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _group(name: str) -> grp.struct_group | None:
    try:
        return grp.getgrnam(name)
    except KeyError:
        return None


def _uid_used(number: int) -> bool:
    for look in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look(number)
            return True
    return False


def _uid_range() -> tuple[int, int]:
    found = {"UID_MIN": _UIDS[0], "UID_MAX": _UIDS[1]}
    with contextlib.suppress(OSError), open("/etc/login.defs", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 1 and words[0] in found and words[1].isdigit():
                found[words[0]] = int(words[1])
    return found["UID_MIN"], found["UID_MAX"]


def _shell() -> str:
    return next(shell for shell in _SHELLS if os.access(shell, os.X_OK))


def _processes_of(uid: int) -> bool:
    """Whether any process has `uid` as any of its four uids (proc(5)): /proc/PID belongs to the effective one, which is
    another's while a program with the rights of its file runs."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/status", "rb") as file:
                for line in file:
                    if line.startswith(b"Uid:"):
                        if str(uid).encode() in line.split()[1:]:
                            return True
                        break
    return False
