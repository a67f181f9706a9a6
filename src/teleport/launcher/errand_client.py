"""The daemon's side of errands, for asyncio: what is to be opened as the user, and the descriptors that come back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from teleport.errors import TeleportError
from teleport.launcher import messages


class ErrandFailed(TeleportError):
    """It could not be done; the message is the operating system's, for the user."""

    code = "errand_failed"


@dataclass(frozen=True, slots=True)
class Found:
    """A socket, or a place for one: pinned, and where it really lies. `home` is the account's."""

    token: int
    path: str
    home: str


@dataclass(frozen=True, slots=True)
class Made:
    """What listens now, its path (of an agent: the socket; of a display: the file for clients) and number."""

    token: int
    path: str
    listeners: tuple[int, ...]
    display: int = 0


class Process(Protocol):
    """The process that does errands (`launcher.client.Process`)."""

    @property
    def errands(self) -> int | None: ...
    def close(self) -> None: ...


class Errands:
    """One connection's errands. Descriptors are non-blocking and belong to whoever asked. Every call may raise
    `ErrandFailed`; cancelled, it leaves nothing open here."""

    def __init__(self, process: Process) -> None:
        assert process.errands is not None, "the launcher gives a socket for errands"
        self._process = process
        self._sock = socket.socket(fileno=process.errands)
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], tuple[int, ...]]]] = {}
        self._next = 0
        self.gone = False  # it ended, or was closed
        self.patience = 15.0  # seconds: the process is the login's, whose user can stop it, and file systems may hang
        self._loop.add_reader(self._sock.fileno(), self._hear)

    async def connect(self, address: str, port: int) -> int:
        """A connection that is being made: writable once it is, or has failed (SO_ERROR)."""
        (descriptor,) = (await self._ask("connect", address=address, port=port))[1]
        return descriptor

    async def addresses(self, host: str, port: int) -> tuple[list[str], str]:
        """The addresses of a name, and the name that it led to (empty when it is not known)."""
        fields = (await self._ask("addresses", host=host, port=port))[0]
        return list(fields["addresses"]), str(fields["canonical"])

    async def find(self, path: str) -> Found:
        """Pins the Unix socket at an absolute path."""
        return _found((await self._ask("find", path=path))[0])

    async def connect_found(self, found: Found) -> int:
        """A connection to exactly that socket."""
        (descriptor,) = (await self._ask("connect_found", token=found.token))[1]
        return descriptor

    async def listen(self, addresses: list[str], port: int) -> tuple[tuple[int, ...], int]:
        """Listeners at the addresses that the host has, all at one port: the listeners and the port."""
        fields, listeners = await self._ask("listen", addresses=addresses, port=port)
        return listeners, int(fields["port"])

    async def place(self, path: str) -> Found:
        """Pins the directory in which a socket is to be made."""
        return _found((await self._ask("place", path=path))[0])

    async def listen_at(self, found: Found) -> int:
        """A listener there, mode 0600; what is there already stays, and fails this."""
        (descriptor,) = (await self._ask("listen_at", token=found.token))[1]
        return descriptor

    async def agent(self) -> Made:
        """A socket for programs that ask an agent, in a new directory of mode 0700."""
        fields, listeners = await self._ask("agent")
        return Made(fields["token"], fields["path"], listeners)

    async def x11(self, protocol: str, cookie: bytes) -> Made:
        """A display on loopback, and a file with what its clients have to show."""
        fields, listeners = await self._ask("x11", protocol=protocol, cookie=cookie.hex())
        return Made(fields["token"], fields["path"], listeners, fields["display"])

    def forget(self, token: int) -> None:
        """Takes away what was found or made, without waiting for it."""
        if not self.gone:
            self._next += 1
            with contextlib.suppress(OSError):
                messages.send(self._sock, messages.encode("forget", id=self._next, token=token))

    async def _ask(self, errand: str, **fields: object) -> tuple[dict[str, Any], tuple[int, ...]]:
        if self.gone:
            raise _lost()
        self._next += 1
        number = self._next
        waiter: asyncio.Future[tuple[dict[str, Any], tuple[int, ...]]] = self._loop.create_future()
        self._waiting[number] = waiter
        try:
            try:
                messages.send(self._sock, messages.encode(errand, id=number, **fields))
            except BlockingIOError:
                raise ErrandFailed("too much is asked of the host at once") from None
            except OSError as error:
                raise _lost() from error
            async with asyncio.timeout(self.patience):
                return await waiter
        except TimeoutError:
            raise ErrandFailed(f"the host did not answer within {self.patience:g} s") from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                for descriptor in waiter.result()[1]:
                    os.close(descriptor)
            raise
        finally:
            self._waiting.pop(number, None)

    def _hear(self) -> None:
        try:
            packet, descriptors = messages.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet, descriptors = b"", []
        if not packet:
            self.close()
            return
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        kind, fields = messages.decode(packet)
        waiter = self._waiting.pop(fields["id"], None)
        if waiter is None or waiter.done():
            for descriptor in descriptors:
                os.close(descriptor)
            if kind == "done" and "token" in fields:
                self.forget(fields["token"])  # of a call that was cancelled
        elif kind == "done":
            waiter.set_result((fields, tuple(descriptors)))
        else:
            waiter.set_exception(ErrandFailed(str(fields["error"])))

    def close(self) -> None:
        """Ends the process, which takes away what it made. Idempotent."""
        if self.gone:
            return
        self.gone = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._process.close()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            if not waiter.done():
                waiter.set_exception(_lost())


def _found(fields: dict[str, Any]) -> Found:
    return Found(fields["token"], fields["path"], fields["home"])


def _lost() -> ErrandFailed:
    return ErrandFailed("the process that connects and listens as the login has ended")
