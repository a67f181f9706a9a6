"""Commands in the pods of the stand-in API server: real programs, with or without a terminal, by websocket or SPDY.

The frames are written here once more, apart from what is tested: it is `kubectl` that says whether they are right.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import termios
import zlib
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import WSMsgType, web

from teleport.kube.spdy import DICTIONARY

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
_NAMES: Final = {b"stdin": STDIN, b"stdout": STDOUT, b"stderr": STDERR, b"error": ERROR, b"resize": RESIZE}
_ASKED: Final = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "tty": RESIZE}
_PIECE: Final = 32 * 1024


class PodStreams(Protocol):
    """One client's channels."""

    @property
    def response(self) -> web.StreamResponse: ...

    async def begin(self) -> None: ...

    async def receive(self) -> tuple[int, bytes] | None:
        """What comes next, empty: the channel has ended; None: the client has left."""
        ...

    async def send(self, channel: int, data: bytes) -> None: ...

    async def end(self) -> None: ...


class WebsocketSide:
    """`v5.channel.k8s.io` and `v4`: a byte for the channel, then bytes."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = _websocket()

    @staticmethod
    def can(request: web.Request) -> bool:
        return _websocket().can_prepare(request).ok

    async def begin(self) -> None:
        await self.response.prepare(self._request)

    async def receive(self) -> tuple[int, bytes] | None:
        message = await self.response.receive()
        if message.type is not WSMsgType.BINARY:
            return None
        if message.data[:1] == b"\xff":
            return message.data[1], b""
        return (message.data[0], message.data[1:]) if len(message.data) > 1 else await self.receive()

    async def send(self, channel: int, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await self.response.send_bytes(bytes((channel,)) + data)

    async def end(self) -> None:
        await self.response.close()


def _websocket() -> web.WebSocketResponse:
    return web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))


class _Feed:
    """Takes what follows the head of a request that changed the protocol."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.reader.feed_eof()

    def set_exception(self, error: BaseException, cause: BaseException | None = None) -> None:
        self.reader.feed_eof()


async def hold(request: web.Request) -> web.StreamResponse:
    """Agrees to SPDY and says nothing more, until the client goes."""
    feed = _Feed()
    protocol: Any = request.protocol
    protocol.set_parser(feed)
    version = request.headers.getall("X-Stream-Protocol-Version", [""])[0].split(",")[0].strip()
    if request.transport is not None:
        request.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            b"X-Stream-Protocol-Version: %s\r\n\r\n" % version.encode()
        )
    with contextlib.suppress(ConnectionError):
        while await feed.reader.read(65536):
            pass
    return web.Response()


