"""The chain of one emitter's epoch: how a line is made, and how its hash is proved.

A line is the event's canonical JSON with one more field at its end: `"hash":"<64 hex digits>"`. The hash is SHA-256
over a domain line and the exact bytes of the event without that field, and so over `emitter`, `epoch`, `seq` and
`prev` too. The exact bytes are hashed, not a normal form of them: then no bit of a line can change unnoticed, and
events with fields from a later version are proved like all others. Auth's own remarks, `"received":"<time>"` and
`"supplement":true`, follow the hash and are not part of the chain (`docs/audit-log.md`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from teleport.audit.events import Event, encode_event
from teleport.clock import rfc3339
from teleport.errors import BadRequest

DOMAIN = b"teleport-audit-event-v1\n"
NO_HASH = ""  # `prev` of a chain's first event when no former epoch is known
_LINE = re.compile(
    rb'(\{.*),"hash":"([0-9a-f]{64})"'
    rb'(?:,"received":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z)","receipt":"([0-9a-f]{16})")?'
    rb'(,"supplement":true)?\}',
    re.DOTALL,
)
RECEIPT_DOMAIN = b"teleport-audit-receipt-v1\n"
EMITTER_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


@dataclass(frozen=True, slots=True)
class ChainKey:
    """Which chain: one run of one daemon."""

    emitter: str  # host UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a chain as far as known; `seq` 0 when there is none."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where an emitter stands. `hash` is the last event's; before the first one the former epoch's, when known."""

    key: ChainKey
    seq: int = 0
    hash: str = NO_HASH

    def append(self, event: Event, checkpoint: str = "") -> tuple[bytes, ChainState]:
        """The line that continues the chain with `event` (no newline), and the state after it.

        Raises `BadRequest` when the event cannot be written (`encode_event`).
        """
        linked = msgspec.structs.replace(
            event,
            emitter=self.key.emitter,
            epoch=self.key.epoch,
            seq=self.seq + 1,
            prev=self.hash,
            checkpoint=checkpoint,
            hash=msgspec.UNSET,
        )
        line, digest = seal(encode_event(linked))
        return line, replace(self, seq=self.seq + 1, hash=digest)


def link(prev: str, event: Event) -> str:
    """The hash of `event` when it follows `prev`; its other chain fields count as they are."""
    return digest_of(encode_event(msgspec.structs.replace(event, prev=prev, hash=msgspec.UNSET)))


def digest_of(body: bytes) -> str:
    """The hash of an event's bytes without its `hash` field, 64 hex digits."""
    return hashlib.sha256(DOMAIN + body).hexdigest()


def seal(body: bytes) -> tuple[bytes, str]:
    """The line of an encoded event, and its hash."""
    digest = digest_of(body)
    return b'%s,"hash":"%s"}' % (body[:-1], digest.encode()), digest


class _Fields(msgspec.Struct):
    event: str
    uid: str
    emitter: str
    epoch: int
    seq: int
    prev: str


_FIELDS = msgspec.json.Decoder(_Fields)


@dataclass(frozen=True, slots=True)
class Linked:
    """A line taken apart. Nothing in it is proved before `intact` is looked at."""

    key: ChainKey
    seq: int
    prev: str
    stated: str  # the hash that the line carries
    computed: str  # the hash of its bytes
    event: str  # name
    uid: str
    supplement: bool
    body: bytes  # the event without hash and remarks
    received: str = ""  # when auth took it in, RFC 3339; empty on the way there, and in stores of before
    receipt: str = ""  # the check of that time

    @property
    def intact(self) -> bool:
        """Whether the line is what its emitter wrote, and the time of receipt what auth wrote."""
        return self.stated == self.computed and (
            not self.received or self.receipt == receipt_of(self.stated, self.received)
        )

    @classmethod
    def parse(cls, line: bytes) -> Linked:
        """Takes a line apart (no newline); `BadRequest` when it has not the form of one."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadRequest("not a line of a chain: it does not end with a hash")
        body = match.group(1) + b"}"
        try:
            fields = _FIELDS.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"not a line of a chain: {error}") from error
        return cls(
            key=ChainKey(fields.emitter, fields.epoch),
            seq=fields.seq,
            prev=fields.prev,
            stated=match.group(2).decode(),
            computed=digest_of(body),
            event=fields.event,
            uid=fields.uid,
            supplement=match.group(5) is not None,
            body=body,
            received=(match.group(3) or b"").decode(),
            receipt=(match.group(4) or b"").decode(),
        )


def receipt_of(digest: str, received: str) -> str:
    """The check of a time of receipt: it tells damage, and a receipt that was moved to another event."""
    return hashlib.sha256(RECEIPT_DOMAIN + f"{digest} {received}".encode()).hexdigest()[:16]


def mark_received(line: bytes, when: datetime) -> bytes:
    """A line without remarks, with auth's remark of when it took the event in."""
    received, digest = rfc3339(when), line[-66:-2].decode()
    return b'%s,"received":"%s","receipt":"%s"}' % (
        line[:-1],
        received.encode(),
        receipt_of(digest, received).encode(),
    )


def mark_supplement(line: bytes) -> bytes:
    """The line with auth's remark that an end of this session was known before."""
    return line[:-1] + b',"supplement":true}'
