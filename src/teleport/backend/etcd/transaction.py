"""One write as one transaction of etcd: what must still be so, what to write then, and what to read otherwise. Pure.

Conditions of the request: the schema is the one we know, the slot is as we left it, each key that the decision was
made from is as it was read. etcd takes 128 operations: more writes go into transactions within the transaction, which
share its fate and revision; more conditions are refused. What a transaction within may have is what the one around it
leaves: etcd counts the conditions or the operations of each level, whichever are more, and adds the levels up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from teleport.backend.etcd import messages as m
from teleport.backend.etcd.layout import Layout, pack
from teleport.backend.etcd.slots import Slot
from teleport.backend.interface import PutOp, Write
from teleport.errors import LimitExceeded

MOST: Final = 128  # conditions, and operations, of one level
BARRED: Final = b"barred"  # the value of a slot that was written only to bar what was sent for it before


def build(
    layout: Layout,
    schema: int,
    slot: Slot,
    slot_lease: int,
    checked: Mapping[str, int],
    changes: Sequence[tuple[Write, int]],
) -> m.Message:
    """The request. `checked`: etcd's revision of each key, 0 for one that is absent; `changes`: each with its lease.

    Raises `LimitExceeded`.
    """
    compare = [same(layout.schema, schema), same(slot.key, slot.revision)]
    compare += [same(layout.item(key), revision) for key, revision in checked.items()]
    first = m.RequestOp(request_put=m.PutRequest(key=slot.key, lease=slot_lease))
    writes = [_write(layout, change, lease) for change, lease in changes]
    if len(compare) > MOST:
        raise _too_large(checked, changes)
    if len(writes) >= MOST:
        size = _group(len(compare), len(writes))
        if not size:
            raise _too_large(checked, changes)
        writes = [
            m.RequestOp(request_txn=m.TxnRequest(success=writes[at : at + size])) for at in range(0, len(writes), size)
        ]
    reads = [layout.schema, slot.key, *(layout.item(key) for key in checked)]
    return m.TxnRequest(compare=compare, success=[first, *writes], failure=[read(key) for key in reads])


def _group(conditions: int, writes: int) -> int:
    """How many writes each transaction within has; 0 when they cannot be grouped."""
    fitting = (size for size in range(MOST - 1, 0, -1) if max(conditions, 1 + -(-writes // size)) + size <= MOST)
    return next(fitting, 0)


def removal(layout: Layout, schema: int, due: Sequence[tuple[str, int]]) -> m.Message:
    """Delete each key that is still of that revision of etcd's; the others stay. Sent twice it does nothing more."""
    return m.TxnRequest(
        compare=[same(layout.schema, schema)],
        success=[
            m.RequestOp(
                request_txn=m.TxnRequest(
                    compare=[same(layout.item(key), revision)],
                    success=[m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=layout.item(key)))],
                )
            )
            for key, revision in due
        ],
        failure=[read(layout.schema)],
    )


def same(key: bytes, revision: int) -> m.Message:
    """The key was last changed by `revision`; 0: it does not exist."""
    return m.Compare(target=m.MOD, key=key, mod_revision=revision)


def read(key: bytes, revision: int = 0) -> m.Message:
    return m.RequestOp(request_range=m.RangeRequest(key=key, revision=revision))


def _write(layout: Layout, change: Write, lease: int) -> m.Message:
    key = layout.item(change.key)
    if isinstance(change, PutOp):
        stored = pack(bytes(change.value), change.expires)
        return m.RequestOp(request_put=m.PutRequest(key=key, value=stored, lease=lease))
    return m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=key))


def _too_large(checked: Mapping[str, int], changes: Sequence[tuple[Write, int]]) -> LimitExceeded:
    return LimitExceeded(
        f"a transaction with {len(checked)} conditions and {len(changes)} writes is larger than etcd takes",
        hint="do it in smaller steps",
    )
