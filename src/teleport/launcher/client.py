"""The daemon's side of the launcher, for asyncio: ask for a process, get its descriptors, learn how it ended.

launcher = Launcher(end)                    # in the loop; `end` is what teleport.launcher.start() returned
process = await launcher.spawn(request)     # LauncherRefused says why not
... read and write process.pty, or process.stdin, .stdout, .stderr: the caller owns and closes them ...
ended = await process.wait()
process.close()                             # ended: what nohup left may live on; not ended: everything is killed
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import replace

from teleport.errors import BadRequest
from teleport.launcher import messages
from teleport.launcher.errand_client import Errands
from teleport.launcher.starting import LauncherEnd
from teleport.launcher.values import SIGNALS, Exit, LauncherRefused, Reason, SessionLost, SpawnRequest


def resize_terminal(master: int, width: int, height: int, xpixel: int = 0, ypixel: int = 0) -> None:
    """Sets a terminal's size (characters, pixels); its foreground gets SIGWINCH. `OSError` on a closed terminal."""
    sizes = (min(max(size, 0), 65_535) for size in (height, width, xpixel, ypixel))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *sizes))


class Process:
    """A session's first process.

    `pty` is the terminal's master end, or `stdin`, `stdout`, `stderr` are pipe ends, or `errands` is a socket; all are
    non-blocking and belong to the caller from the start. Reading a master raises `OSError` with EIO at its end.
    """

    pid: int
    tty: str | None
    pty: int | None
    stdin: int | None
    stdout: int | None
    stderr: int | None
    control: int | None  # of a process that moves files: a SOCK_SEQPACKET socket over which it asks and tells
    errands: int | None

    def __init__(self, sock: socket.socket, held: Callable[[int], None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._sock = sock
        self._held = held
        self._ready: asyncio.Future[None] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._open = True
        for future in (self._ready, self._exit):
            future.add_done_callback(_look_at)
        self.pid = 0
        self.tty = self.pty = self.stdin = self.stdout = self.stderr = self.control = self.errands = None
        loop.add_reader(sock.fileno(), self._hear)

    async def wait(self) -> Exit:
        """How the process ended; may be awaited by several and at any time. `SessionLost` when nobody can know."""
        return await asyncio.shield(self._exit)

    async def wait_gone(self) -> None:
        """Until the session's monitor has ended: after `kill`, no process of the session is left then."""
        await asyncio.shield(self._gone)

    @property
    def ended(self) -> bool:
        """Whether the first process has ended; others of the session may still run."""
        return self._exit.done()

    def signal(self, name: str) -> None:
        """Sends a signal (a name of RFC 4254, such as "INT") with the user's rights: to the terminal's foreground, or
        to the first process's group. `BadRequest` for other names; nothing happens when the process has ended."""
        if name not in SIGNALS:
            raise BadRequest(
                f"{name!r} is not a signal that a session can be sent",
                hint=f"the names are {', '.join(sorted(SIGNALS))}",
            )
        self._send(messages.encode("signal", name=name))

    def kill(self) -> None:
        """Ends every process of the session, also those that left its terminal: HUP and TERM, then KILL."""
        self._send(messages.encode("kill"))

    def close(self) -> None:
        """The daemon is done with this session. When it has ended by itself, what it left in the background lives on,
        as under sshd; otherwise everything is killed. Idempotent."""
        if not self._open:
            return
        if self.ended and not self._gone.done():
            self._send(messages.encode("release"))
        self._shut()

    def _send(self, packet: bytes) -> None:
        if self._open:
            with contextlib.suppress(OSError):  # full, or the monitor has gone: its end is seen by the reader
                messages.send(self._sock, packet)

    def _shut(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        lost = SessionLost("The session's monitor is gone, or was let go before the session ended")
        if not self._ready.done():
            self._ready.set_exception(
                LauncherRefused(Reason.FAILED, "The session's monitor ended before the session started"),
            )
        if not self._exit.done():
            self._exit.set_exception(lost)
        if not self._gone.done():
            self._gone.set_result(None)

    def _hear(self) -> None:
        """One packet a turn: the loop calls again while there are more."""
        try:
            packet, descriptors = messages.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet, descriptors = b"", []
        if not packet:
            self._shut()
            return
        kind, fields = messages.decode(packet)
        if kind == "held":
            self._hold(int(fields["pid"]))
        elif kind == "started":
            self._started(int(fields["pid"]), fields["tty"], descriptors)
        elif kind == "refused" and not self._ready.done():
            self._ready.set_exception(
                LauncherRefused(Reason(fields["reason"]), fields["message"], hint=fields["hint"]),
            )
        elif kind == "exit" and not self._exit.done():
            self._exit.set_result(Exit(fields["status"], fields["signal"], fields["core_dumped"]))

    def _hold(self, pid: int) -> None:
        """The first process waits: whoever asked for it prepares, then it goes on, or ends with the reason."""
        try:
            if self._held is not None:
                self._held(pid)
        except LauncherRefused as refusal:
            self._send(messages.encode("stop", message=refusal.message, hint=refusal.hint))
        else:
            self._send(messages.encode("go"))

    def _started(self, pid: int, tty: str | None, descriptors: list[int]) -> None:
        if self._ready.done():  # nobody waits any more: spawn was cancelled
            for descriptor in descriptors:
                os.close(descriptor)
            return
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        self.pid, self.tty = pid, tty
        if len(descriptors) == 1 and tty is None:
            (self.errands,) = descriptors
        elif len(descriptors) == 1:
            (self.pty,) = descriptors
        else:
            self.stdin, self.stdout, self.stderr, *more = descriptors
            self.control = more[0] if more else None
        self._ready.set_result(None)

    async def _wait_ready(self) -> None:
        """Until the program runs; when that fails or is cancelled, nothing stays open."""
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            for descriptor in (self.pty, self.stdin, self.stdout, self.stderr, self.control, self.errands):
                if descriptor is not None:
                    os.close(descriptor)
            if not self._ready.done():
                self._ready.cancel()
            self._shut()
            raise


def _look_at(future: asyncio.Future[None] | asyncio.Future[Exit]) -> None:
    """Marks an exception as seen: whoever waits gets it, and that nobody waits is no mistake."""
    if not future.cancelled():
        future.exception()


class Launcher:
    """Asks the launcher for processes. Made in the running loop; `close` ends the launcher and every session."""

    def __init__(self, end: LauncherEnd) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._sock = end.socket
        self._sock.setblocking(False)
        self._turn = asyncio.Lock()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._open = True
        self._loop.add_reader(self._sock.fileno(), self._hear)

    @property
    def pid(self) -> int:
        return self._end.pid

    @property
    def failed(self) -> bool:
        """Whether the launcher has ended: no session can be started, and those that ran are being killed."""
        return self._gone.done()

    async def wait_failed(self) -> None:
        """Until the launcher has ended, whatever the cause."""
        await asyncio.shield(self._gone)

    async def spawn(self, request: SpawnRequest, *, held: Callable[[int], None] | None = None) -> Process:
        """Starts a process and returns once its program runs. `LauncherRefused` says why it does not.

        `held` is called, in the loop, with the process id of the session's first process, which waits; a
        `LauncherRefused` of it is the outcome.

        Cancelled, it leaves nothing running. Give it a time limit: a name service may take its time over an account.
        """
        packet = messages.encode_request(request if held is None else replace(request, hold=True))
        if self.failed or not self._open:
            raise _gone()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise LauncherRefused(Reason.LIMIT, f"The node cannot take another session: {error.strerror}") from error
        ours.setblocking(False)
        process = Process(ours, held)
        try:
            with theirs:
                _put(ours, packet)
                await self._hand_over(theirs)
            await process._wait_ready()
        except BaseException:
            process._shut()
            raise
        return process

    async def errands(self, request: SpawnRequest) -> Errands:
        """Starts a process of `Kind.ERRANDS`; the caller closes it. `LauncherRefused` as with `spawn`."""
        return Errands(await self.spawn(request))

    async def _hand_over(self, session: socket.socket) -> None:
        while True:
            async with self._turn:  # one waits for room at a time, and in order
                try:
                    messages.send(self._sock, messages.HAND_OVER, (session.fileno(),))
                    return
                except BlockingIOError:
                    await self._wait_room()
                except OSError as error:
                    if error.errno == errno.ETOOMANYREFS:
                        raise LauncherRefused(Reason.LIMIT, "Too many sessions are being started at once") from error
                    raise _gone() from error

    async def _wait_room(self) -> None:
        room: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._sock.fileno(), _resolve, room)
        try:
            await room
        finally:
            if self._open:
                self._loop.remove_writer(self._sock.fileno())
        if self.failed:
            raise _gone()

    def _hear(self) -> None:
        """The launcher says nothing here: readable means that it has ended."""
        try:
            self._sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            pass  # a reset: it was killed with a request unread
        self._shut()

    def close(self) -> None:
        """Ends the launcher; every session that still runs is killed within about a second. Idempotent."""
        self._shut()

    def _shut(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        if not self._gone.done():
            self._gone.set_result(None)

    async def wait_closed(self) -> None:
        """After `close` or a failure: until the launcher's process has ended and is reaped."""
        while True:
            try:
                pid, _ = os.waitpid(self._end.pid, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG does not wait
            except ChildProcessError:
                return
            if pid:
                return
            await asyncio.sleep(0.02)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _put(sock: socket.socket, packet: bytes) -> None:
    try:
        messages.send(sock, packet)
    except OSError as error:
        raise LauncherRefused(
            Reason.BAD_REQUEST,
            f"The request of {len(packet)} bytes does not fit this host's socket buffers: {error.strerror}",
            hint="shorten the command, or raise net.core.wmem_default",
        ) from error


def _gone() -> LauncherRefused:
    return LauncherRefused(
        Reason.LAUNCHER_GONE,
        "The launcher of this node has ended; no session can be started",
        hint="restart the node service (systemctl restart teleport-node)",
    )
