"""A host's side of a file transfer, over SFTP. What the host answers is checked before it becomes part of a path."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from teleport.client.transfer.copying import Into, Item, Reading, Writing
from teleport.errors import BadRequest, NotFound
from teleport.transfer.sftp import Refused, Sftp
from teleport.wire.sftp import CREATE, READ, TRUNCATE, WRITE, Status
from teleport.wire.sftp_client import Attributes
from teleport.wire.transfer_names import is_pattern, joined, last_name, literal, matches, safe_name

_MAX_MATCHES = 100_000


class There:
    """Both a source and a sink."""

    def __init__(self, sftp: Sftp, host: str) -> None:
        self._sftp = sftp
        self._host = host
        self.block = min(sftp.limits.read, sftp.limits.write)

    def limit(self) -> int:
        return self._sftp.flight_limit()

    def shown(self, path: str) -> str:
        return f"{self._host}:{path}"

    def name(self, name: str) -> str:
        return safe_name(name)

    # --- as a source

    async def find(self, path: str) -> Sequence[Item]:
        path = await self._sftp.typed(path)
        paths = await self._matching(path) if is_pattern(path) else [literal(path)]
        found = []
        for one in paths:
            attributes = await self._sftp.stat(one)
            if attributes is None:
                raise NotFound("no such file or folder", hint="check the path on the host")
            found.append(Item(one, last_name(one), attributes))
        return found

    async def _matching(self, pattern: str) -> list[str]:
        """The paths that a pattern fits: only of names that the host lists and that fit indeed."""
        start = "/" if pattern.startswith("/") else ""
        found = [start]
        parts = [part for part in pattern.split("/") if part]
        for number, part in enumerate(parts):
            if not is_pattern(part):
                found = [joined(folder, literal(part)) for folder in found]
                continue
            here, last = [], number == len(parts) - 1
            for folder in found:
                try:
                    async for name, attributes in self._sftp.entries(folder or "."):
                        link = stat.S_ISLNK(attributes.mode or 0)
                        if matches(name, part) and (last or link or stat.S_ISDIR(attributes.mode or 0)):
                            here.append(joined(folder, safe_name(name)))
                except Refused as error:
                    if error.status not in (Status.NO_SUCH_FILE, Status.FAILURE, Status.PERMISSION_DENIED):
                        raise
                if len(here) > _MAX_MATCHES:
                    raise BadRequest(f"fits more than {_MAX_MATCHES} files", hint="use a narrower pattern, or -r")
            found = sorted(here)
        if not found and await self._sftp.stat(pattern) is not None:
            return [pattern]  # a file that is called so
        if not found:
            raise NotFound("nothing fits this pattern", hint="quote it for your shell, and check it on the host")
        return found

    async def children(self, folder: Item, note: Callable[[str], None]) -> AsyncIterator[Item]:
        async for name, attributes in self._sftp.entries(folder.path):
            path = joined(folder.path, name)
            if "/" not in name and stat.S_ISLNK(attributes.mode or 0):
                attributes = await self._sftp.stat(path) or attributes
                if stat.S_ISDIR(attributes.mode or 0) and await self._leads_back(path, folder.path):
                    note(self.shown(path))
                    continue
            yield Item(path, name, attributes)

    async def _leads_back(self, link: str, folder: str) -> bool:
        target, here = await self._sftp.real_path(link), await self._sftp.real_path(folder)
        return f"{here}/".startswith(f"{target.rstrip('/')}/")

    async def open(self, item: Item) -> Reading:
        return _Reading(self._sftp, await self._sftp.open(item.path, READ))

    # --- as a sink

    async def into(self, path: str) -> Into | None:
        path = literal(await self._sftp.typed(path))
        found = await self._sftp.stat(path)
        return _Into(self._sftp, path) if found is not None and stat.S_ISDIR(found.mode or 0) else None

    async def make(self, path: str, mode: int) -> Into:
        path = literal(await self._sftp.typed(path))
        await self._sftp.make_folder(path, mode | 0o700)
        return _Into(self._sftp, path)

    async def file(self, path: str, mode: int) -> Writing:
        return await _writing(self._sftp, literal(await self._sftp.typed(path)), mode)


async def _writing(sftp: Sftp, path: str, mode: int) -> Writing:
    return _Writing(sftp, await sftp.open(path, WRITE | CREATE | TRUNCATE, mode))


class _Reading:
    def __init__(self, sftp: Sftp, handle: bytes) -> None:
        self._sftp = sftp
        self._handle = handle

    async def read(self, offset: int, size: int) -> memoryview | None:
        return await self._sftp.read(self._handle, offset, size)

    async def close(self) -> None:
        await self._sftp.close_handle(self._handle)


class _Writing:
    def __init__(self, sftp: Sftp, handle: bytes) -> None:
        self._sftp = sftp
        self._handle = handle

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        await self._sftp.write(self._handle, offset, data)

    async def finish(self, kept: Attributes | None) -> None:
        try:
            if kept is not None:
                await self._sftp.set_attributes_of(self._handle, kept)
        finally:
            await self._sftp.close_handle(self._handle)

    async def abandon(self) -> None:
        await self._sftp.close_handle(self._handle)


class _Into:
    def __init__(self, sftp: Sftp, path: str) -> None:
        self._sftp = sftp
        self._path = path

    async def folder(self, name: str, mode: int) -> Into:
        path = joined(self._path, name)
        try:
            await self._sftp.make_folder(path, mode | 0o700)
        except Refused:
            found = await self._sftp.stat(path)
            if found is None or not stat.S_ISDIR(found.mode or 0):
                raise
        return _Into(self._sftp, path)

    async def file(self, name: str, mode: int) -> Writing:
        return await _writing(self._sftp, joined(self._path, name), mode)

    async def finish(self, kept: Attributes | None) -> None:
        if kept is not None:
            await self._sftp.set_attributes(self._path, replace(kept, size=None))
