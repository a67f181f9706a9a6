"""What is left of events that were pruned: a mark that keeps the chain, and the statement that vouches for it. Pure.

Events of a chain that follow one another become one line, which has the hash before the first and the hash of the last:
so what comes before and after still fits together, and no event between can be put back as another. That they were
pruned by auth, and not taken out by somebody, is said by an `audit.prune` event in auth's own chain, which has the
digest of all marks of a file; it counts once a signed checkpoint has seen it (`verify`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from teleport.audit.chain.link import ChainKey, Linked
from teleport.errors import BadRequest

PREFIX: Final = b'{"pruned":'
DOMAIN: Final = b"teleport-audit-prune-v1\n"


class Pruned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of a chain that is not there any more."""

    emitter: str
    epoch: int
    first: int
    last: int
    prev: str  # hash before the first
    hash: str  # of the last

    @property
    def key(self) -> ChainKey:
        return ChainKey(self.emitter, self.epoch)

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def line(self) -> bytes:
        """As it stands in a file, without newline."""
        return msgspec.json.encode(_Line(self))

    @classmethod
    def parse(cls, line: bytes) -> Pruned:
        """Raises `BadRequest` for what is no mark, or none that we wrote."""
        try:
            mark = msgspec.json.decode(line, type=_Line).pruned
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"not a mark of pruned events: {error}") from None
        if mark.line() != line or not 0 < mark.first <= mark.last < 2**63:
            raise BadRequest("not a mark of pruned events: not written as one is")
        return mark

    @classmethod
    def of(cls, linked: Linked) -> Pruned:
        """An event alone."""
        return cls(linked.key.emitter, linked.key.epoch, linked.seq, linked.seq, linked.prev, linked.computed)


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pruned: Pruned


def digest_of_marks(marks: Iterable[bytes]) -> str:
    """Of all marks of a file, in their order, 64 hex digits."""
    return hashlib.sha256(DOMAIN + b"".join(mark + b"\n" for mark in marks)).hexdigest()


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A file after its pruning."""

    lines: Sequence[bytes]
    newly: int  # events that were there before it
    events: int  # that are pruned in it altogether
    digest: str


def rewritten(lines: Iterable[bytes], drop: Callable[[Linked, bytes], bool], breaks: Collection[str] = ()) -> Rewriting:
    """The lines of a file without the events that `drop` names; what is damaged stays as it is.

    A mark does not reach over an event whose hash is in `breaks`: the first event of a later epoch names it.
    """
    found: list[bytes | Pruned] = []
    reach: dict[ChainKey, int] = {}  # where in `found` the mark is that a chain's next event may go on
    newly = 0
    for line in lines:
        mark, key = _mark_of(line, drop)
        if mark is None:
            found.append(line)
            if key is not None:
                reach.pop(key, None)
            continue
        newly += not line.startswith(PREFIX)
        at = reach.get(mark.key)
        before = found[at] if at is not None else None
        if isinstance(before, Pruned) and at is not None and _goes_on(before, mark) and before.hash not in breaks:
            found[at] = msgspec.structs.replace(before, last=mark.last, hash=mark.hash)
        else:
            reach[mark.key] = len(found)
            found.append(mark)
    marks = [one for one in found if isinstance(one, Pruned)]
    return Rewriting(
        lines=[one.line() if isinstance(one, Pruned) else one for one in found],
        newly=newly,
        events=sum(one.count for one in marks),
        digest=digest_of_marks(one.line() for one in marks),
    )


def _goes_on(before: Pruned, mark: Pruned) -> bool:
    return before.last + 1 == mark.first and before.hash == mark.prev


def _mark_of(line: bytes, drop: Callable[[Linked, bytes], bool]) -> tuple[Pruned | None, ChainKey | None]:
    try:
        if line.startswith(PREFIX):
            mark = Pruned.parse(line)
            return mark, mark.key
        linked = Linked.parse(line)
    except BadRequest:
        return None, None
    return (Pruned.of(linked) if linked.intact and drop(linked, line) else None), linked.key
