"""What intake, checkpoints and the outbox keep in the backend, behind the small protocols that they ask for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from teleport.audit.chain import ChainKey, Head, Signer
from teleport.audit.chain.checkpoint import DOMAIN
from teleport.audit.checkpoints import LeaseElsewhere, SavedCheckpoint
from teleport.audit.events import AuditGap, new_event
from teleport.audit.outbox import outbox_write
from teleport.audit.restored import Lost, Restored
from teleport.auth.sessions.claims import HOSTS
from teleport.backend.interface import Absent, Backend, DeleteOp, PutOp
from teleport.backend.parts import in_parts
from teleport.clock import Clock
from teleport.errors import AlreadyExists, CompareFailed, NotFound, TeleportError
from teleport.pki import signing
from teleport.pki.keys import PrivateKey, generate_ed25519
from teleport.pki.secret import Secret

HEADS = "audit/heads/"
POSITION = "audit/position"
STORES = "audit/stores/"  # how far each of the stores that share a folder was looked through
PLACE = "place"  # under it: the id of that folder
ENDS = "audit/session-ends/"  # SID/HOST; versions before kept SID alone
CHECKPOINT = "audit/checkpoint"
CHECKPOINT_KEY = "audit/checkpoint-key"
LEASE = "audit/lease"
RESTORED = "audit/restored"
ENDS_KEPT = timedelta(days=400)
LEASE_TIME = timedelta(seconds=30)


class _Head(msgspec.Struct, frozen=True):
    seq: int
    hash: str


class _Saved(msgspec.Struct, frozen=True):
    event: str
    written: bool


class _Note(msgspec.Struct, frozen=True):
    """As `daemon.restoring` writes it."""

    time: datetime


class EvidenceStore:
    """Implements `IntakeStore`, `SharedRecords`, `Gaps`, `CheckpointStore` and `OutboxBackend`."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.on_event: Callable[[], None] = lambda: None  # told when an event waits in the outbox
        self.cluster = ""  # that events name
        self.place = ""  # id of the folder that this auth server's store is in, once it is known
        self._backend = backend
        self._clock = clock

    # intake

    async def load_heads(self) -> tuple[Mapping[ChainKey, Head], str]:
        heads = {}
        for item in await self._backend.range(HEADS):
            emitter, _, epoch = item.key.removeprefix(HEADS).rpartition("/")
            head = msgspec.json.decode(item.value, type=_Head)
            heads[ChainKey(emitter, int(epoch))] = Head(head.seq, head.hash)
        position = await self._backend.get(POSITION)
        return heads, position.value.decode() if position is not None else ""

    async def save_heads(self, changed: Mapping[ChainKey, Head], position: str) -> None:
        await self._save(changed, PutOp(POSITION, position.encode()))

    # of stores that auth servers share

    async def load_head(self, key: ChainKey) -> Head | None:
        item = await self._backend.get(_head_key(key))
        if item is None:
            return None
        head = msgspec.json.decode(item.value, type=_Head)
        return Head(head.seq, head.hash)

    async def load_positions(self) -> Mapping[str, str]:
        items = {item.key.removeprefix(STORES): item.value.decode() for item in await self._backend.range(STORES)}
        place = items.pop(PLACE, "")
        self.place = self.place or place
        if place != self.place:
            raise TeleportError(
                "the auth servers of this cluster keep their audit log in another folder by now",
                hint="restart this auth server with the audit_events_uri that the others have",
            )
        return items

    async def durable(self, own: str, *, shared: bool) -> Mapping[str, str]:
        """How far stores are kept for good: this one, or, where several share a folder, all."""
        if shared:
            return await self.load_positions()
        item = await self._backend.get(POSITION)
        return {own: item.value.decode() if item is not None else ""}

    async def save_in(self, store: str, changed: Mapping[ChainKey, Head], position: str) -> None:
        await self._save(changed, PutOp(STORES + store, position.encode()))

    async def _save(self, changed: Mapping[ChainKey, Head], position: PutOp) -> None:
        """The position last: what is not saved is found again."""
        for part in in_parts([*([_head_write(key, head)] for key, head in changed.items()), [position]]):
            await self._backend.commit(part)

    async def claim_end(self, sid: str, uid: str, host_id: str) -> str:
        former = await self._backend.get(ENDS + sid)
        if former is not None:
            ran_on = await self._backend.get(HOSTS + sid)
            if uid == former.value.decode() or (ran_on is not None and ran_on.value.decode() == host_id):
                return former.value.decode()
        key = f"{ENDS}{sid}/{host_id}"
        try:
            await self._backend.create(key, uid.encode(), expires=self._clock.now() + ENDS_KEPT)
        except AlreadyExists:
            item = await self._backend.get(key)
            return item.value.decode() if item is not None else uid
        return uid

    async def load_restored(self) -> Restored | None:
        """The restore that this state came from, and how far it had each chain then."""
        note = await self._backend.get(RESTORED)
        if note is None:
            return None
        heads = {}
        for item in await self._backend.range(f"{RESTORED}/"):
            emitter, _, epoch = item.key.removeprefix(f"{RESTORED}/").rpartition("/")
            heads[ChainKey(emitter, int(epoch))] = int(item.value)
        return Restored(msgspec.json.decode(note.value, type=_Note).time, heads)

    async def tell_gap(self, lost: Lost) -> None:
        event = new_event(
            AuditGap,
            self._clock.now(),
            str(uuid.uuid4()),
            cluster_name=self.cluster,
            host_id=lost.key.emitter,
            chain_epoch=lost.key.epoch,
            first=lost.first,
            last=lost.last,
            follows=lost.follows,
        )
        await self._backend.commit([PutOp(*outbox_write(event))])
        self.on_event()

    # checkpoints

    async def load_checkpoint(self) -> SavedCheckpoint | None:
        item = await self._backend.get(CHECKPOINT)
        if item is None:
            return None
        saved = msgspec.json.decode(item.value, type=_Saved)
        return SavedCheckpoint(saved.event.encode(), saved.written)

    async def save_checkpoint(self, saved: SavedCheckpoint) -> None:
        await self._backend.put(CHECKPOINT, msgspec.json.encode(_Saved(saved.event.decode(), saved.written)))

    async def checkpoint_key(self) -> PrivateKey:
        """The key that checkpoints are signed with, made when first asked for."""
        item = await self._backend.get(CHECKPOINT_KEY)
        if item is None:
            key = generate_ed25519()
            try:
                await self._backend.commit(
                    [PutOp(CHECKPOINT_KEY, key.pkcs8_pem().reveal())], conditions=[Absent(CHECKPOINT_KEY)]
                )
                return key
            except CompareFailed:
                item = await self._backend.get(CHECKPOINT_KEY)
                assert item is not None
        return PrivateKey.load(Secret(item.value))

    # outbox

    async def range(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        return [(item.key, item.value) for item in await self._backend.range(prefix)]

    async def first(self, prefix: str, most: int) -> Sequence[str]:
        """Keys below a prefix, in their order."""
        return [item.key for item in await self._backend.range(prefix, limit=most)]

    async def delete(self, key: str) -> None:
        await self._backend.commit([DeleteOp(key, missing_ok=True)])


def _head_key(key: ChainKey) -> str:
    return f"{HEADS}{key.emitter}/{key.epoch}"


def _head_write(key: ChainKey, head: Head) -> PutOp:
    return PutOp(_head_key(key), msgspec.json.encode(_Head(head.seq, head.hash)))


def signer(key: PrivateKey) -> Signer:
    """Signs checkpoints; the key id is the key's fingerprint."""
    return Signer(key.public.fingerprint(), lambda message: signing.sign(DOMAIN, message, key))


class Lease:
    """A right that one auth server holds at a time, renewed by holding it (`docs/audit-log.md`)."""

    def __init__(self, backend: Backend, clock: Clock, holder: str) -> None:
        self._backend = backend
        self._clock = clock
        self._holder = holder.encode()
        self._held = asyncio.Lock()

    def __call__(self) -> Lease:
        return self

    async def __aenter__(self) -> None:
        """Raises `TeleportError` while another server holds it."""
        await self._held.acquire()
        try:
            await self._take()
        except BaseException:
            self._held.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._held.release()

    async def release(self) -> None:
        """Lets another server take it at once; for a clean stop."""
        item = await self._backend.get(LEASE)
        if item is not None and item.value == self._holder:
            with suppress(NotFound, CompareFailed):
                await self._backend.delete(LEASE, revision=item.revision)

    def _mine(self, holder: bytes) -> bool:
        """Whether the holder is this server, or an earlier run on this host: dead, or making way for this one."""
        host, _, epoch = holder.partition(b"/")
        own_host, _, own_epoch = self._holder.partition(b"/")
        return host == own_host and int(epoch) <= int(own_epoch)

    async def _take(self) -> None:
        expires = self._clock.now() + LEASE_TIME
        item = await self._backend.get(LEASE)
        if item is None:
            try:
                await self._backend.create(LEASE, self._holder, expires=expires)
                return
            except AlreadyExists:
                item = await self._backend.get(LEASE)
        if item is None or not self._mine(item.value):
            raise LeaseElsewhere("another auth server holds the lease of the audit log")
        if item.value != self._holder:
            try:
                await self._backend.compare_and_swap(LEASE, item.revision, self._holder, expires=expires)
            except CompareFailed as error:
                raise TeleportError(f"the lease of the audit log was lost: {error}") from None
            return
        try:
            await self._backend.renew(LEASE, expires, revision=item.revision)
        except (NotFound, CompareFailed) as error:
            raise TeleportError(f"the lease of the audit log was lost: {error}") from None
