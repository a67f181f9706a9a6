"""Notes of recordings that lie in S3, in the cluster's storage (`recording.s3.notes`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from teleport.auth.evidence.recorded import UPLOADS
from teleport.backend.interface import Absent, Backend, DeleteOp, Exists, Item, PutOp
from teleport.errors import CompareFailed, TeleportError
from teleport.recording.s3.notes import ObjectNote

OBJECTS: Final = "audit/objects/"


class StoredNotes:
    """Of all auth servers of the storage."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[str, tuple[int, ObjectNote]] = {}  # read once for each change

    async def told(self, name: str) -> str:
        item = await self._backend.get(UPLOADS + name)
        return item.value.decode("ascii", "replace") if item is not None else ""

    async def get(self, name: str) -> ObjectNote | None:
        item = await self._backend.get(OBJECTS + name)
        return _note(item) if item is not None else None

    async def every(self) -> Mapping[str, ObjectNote]:
        found: dict[str, tuple[int, ObjectNote]] = {}
        for item in await self._backend.range(OBJECTS):
            name = item.key.removeprefix(OBJECTS)
            before = self._known.get(name)
            same = before is not None and before[0] == item.revision
            found[name] = before if before is not None and same else (item.revision, _note(item))
        self._known = found
        return {name: note for name, (_, note) in found.items()}

    async def write(self, name: str, note: ObjectNote) -> bool:
        key = OBJECTS + name
        try:
            await self._backend.commit([PutOp(key, msgspec.json.encode(note))], conditions=[Absent(key)])
        except CompareFailed:
            return note.same(await self.get(name))
        return True

    async def date(self, name: str, stored: datetime) -> None:
        item = await self._backend.get(OBJECTS + name)
        if item is None or (note := _note(item)).stored is not None:
            return
        dated = msgspec.structs.replace(note, stored=stored)
        with suppress(CompareFailed):  # it went, or another auth server said it
            await self._backend.commit(
                [PutOp(item.key, msgspec.json.encode(dated))], conditions=[Exists(item.key, item.revision)]
            )

    async def remove(self, name: str) -> None:
        item = await self._backend.get(OBJECTS + name)
        if item is not None:
            await self._backend.commit([DeleteOp(item.key)], conditions=[Exists(item.key, item.revision)])


def _note(item: Item) -> ObjectNote:
    try:
        return msgspec.json.decode(item.value, type=ObjectNote)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise TeleportError(
            f"the note of a recording in S3 {item.key} cannot be read", hint="it was written by a newer version"
        ) from None
