"""A session's monitor: a small root process above each session, its processes' subreaper and its guard.

It looks the account up (which may block: only this session waits), makes terminal or pipes, starts the program, and
reports how it ended. Then it sees to it that nothing outlives what it should:

    state     entered                                left
    STARTING  the child is forked                    exec succeeded: RUNNING; a step failed: refusal, finished
    RUNNING   "started" was sent                     the program ended: ENDED
    ENDED     "exit" was sent                        no process left: finished; "release": KEEPING
    KEEPING   released with processes left           no process left: finished; the launcher ends: let go
    ENDING    "kill", or (before KEEPING) the        no process left: finished; not to be killed: stuck
              daemon's or the launcher's end closed

ENDING sends HUP, TERM and CONT to every descendant, waits `GRACE`, then kills until no child is left. PAM is called
here: `pam_open_session` before the fork, `pam_close_session` before the exit, in the one process that is root, is the
session's own, and lives as long as the session. What its modules did to this process stays: it serves no other session.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from teleport.launcher import accounts, environment, messages, modes, processes, session
from teleport.launcher.opening import Opening, ask_at
from teleport.launcher.values import SIGNALS, Exit, Kind, LauncherRefused, Pty, Reason, SpawnRequest

GRACE = 0.4  # seconds between asking a session's processes to end and killing them
_ROUND = 0.02  # seconds between two rounds of killing
_PATIENCE = 5.0  # seconds; a process that cannot be killed (stuck in the kernel) is then left to the launcher
_PIPE_BYTES = 262_144
IDLE_TITLE = "teleport: waiting for a session"


class State(Enum):
    STARTING = auto()
    RUNNING = auto()
    ENDED = auto()
    KEEPING = auto()
    ENDING = auto()


class Outcome(Enum):
    """How a session left its monitor."""

    FINISHED = auto()  # no process of it is left: the monitor may serve another
    LET_GO = auto()  # released processes live on, for init to reap
    SPENT = auto()  # as finished, but modules of PAM have changed this process
    STUCK = auto()  # something could not be killed: the launcher goes on trying


def run(sock: socket.socket, life: int, wake: int, host: session.Host) -> Outcome:
    """Serves the one session whose request waits on `sock`.

    `life` is a pipe's read end that closes when the launcher ends; `wake` turns readable at each SIGCHLD.
    """
    monitor = _Monitor(sock, life, wake)
    try:
        outcome = _run(monitor, sock, host)
    finally:
        monitor.opening.close()
        monitor.opening.let_account_go()
    return Outcome.SPENT if outcome is Outcome.FINISHED and monitor.opening.used_pam else outcome


def _run(monitor: _Monitor, sock: socket.socket, host: session.Host) -> Outcome:
    try:
        packet, _ = messages.receive(sock)
        if not packet:
            return Outcome.FINISHED
        if not monitor.start(messages.decode_request(packet), host):
            return Outcome.FINISHED
    except LauncherRefused as refusal:
        monitor.refuse(refusal)
        return Outcome.FINISHED
    except (ValueError, OSError, termios.error) as error:
        code = error.args[0] if isinstance(error, OSError | termios.error) and error.args else None
        scarce = code in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)
        reason = Reason.LIMIT if scarce else Reason.BAD_REQUEST if isinstance(error, ValueError) else Reason.FAILED
        text = f"The session could not be prepared: {error}"
        monitor.refuse(LauncherRefused(reason, text, hint="try again; see the node's host"))
        return Outcome.FINISHED
    return monitor.serve()


def rehearse(host: session.Host) -> None:
    """Walks the ways of a session's start without one, while nobody waits.

    A forked process shares its memory with its parent until it writes, and in Python every use of an object writes.
    This moves some 2 ms of copied pages from the start of a session to the time before it.
    """
    name = host.name
    processes.set_title(IDLE_TITLE)
    with contextlib.suppress(OSError, LauncherRefused, ValueError):
        request = messages.decode_request(messages.encode_request(SpawnRequest(name, pty=Pty())))
        accounts.find_account(name, now=time.time())
        environment.build_environment(  # noqa: S604 - `shell` is a value, nothing is run
            name=name,
            home="/",
            shell="/bin/sh",
            path=host.user_path,
            client_env=(("LANG", "C"),),
            session_env=(("SSH_SESSION_ID", "-"),),
            term="xterm",
            tty=request.login,
        )
        messages.decode(messages.encode("started", pid=0, tty=None))
        messages.encode_exit(describe(0))
        select.poll().poll(0)
        for ends in _open_pipes(os.geteuid(), os.getegid()):
            for descriptor in ends:
                os.close(descriptor)


def _send(sock: socket.socket, packet: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """To the daemon; that it is gone is seen when the socket is next read."""
    with contextlib.suppress(OSError):
        messages.send(sock, packet, descriptors)


def open_terminal(request: Pty, uid: int, group: int | None) -> tuple[int, int, str]:
    """A terminal of the size and modes asked for, owned by the user before the user's program exists: (master, slave,
    name). With group tty it takes `write` and `wall` (0620), else nobody else's output (0600)."""
    master, slave = pty.openpty()
    sizes = (min(max(size, 0), 65_535) for size in (request.height, request.width, request.xpixel, request.ypixel))
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *sizes))
    modes.apply_modes(slave, request.modes)
    if os.geteuid() == 0:
        os.fchown(slave, uid, group if group is not None else -1)
        os.fchmod(slave, 0o620 if group is not None else 0o600)
    return master, slave, os.ttyname(slave)


