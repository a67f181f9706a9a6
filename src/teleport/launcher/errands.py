"""Errands: a process that connects and listens for the daemon as a Unix user, and hands the descriptors over.

One serves one SSH connection. It is the forked child that would have become the user's program: groups, gid and uid are
dropped and verified, and instead of exec it serves requests on its socket. What it opens is opened with the user's
rights, so that the daemon's own never count: files and sockets, ports below 1024, rules of a packet filter by owner.

Rules it keeps:
- the user's other processes can neither trace it nor read its memory (it is not dumpable);
- a path is opened once; what is reported of it is what the kernel says of that descriptor, and what is connected to is
  that descriptor, so that nothing can be put in its place between the decision and the connection;
- no path is ever chowned, and what it made in the file system is taken away again when it ends, also when the daemon is
  killed: then its socket closes. (Only where its monitor is killed, all that ran below that is killed at once.)
- it never waits: connections are handed over while they are being made, names are looked up in threads.

    daemon -> errands    [1, errand, {id, ...}]
    errands -> daemon    done {id, ...} with descriptors, or failed {id, error}
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from teleport.launcher import messages, processes
from teleport.launcher.lookups import Found, Lookups

MOST_HELD = 128  # things opened or made for one connection at a time
_BACKLOG = 128
_FIRST_DISPLAY = 10  # as sshd: lower ones belong to real screens
_MOST_DISPLAYS = 1000
_X11_PORT = 6000
_LOOPBACK = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
_PRIVATE = 0o177
_ENDS = (signal.SIGTERM, signal.SIGHUP)
_FAMILY_LOCAL, _FAMILY_WILD = 256, 65535  # libXau: a host by its name; any host
_DELETED = " (deleted)"

Answer = tuple[dict[str, object], tuple[int, ...]]


class Failed(Exception):
    """An errand that cannot be done; the text is for the user."""


class _Stop(BaseException):
    """The process has been told to end."""


@dataclass(slots=True)
class Held:
    """Something that was found or made, by its token."""

    descriptor: int = -1  # O_PATH: a socket, or the directory that `name` lies in
    name: str = ""
    made: int = -1  # O_PATH: what was made there; while it is open, nothing else gets its inode
    folder: str = ""  # a directory that was made for it, with what lies in it


def serve(control: int, ready: int, home: str) -> NoReturn:
    """Serves until the daemon's end closes or a signal says to end. `ready` is closed once it can."""
    processes.set_title("teleport: errands")
    processes.set_death_signal(signal.SIGTERM)  # of the monitor: there is something to tidy up
    processes.set_undumpable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.chdir("/")
    sock = socket.socket(fileno=control)
    errands = Errands(sock, home)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        for number in _ENDS:
            signal.signal(number, _stop)
        os.close(ready)
        errands.run()
    except (_Stop, OSError):
        pass
    finally:
        _finish(errands)


def _finish(errands: Errands) -> NoReturn:
    """Tidies up and ends. Each signal may come once more until it is ignored."""
    while True:
        try:
            for number in _ENDS:
                signal.signal(number, signal.SIG_IGN)
            errands.tidy()
            os._exit(0)
        except _Stop:
            continue


def _stop(*_: object) -> None:
    raise _Stop


