"""What a write does, decided once for all engines: from what is stored to the changes to make, or a refusal.

Pure. An engine calls a `Decision` inside its transaction with a way to look at what is stored and the time, and
carries out the changes it returns, which by then cannot be refused any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from teleport.backend.interface import (
    MAX_WRITES,
    Absent,
    Condition,
    ConditionFailed,
    DeleteOp,
    Exists,
    Item,
    PutOp,
    Write,
    check_key,
    check_put,
)
from teleport.errors import AlreadyExists, BadRequest, CompareFailed, LimitExceeded, NotFound

Look = Callable[[str], Item | None]  # what is stored under a key, also when its time has come


@dataclass(frozen=True, slots=True)
class Decision:
    """`decide` gives the changes; the deletions among them are of keys that are stored.

    The rest is for engines that have to read before they can look: `keys` are all that it looks at, `absent` those
    that most likely do not exist, `loose` those that it would only delete if they did, `size` the bytes of all values.
    """

    decide: Callable[[Look, datetime], Sequence[Write]]
    keys: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    loose: frozenset[str] = frozenset()
    size: int = 0

    def __call__(self, look: Look, now: datetime) -> Sequence[Write]:
        return self.decide(look, now)


def create(key: str, value: bytes, expires: datetime | None) -> Decision:
    check_put(key, value, expires)

    def decide(look: Look, now: datetime) -> Sequence[Write]:
        if _live(look, key, now) is not None:
            raise AlreadyExists(f"cannot create {key}: it exists already")
        return [PutOp(key, value, expires)]

    return Decision(decide, (key,), absent=frozenset((key,)), size=len(value))


def put(key: str, value: bytes, expires: datetime | None) -> Decision:
    check_put(key, value, expires)
    return Decision(lambda look, now: [PutOp(key, value, expires)], size=len(value))


def compare_and_swap(key: str, revision: int, value: bytes, expires: datetime | None) -> Decision:
    check_put(key, value, expires)

    def decide(look: Look, now: datetime) -> Sequence[Write]:
        item = _live(look, key, now)
        if item is None:
            raise CompareFailed(f"cannot change {key}: it does not exist any more")
        _check_revision("change", item, revision)
        return [PutOp(key, value, expires)]

    return Decision(decide, (key,), size=len(value))


def delete(key: str, revision: int | None) -> Decision:
    check_key(key)

    def decide(look: Look, now: datetime) -> Sequence[Write]:
        item = _found("delete", look, key, now)
        _check_revision("delete", item, revision)
        return [DeleteOp(key)]

    return Decision(decide, (key,))


def renew(key: str, expires: datetime, revision: int | None) -> Decision:
    check_put(key, b"", expires)

    def decide(look: Look, now: datetime) -> Sequence[Write]:
        item = _found("renew", look, key, now)
        _check_revision("renew", item, revision)
        return [PutOp(key, item.value, expires)]

    return Decision(decide, (key,))


def commit(writes: Sequence[Write], conditions: Sequence[Condition]) -> Decision:
    writes, conditions = tuple(writes), tuple(conditions)
    if len(writes) > MAX_WRITES:
        raise LimitExceeded(f"a transaction of {len(writes)} writes is too large: at most {MAX_WRITES} are allowed")
    for condition in conditions:
        check_key(condition.key)
    seen: set[str] = set()
    for write in writes:
        match write:
            case PutOp(key, value, expires):
                check_put(key, value, expires)
            case DeleteOp(key):
                check_key(key)
        if write.key in seen:
            raise BadRequest(f"a transaction may write {write.key} only once")
        seen.add(write.key)

    def decide(look: Look, now: datetime) -> Sequence[Write]:
        for condition in conditions:
            _check_condition(condition, _live(look, condition.key, now))
        changes: list[Write] = []
        for write in writes:
            if isinstance(write, DeleteOp) and _live(look, write.key, now) is None:
                if write.missing_ok:
                    continue
                raise NotFound(f"cannot delete {write.key}: it does not exist")
            changes.append(write)
        return changes

    loose = {write.key for write in writes if isinstance(write, DeleteOp) and write.missing_ok}
    looked = {condition.key for condition in conditions}
    absent = {condition.key for condition in conditions if isinstance(condition, Absent)}
    size = sum(len(write.value) for write in writes if isinstance(write, PutOp))
    keys = looked | {write.key for write in writes if isinstance(write, DeleteOp)}
    return Decision(decide, tuple(sorted(keys)), absent=frozenset(absent), loose=frozenset(loose - looked), size=size)


def _live(look: Look, key: str, now: datetime) -> Item | None:
    item = look(key)
    return item if item is not None and item.live(now) else None


def _found(verb: str, look: Look, key: str, now: datetime) -> Item:
    item = _live(look, key, now)
    if item is None:
        raise NotFound(f"cannot {verb} {key}: it does not exist")
    return item


def _check_revision(verb: str, item: Item, revision: int | None) -> None:
    if revision is not None and item.revision != revision:
        raise CompareFailed(
            f"cannot {verb} {item.key}: it was changed since (revision {item.revision}, not {revision})"
        )


def _check_condition(condition: Condition, item: Item | None) -> None:
    match condition:
        case Absent(key):
            if item is not None:
                raise ConditionFailed(f"nothing written: {key} exists", condition=condition)
        case Exists(key, revision):
            if item is None:
                raise ConditionFailed(f"nothing written: {key} does not exist", condition=condition)
            if revision is not None and item.revision != revision:
                raise ConditionFailed(
                    f"nothing written: {key} was changed since (revision {item.revision}, not {revision})",
                    condition=condition,
                )
