"""What is asked of the launcher and what it answers: values only.

A request is bounded before it leaves the daemon (`messages.MAX_MESSAGE`), and everything in it that came from a
client has been through `environment.filter_environment` or is data that a shell gets as one argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from teleport.errors import TeleportError


class Kind(StrEnum):
    """What runs in the session."""

    SHELL = "shell"  # the login shell, as a login shell
    EXEC = "exec"  # `shell -c command`
    # Files are moved, as the user and without a shell (`launcher.transfer`).
    SFTP = "sftp"  # our own server, in the session's process
    SCP = "scp"  # the same for scp's own protocol
    RSYNC = "rsync"  # the host's program, by its arguments
    ERRANDS = "errands"  # no program: a process that connects and listens for the daemon (`errands.py`)


class Reason(StrEnum):
    """Why no process was started."""

    UNKNOWN_LOGIN = "unknown_login"  # no such Unix account on this host
    NO_SHELL = "no_shell"  # its shell is nologin, false, missing or not executable
    EXPIRED = "expired"  # the account's expiry date has passed
    HOST_CLOSED = "host_closed"  # /etc/nologin or /run/nologin exists
    NOT_PRIVILEGED = "not_privileged"  # the daemon is an ordinary user, and this is another one's login
    BAD_REQUEST = "bad_request"  # malformed or too long
    LIMIT = "limit"  # the host is out of processes, descriptors or memory
    PAM = "pam"  # a stack of PAM refused
    FAILED = "failed"  # a step before exec failed
    LAUNCHER_GONE = "launcher_gone"  # the launcher process has ended: no session can be started any more


class LauncherRefused(TeleportError):
    """No process was started; `reason` says why, for the audit event."""

    code = "launcher_refused"
    exit_code = 5

    def __init__(self, reason: Reason, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class SessionLost(TeleportError):
    """A session's monitor ended without reporting how the session ended; its processes are being killed."""

    code = "session_lost"


@dataclass(frozen=True, slots=True)
class Pty:
    """A terminal as a client asks for it; sizes in characters and pixels, `modes` as in RFC 4254 section 8."""

    term: str = "xterm"
    width: int = 80
    height: int = 25
    xpixel: int = 0
    ypixel: int = 0
    modes: bytes = b""


@dataclass(frozen=True, slots=True)
class PamRequest:
    """The file of /etc/pam.d that a session goes by, and what its modules see. `auth`: the auth stack, too."""

    service: str
    auth: bool = False
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HostUserRequest:
    """The account of a session is made where it is missing, with these groups; `told` is the folder in which what was
    done is told to the daemon."""

    groups: tuple[str, ...] = ()
    told: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a session that moves files is told. While `asks`, nothing is opened or changed that the daemon did not
    allow when it was asked; `looks` says that names and attributes count, too.

    A path is what a shell would make of a word: how (`~NAME` to begin at a home, `*` to match files, or both) and text.
    """

    asks: bool = True
    looks: bool = True
    # of scp and rsync
    sink: bool = False  # takes files; else it gives them
    paths: tuple[tuple[str, str], ...] = ()
    # of scp
    recursive: bool = False
    preserve: bool = False  # times and modes
    folder: bool = False  # the target has to be a folder
    # of rsync
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """One session's process.

    `command` counts for `Kind.EXEC` only. `client_env` is what `filter_environment` kept of what the client sent (it is
    filtered again). `session_env` holds the `SSH_*` names that the node sets. With `permit_user_env`, the account's
    `~/.tsh/environment` is read as that user. `client` is the client's address, for PAM and the records of logins.
    `host_user` is there when the account may be made. With
    `hold`, the first process is named and waits for a word: whoever watches it has begun then.
    `transfer` is there for the kinds that move files; their processes have a fourth descriptor, over which they ask and
    tell (`launcher.transfer.control`).
    """

    login: str
    kind: Kind = Kind.SHELL
    command: str = ""
    client_env: tuple[tuple[str, str], ...] = ()
    session_env: tuple[tuple[str, str], ...] = ()
    pty: Pty | None = None
    permit_user_env: bool = False
    pam: PamRequest | None = None
    client: str = ""
    host_user: HostUserRequest | None = None
    hold: bool = False
    transfer: Transfer | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How the session's first process ended: a status from 0 to 255, or the name of a signal as in RFC 4254 ("TERM").

    Signals that RFC 4254 does not name get the kernel's name without "SIG" ("BUS", "RTMIN+3").
    """

    status: int | None
    signal: str | None = None
    core_dumped: bool = False


# RFC 4254 section 6.10: the signals a client may ask for.
SIGNALS = frozenset(
    {"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"},
)