class Errands:
    """What one connection has had done."""

    def __init__(self, control: socket.socket, home: str) -> None:
        self._control = control
        self._home = home
        self._held: dict[int, Held] = {}
        self._next = 1
        from threading import Lock  # the launcher itself has no use for it

        self._lookups = Lookups(self._looked_up)
        self._turn = Lock()  # answers of threads do not mix with ours
        self._errands: dict[str, Callable[..., Answer | None]] = {
            "connect": self._connect,
            "addresses": self._addresses,
            "find": self._find,
            "connect_found": self._connect_found,
            "listen": self._listen,
            "place": self._place,
            "listen_at": self._listen_at,
            "agent": self._agent,
            "x11": self._x11,
            "forget": self._forget,
        }

    def run(self) -> None:
        """Until the daemon's end closes. A signal to end counts between errands only: none is left half done."""
        self._control.setblocking(True)
        while True:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
            try:
                packet, descriptors = messages.receive(self._control)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
            for descriptor in descriptors:  # none is ever expected
                os.close(descriptor)
            if not packet:
                return
            kind, fields = messages.decode(packet)
            self.do(kind, fields)

    def do(self, kind: str, fields: dict[str, Any]) -> None:
        """Does one errand and answers."""
        number = fields.pop("id")
        try:
            errand = self._errands.get(kind)
            if errand is None:
                raise Failed(f"there is no errand {kind!r}")
            answer = errand(number=number, **fields) if kind == "addresses" else errand(**fields)
        except Failed as failure:
            self._answer("failed", {"id": number, "error": str(failure)}, ())
        except (OSError, ValueError, TypeError, OverflowError, KeyError) as error:
            self._answer("failed", {"id": number, "error": _said(error)}, ())
        else:
            if answer is not None:
                found, descriptors = answer
                self._answer("done", {"id": number, **found}, descriptors)

    def _answer(self, kind: str, fields: dict[str, object], descriptors: tuple[int, ...]) -> None:
        with self._turn:
            try:
                messages.send(self._control, messages.encode(kind, **fields), descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _hold(self, held: Held) -> int:
        if len(self._held) >= MOST_HELD:
            if held.descriptor >= 0:
                os.close(held.descriptor)
            raise Failed("too many sockets are open for one connection")
        token, self._next = self._next, self._next + 1
        self._held[token] = held
        return token

    # connections

    def _connect(self, address: str, port: int) -> Answer:
        """A connection that is being made to an address, never a name."""
        family = _family(address)
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return {}, (_begun(sock, (address, port)),)

    def _addresses(self, number: int, host: str, port: int) -> None:
        """The addresses of a name; answered later."""
        self._lookups.ask(number, host, port)

    def _looked_up(self, number: int, found: Found) -> None:
        if isinstance(found, dict):
            self._answer("done", {"id": number, **found}, ())
        else:
            self._answer("failed", {"id": number, "error": f"the name cannot be resolved: {_said(found)}"}, ())

    def _find(self, path: str) -> Answer:
        """Pins the socket at a path; where it lies is what the kernel says of what was pinned."""
        _check_path(path)
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                raise Failed("it is not a socket")
            real = _path_of(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return {"token": self._hold(Held(descriptor)), "path": real, "home": os.path.realpath(self._home)}, ()

    def _connect_found(self, token: int) -> Answer:
        held = self._held[token]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        return {}, (_begun(sock, f"/proc/self/fd/{held.descriptor}"),)

    # listening

    def _listen(self, addresses: list[str], port: int) -> Answer:
        """Listens at every address at one port; of several, those that the host has. Port 0: a free one."""
        made: list[int] = []
        failure: OSError | None = None
        for address in addresses:
            try:
                sock, port = _listening(address, port)
                made.append(sock)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    _close_all(made)
                    raise
                failure = error
        if not made:
            raise failure or Failed("no address was given")
        return {"port": port}, tuple(made)

    def _place(self, path: str) -> Answer:
        """Pins the directory in which a socket is to be made."""
        _check_path(path)
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            raise Failed("it names no socket")
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            real = os.path.join(_path_of(descriptor), name)
        except BaseException:
            os.close(descriptor)
            raise
        return {"token": self._hold(Held(descriptor, name)), "path": real, "home": os.path.realpath(self._home)}, ()

    def _listen_at(self, token: int) -> Answer:
        return {}, (self._make_socket(self._held[token]),)

    def _make_socket(self, held: Held) -> int:
        """A listening socket, mode 0600, of that name in that directory; nothing is replaced there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        former = os.umask(_PRIVATE)
        try:
            sock.bind(f"/proc/self/fd/{held.descriptor}/{held.name}")
            held.made = os.open(held.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held.descriptor)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(former)
        return sock.detach()

    def _folder(self) -> Held:
        """A new directory of the user's own, mode 0700."""
        made = os.path.join(_runtime_directory(), f"ssh-{os.urandom(8).hex()}")
        os.mkdir(made, 0o700)
        descriptor = os.open(made, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
            os.close(descriptor)
            raise Failed("the directory for it is not the user's own")
        return Held(descriptor, folder=made)

    def _agent(self) -> Answer:
        """A socket for programs that ask an agent, in a directory of its own."""
        held = self._folder()
        held.name = f"agent.{os.getpid()}"
        token = self._hold(held)
        try:
            descriptor = self._make_socket(held)
        except BaseException:
            self._forget(token)
            raise
        return {"token": token, "path": os.path.join(held.folder, held.name)}, (descriptor,)

    def _x11(self, protocol: str, cookie: str) -> Answer:
        """A display on loopback, and a file of its own with what its clients have to show (Xau's format)."""
        made, display = _open_display()
        held = None
        try:
            held = self._folder()
            held.name = "Xauthority"
            token = self._hold(held)
            secret, name, number = bytes.fromhex(cookie), protocol.encode("ascii"), str(display).encode()
            host = os.fsencode(socket.gethostname())
            entries = b"".join(
                struct.pack(">H", family)
                + b"".join(struct.pack(">H", len(part)) + part for part in (where, number, name, secret))
                for family, where in ((_FAMILY_LOCAL, host), (_FAMILY_WILD, b""))
            )
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(held.name, flags, 0o600, dir_fd=held.descriptor)
            try:
                held.made = os.open(held.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held.descriptor)
                os.write(file, entries)
            finally:
                os.close(file)
        except BaseException:
            _close_all(made)
            if held is not None:
                _take_away(held)
            raise
        return {"token": token, "display": display, "path": os.path.join(held.folder, held.name)}, tuple(made)

    # the end

    def _forget(self, token: int) -> Answer:
        held = self._held.get(token)
        if held is not None:
            _take_away(held)
            del self._held[token]
        return {}, ()

    def tidy(self) -> None:
        """Takes everything away that was made."""
        for held in self._held.values():
            _take_away(held)
        self._held.clear()


def _said(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _check_path(path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(path) > 4096:
        raise Failed("it is not an absolute path")


def _path_of(descriptor: int) -> str:
    """Where an open file lies now; `Failed` when it lies nowhere any more."""
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    if not path.startswith("/") or path.endswith(_DELETED):
        raise Failed("it is gone")
    return path


def _family(address: str) -> socket.AddressFamily:
    """That of an address. A name is none, and is looked up by nobody here."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address)
    except OSError:
        raise Failed(f"{address!r} is not an address") from None
    return family


def _begun(sock: socket.socket, address: Any) -> int:
    """Begins to connect; the descriptor."""
    try:
        sock.connect(address)
    except BlockingIOError as error:
        if error.errno != errno.EINPROGRESS:  # a Unix socket whose queue is full
            sock.close()
            raise Failed("it takes no more connections now") from error
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def _listening(address: str, port: int) -> tuple[int, int]:
    family = _family(address)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        got = int(sock.getsockname()[1])
    except BaseException:
        sock.close()
        raise
    return sock.detach(), got


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _open_display() -> tuple[list[int], int]:
    """Loopback sockets of the first display that nobody has, and its number."""
    for display in range(_FIRST_DISPLAY, _FIRST_DISPLAY + _MOST_DISPLAYS):
        made: list[int] = []
        try:
            for address, _ in _LOOPBACK:
                try:
                    made.append(_listening(address, _X11_PORT + display)[0])
                except OSError as error:
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
        except OSError:
            _close_all(made)
            continue
        if made:
            return made, display
    raise Failed("no display is free on this host")


def _runtime_directory() -> str:
    """Where a user's sockets live: its own directory below /run/user, else /tmp, which takes nobody's away."""
    own = f"/run/user/{os.geteuid()}"
    with contextlib.suppress(OSError):
        found = os.lstat(own)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700:
            return own
    return "/tmp"  # noqa: S108 - a directory of a random name is made in it, which must not be there yet


def _take_away(held: Held) -> None:
    """Removes what was made, unless something else lies there now, and lets the pinned descriptor go."""
    with contextlib.suppress(OSError):
        if held.made >= 0 and os.path.samestat(
            os.fstat(held.made), os.stat(held.name, dir_fd=held.descriptor, follow_symlinks=False)
        ):
            os.unlink(held.name, dir_fd=held.descriptor)
    if held.folder:
        with contextlib.suppress(OSError):
            os.rmdir(held.folder)
    for descriptor in (held.descriptor, held.made):
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    held.descriptor = held.made = -1
