"""One file through the proxy, either way, without holding it: blocks are under way together, as many as the path's
delay asks for, and no more than the slower side takes.
"""

from __future__ import annotations

import asyncio
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from teleport.errors import BadRequest, NotFound
from teleport.transfer.sftp import Sftp
from teleport.wire.sftp import CREATE, READ, TRUNCATE, WRITE
from teleport.wire.transfer_names import joined, last_name, safe_name

T = TypeVar("T")
MOST_AHEAD: Final = 4 * 1024 * 1024  # bytes under way
UNSIZED: Final = 1024 * 1024 * 1024  # bytes of a file that says it has none, such as those in /proc
PATH: Final = 4096  # bytes of a path


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file on a host, open for reading."""

    name: str
    size: int  # 0: it does not say
    handle: bytes


async def open_to_read(sftp: Sftp, location: str) -> OpenFile:
    """Opens what is at `location`. Raises `TeleportError`."""
    path = await sftp.typed(_checked(location))
    found = await sftp.stat(path)
    if found is None:
        raise NotFound("there is no such file", hint="check the path on the host")
    if stat.S_ISDIR(found.mode or 0):
        raise BadRequest("this is a folder, and files alone are downloaded", hint="pack it first: tar -czf")
    if not stat.S_ISREG(found.mode or 0):
        raise BadRequest("this is neither a file nor a folder", hint="only files are downloaded")
    return OpenFile(last_name(path), found.size or 0, await sftp.open(path, READ))


async def open_to_write(sftp: Sftp, location: str, name: str) -> tuple[str, bytes]:
    """Opens what a file is written to: `location`, or `name` in that folder. Gives its path and a handle. What stood
    there is emptied, as tsh scp does. Raises `TeleportError`."""
    path = await sftp.typed(_checked(location or "~"))
    found = await sftp.stat(path)
    if found is not None and stat.S_ISDIR(found.mode or 0):
        path = joined(path, safe_name(name))
    elif path.endswith("/"):
        raise NotFound("there is no such folder", hint="make it first: mkdir -p")
    return path, await sftp.open(path, WRITE | CREATE | TRUNCATE)


def _checked(location: str) -> str:
    if not location or "\0" in location or len(location.encode(errors="surrogateescape")) > PATH:
        raise BadRequest("this is no path of a file", hint="give the path on the host: location=/var/log/syslog")
    return location


async def blocks(sftp: Sftp, file: OpenFile) -> AsyncGenerator[memoryview, None]:
    """The content, in order. Raises `TeleportError`, also when it turns out to be shorter than it was."""
    if not file.size:
        offset = 0
        while data := await sftp.read(file.handle, offset, sftp.limits.read):
            offset += len(data)
            if offset > UNSIZED:
                raise BadRequest("this file has no end", hint="take a part of it: head -c")
            yield data
        return
    block, asked = sftp.limits.read, 0
    ahead = max(1, min(MOST_AHEAD, sftp.flight_limit()) // block)
    flying: deque[asyncio.Task[list[memoryview]]] = deque()
    try:
        while asked < file.size or flying:
            while asked < file.size and len(flying) < ahead:
                length = min(block, file.size - asked)
                flying.append(_task(_whole(sftp, file.handle, asked, length)))
                asked += length
            for data in await flying[0]:
                yield data
            flying.popleft()
    finally:
        await _cancelled(flying)


async def _whole(sftp: Sftp, handle: bytes, offset: int, length: int) -> list[memoryview]:
    found = []
    while length:
        data = await sftp.read(handle, offset, length)
        if not data:
            raise BadRequest("the file became shorter while it was read", hint="download it again")
        found.append(data)
        offset, length = offset + len(data), length - len(data)
    return found


async def write_all(sftp: Sftp, handle: bytes, coming: AsyncIterator[bytes], moved: Callable[[int], None]) -> int:
    """Writes what comes, and gives its size; `moved` hears of each piece that the host took. Raises what `coming`
    raises, and `TeleportError`; what was written by then stays."""
    flying: deque[tuple[asyncio.Task[None], int]] = deque()
    offset = under_way = 0

    async def landed() -> None:
        nonlocal under_way
        await flying[0][0]
        size = flying.popleft()[1]
        under_way -= size
        moved(size)

    try:
        async for data in coming:
            for at in range(0, len(data), sftp.limits.write):
                piece = data[at : at + sftp.limits.write]
                flying.append((_task(sftp.write(handle, offset, piece)), len(piece)))
                offset, under_way = offset + len(piece), under_way + len(piece)
                while under_way > MOST_AHEAD or (flying and flying[0][0].done()):
                    await landed()
        while flying:
            await landed()
    finally:
        await _cancelled([task for task, _ in flying])
    return offset


def _task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.create_task(work, name="a block of a browser's file")


async def _cancelled(tasks: deque[asyncio.Task[Any]] | list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
