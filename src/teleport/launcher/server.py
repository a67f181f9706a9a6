"""The launcher's own process: it forks monitors, hands them sessions, and buries them.

It is single-threaded and never waits for a session: accounts, terminals and programs are a monitor's business, and each
monitor talks with the daemon over a socket of its own. Monitors wait forked in advance, and serve one session after
another, so that a session costs one fork when it starts. Two ends of life are watched:

- the daemon's end of the control socket closes: every monitor sees its own socket close and ends its session; the
  launcher waits for them and exits;
- a monitor dies without having finished: its session's processes fall to the launcher, a subreaper too, and are killed.

When the launcher itself dies, the pipe `life` closes and every monitor ends its session.
"""

from __future__ import annotations

import contextlib
import gc
import grp
import os
import pwd
import select
import signal
import socket
import time

from teleport.launcher import environment, messages, monitor, processes, session
from teleport.launcher.host_users import HostUsers
from teleport.launcher.values import LauncherRefused, Reason

_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_GRACE = monitor.GRACE + 8.0  # seconds that the launcher waits for its monitors after the daemon's end
_ROUND = 100  # milliseconds between two rounds of killing what a dead monitor left
_MOST_SPARES = 4  # monitors that are kept after a burst of sessions
_MOST_SESSIONS = 200  # then a monitor makes room for a fresh one
_IDLE = b"\x01I"  # monitor to launcher: ready for the next session
_OOM_SCORE = "/proc/self/oom_score_adj"
_OOM_PROTECTED = "-900"


def serve(control: socket.socket, spares: int) -> None:
    """The whole life of the launcher's process, in a fresh fork: until the daemon's end of `control` closes."""
    _Server(control, spares).run()


def _quiet(*descriptors: int) -> None:
    """Points standard streams at /dev/null."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def _wake_pipe() -> tuple[int, int]:
    """A read end that turns readable at each SIGCHLD, and the end that Python's signal handler writes to."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read, write


def _read_host() -> session.Host:
    try:
        with open("/etc/login.defs", encoding="utf-8", errors="surrogateescape") as file:
            user_path, root_path = environment.login_paths(file.read())
    except OSError:
        user_path, root_path = environment.login_paths("")
    try:
        tty_group: int | None = grp.getgrnam("tty").gr_gid
    except KeyError:
        tty_group = None
    oom_score: str | None = None
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            with open(_OOM_SCORE, encoding="ascii") as file:
                before = file.read().strip()
            with open(_OOM_SCORE, "w", encoding="ascii") as file:
                file.write(_OOM_PROTECTED)
            oom_score = before
    changed = tuple(
        number for number in signal.valid_signals() if signal.getsignal(number) not in (signal.SIG_DFL, None)
    )
    return session.Host(_warm_name_service(), user_path, root_path, tty_group, changed, oom_score)


