"""One place for the records of all auth servers of a storage: each must see what the others took in.

Events and recordings are files. Auth servers that share a storage therefore share the folders of these files, by a file
system of theirs, and a folder that is not the one is refused: an auth server that searched its own alone would answer
with half of what happened, and one that is lost would take its half along. In each folder lies an id , and
the storage says which one is right. Who has lost a folder for good writes `anew` there: that is a new one then.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from teleport.audit.appendlog import make_directory, sync_directory
from teleport.auth.evidence.store import PLACE, STORES
from teleport.backend.interface import Absent, Backend, Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import CompareFailed, NotFound, TeleportError

ANEW: Final = "anew"
RECORDINGS: Final = "audit/recordings-place"
_TRIES: Final = 8
_MOST: Final = 100  # bytes of an id


@dataclass(frozen=True, slots=True)
class _Place:
    """One of the folders; `key` is where the storage says which one it is."""

    folder: Path
    key: str
    id_file: str
    what: str
    setting: str
    mode: int

    @property
    def id_path(self) -> Path:
        return self.folder / self.id_file

    def read(self) -> str:
        """The id that lies there; empty when there is none."""
        try:
            with self.id_path.open("rb") as file:
                return file.read(_MOST).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise self._unusable(error) from None

    def new_id(self, *, instead: bool = False) -> str:
        """Makes an id where there is none, or `instead` of the one that is there; the one that lies there then."""
        made = secrets.token_hex(16)
        draft = self.folder / f"{self.id_file}.{made}"
        try:
            make_directory(self.folder, self.mode)
            with draft.open("x") as file:
                file.write(f"{made}\n")
                file.flush()
                os.fsync(file.fileno())
            if instead:
                draft.replace(self.id_path)
            else:
                with suppress(FileExistsError):  # another auth server was first
                    os.link(draft, self.id_path)
                draft.unlink()
            sync_directory(self.folder)
        except OSError as error:
            raise self._unusable(error) from None
        return self.read()

    def refused(self) -> TeleportError:
        return TeleportError(
            f"{self.folder} is not the folder in which the auth servers of this cluster keep the {self.what}",
            hint=f"mount that folder here and name it in teleport.storage.{self.setting}; if it is lost for good: "
            f"echo {ANEW} > {self.id_path}",
        )

    def _unusable(self, error: OSError) -> TeleportError:
        return TeleportError(
            f"the folder {self.folder} cannot be used for the {self.what}: {error.strerror}",
            hint=f"give the daemon's user this folder, or name another one in teleport.storage.{self.setting}",
        )


async def one_place(backend: Backend, events: Path, recordings: Path | None) -> None:
    """Makes sure that these are the folders of all auth servers; the first one decides. Raises `TeleportError`.

    `recordings` None: each has a folder of its own, from which recordings are brought to a place of all.
    """
    await _agree(backend, _Place(events, STORES + PLACE, ".log-id", "audit log", "audit_events_uri", 0o750))
    if recordings is None:
        return
    await _agree(backend, _Place(recordings, RECORDINGS, ".recordings-id", "recordings", "audit_sessions_uri", 0o700))


async def _agree(backend: Backend, place: _Place) -> None:
    for _ in range(_TRIES):
        item = await backend.get(place.key)
        lies = await asyncio.to_thread(place.read)
        if item is not None and lies not in (ANEW, item.value.decode()):
            raise place.refused()
        if item is not None and lies != ANEW:
            return
        if lies in ("", ANEW):
            lies = await asyncio.to_thread(partial(place.new_id, instead=lies == ANEW))
        writes: list[Write] = [PutOp(place.key, lies.encode())]
        if item is not None and place.key == STORES + PLACE:  # nothing was looked through in the new folder
            writes += [DeleteOp(one.key) for one in await backend.range(STORES) if one.key != place.key]
        condition: Condition = Absent(place.key) if item is None else Exists(place.key, item.revision)
        with suppress(CompareFailed, NotFound):  # another auth server starts, too
            await backend.commit(writes, conditions=[condition])
            return
    raise TeleportError(
        f"where the {place.what} of this cluster lies is being changed from elsewhere", hint="try again"
    )
