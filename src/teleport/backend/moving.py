"""All that one storage holds, put into another one and compared.

The target is marked before the first item is written and until the comparison has passed; whoever finds the mark does
not use it (`refuse_unfinished`). Every write asks that the mark is still this run's, so of two runs one fails. A run
that finds a mark removes what the broken one has left. The source is only read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from teleport.backend.interface import Absent, Backend, DeleteOp, Exists, Item, PutOp
from teleport.backend.parts import in_parts
from teleport.clock import Clock
from teleport.errors import AlreadyExists, CompareFailed, TeleportError

MARK: Final = "migration/unfinished"
LEASES: Final = ("auth_servers/", "audit/lease")  # of auth servers that run; none does
AT_ONCE: Final = 500  # writes


@dataclass(frozen=True, slots=True)
class Content:
    """What is moved, in the order of the keys."""

    items: Sequence[Item]

    @property
    def sha256(self) -> str:
        """Over keys, values and expiries; the same for the same content in every engine."""
        whole = hashlib.sha256()
        for item in self.items:
            expires = "" if item.expires is None else item.expires.isoformat()
            for part in (item.key.encode(), bytes(item.value), expires.encode()):
                whole.update(len(part).to_bytes(8, "big") + part)
        return whole.hexdigest()

    @property
    def parts(self) -> dict[str, int]:
        """How many items there are, by the first part of their keys."""
        return dict(sorted(Counter(item.key.partition("/")[0] for item in self.items).items()))


async def content_of(backend: Backend) -> Content:
    """All that lives in `backend`, except leases and the mark."""
    found = (await backend.snapshot([""])).items
    return Content([item for item in found if item.key != MARK and not item.key.startswith(LEASES)])


async def refuse_unfinished(backend: Backend) -> None:
    """Raises `TeleportError` for the target of a migration that did not come to its end."""
    if await backend.get(MARK) is not None:
        raise TeleportError(
            "a migration into this storage did not come to its end: it may hold a part only",
            hint="run it again: tctl migrate --from=FILE --to=FILE; or go on with the storage that it came from",
        )


async def check_free(target: Backend) -> bool:
    """Whether a broken migration left something in `target`. Raises `AlreadyExists` when something else is there."""
    if await target.get(MARK) is not None:
        return True
    if await target.range("", limit=1):
        raise AlreadyExists(
            "the storage to migrate to is not empty: a migration replaces nothing",
            hint="name an empty one: another directory, prefix of etcd, schema of PostgreSQL or table of DynamoDB",
        )
    return False


async def move(
    source: Backend, target: Backend, clock: Clock, label: bytes, seen: Callable[[int], None] = lambda count: None
) -> Content:
    """Copies and compares; `label` says whose run it is and differs from that of any other. `seen` is told how many
    items are written. Raises `AlreadyExists`, `CompareFailed` or `TeleportError`; then the mark stays."""
    mark = await target.get(MARK)
    if mark is None:
        await check_free(target)
    try:
        held = await target.commit(
            [PutOp(MARK, label)], conditions=[Absent(MARK) if mark is None else Exists(MARK, mark.revision)]
        )
        ours = Exists(MARK, held)
        left = [item.key for item in (await target.snapshot([""])).items if item.key != MARK]
        if mark is None and left:
            raise AlreadyExists(
                "something else has begun to use the storage to migrate to",
                hint="stop the auth servers whose configuration names it, empty it, and migrate again",
            )
        for part in in_parts(([DeleteOp(key, missing_ok=True)] for key in left), most=AT_ONCE):
            await target.commit(part, conditions=[ours])
        written = 0
        for part in in_parts(_puts((await content_of(source)).items), most=AT_ONCE):
            await target.commit(part, conditions=[ours])
            written += len(part)
            seen(written)
        moved = compare(await content_of(source), await content_of(target), clock)
        await target.commit([DeleteOp(MARK)], conditions=[ours])
    except CompareFailed as error:
        if isinstance(error, Differs):
            raise
        raise CompareFailed(
            "another migration into the same storage has begun", hint="let that one end, or end it, then run this again"
        ) from error
    return moved


def _puts(items: Iterable[Item]) -> Iterable[Sequence[PutOp]]:
    return ([PutOp(item.key, item.value, item.expires)] for item in items)


class Differs(CompareFailed):
    """The two storages do not hold the same."""


def compare(source: Content, target: Content, clock: Clock) -> Content:
    """What both hold. Raises `Differs`, which names keys, never values."""
    now = clock.now()  # after both were read: what expired in between counts on neither side
    wanted = {item.key: (bytes(item.value), item.expires) for item in source.items if item.live(now)}
    found = {item.key: (bytes(item.value), item.expires) for item in target.items if item.live(now)}
    if wanted == found:
        return Content([item for item in source.items if item.live(now)])
    kinds = {
        "missing": wanted.keys() - found.keys(),
        "too many": found.keys() - wanted.keys(),
        "different": {key for key in wanted.keys() & found.keys() if wanted[key] != found[key]},
    }
    told = ", ".join(f"{len(keys)} {name} (such as {_part(min(keys))})" for name, keys in kinds.items() if keys)
    raise Differs(
        f"the copy is not what the source holds now: {told}",
        hint="see that no auth server uses either storage, then run it again: tctl migrate",
    )


def _part(key: str) -> str:
    """Where a key is; what follows may be a secret, as of join tokens."""
    return key.partition("/")[0] + "/"
