"""Checkpoints: signed statements over the heads of all chains, linked to one another.

A checkpoint lists the heads that moved since the one before and carries the root, a hash over the whole map of
heads; a `base` starts the map anew. Signing and checking are handed in, so this stays pure. Each one is written as an
`audit.checkpoint` event; `docs/audit-log.md` has the format.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from teleport.audit.chain.link import ChainKey, Head
from teleport.audit.events import AuditCheckpoint, CheckpointHead
from teleport.clock import rfc3339

DOMAIN = "teleport-audit-checkpoint-v1"
MAX_HEADS = 256  # heads of one checkpoint, so that its line stays below the largest event

Sign = Callable[[bytes], bytes]  # message to Ed25519 signature; an error must be raised, never an empty answer given
Verify = Callable[[str, bytes, bytes], bool]  # key id, message, signature; False for an unknown key


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Which checkpoint, as events and acknowledgements carry it."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> CheckpointRef | None:
        """What `str` wrote; None when empty or of another form."""
        number, _, digest = text.partition(":")
        return cls(int(number), digest) if number.isdecimal() and len(number) < 16 and len(digest) == 64 else None


def root_of(heads: Mapping[ChainKey, Head]) -> str:
    """SHA-256 over all heads in order of emitter and epoch, hex."""
    whole = hashlib.sha256(f"{DOMAIN} root\n".encode())
    for key in sorted(heads, key=lambda key: (key.emitter, key.epoch)):
        head = heads[key]
        whole.update(f"{key.emitter} {key.epoch} {head.seq} {head.hash}\n".encode())
    return whole.hexdigest()


def statement(event: AuditCheckpoint) -> bytes:
    """The bytes that are signed: a JSON list of domain, cluster, time, number, base, previous, root, key id, heads."""
    heads = [[head.emitter, head.epoch, head.seq, head.hash] for head in event.heads]
    fields = [DOMAIN, event.cluster_name, rfc3339(event.time), event.number, event.base, event.previous, event.root]
    return msgspec.json.encode([*fields, event.key_id, heads])


def reference(event: AuditCheckpoint) -> CheckpointRef:
    """What later checkpoints and events call this one by."""
    return CheckpointRef(event.number, hashlib.sha256(statement(event)).hexdigest())


def signature_holds(event: AuditCheckpoint, verify: Verify) -> bool:
    """Whether the checkpoint's signature is of its key."""
    try:
        signature = base64.b64decode(event.signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    return verify(event.key_id, statement(event), signature)


@dataclass(frozen=True, slots=True)
class Signer:
    """A signing key and its id."""

    key_id: str
    sign: Sign


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The last checkpoint of this holder; `heads` is the map it stated, None when another holder made it."""

    last: CheckpointRef | None = None
    heads: Mapping[ChainKey, Head] | None = None


def next_checkpoints(
    state: CheckpointState,
    heads: Mapping[ChainKey, Head],
    signer: Signer,
    *,
    cluster: str,
    now: datetime,
    uid: Callable[[], str],
) -> Iterator[tuple[AuditCheckpoint, CheckpointState]]:
    """Each signed checkpoint that brings the statement up to `heads`, and the state after it; none when nothing moved.

    An error of the signer passes through: a log that cannot be signed must not look signed.
    """
    base = state.heads is None
    map_now = {} if state.heads is None else dict(state.heads)
    moved = [key for key, head in heads.items() if map_now.get(key) != head]
    moved.sort(key=lambda key: (key.emitter, key.epoch))
    for at in range(0, len(moved), MAX_HEADS):
        part = moved[at : at + MAX_HEADS]
        map_now.update({key: heads[key] for key in part})
        listed = [CheckpointHead(emitter=k.emitter, epoch=k.epoch, seq=heads[k].seq, hash=heads[k].hash) for k in part]
        draft = AuditCheckpoint(
            time=now,
            uid=uid(),
            cluster_name=cluster,
            number=state.last.number + 1 if state.last else 1,
            base=base,
            heads=listed,
            root=root_of(map_now),
            previous=state.last.hash if state.last else "",
            key_id=signer.key_id,
        )
        signature = base64.b64encode(signer.sign(statement(draft))).decode()
        signed = msgspec.structs.replace(draft, signature=signature)
        state = CheckpointState(reference(signed), dict(map_now))
        base = False
        yield signed, state
