"""SFTP over a session of ours: many requests under way at once, as many as the path's delay asks for.

The codec is `wire/sftp_client.py`; here requests get numbers and answers find them. What a server sends is bounded, and
an answer that fits no request ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from teleport.errors import AccessDenied, ConnectionProblem, NotFound, TeleportError
from teleport.recording.sanitise import one_line
from teleport.ssh.client import SshClient
from teleport.ssh.client_session import RemoteSession
from teleport.wire import sftp_client as wire
from teleport.wire.sftp import Packet, Status
from teleport.wire.sftp_client import Answer, Attributes, Limits

_T = TypeVar("_T")
_HELLO_SECONDS = 30.0
_LEAST_FLIGHT = 4 * 1024 * 1024  # bytes under way
_MOST_FLIGHT = 32 * 1024 * 1024
_RATE = 400 * 1024 * 1024  # bytes a second that should find the path filled
_MAX_ENTRIES = 1_000_000  # of one folder
_MESSAGES = {
    Status.NO_SUCH_FILE: "no such file or folder",
    Status.PERMISSION_DENIED: "permission denied",
    Status.OP_UNSUPPORTED: "the host cannot do this",
}


class Refused(TeleportError):
    """The server's answer is a refusal."""

    def __init__(self, said: wire.Said) -> None:
        told = one_line(said.message) if said.message else ""
        known = _MESSAGES.get(said.code)  # type: ignore[call-overload]
        usual = told.lower() in ("", "failure", "permission denied", "no such file", "operation unsupported")
        super().__init__((known or told or "the host refuses it") if usual else told, hint="check the path on the host")
        self.status = said.code


