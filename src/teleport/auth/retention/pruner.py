"""Takes events out of the log whose time has come, so that the rest still verifies (`audit.chain.pruned`).

A pruning has two steps, far apart. First the whole log is proved, and an `audit.prune` event says what will be taken
out of a file; then, when a signed checkpoint has seen that event, the file is written anew, while holding the store's
lock and with the holds as they are then: if the outcome is not what was said, it is said anew. Nothing is taken out

- of a log that does not verify: that would take away the evidence;
- by what hosts say: the day of a file is when auth took its events in, by auth's own clock;
- of the newest file of a store, of what no signed checkpoint has seen, or of what a copy elsewhere does not have yet;
- within a week after a restore (`restored`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from teleport.audit.appendlog import sync_directory
from teleport.audit.chain import Linked
from teleport.audit.chain.pruned import Rewriting, digest_of_marks, rewritten
from teleport.audit.cursor import Cursor
from teleport.audit.following import stores_of
from teleport.audit.retention import Hold, Retention, held, session_of
from teleport.audit.sinks import DAY_FORMAT, day_files, in_order
from teleport.audit.verify import Basis, Report
from teleport.auth.retention.restored import FindRestored, check_rest
from teleport.auth.retention.rounds import Rounds
from teleport.clock import Clock
from teleport.errors import TeleportError

FRESH: Final = 60.0  # seconds for which the sessions of held users are believed to be those that were read
SUFFIX: Final = ".pruning"

log = logging.getLogger(__name__)


class _Name(msgspec.Struct):
    event: str = ""


_NAME = msgspec.json.Decoder(_Name)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a file while it, and the holds, stay the same: when the next of its events may go."""

    inode: int
    holds: tuple[Hold, ...]
    due: datetime | None


@dataclass(frozen=True, slots=True)
class Said:
    """What an `audit.prune` event says."""

    store: str
    file: str
    events: int
    digest: str
    follows: str
    number: int

    @property
    def fields(self) -> dict[str, Any]:
        """Of the event."""
        return {
            "store": self.store,
            "file": self.file,
            "pruned": self.events,
            "digest": self.digest,
            "follows": self.follows,
            "number": self.number,
        }


