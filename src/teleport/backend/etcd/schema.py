"""The version of what is stored, and who may change it.

The schema is one key, made with the storage. Every transaction compares its revision, so a process that knows the old
version writes nothing more once a newer one has begun to change it, and one whose storage was taken away and made anew
does not go on as if it were the same.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from teleport.backend.etcd import messages as m
from teleport.backend.etcd.layout import Layout
from teleport.backend.etcd.peers import RANGE, TXN, Peers
from teleport.backend.etcd.transaction import same
from teleport.errors import TeleportError

PROGRAM: Final = "teleport-access"
Migration = Callable[[Peers, Layout], Awaitable[None]]
# Each entry takes the schema from its index + 1 to the next version, and may be begun again after it was broken off:
# what it has changed already it leaves as it is. Entries are never changed, only added.
MIGRATIONS: Final[tuple[Migration, ...]] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """As it is stored. `made` and `changed` are revisions of etcd's."""

    version: int
    made: int
    changed: int
    changing_to: int = 0


async def open_schema(
    peers: Peers, layout: Layout, *, migrations: Sequence[Migration] = MIGRATIONS, may_change: bool = True
) -> Schema:
    """Make the schema, or bring it to this version. What is newer, or of another program, is refused, unchanged.

    With `may_change` false an older one is refused, too: another process uses it.
    """
    known = len(migrations) + 1
    found = await _read(peers, layout)
    if found is None:
        start, end = layout.whole
        request = m.RangeRequest(key=start, range_end=end, limit=1, keys_only=True)
        taken = bool((await peers.call(RANGE, request, "open")).message.kvs)
        if taken:  # perhaps by another auth server that starts at this moment: then the schema was its first key
            found = await _read(peers, layout)
        if taken and found is None:
            raise TeleportError(
                f"cannot open the storage in etcd ({peers.where}): there are keys of another program under "
                f"{layout.prefix}",
                hint="name a prefix of its own for this cluster in teleport.storage, such as /teleport-access/",
            )
    if found is None:
        await _write(peers, layout, 0, _document(known))
        found = await _read(peers, layout)
        if found is None:
            raise TeleportError(
                f"cannot open the storage in etcd ({peers.where}): what was just written is not there",
                hint="see whether something removes keys there: etcdctl watch --prefix " + layout.prefix,
            )
    if max(found.version, found.changing_to) > known:
        raise TeleportError(
            f"cannot open the storage in etcd ({peers.where}): its schema is version "
            f"{max(found.version, found.changing_to)}, this program knows up to {known}, so a newer version of "
            "Teleport wrote it",
            hint="start that newer version, or restore the snapshot of etcd made before the upgrade",
        )
    if found.version < known and not may_change:
        raise TeleportError(
            f"this version changes the schema of the storage in etcd from {found.version} to {known}, which the "
            "process that is running could not read any more",
            hint="stop every auth server of the cluster, then start this version",
        )
    while found.version < known:
        wanted = found.version + 1
        if found.changing_to != wanted:
            await _write(peers, layout, found.changed, _document(found.version, wanted))
            found = await _again(peers, layout)
            continue
        await migrations[found.version - 1](peers, layout)
        await _write(peers, layout, found.changed, _document(wanted))
        found = await _again(peers, layout)
    return found


def _document(version: int, changing_to: int = 0) -> bytes:
    told: dict[str, object] = {"program": PROGRAM, "version": version}
    if changing_to:
        told["changing_to"] = changing_to
    return json.dumps(told).encode()


async def _read(peers: Peers, layout: Layout) -> Schema | None:
    answer = await peers.call(RANGE, m.RangeRequest(key=layout.schema), "open")
    if not answer.message.kvs:
        return None
    stored = answer.message.kvs[0]
    try:
        told = json.loads(stored.value)
        if told["program"] != PROGRAM:
            raise ValueError("another program")
        version, changing_to = int(told["version"]), int(told.get("changing_to", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise TeleportError(
            f"cannot open the storage in etcd ({peers.where}): {layout.prefix}schema is of another program",
            hint="name a prefix of its own for this cluster in teleport.storage, such as /teleport-access/",
        ) from error
    return Schema(version, int(stored.create_revision), int(stored.mod_revision), changing_to)


async def _again(peers: Peers, layout: Layout) -> Schema:
    found = await _read(peers, layout)
    if found is None:
        raise changed(peers)
    return found


async def _write(peers: Peers, layout: Layout, revision: int, document: bytes) -> None:
    """Write it where it is still of `revision`; else another process was first, and what it wrote is read next."""
    put = m.RequestOp(request_put=m.PutRequest(key=layout.schema, value=document))
    await peers.call(TXN, m.TxnRequest(compare=[same(layout.schema, revision)], success=[put]), "open")


def changed(peers: Peers) -> TeleportError:
    """What a process says whose storage is not the one it opened any more."""
    return TeleportError(
        f"the storage in etcd ({peers.where}) was changed by another version of Teleport, or "
        "removed, under this process",
        hint="start all auth servers of the cluster anew, in the same version",
    )