class Flight:
    """Bytes under way: lets in as many as `limit` says, one piece at least."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._flying = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def enter(self, size: int) -> None:
        while self._flying and self._flying + size > self._limit():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        self._flying += size

    def leave(self, size: int) -> None:
        self._flying -= size
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class Sftp:
    """A session of the subsystem. Paths are bytes of the host's file system, as `surrogateescape` text."""

    def __init__(self, node: SshClient, shown: str) -> None:
        self._node = node
        self._shown = shown
        self._packets = wire.Packets()
        self._hello: asyncio.Future[wire.Hello] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._next = 0
        self._session: RemoteSession | None = None
        self._stderr = b""
        self._over: TeleportError | None = None
        self._watch: asyncio.Task[None] | None = None
        self.limits = Limits()
        self.extensions: dict[bytes, bytes] = {}

    async def begin(self) -> None:
        """Starts it. Raises `TeleportError`."""
        try:
            self._session = await self._node.start(subsystem="sftp", on_output=self._received)
        except AccessDenied as error:
            usual = error.message in ("Session request failed", "the server refused the session")
            why = "" if usual else f": {error.message}"
            raise AccessDenied(f"{self._shown} refuses file transfers{why}", hint=error.hint) from None
        self._watch = asyncio.create_task(self._until_over(self._session), name="sftp")
        self._session.write(wire.hello())
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                found = await self._hello
        except TimeoutError:
            raise ConnectionProblem(f"{self._shown} starts no file transfer", hint="try again") from None
        self.extensions = found.extensions
        if b"limits@openssh.com" in found.extensions:
            answer = await self._ask(Packet.EXTENDED, wire.text(b"limits@openssh.com"))
            if isinstance(answer, wire.Reply):
                self.limits = wire.parse_limits(answer.value)

    def flight_limit(self) -> int:
        """Bytes that should be under way: what the path carries in its delay."""
        return min(_MOST_FLIGHT, max(_LEAST_FLIGHT, int(self._node.delay * _RATE)))

    async def close(self) -> None:
        if self._session is not None:
            self._session.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._end(ConnectionProblem("the transfer was ended here", hint="try again"))

    # --- answers

    def _received(self, data: bytes, is_stderr: bool) -> None:
        if is_stderr:
            self._stderr = (self._stderr + data)[-2000:]
            return
        if self._over is not None:
            return
        try:
            for packet in self._packets.feed(data):
                if not self._hello.done():
                    self._hello.set_result(wire.parse_hello(packet))
                    continue
                number, answer = wire.parse_answer(packet)
                waiter = self._waiting.pop(number, None)
                if waiter is None:
                    raise wire.Broken("an answer to nothing")
                if not waiter.done():
                    waiter.set_result(answer)
        except wire.Broken as error:
            self._end(ConnectionProblem(f"{self._shown} does not speak SFTP: {error}", hint="check the host's set-up"))
            if self._session is not None:
                self._session.close()

    async def _until_over(self, session: RemoteSession) -> None:
        ended = await session.wait()
        said = one_line(self._stderr.decode(errors="replace").strip(), 400)
        why = said or one_line(ended.message) or f"the host's program ended with {ended.status}"
        self._end(ConnectionProblem(f"the file transfer with {self._shown} ended: {why}", hint="try again"))

    def _end(self, why: TeleportError) -> None:
        if self._over is None:
            self._over = why
        waiters: list[asyncio.Future[Any]] = [self._hello, *self._waiting.values()]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(self._over)
                waiter.exception()  # not every one has somebody who waits
        self._waiting.clear()

    # --- requests

    def _number(self) -> tuple[int, asyncio.Future[Answer], RemoteSession]:
        if self._over is not None or self._session is None:
            raise self._over or ConnectionProblem("no transfer has begun", hint="try again")
        self._next = (self._next + 1) & 0xFFFFFFFF
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[self._next] = waiter
        return self._next, waiter, self._session

    async def _ask(self, kind: Packet, *parts: bytes) -> Answer:
        number, waiter, session = self._number()
        session.write(wire.request(kind, number, *parts))
        return await waiter

    async def _expect(self, wanted: type[_T], kind: Packet, *parts: bytes) -> _T:
        return _checked(await self._ask(kind, *parts), wanted)

    async def _done(self, kind: Packet, *parts: bytes) -> None:
        _good(await self._ask(kind, *parts))

    async def stat(self, path: str, *, follow: bool = True) -> Attributes | None:
        """What is at `path`; None when there is nothing."""
        try:
            return await self._expect(Attributes, Packet.STAT if follow else Packet.LSTAT, wire.text(encoded(path)))
        except Refused as error:
            if error.status == Status.NO_SUCH_FILE:
                return None
            raise

    async def real_path(self, path: str) -> str:
        found = await self._expect(wire.Names, Packet.REALPATH, wire.text(encoded(path)))
        if len(found.entries) != 1:
            raise ConnectionProblem(f"{self._shown} does not say what {path[:80]!r} is", hint="give another path")
        return decoded(found.entries[0][0])

    async def expanded(self, path: str) -> str:
        """A path that begins with `~user`, as the host knows it."""
        if b"expand-path@openssh.com" not in self.extensions:
            raise NotFound(f"{self._shown} does not know {path[:80]!r}", hint="give the path of the folder itself")
        parts = (wire.text(b"expand-path@openssh.com"), wire.text(encoded(path)))
        found = await self._expect(wire.Names, Packet.EXTENDED, *parts)
        if len(found.entries) != 1:
            raise NotFound(f"{self._shown} does not know {path[:80]!r}", hint="give the path of the folder itself")
        return decoded(found.entries[0][0])

    async def typed(self, path: str) -> str:
        """A path that a person typed; `~` is the home, where relative paths begin anyway."""
        if path in ("~", "~/"):
            return "."
        if path.startswith("~/"):
            return path[2:].lstrip("/") or "."
        if path.startswith("~"):
            return await self.expanded(path)
        return path

    async def entries(self, path: str) -> AsyncIterator[tuple[str, Attributes]]:
        """What a folder holds, without `.` and `..`; names are the host's own words."""
        handle = (await self._expect(wire.Handle, Packet.OPENDIR, wire.text(encoded(path)))).value
        count = 0
        try:
            while True:
                answer = await self._ask(Packet.READDIR, wire.text(handle))
                if isinstance(answer, wire.Said) and answer.code == Status.EOF:
                    return
                for name, attributes in _checked(answer, wire.Names).entries:
                    if name in (b".", b".."):
                        continue
                    count += 1
                    if count > _MAX_ENTRIES:
                        raise ConnectionProblem(f"{path[:80]!r} has no end of entries", hint="copy parts of it")
                    yield decoded(name), attributes
        finally:
            if self._over is None:
                await self._done(Packet.CLOSE, wire.text(handle))

    async def make_folder(self, path: str, mode: int) -> None:
        await self._done(Packet.MKDIR, wire.text(encoded(path)), Attributes(mode=mode).encoded())

    async def set_attributes(self, path: str, attributes: Attributes) -> None:
        await self._done(Packet.SETSTAT, wire.text(encoded(path)), attributes.encoded())

    async def open(self, path: str, flags: int, mode: int | None = None) -> bytes:
        """A handle."""
        number, waiter, session = self._number()
        session.write(wire.open_request(number, encoded(path), flags, Attributes(mode=mode)))
        return _checked(await waiter, wire.Handle).value

    async def read(self, handle: bytes, offset: int, size: int) -> memoryview | None:
        """Up to `size` bytes at `offset`; None at the end."""
        number, waiter, session = self._number()
        session.write(wire.read_request(number, handle, offset, size))
        answer = await waiter
        if isinstance(answer, wire.Said) and answer.code == Status.EOF:
            return None
        data = _checked(answer, wire.Data).value
        if len(data) > size or not data:
            raise ConnectionProblem(f"{self._shown} sends {len(data)} bytes for {size}", hint="do not trust this host")
        return data

    async def write(self, handle: bytes, offset: int, data: bytes | memoryview) -> None:
        number, waiter, session = self._number()
        session.write(wire.write_head(number, handle, offset, len(data)) + data)
        await session.drain()
        _good(await waiter)

    async def set_attributes_of(self, handle: bytes, attributes: Attributes) -> None:
        await self._done(Packet.FSETSTAT, wire.text(handle), attributes.encoded())

    async def close_handle(self, handle: bytes) -> None:
        await self._done(Packet.CLOSE, wire.text(handle))


def encoded(path: str) -> bytes:
    """A path as the host has it."""
    return path.encode(errors="surrogateescape")


def decoded(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _checked(answer: Any, wanted: type[_T]) -> _T:
    if isinstance(answer, wanted):
        return answer
    if isinstance(answer, wire.Said):
        raise Refused(answer)
    raise ConnectionProblem("the host answers something else than was asked", hint="check the host's set-up")


def _good(answer: Answer) -> None:
    if not isinstance(answer, wire.Said):
        raise ConnectionProblem("the host answers something else than was asked", hint="check the host's set-up")
    if answer.code != Status.OK:
        raise Refused(answer)