class Pruner(Rounds):
    """One for each auth server; the holder of the lease prunes all stores."""

    what = "the audit log is"

    def __init__(
        self,
        directory: Path,
        retention: Retention,
        *,
        clock: Clock,
        lease: Callable[[], AbstractAsyncContextManager[object]],
        exclusive: AbstractAsyncContextManager[object],
        holds: Callable[[], Awaitable[Sequence[Hold]]],
        durable: Callable[[], Awaitable[Mapping[str, str]]],
        copied: Callable[[], Awaitable[Mapping[str, Cursor]]],
        prove: Callable[[], Awaitable[Report]],
        say: Callable[[Said], Awaitable[None]],
        restored: FindRestored,
    ) -> None:
        self._directory = directory
        self._retention = retention
        self._clock = clock
        self._lease = lease
        self._exclusive = exclusive
        self._holds = holds
        self._durable = durable
        self._copied = copied
        self._prove = prove
        self._say = say
        self._restored = restored
        self._seen: dict[Path, _Seen] = {}
        self._said: dict[Path, Said] = {}  # that wait for a checkpoint
        self._settled = False  # whether what an earlier process left undone was looked at
        self._held_sessions: dict[str, frozenset[str]] = {}
        self._held_users: frozenset[str] = frozenset()
        self._held_at = 0.0

    async def step(self) -> bool:
        if self._retention.shortest is None:
            return False
        async with self._lease():
            pass
        await check_rest(self._restored, self._clock.now())
        holds = tuple(await self._holds())
        files = await self._old_files()
        due = await asyncio.to_thread(self._due, files, holds)
        if not due and self._settled:
            return False
        report = await self._prove()
        if not report.ok:
            raise TeleportError(f"it does not verify: {report.first}", hint="tctl audit verify")
        basis, waits = report.basis, False
        self._settled = True
        open_ones = [path for path in files if self._is_open(path, basis)]
        for path in dict.fromkeys([*due, *open_ones]):
            planned = await asyncio.to_thread(self._plan, path, holds, basis)
            digest = planned.digest if planned is not None else self._present(path, basis)
            if planned is not None and digest in [one.digest for one in basis.prunings.get(_name(path), ())]:
                waits |= not await self._rewrite(path, digest, basis)
            elif planned is not None or path in open_ones:
                waits = True
                await self._tell(path, planned, basis)
        return waits

    def _present(self, path: Path, basis: Basis) -> str:
        """The digest of the marks that are in a file."""
        return basis.digests.get(_name(path), digest_of_marks(()))

    def _is_open(self, path: Path, basis: Basis) -> bool:
        """Whether something is on record that was not done."""
        return any(one.digest != self._present(path, basis) for one in basis.prunings.get(_name(path), ()))

    async def _tell(self, path: Path, planned: Rewriting | None, basis: Basis) -> None:
        """Puts on record what comes next of a file; without a plan, that it stays as it is."""
        present = self._present(path, basis)
        said = Said(
            path.parent.name,
            path.name,
            planned.events if planned is not None else 0,
            planned.digest if planned is not None else present,
            present,
            basis.numbers.get(_name(path), 0) + 1,
        )
        former = self._said.get(path)
        if former is None or (former.digest, former.follows) != (said.digest, said.follows):
            await self._say(said)
            self._said[path] = said

    async def _rewrite(self, path: Path, digest: str, basis: Basis) -> bool:
        """Whether it came to what was said. When a hold came in between, that is taken back."""
        async with self._exclusive:
            holds = tuple(await self._holds())
            planned = await asyncio.to_thread(self._plan, path, holds, basis)
            if planned is not None and planned.digest == digest:
                await asyncio.to_thread(replace_file, path, planned.lines)
                self._said.pop(path, None)
                log.info("%s events were pruned from %s", planned.newly, _name(path))
                return True
        self._said.pop(path, None)
        await self._tell(path, planned, basis)
        return False

    async def _old_files(self) -> list[Path]:
        """Files that nobody writes to or has to read on from."""
        durable, copied = await self._durable(), await self._copied()

        def find() -> tuple[list[Path], str]:
            found: list[Path] = []
            behind = ""
            for store in stores_of(self._directory):
                position = in_order(durable[store.name])[0] if store.name in durable else None
                for path in day_files(store)[:-1]:
                    if position is not None and path.name >= position:
                        continue
                    waits = [name for name, cursor in copied.items() if cursor.at(store.name).file <= path.name]
                    if waits and self._age(path) >= self._retention.shortest:  # type: ignore[operator]  # there is one
                        behind = behind or f"{waits[0]} does not have {store.name}/{path.name} yet"
                    if not waits:
                        found.append(path)
            return found, behind

        found, behind = await asyncio.to_thread(find)
        if behind:
            log.warning("events stay in the audit log beyond their time: %s", behind)
        return found

    def _age(self, path: Path) -> timedelta:
        """Since the end of the file's day."""
        day = datetime.strptime(path.name, DAY_FORMAT).replace(tzinfo=UTC)
        return self._clock.now() - (day + timedelta(days=1))

    def _due(self, files: Sequence[Path], holds: tuple[Hold, ...]) -> list[Path]:
        """Those in which something may go."""
        shortest = self._retention.shortest
        assert shortest is not None, "asked before"
        now = self._clock.now()
        found: list[Path] = []
        for path in files:
            if self._age(path) < shortest:
                continue
            seen = self._seen.get(path)
            inode = path.stat().st_ino
            if seen is not None and (seen.inode, seen.holds) == (inode, holds) and (seen.due is None or seen.due > now):
                continue
            if self._plan(path, holds, None) is not None:
                found.append(path)
            else:
                self._seen[path] = _Seen(inode, holds, self._next_due(path))
        return found

    def _next_due(self, path: Path) -> datetime | None:
        """When the time of the next of its types comes; held events wait for another set of holds."""
        now, age = self._clock.now(), self._age(path)
        with path.open("rb") as file:
            types = {name for raw in file if (name := _name_of(raw))}
        left = [kept - age for name in types if (kept := self._retention.of(name)) is not None and kept > age]
        return now + min(left) if left else None

    def _plan(self, path: Path, holds: Sequence[Hold], basis: Basis | None) -> Rewriting | None:
        """The file after its pruning; None when nothing goes. `basis`: what checkpoints have seen; None: all."""
        age = self._age(path)
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
        sessions = self._sessions_of(holds)

        def drop(linked: Linked, line: bytes) -> bool:
            kept = self._retention.of(linked.event)
            if kept is None or age < kept or held(line, holds, sessions):
                return False
            return basis is None or linked.seq <= basis.signed.get(linked.key, 0)

        planned = rewritten(lines, drop, basis.former if basis is not None else ())
        return planned if planned.newly else None

    def _sessions_of(self, holds: Sequence[Hold]) -> dict[str, frozenset[str]]:
        """The sessions of each held user, anywhere in the log: what happened in them is held, too."""
        users = frozenset(hold.user for hold in holds if hold.user)
        if users != self._held_users or self._clock.monotonic() - self._held_at > FRESH:
            self._held_sessions, self._held_users = self._read_sessions(users), users
            self._held_at = self._clock.monotonic()
        return self._held_sessions

    def _read_sessions(self, users: frozenset[str]) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {user: set() for user in users}
        if found:
            for path in (path for store in stores_of(self._directory) for path in day_files(store)):
                with path.open("rb") as file:
                    for raw in file:
                        for user, sessions in found.items():
                            if sid := session_of(raw, user):
                                sessions.add(sid)
        return {user: frozenset(sessions) for user, sessions in found.items()}


def replace_file(path: Path, lines: Sequence[bytes]) -> None:
    """Writes a file of the log anew, whole or not at all, for the same readers."""
    draft = path.with_name(f".{path.name}{SUFFIX}")
    before = path.stat()
    with suppress(FileNotFoundError):
        draft.unlink()  # of a process that was killed over it
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            for line in lines:
                file.write(line + b"\n")
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), before.st_mode & 0o777)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise TeleportError(
            f"{path} cannot be written anew: {error.strerror}", hint="free space on that file system or repair it"
        ) from None


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _name_of(raw: bytes) -> str:
    try:
        return _NAME.decode(raw).event
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
