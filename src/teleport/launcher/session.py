"""The last steps before a session's program runs: in the forked child, in an order that must not change (threat T53).

Terminal or pipes, then every other descriptor closed, then groups, gid, uid, each verified, then what must run as the
user (home, `~/.tsh/environment`), then exec. A step that fails reports why and ends the child; nothing is skipped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from teleport.launcher import environment, errands, messages, processes, transfer
from teleport.launcher.accounts import Account
from teleport.launcher.values import Kind, LauncherRefused, Reason, SpawnRequest

_UMASK = 0o022
_OPEN_FILES = 1024  # the soft limit that programs expect (select); the hard limit stays what the service manager gave
GREETING = b"G"  # on the report: everything is prepared, and the terminal is about to be written to
_MOTD = "/etc/motd"
_MOST_MOTD = 65_536  # bytes
_OOM_SCORE = "/proc/self/oom_score_adj"


@dataclass(frozen=True, slots=True)
class Host:
    """What a session's start needs to know of the host, read once when the launcher starts."""

    name: str  # whose daemon this is, "" for a user without an account
    user_path: str
    root_path: str
    tty_group: int | None
    signals: tuple[int, ...]  # those without their default disposition in the launcher: put back before exec
    oom_score: str | None  # the daemon's own value, when the launcher protected itself from the OOM killer


@dataclass(frozen=True, slots=True)
class Opened:
    """What the monitor has prepared: variables, file mode mask and greeting. A mask is that of PAM's modules, which
    then also have a say in how many files may be open."""

    environment: tuple[tuple[str, str], ...] = ()
    umask: int | None = None
    greeting: str = ""  # for a login shell on a terminal
    motd: bool = True  # whether the message of the day is shown there: not where PAM shows it


@dataclass(frozen=True, slots=True)
class Streams:
    """The child's side: a terminal's slave end and name; three pipe ends, and perhaps that of a control socket; or the
    socket of errands."""

    descriptors: tuple[int, ...]
    tty: str | None


def run(
    account: Account,
    request: SpawnRequest,
    host: Host,
    streams: Streams,
    report: int,
    monitor: int,
    opened: Opened,
) -> NoReturn:
    """Becomes the user's program, or reports a refusal on `report` and exits."""
    try:
        _become(account, request, host, streams, report, monitor, opened)
    except LauncherRefused as refusal:
        os.write(report, messages.encode_refusal(refusal))
    except Exception as error:
        scarce = isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM)
        malformed = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.E2BIG)
        failure = LauncherRefused(
            Reason.LIMIT if scarce else Reason.BAD_REQUEST if malformed else Reason.FAILED,
            f"Starting the session of {account.name} failed: {error}",
            hint="see the node's host: account, shell and resource limits",
        )
        os.write(report, messages.encode_refusal(failure))
    finally:
        os._exit(255)


def _become(
    account: Account,
    request: SpawnRequest,
    host: Host,
    streams: Streams,
    report: int,
    monitor: int,
    opened: Opened,
) -> NoReturn:
    if os.geteuid() == 0 and host.oom_score is not None:
        with contextlib.suppress(OSError), open(_OOM_SCORE, "w", encoding="ascii") as file:
            file.write(host.oom_score)
    control = _take_streams(streams, report)
    for number in host.signals:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if opened.umask is None:
        os.umask(_UMASK)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    else:
        os.umask(opened.umask)
    _drop_privileges(account)
    # Set after the change of credentials, which clears it; then the parent is looked at, in case it went before.
    processes.set_death_signal(signal.SIGKILL)
    if os.getppid() != monitor:
        os._exit(255)
    if request.kind is Kind.ERRANDS:
        errands.serve(control, report, account.home)
    try:
        os.chdir(account.home)
    except OSError as error:
        os.chdir("/")
        text = f"Could not change to the home directory {account.home}: {error.strerror}; starting in /\n"
        os.write(2, text.encode(errors="surrogateescape"))
    if request.transfer is not None:
        transfer.serve(account, request.kind, request.transfer, control, report)
    shell = os.path.basename(account.shell)
    arguments = [f"-{shell}"] if request.kind is Kind.SHELL else [shell, "-c", request.command]
    variables = environment.build_environment(
        name=account.name,
        home=account.home,
        shell=account.shell,
        path=host.root_path if account.uid == 0 else host.user_path,
        client_env=request.client_env,
        session_env=request.session_env,
        term=request.pty.term if request.pty is not None else None,
        tty=streams.tty,
        pam_env=opened.environment,
        file_env=environment.read_user_file(account.home) if request.permit_user_env else (),
    )
    greeting = _greeting(account.home, opened) if request.kind is Kind.SHELL and streams.tty is not None else b""
    if greeting:
        _greet(greeting, report)
    os.execve(account.shell, arguments, variables)  # noqa: S606 - the shell is from the account, never from the client


def _greeting(home: str, opened: Opened) -> bytes:
    """The message of the day, and when the account was last logged in; nothing with `~/.hushlogin`, as under sshd."""
    if os.path.exists(os.path.join(home, ".hushlogin")):
        return b""
    text = opened.greeting.encode(errors="surrogateescape")
    if opened.motd:
        with contextlib.suppress(OSError), open(_MOTD, "rb") as file:
            text = file.read(_MOST_MOTD) + text
    return text


def _greet(text: bytes, report: int) -> None:
    """Shows it on the terminal, once somebody reads that: a terminal takes only a few thousand bytes by itself."""
    os.write(report, GREETING)
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(1, text) :]


def _take_streams(streams: Streams, report: int) -> int:
    """Puts streams on 0 to 2, as leader of a new session, and closes all other descriptors but the report and the
    control socket, which is returned (-1: there is none).

    The report closes at exec, which is how the monitor learns of success. No end lies below 3: a monitor has 0 to 2.
    """
    errand = -1
    if streams.tty is not None:
        os.login_tty(streams.descriptors[0])
    elif len(streams.descriptors) == 1:
        os.setsid()
        (errand,) = streams.descriptors  # the standard streams lead nowhere
    else:
        os.setsid()
        for target, descriptor in enumerate(streams.descriptors[:3]):
            os.dup2(descriptor, target)
    control = streams.descriptors[3] if len(streams.descriptors) > 3 else errand
    processes.close_all_but(0, 1, 2, report, control)
    return control


def _drop_privileges(account: Account) -> None:
    """Groups, then gid, then uid, for good; `LauncherRefused` unless all of it holds afterwards."""
    privileged = os.geteuid() == 0
    if privileged:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    processes.clear_ambient_capabilities()
    # An ordinary user's daemon keeps its own gid, which need not be the account's primary one.
    gid = account.gid if privileged else os.getgid()
    right = set(os.getresuid()) == {account.uid} and set(os.getresgid()) == {gid}
    right = right and set(os.getgroups()) == set(account.groups)
    if account.uid != 0:
        right = right and _cannot(os.setuid) and (gid == 0 or _cannot(os.setgid))
    if not right:
        raise LauncherRefused(
            Reason.FAILED,
            f"The privileges of the session of {account.name} could not be dropped; it was not started",
            hint="this must not happen; report it with the node's kernel and security modules",
        )


def _cannot(become: Callable[[int], None]) -> bool:
    """Whether going back to root is refused."""
    try:
        become(0)
    except PermissionError:
        return True
    return False