class SpdySide:
    """SPDY/3.1: the client opens a stream for each channel and says in its headers which."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._feed = _Feed()
        self._streams: dict[int, int] = {}  # number: channel
        self._unpack = zlib.decompressobj(zdict=DICTIONARY)
        self._pack = zlib.compressobj(zdict=DICTIONARY)
        self.response: web.StreamResponse = web.Response()

    async def begin(self) -> None:
        protocol: Any = self._request.protocol
        protocol.set_parser(self._feed)
        version = self._request.headers.getall("X-Stream-Protocol-Version", [""])[0].split(",")[0].strip()
        self._write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            b"X-Stream-Protocol-Version: %s\r\n\r\n" % version.encode()
        )
        query = self._request.query
        asked = [ERROR, *(what for name, what in _ASKED.items() if query.get(name) in ("true", "1"))]
        while len(self._streams) < len(asked):  # nothing runs before every stream is there
            if await self.receive(opening=True) is None:
                return

    def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def receive(self, *, opening: bool = False) -> tuple[int, bytes] | None:
        reader = self._feed.reader
        while True:
            try:
                head = await reader.readexactly(8)
                body = await reader.readexactly(int.from_bytes(head[5:8]))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            if not head[0] & 0x80:
                channel = self._streams[int.from_bytes(head[:4])]
                if body:
                    if head[4] & 1:
                        reader._buffer[:0] = head[:4] + b"\x01\0\0\0"  # type: ignore[attr-defined]  # its end is next
                    return channel, body
                if head[4] & 1:
                    return channel, b""
            elif head[3] == 1:
                self._open(int.from_bytes(body[:4]), self._unpack.decompress(body[10:]))
                if opening:
                    return RESIZE, b""
            elif head[3] == 6:
                self._write(head + body)

    def _open(self, number: int, block: bytes) -> None:
        texts, at = [], 4
        while at < len(block):
            size = int.from_bytes(block[at : at + 4])
            texts.append(block[at + 4 : at + 4 + size])
            at += 4 + size
        self._streams[number] = _NAMES[dict(zip(texts[::2], texts[1::2], strict=True))[b"streamtype"]]
        packed = self._pack.compress(bytes(4)) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        body = number.to_bytes(4) + packed
        self._write(b"\x80\x03\0\x02\0" + len(body).to_bytes(3) + body)

    async def send(self, channel: int, data: bytes) -> None:
        (number,) = [one for one, what in self._streams.items() if what == channel]
        self._write(number.to_bytes(4) + bytes(1) + len(data).to_bytes(3) + data)
        await asyncio.sleep(0)

    async def end(self) -> None:
        for number, channel in self._streams.items():
            if channel in (STDOUT, STDERR, ERROR):
                self._write(number.to_bytes(4) + b"\x01\0\0\0")
        self._write(b"\x80\x03\0\x07\0\0\0\x08" + bytes(8))
        if self._request.transport is not None:
            self._request.transport.close()


async def serve_command(side: PodStreams, command: list[str], *, terminal: bool, place: Path) -> None:
    """Runs it to its end, or until the client leaves, and tells how it ended."""
    ours, theirs = os.openpty() if terminal else (-1, -1)
    pipe: Any = theirs if terminal else asyncio.subprocess.PIPE
    try:
        # its working folder stands for the pod's root
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=place, start_new_session=True
        )
    except OSError as error:
        await _tell(side, {"status": "Failure", "reason": "InternalError", "message": str(error)})
        return
    finally:
        if terminal:
            os.close(theirs)
    receiving = asyncio.create_task(_receive(side, process, ours), name="a pod's stdin")
    leaving = asyncio.create_task(_when(receiving, process), name="a pod's client")
    try:
        if terminal:
            await _from_terminal(side, ours)
        else:
            assert process.stdout is not None
            assert process.stderr is not None
            await asyncio.gather(_copy(side, STDOUT, process.stdout), _copy(side, STDERR, process.stderr))
        code = await process.wait()
        await _tell(side, _ended(code))
    finally:
        for task in (receiving, leaving):
            task.cancel()
        await asyncio.wait([receiving, leaving])
        _kill(process)
        for left in (process.stdout, process.stderr):
            while left is not None and await left.read(_PIECE):
                pass  # asyncio does not call a process over whose output nobody has read to its end
        await process.wait()
        if terminal:
            os.close(ours)


async def _when(receiving: asyncio.Task[None], process: asyncio.subprocess.Process) -> None:
    """Who leaves takes the command along."""
    await asyncio.wait([receiving])
    _kill(process)


def _kill(process: asyncio.subprocess.Process) -> None:
    """With what it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _receive(side: PodStreams, process: asyncio.subprocess.Process, ours: int) -> None:
    """Returns when the client has left."""
    stdin = process.stdin
    while (found := await side.receive()) is not None:
        channel, data = found
        with contextlib.suppress(OSError):
            if channel == RESIZE and ours >= 0 and data:
                size = json.loads(data)
                fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))
            elif channel == STDIN and ours >= 0:
                os.write(ours, data or b"\x04")
            elif channel == STDIN and stdin is not None:
                if data:
                    stdin.write(data)
                    await stdin.drain()
                else:
                    stdin.close()


async def _copy(side: PodStreams, channel: int, source: asyncio.StreamReader) -> None:
    while data := await source.read(_PIECE):
        await side.send(channel, data)


async def _from_terminal(side: PodStreams, ours: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        loop.add_reader(ours, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(ours)
        try:
            data = os.read(ours, _PIECE)
        except OSError:  # nobody has the other end any more
            return
        await side.send(STDOUT, data)


def _ended(code: int) -> dict[str, Any]:
    if not code:
        return {"status": "Success"}
    causes = [{"reason": "ExitCode", "message": str(code if code > 0 else 128 - code)}]
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: {code}",
        "details": {"causes": causes},
    }


async def _tell(side: PodStreams, status: dict[str, Any]) -> None:
    await side.send(ERROR, json.dumps({"metadata": {}, **status}).encode())
    await side.end()
