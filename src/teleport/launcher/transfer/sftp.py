"""The SFTP server: requests from standard input, replies to standard output.

Requests are served one after the other, as they come; the reply to what changed something waits until that is on
record, while later requests go on. Data is not copied on its way: what arrives is written from where it was received,
what is read goes out from where it was read to.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from dataclasses import replace

import teleport.wire.sftp as wire
from teleport.launcher.transfer.control import Control, Done, Refused, say
from teleport.launcher.transfer.handles import Handles, OpenFile
from teleport.launcher.transfer.paths import open_file
from teleport.launcher.transfer.sftp_extended import Extended
from teleport.launcher.transfer.sftp_names import NameRequests
from teleport.launcher.transfer.sftp_work import Work
from teleport.wire.sftp import Packet, Reader, Status

_BUFFER = 1024 * 1024 + wire.MAX_PACKET + 4  # bytes
_ENOUGH = 256 * 1024  # bytes of replies that are worth a write of their own

_STATUS = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.EBADF: Status.NO_SUCH_FILE,
    errno.ELOOP: Status.NO_SUCH_FILE,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EFAULT: Status.PERMISSION_DENIED,
    errno.ENAMETOOLONG: Status.BAD_MESSAGE,
    errno.EINVAL: Status.BAD_MESSAGE,
    errno.ENOSYS: Status.OP_UNSUPPORTED,
    errno.EOPNOTSUPP: Status.OP_UNSUPPORTED,
}

_FLAGS = (
    (wire.APPEND, os.O_APPEND),
    (wire.CREATE, os.O_CREAT),
    (wire.TRUNCATE, os.O_TRUNC),
    (wire.EXCLUSIVE, os.O_EXCL),
)


class Server:
    """One client's server."""

    def __init__(self, control: Control, home: str) -> None:
        self._control = control
        self._handles = Handles(control)
        self._work = Work(control, self._handles, home)
        names, extended = NameRequests(self._work), Extended(self._work)
        self._serve: dict[int, Callable[[int, Reader], bytes]] = {
            Packet.OPEN: self._open,
            Packet.CLOSE: self._close,
            Packet.WRITE: self._write,
            **names.table,
            Packet.EXTENDED: extended.serve,
        }
        self._out: list[bytes | memoryview] = []
        self._waiting = 0  # bytes in it
        self._page = memoryview(bytearray(wire.MAX_DATA))
        self._begun = False

    def run(self) -> int:
        """Serves until the client has no more to ask; the exit status."""
        self._control.ring()
        os.set_blocking(1, False)  # a client that does not read holds up its own answers, not the daemon's words
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(0, select.POLLIN)
        buffer = memoryview(bytearray(_BUFFER))
        start = end = 0
        listening = True
        while True:
            if self._control.full is listening:
                listening = not listening
                poll.modify(0, select.POLLIN if listening else 0)
            ready = dict(poll.poll())
            if self._control.fileno() in ready:
                self._control.spoke()
                self._handles.heed()
                self._reply(*self._control.replies())
            if 0 in ready and listening:
                if len(buffer) - end < wire.MAX_PACKET + 4:
                    buffer[: end - start] = bytes(buffer[start:end])
                    start, end = 0, end - start
                count = os.readv(0, [buffer[end:]])
                if not count:
                    break
                end += count
                try:
                    packets, taken = wire.split(buffer[start:end])
                    for packet in packets:
                        self._handles.heed()  # what is taken away goes before what the client has sent ahead
                        self._take(packet)
                except wire.Malformed as error:
                    say(f"SFTP: {error}")
                    return 1
                start += taken
                if start == end:
                    start = end = 0
            self._flush()
        self._handles.close_all("the client left it open", hurry=False)
        self._control.wait_kept()
        self._reply(*self._control.replies())
        self._flush()
        return 0

    def close(self) -> None:
        """Tells of what is still open."""
        self._handles.close_all("the session ended before it was closed", hurry=True)

    # replies

    def _reply(self, *parts: bytes) -> None:
        for part in parts:
            self._out.append(part)
            self._waiting += len(part)
        if self._waiting >= _ENOUGH:
            self._flush()

    def _flush(self) -> None:
        while self._out:
            try:
                count = os.writev(1, self._out[:512])
            except BlockingIOError:
                self._wait_for_client()
                continue
            while self._out and count >= len(self._out[0]):
                count -= len(self._out.pop(0))
            if count:
                self._out[0] = memoryview(self._out[0])[count:]
        self._waiting = 0

    def _wait_for_client(self) -> None:
        """Until it reads on. What the daemon says meanwhile is heeded at once."""
        poll = select.poll()
        poll.register(1, select.POLLOUT)
        poll.register(self._control.fileno(), select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._control.fileno() in ready:
                self._control.spoke()
                self._handles.heed()
            if 1 in ready:
                return

    # requests

    def _take(self, packet: memoryview) -> None:
        kind = packet[0]
        if not self._begun:
            if kind != Packet.INIT:
                raise wire.Malformed("the first packet is not INIT")
            self._begun = True
            self._reply(wire.version())
            return
        reader = Reader(packet[1:])
        number = reader.u32()
        if kind == Packet.READ:
            self._read(number, reader)
            return
        self._reply(self._answer(kind, number, reader))

    def _answer(self, kind: int, number: int, reader: Reader) -> bytes:
        serve = self._serve.get(kind)
        if serve is None:
            return wire.status(number, Status.OP_UNSUPPORTED, f"requests of type {kind} are not known")
        work = self._work
        work.attempt = None
        why = ""
        try:
            return serve(number, reader)
        except Refused as error:
            say(str(error))
            reply, why = wire.status(number, Status.PERMISSION_DENIED, str(error)), error.why
        except OSError as error:
            why = error.strerror or "it failed"
            reply = wire.status(number, _STATUS.get(error.errno or 0, Status.FAILURE), why)
        except KeyError:
            why = "no such handle"
            reply = wire.status(number, Status.NO_SUCH_FILE, why)
        except wire.Malformed as error:
            return wire.status(number, Status.BAD_MESSAGE, str(error))
        if work.attempt is None:
            return reply
        self._control.reply_later(self._control.done(replace(work.attempt, error=why)), reply)
        return b""

    def _open(self, number: int, reader: Reader) -> bytes:
        path, wanted, attributes = reader.path(), reader.u32(), reader.attributes()
        writes = bool(wanted & (wire.WRITE | wire.APPEND | wire.CREATE | wire.TRUNCATE))
        direction = "upload" if writes else "download"
        work = self._work
        work.attempt = Done("write" if writes else "read", work.shown(path), direction=direction)
        if not wanted & (wire.READ | wire.WRITE):
            raise OSError(errno.EINVAL, "it is opened neither to be read nor to be written")
        self._handles.room()
        flags = {wire.READ: os.O_RDONLY, wire.WRITE: os.O_WRONLY}.get(wanted & (wire.READ | wire.WRITE), os.O_RDWR)
        for bit, flag in _FLAGS:
            flags |= flag if wanted & bit else 0
        mode = 0o666 if attributes.permissions is None else attributes.permissions & 0o7777

        def judge(real: str) -> int:
            work.attempt = Done("write" if writes else "read", real, direction=direction)
            limits = []
            if wanted & wire.READ:
                limits.append(self._control.ask(("download", real, 0)))
            if writes:
                limits.append(self._control.ask(("upload", real, 0)))
            return min((one for one in limits if one), default=0)

        descriptor, real, most = open_file(path, flags, mode, judge if self._control.asks else None)
        opened = OpenFile(descriptor, real, wanted, most)
        try:
            opened.within(os.fstat(descriptor).st_size)
        except OSError:
            os.close(descriptor)
            raise
        return wire.handle(number, self._handles.add(opened))

    def _close(self, number: int, reader: Reader) -> bytes:
        told = self._handles.close(reader.string())
        reply = wire.status(number, Status.OK)
        if not told:
            return reply
        self._control.reply_later(told, reply)
        return b""

    def _read(self, number: int, reader: Reader) -> None:
        try:
            opened = self._handles.file(reader.string())
            offset, wanted = reader.u64(), reader.u32()
            if opened.read is None:
                raise OSError(errno.EBADF, "it was not opened to be read")
            page = self._page[: min(wanted, wire.MAX_DATA)]
            count = os.preadv(opened.descriptor, [page], min(offset, 2**63 - 1)) if offset < 2**63 else 0
            if opened.most:
                opened.within(offset + count)
        except OSError as error:
            why = error.strerror or ""
            self._reply(wire.status(number, _STATUS.get(error.errno or 0, Status.FAILURE), why))
        except KeyError:
            self._reply(wire.status(number, Status.NO_SUCH_FILE, "no such handle"))
        except Refused as error:
            self._reply(wire.status(number, Status.PERMISSION_DENIED, str(error)))
        else:
            if count == 0:
                self._reply(wire.status(number, Status.EOF))
                return
            data = page[:count]
            opened.read.add(offset, data)
            self._out += (wire.data_head(number, count), data)
            self._flush()  # the page is used again

    def _write(self, number: int, reader: Reader) -> bytes:
        opened = self._handles.file(reader.string())
        offset, data = reader.u64(), reader.view()
        if opened.written is None or not opened.takes:
            raise OSError(errno.EBADF, "it was not opened to be written")
        if offset + len(data) >= 2**63:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if opened.most:
            place = os.fstat(opened.descriptor).st_size if opened.appends else offset
            opened.within(place + len(data))
        at = 0
        while at < len(data):
            if opened.appends:
                at += os.write(opened.descriptor, data[at:])
            else:
                at += os.pwrite(opened.descriptor, data[at:], offset + at)
        if opened.appends:
            opened.written.size += len(data)
            opened.written.spoiled()
        else:
            opened.written.add(offset, data)
        return wire.status(number, Status.OK)