def _open_pipes(uid: int, gid: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(the daemon's ends, the session's ends) of stdin, stdout, stderr."""
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    for pipe in (stdin, stdout, stderr):
        with contextlib.suppress(OSError):  # over the user's share of pipe memory: the usual size does
            fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if os.geteuid() == 0:
            os.fchown(pipe[0], uid, gid)  # or the session could not open its own /dev/stderr
    return (stdin[1], stdout[0], stderr[0]), (stdin[0], stdout[1], stderr[1])


class _Monitor:
    def __init__(self, sock: socket.socket, life: int, wake: int) -> None:
        self._sock = sock
        self._life = life
        self._wake = wake
        self._state = State.STARTING
        self._child = 0
        self._report = -1
        self._ours: tuple[int, ...] = ()
        self._theirs: tuple[int, ...] = ()
        self._tty: str | None = None
        self._uid = -1
        self._ending_since = 0.0
        self._told = False  # "started" was sent
        self.opening = Opening()

    def start(self, request: SpawnRequest, host: session.Host) -> bool:
        """Looks the account up and forks the child; `LauncherRefused`, `OSError` or `termios.error` when it cannot.

        False when the daemon, asked for its word, wanted the session no more.
        """
        account = self.opening.account(request)
        processes.set_title(f"teleport: session of {account.name}")
        self._uid = account.uid
        if request.pty is not None:
            master, slave, self._tty = open_terminal(request.pty, account.uid, host.tty_group)
            self._ours, self._theirs = (master,), (slave,)
        elif request.kind is Kind.ERRANDS:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._ours, self._theirs = (ours.detach(),), (theirs.detach(),)
        else:
            self._ours, self._theirs = _open_pipes(account.uid, account.gid)
        if request.transfer is not None:
            ours, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._ours, self._theirs = (*self._ours, ours.detach()), (*self._theirs, control.detach())
        ask = self._ask if self._tty is not None else None
        account, opened = self.opening.open(request, account, self._tty, ask)
        self._report, report = os.pipe()
        os.set_blocking(self._report, False)
        processes.set_subreaper(True)
        # From here on the monitor must outlive the launcher, to end the session: `life` tells it.
        processes.set_death_signal(0)
        monitor = os.getpid()
        go, say_go = os.pipe() if request.hold else (-1, -1)
        self._child = os.fork()
        if self._child == 0:
            if request.hold:
                _wait_for_word(go, say_go)
            streams = session.Streams(self._theirs, self._tty)
            session.run(account, request, host, streams, report, monitor, opened)
        if request.hold and not self._let_go_on(go, say_go):
            return False
        for descriptor in (*self._theirs, report):
            os.close(descriptor)
        self._theirs = ()
        return True

    def _ask(self) -> Callable[[str, bool], str | None]:
        """Shows the terminal to the client; what asks there."""
        self._tell_started(os.getpid())
        terminal = self._theirs[0]
        others = (self._sock.fileno(), self._life)
        return lambda prompt, shown: ask_at(terminal, others, prompt, shown)

    def refuse(self, refusal: LauncherRefused) -> None:
        """Tells the daemon, or the user on a terminal that is shown already."""
        if not self._told:
            _send(self._sock, messages.encode_refusal(refusal))
            return
        with contextlib.suppress(OSError):
            os.write(self._theirs[0], os.fsencode(f"{refusal.message}\n"))
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs = ()
        _send(self._sock, messages.encode_exit(Exit(255)))

    def _tell_started(self, pid: int) -> None:
        if self._told:
            return
        self._told = True
        _send(self._sock, messages.encode("started", pid=pid, tty=self._tty), self._ours)
        for descriptor in self._ours:
            os.close(descriptor)
        self._ours = ()

    def _let_go_on(self, go: int, say_go: int) -> bool:
        """Says which process waits, and lets it go on at the daemon's word; False when the daemon or the launcher is
        gone, `LauncherRefused` when the daemon says that it may not: then the process has ended."""
        _send(self._sock, messages.encode("held", pid=self._child))
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._life):
            poll.register(descriptor, select.POLLIN)
        kind, fields = "", dict[str, Any]()
        if self._life not in dict(poll.poll()):
            with contextlib.suppress(OSError, ValueError):
                packet, _ = messages.receive(self._sock)
                kind, fields = messages.decode(packet) if packet else ("", {})
        if kind == "go":
            os.write(say_go, b"g")
        for descriptor in (go, say_go):
            os.close(descriptor)
        if kind != "go":
            os.waitpid(self._child, 0)  # without the word it ends
        if kind == "stop":
            raise LauncherRefused(Reason.FAILED, str(fields["message"]), hint=str(fields["hint"]))
        return kind == "go"

    def serve(self) -> Outcome:
        """Runs until the session is over and nothing of it is left, or what is left was released."""
        self._sock.setblocking(False)
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._life, self._wake, self._report):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poll.poll(self._timeout()))
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._report >= 0 and not self._look_at_start(poll):
                return Outcome.FINISHED
            ended, left = processes.reap()
            if self._child in ended:
                # It may have come to its exec, and to its end, since the report was looked at.
                if self._report >= 0 and not self._look_at_start(poll):
                    return Outcome.FINISHED
                self._ended(ended[self._child])
            if not left:
                return Outcome.FINISHED
            # First all that the daemon said, then whether the launcher lives: "release" comes before its end.
            if self._sock.fileno() in ready and not self._hear():
                poll.unregister(self._sock.fileno())
                if self._state is not State.KEEPING:
                    self._end()
            if self._life in ready:
                if self._state is State.KEEPING:
                    return Outcome.LET_GO
                poll.unregister(self._life)
                self._end()
            if self._state is State.ENDING:
                waited = time.monotonic() - self._ending_since
                if waited > GRACE + _PATIENCE:
                    return Outcome.STUCK
                if waited >= GRACE:
                    processes.kill_descendants(os.getpid())

    def _timeout(self) -> int | None:
        """Milliseconds until there is something to do by itself."""
        if self._state is not State.ENDING:
            return None
        waited = time.monotonic() - self._ending_since
        return int(1000 * max(_ROUND, GRACE - waited)) + 1

    def _look_at_start(self, poll: select.poll) -> bool:
        """False when a step before exec failed, which was then told to the daemon."""
        try:
            refusal = os.read(self._report, messages.MAX_MESSAGE)
        except BlockingIOError:
            return True
        if refusal.startswith(session.GREETING):
            self._tell_started(self._child)  # so that what it shows is read; the report goes on
            refusal = refusal.removeprefix(session.GREETING)
            if not refusal:
                return True
        poll.unregister(self._report)
        os.close(self._report)
        self._report = -1
        if refusal:
            with contextlib.suppress(ChildProcessError):  # reaped already
                os.waitpid(self._child, 0)  # it exits right after its report
            _send(self._sock, messages.encode_exit(Exit(255)) if self._told else refusal)
            return False
        self._tell_started(self._child)
        if self._state is State.STARTING:
            self._state = State.RUNNING
        return True

    def _ended(self, status: int) -> None:
        _send(self._sock, messages.encode_exit(describe(status)))
        if self._state is State.RUNNING:
            self._state = State.ENDED

    def _hear(self) -> bool:
        """Does all that the daemon has said; False when it is gone or talks nonsense."""
        while True:
            try:
                packet, _ = messages.receive(self._sock)
                if not packet:
                    return False
                self._obey(*messages.decode(packet))
            except BlockingIOError:
                return True
            except (OSError, ValueError):
                return False

    def _obey(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "kill":
            self._end()
        elif kind == "release" and self._state is State.ENDED:
            self._state = State.KEEPING
            self.opening.close()
            processes.set_title("teleport: left behind by a session")
        elif kind == "signal" and fields.get("name") in SIGNALS and self._state is State.RUNNING:
            with contextlib.suppress(OSError):  # no process for it: a signal is a wish
                self._signal(signal.Signals[f"SIG{fields['name']}"])

    def _signal(self, number: signal.Signals) -> None:
        """Signals the foreground of the terminal, or the session's first process group, with the user's own rights."""
        group = processes.foreground_group(self._child) if self._tty is not None else self._child
        if group is None:
            return
        # A child that is the user for good does it: were this process the user for a moment, the user could kill it.
        helper = os.fork()
        if helper == 0:
            try:
                if os.geteuid() == 0:
                    os.setresuid(self._uid, self._uid, self._uid)
                os.killpg(group, number)
            except OSError:
                pass
            finally:
                os._exit(0)
        # Reaped in the loop, like everything below this process.

    def _end(self) -> None:
        if self._state is State.ENDING:
            return
        self._state = State.ENDING
        self._ending_since = time.monotonic()
        processes.signal_descendants(os.getpid(), signal.SIGHUP, signal.SIGTERM, signal.SIGCONT)


def _wait_for_word(go: int, say_go: int) -> None:
    """In the child: returns at the monitor's word; without it, the child ends."""
    os.close(say_go)
    if os.read(go, 1) != b"g":
        os._exit(255)


def describe(status: int) -> Exit:
    """What a wait status says."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name.removeprefix("SIG")
        except ValueError:
            name = f"RTMIN+{number - signal.SIGRTMIN}"
        return Exit(None, name, os.WCOREDUMP(status))
    return Exit(os.WEXITSTATUS(status))


def excepted() -> None:
    """Reports an exception that is a mistake of ours, on the launcher's stderr."""
    sys.excepthook(*sys.exc_info())