def _warm_name_service() -> str:
    """Loads the name service's modules, so that no session does; the name of the daemon's own account."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return ""
    os.getgrouplist(entry.pw_name, entry.pw_gid)
    return entry.pw_name


class _Server:
    def __init__(self, control: socket.socket, spares: int) -> None:
        self._control = control
        self._wanted = self._usual = spares
        self._monitors: dict[int, socket.socket] = {}  # by process id; the socket is closed once one is to go
        self._by_socket: dict[int, int] = {}  # process ids by descriptor
        self._spares: list[int] = []  # those that wait for a session, longest first
        self._orphans = False
        self._poll = select.poll()

    def run(self) -> None:
        with contextlib.suppress(PermissionError):  # already a session leader
            os.setsid()  # Ctrl-C on the daemon's terminal is the daemon's business
        for number in signal.valid_signals():
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _quiet(0, 1)
        processes.close_all_but(0, 1, 2, self._control.fileno())
        self._life, self._life_end = os.pipe()
        self._wake, _ = _wake_pipe()
        self._host = _read_host()
        if os.geteuid() == 0:
            HostUsers().sweep()
        processes.set_title("teleport: launcher")
        processes.set_subreaper(True)
        gc.disable()  # nothing here makes cycles, and a collection after a fork would copy every page
        gc.freeze()
        self._serve()
        self._finish()

    def _serve(self) -> None:
        """Until the daemon's end closes."""
        self._poll.register(self._control.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        while True:
            short = len(self._spares) < self._wanted
            ready = dict(self._poll.poll(0 if short else _ROUND if self._orphans else None))
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._bury()
            for descriptor in ready.keys() & self._by_socket.keys():
                self._welcome(self._by_socket[descriptor])
            if self._control.fileno() in ready:
                if not self._take_session():
                    return
            elif short:
                with contextlib.suppress(OSError):
                    self._add_spare()
            if self._orphans:
                self._kill_orphans()

    def _take_session(self) -> bool:
        """Hands one session over; False when the daemon is gone."""
        try:
            packet, descriptors = messages.receive(self._control)
        except (OSError, ValueError):
            return False
        if packet != messages.HAND_OVER or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            return bool(packet)
        with socket.socket(fileno=descriptors[0]) as sock:
            try:
                while True:
                    if not self._spares:
                        self._add_spare()
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has just died: the next one
                        # The newest: its memory is still in the processor's caches, and the oldest get let go.
                        messages.send(self._monitors[self._spares.pop()], packet, (sock.fileno(),))
                        return True
            except OSError as error:
                refusal = LauncherRefused(Reason.LIMIT, f"The host cannot start a session now: {error}")
                with contextlib.suppress(OSError):
                    messages.send(sock, messages.encode_refusal(refusal))
        return True

    def _add_spare(self) -> None:
        """Forks a monitor that waits for a session. `OSError` when the host is out of something: then none are forked
        in advance until that works again for a session that needs one."""
        self._wanted = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            status = 1
            try:
                status = _be_monitor(theirs, self._life, self._host, launcher)
            except BaseException:
                monitor.excepted()
            finally:
                os._exit(status)
        theirs.close()
        self._wanted = self._usual
        self._monitors[pid] = ours
        self._by_socket[ours.fileno()] = pid
        self._spares.append(pid)
        self._poll.register(ours.fileno(), select.POLLIN)

    def _welcome(self, pid: int) -> None:
        """A monitor has finished a session and waits for the next one, or is about to end."""
        sock = self._monitors[pid]
        with contextlib.suppress(OSError):
            if sock.recv(16) == _IDLE and len(self._spares) < max(self._usual, _MOST_SPARES):
                self._spares.append(pid)
                return
        self._poll.unregister(sock.fileno())
        del self._by_socket[sock.fileno()]
        sock.close()  # which tells it to go

    def _bury(self) -> None:
        ended, _ = processes.reap()
        for pid, status in ended.items():
            sock = self._monitors.pop(pid, None)
            if sock is None:
                continue
            if sock.fileno() >= 0:
                self._poll.unregister(sock.fileno())
                del self._by_socket[sock.fileno()]
                sock.close()
            if pid in self._spares:
                self._spares.remove(pid)
            if status != 0:
                self._orphans = True

    def _kill_orphans(self) -> None:
        """Kills what dead monitors left: the children that are no monitors. A monitor that finished leaves none."""
        spare = frozenset(self._monitors)
        self._orphans = any(child not in spare for child in processes.children(os.getpid()))
        if self._orphans:
            processes.kill_descendants(os.getpid(), spare=spare)

    def _finish(self) -> None:
        """The daemon is gone: monitors end their sessions; those that keep released processes just let go."""
        until = time.monotonic() + _GRACE
        self._kill_orphans()
        # Processes that a normal end of a session left behind pass to init, not to here, when their monitors go.
        processes.set_subreaper(False)
        os.close(self._life_end)
        for sock in self._monitors.values():
            if sock.fileno() >= 0:
                self._poll.unregister(sock.fileno())
                sock.close()
        self._by_socket.clear()
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._bury_closed()
        while self._monitors and time.monotonic() < until:
            poll.poll(100)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            self._bury_closed()
        self._orphans = True
        while self._orphans and time.monotonic() < until:
            self._kill_orphans()
            processes.reap()

    def _bury_closed(self) -> None:
        for pid in processes.reap()[0]:
            self._monitors.pop(pid, None)


def _be_monitor(control: socket.socket, life: int, host: session.Host, launcher: int) -> int:
    """One session after the other, until the launcher wants no more or one left something open."""
    processes.close_all_but(0, 1, 2, control.fileno(), life)
    _quiet(2)  # a monitor may outlive the daemon, and must not hold the pipe that its log goes to
    wake, wake_end = _wake_pipe()
    monitor.rehearse(host)
    for session_number in range(_MOST_SESSIONS):
        # Until its session has a process, a monitor simply dies with the launcher.
        processes.set_death_signal(signal.SIGKILL)
        if os.getppid() != launcher:
            return 0
        packet, descriptors = messages.receive(control)
        if packet != messages.HAND_OVER or len(descriptors) != 1:
            return 0
        sock = socket.socket(fileno=descriptors[0])
        outcome = monitor.run(sock, life, wake, host)
        if outcome is not monitor.Outcome.FINISHED:
            return int(outcome is monitor.Outcome.STUCK)
        processes.set_title(monitor.IDLE_TITLE)
        sock.close()  # for the daemon: nothing of the session is left
        # Whatever a session left open here goes with it.
        processes.close_all_but(0, 1, 2, control.fileno(), life, wake, wake_end)
        if session_number < _MOST_SESSIONS - 1:
            messages.send(control, _IDLE)
    return 0
