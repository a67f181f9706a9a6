"""Unix accounts: who a login is on this host, and whether it may have a session here.

Lookups go through the name service (files, LDAP, ...) and may block for long; they run in a session's monitor, so that
only that session waits. An account is refused when it is unknown, when its shell says that nobody logs in, when its
expiry date has passed, or when the host is closed (`/etc/nologin`). A locked *password* (`passwd -l`) refuses nothing:
no password is asked for, and accounts made for key logins have none; `usermod --expiredate 1` shuts an account.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from teleport.launcher.values import LauncherRefused, Reason

_NO_LOGIN = frozenset({"nologin", "false"})
_FALLBACK_SHELLS = ("/bin/bash", "/bin/sh")
_NOLOGIN_FILES = ("/etc/nologin", "/run/nologin")
_SECONDS_A_DAY = 86_400
_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class Account:
    """A Unix account that may have a session; `groups` holds all its groups, also the primary one."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def expired(shadow: str, name: str, today: int) -> bool:
    """Whether the text of a shadow file (shadow(5)) lets `name` expire on or before `today` (days since 1970)."""
    prefix = f"{name}:"
    for line in shadow.splitlines():
        if line.startswith(prefix):
            fields = line.split(":")
            day = fields[7] if len(fields) > 7 else ""
            return day.isdigit() and int(day) <= today
    return False


def find_account(login: str, *, now: float) -> Account:
    """The account of `login`, at `now` (seconds since 1970); `LauncherRefused` when it may not have a session."""
    entry = _lookup(login)
    _check_privilege(login, entry.pw_uid)
    if os.geteuid() == 0:
        _check_expiry(login, now)
        _check_open(login, entry.pw_uid)
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    else:
        groups = tuple(os.getgroups())  # an ordinary user keeps what it has
    return Account(
        entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir or "/", _shell(login, entry.pw_shell)
    )


def _lookup(login: str) -> pwd.struct_passwd:
    try:
        if not login or len(login) > _MAX_NAME or login.startswith("-") or "\0" in login:
            raise KeyError(login)
        return pwd.getpwnam(login)
    except (KeyError, UnicodeEncodeError) as error:
        raise LauncherRefused(
            Reason.UNKNOWN_LOGIN,
            f"There is no Unix account {login!r} on this host",
            hint="log in as an account that exists, or have it created (useradd) on the host",
        ) from error


def _check_privilege(login: str, uid: int) -> None:
    mine = os.geteuid()
    if mine in (0, uid):
        return
    try:
        name = pwd.getpwuid(mine).pw_name
    except KeyError:
        name = f"uid {mine}"
    raise LauncherRefused(
        Reason.NOT_PRIVILEGED,
        f"The node service runs as the ordinary user {name} and can start sessions only as {name}, not as {login}",
        hint=f"log in as {name}, or run the node service as root",
    )


def _check_expiry(login: str, now: float) -> None:
    try:
        with open("/etc/shadow", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except FileNotFoundError:
        return  # no shadow file: no expiry dates
    if expired(text, login, int(now // _SECONDS_A_DAY)):
        raise LauncherRefused(
            Reason.EXPIRED,
            f"The Unix account {login} has expired",
            hint=f"an administrator of the host can extend it: chage -E -1 {login}",
        )


def _check_open(login: str, uid: int) -> None:
    if uid == 0:
        return
    for path in _NOLOGIN_FILES:
        if os.path.exists(path):
            raise LauncherRefused(
                Reason.HOST_CLOSED,
                f"The host takes no logins but root's at present ({path} exists); {login} cannot log in",
                hint=f"log in later, or remove {path} on the host",
            )


def _shell(login: str, shell: str) -> str:
    """The account's shell. Only an account that names none gets the fall-back: a named one that is missing may have
    been a restricted shell, and giving bash in its place would open what the administrator closed."""
    if not shell:
        for candidate in _FALLBACK_SHELLS:
            if os.access(candidate, os.X_OK):
                return candidate
    elif os.path.basename(shell) in _NO_LOGIN:
        raise LauncherRefused(
            Reason.NO_SHELL,
            f"The Unix account {login} takes no logins: its shell is {shell}",
            hint=f"an administrator of the host can give it a shell: usermod --shell /bin/bash {login}",
        )
    elif os.path.isfile(shell) and os.access(shell, os.X_OK):
        return shell
    raise LauncherRefused(
        Reason.NO_SHELL,
        f"The shell of the Unix account {login}, {shell or '(none)'}, cannot be run on this host",
        hint=f"install it, or give the account another one: usermod --shell /bin/bash {login}",
    )
