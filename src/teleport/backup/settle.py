"""What of a backed-up state comes back to life, and how it is brought up to date with the log behind it. Pure.

Time has gone on since the backup was made. Whatever proves something once or for a short while must not prove it
again: join tokens and links may have been used since, codes were shown, challenges were answered. Whatever says what
is open or here *now* was true of another moment. `TABLE` says it for every part of the storage, and `tests/backup` that
no part is missing; what this version does not know stays out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from teleport.audit.chain import ChainKey, Head, Linked
from teleport.audit.chain.pruned import PREFIX, Pruned
from teleport.audit.events import REGISTRY, AuditCheckpoint, HoldCreated
from teleport.audit.retention import Hold
from teleport.backend.moving import MARK
from teleport.backup.archive import Manifest, StoredItem
from teleport.errors import BadRequest
from teleport.store.records import UserSecret

TOTP_PERIOD: Final = 30  # seconds
HEADS: Final = "audit/heads/"
OPEN: Final = "audit/open-sessions/"
ENDS: Final = "audit/session-ends/"
ENDS_KEPT: Final = timedelta(days=400)  # as auth keeps them
CHECKPOINT: Final = "audit/checkpoint"
OUTBOX: Final = "audit/outbox/"
RESTORED: Final = "audit/restored"
HOLDS: Final = "audit/holds/"


class Fate(StrEnum):
    """What becomes of a part of the storage."""

    KEPT = "kept"
    LEFT_OUT = "left out"
    CHANGED = "changed"  # by a function of its own below


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the storage: every key that begins with `prefix`."""

    prefix: str
    fate: Fate
    what: str  # it is, in words
    gone: str = ""  # what of it is left out, as people are told; empty: nothing that concerns them


TABLE: Final = (
    Row("users/", Fate.KEPT, "users"),
    Row("users-secret/", Fate.CHANGED, "passwords and second factors, with lockouts; shown codes do not count again"),
    Row("roles/", Fate.KEPT, "roles"),
    Row("locks/", Fate.KEPT, "locks"),
    Row("authorities/", Fate.KEPT, "authorities"),
    Row("cluster/", Fate.KEPT, "name and settings of the cluster"),
    Row("auth/given-roles", Fate.KEPT, "note of auth to itself"),
    Row("auth/administrators", Fate.KEPT, "note of auth to itself"),
    Row("auth/nobody", Fate.KEPT, "note of auth to itself"),
    Row("auth/key-domain", Fate.KEPT, "note of auth to itself"),
    Row("auth/invented-credentials", Fate.KEPT, "note of auth to itself"),
    Row("auth/passkey-users/", Fate.KEPT, "whose passkeys know a user handle"),
    Row("auth/passkey-key", Fate.LEFT_OUT, "by which challenges to passkeys are known"),
    Row("auth/passkeys-asked/", Fate.LEFT_OUT, "challenges to passkeys that were answered, for minutes"),
    Row("auth/lease-approvals/", Fate.LEFT_OUT, "links that approve leases"),
    Row("auth/browser-logins/", Fate.LEFT_OUT, "logins that wait for an answer in a browser"),
    Row("web_sessions/", Fate.LEFT_OUT, "sessions of browsers", "sessions of browsers"),
    Row("auth/web-sessions/", Fate.LEFT_OUT, "what takes sessions of browsers up, and their sealed keys"),
    Row("auth/agentless-names/", Fate.LEFT_OUT, "keys with which proxies speak for hosts, for minutes"),
    Row("auth/agentless-proofs/", Fate.LEFT_OUT, "connections that were signed for, for minutes"),
    Row("auth/factor-challenges/", Fate.LEFT_OUT, "challenges to second factors"),
    Row("web_certificates/", Fate.KEPT, "certificates of proxies by ACME"),
    Row("auth/acme-accounts/", Fate.KEPT, "accounts at ACME directories"),
    Row("auth/acme-pairs/", Fate.KEPT, "private keys of proxies, by ACME"),
    Row("auth/acme-turns/", Fate.LEFT_OUT, "which proxy orders a certificate, for minutes"),
    Row("trusted_clusters/", Fate.KEPT, "clusters whose users are let in"),
    Row("remote_clusters/", Fate.KEPT, "clusters whose hosts are reached"),
    Row("auth/cluster-links/", Fate.KEPT, "how the exchange of authorities with other clusters stands"),
    Row("hosts/", Fate.CHANGED, "hosts that joined", "the auth server that made the backup"),
    Row("certs/", Fate.KEPT, "certificates that were issued or ended"),
    Row("cert-use/", Fate.KEPT, "when certificates were used"),
    Row("tokens/", Fate.LEFT_OUT, "join tokens", "join tokens"),
    Row("user-tokens/", Fate.LEFT_OUT, "links", "links of invitations and resets"),
    Row("mfa_leases/", Fate.LEFT_OUT, "leases of second factors", "leases of second factors"),
    Row("nodes/", Fate.CHANGED, "nodes; those that people registered are kept", "nodes that announced themselves"),
    Row("session_trackers/", Fate.LEFT_OUT, "sessions that run, as hosts tell of them"),
    Row("semaphores/connection/", Fate.LEFT_OUT, "connections that are counted"),
    Row("proxies/", Fate.LEFT_OUT, "proxies", "proxies that announced themselves"),
    Row("auth_servers/", Fate.LEFT_OUT, "auth servers", "auth servers that announced themselves"),
    Row("kube_services/", Fate.LEFT_OUT, "Kubernetes services", "Kubernetes services that announced themselves"),
    Row(HEADS, Fate.CHANGED, "how far the log holds each chain; with what the log has beyond the state"),
    Row(ENDS, Fate.KEPT, "sessions that ended"),
    Row(OPEN, Fate.LEFT_OUT, "sessions that were open: each is ended"),
    Row("audit/session-people/", Fate.KEPT, "who took part in recorded sessions"),
    Row("audit/session-closed/", Fate.KEPT, "whose word on who took part in a session is final"),
    Row("audit/session-hosts/", Fate.KEPT, "which hosts told of sessions"),
    Row("audit/uploads/", Fate.KEPT, "recordings that were told of"),
    Row("audit/objects/", Fate.KEPT, "recordings that lie in S3"),
    Row("audit/removed-recordings/", Fate.KEPT, "recordings that were removed, as their time had come"),
    Row("audit/checkpoint-key", Fate.KEPT, "key of the checkpoints"),
    Row(CHECKPOINT, Fate.CHANGED, "last checkpoint, of the log if that has a later one"),
    Row(OUTBOX, Fate.CHANGED, "events on their way, unless the log has them"),
    Row("audit/position", Fate.LEFT_OUT, "how far the log was looked through"),
    Row(
        "audit/stores/",
        Fate.LEFT_OUT,
        "how far the logs of several auth servers were looked through, and where they lie",
    ),
    Row("audit/recordings-place", Fate.LEFT_OUT, "where the recordings of several auth servers lie"),
    Row(HOLDS, Fate.KEPT, "legal holds; with those that the log has beyond the state"),
    Row("audit/copies/", Fate.KEPT, "how far copies of the log got"),
    Row("audit/lease", Fate.LEFT_OUT, "lease of the checkpoints"),
    Row(MARK, Fate.LEFT_OUT, "that a migration did not come to its end"),
    Row(RESTORED, Fate.LEFT_OUT, "notes of an earlier restore"),
)


def row_of(key: str) -> Row | None:
    """The longest prefix counts."""
    found = [row for row in TABLE if key.startswith(row.prefix)]
    return max(found, key=lambda row: len(row.prefix), default=None)


@dataclass(slots=True)
class LogEnd:
    """What the log says beyond the state; filled line by line."""

    outbox: set[str]  # uids of the events on their way
    heads: dict[ChainKey, Head] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)  # those of `outbox` that the log has
    checkpoint: AuditCheckpoint | None = None
    # by SID/HOST: lines of the starts of sessions that have no end yet, and the uid of each end that counts
    begun: dict[str, bytes] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    # by id: legal holds that were placed, and the ids of those that were removed, in whichever order the files say it
    held: dict[str, HoldCreated] = field(default_factory=dict)
    let_go: set[str] = field(default_factory=set)
    lines: int = 0

    def look(self, line: bytes) -> None:
        """One line, in order. A damaged one says nothing; `verify` has told of it."""
        self.lines += 1
        if line.startswith(PREFIX):
            self._look_at_mark(line)
            return
        try:
            linked = Linked.parse(line)
        except BadRequest:
            return
        if not linked.intact:
            return
        if linked.seq > self.heads.get(linked.key, Head(0, "")).seq:
            self.heads[linked.key] = Head(linked.seq, linked.computed)
        if linked.uid in self.outbox:
            self.told.add(linked.uid)
        match linked.event:
            case "session.start":
                if key := _session(linked.body):
                    self.begun[key] = linked.body
            case "session.end":
                if key := _session(linked.body):
                    self.begun.pop(key, None)
                    self.ended.setdefault(key, linked.uid)
            case "hold.created" | "hold.deleted":
                self._look_at_hold(linked)
            case "audit.checkpoint":
                event = REGISTRY.decode(linked.body)
                if isinstance(event, AuditCheckpoint) and (
                    self.checkpoint is None or event.number >= self.checkpoint.number
                ):
                    self.checkpoint = event

    def _look_at_hold(self, linked: Linked) -> None:
        event = REGISTRY.decode(linked.body)
        if not isinstance(event, HoldCreated) or not event.hold:
            return
        if linked.event == "hold.deleted":
            self.let_go.add(event.hold)
        else:
            self.held[event.hold] = event

    def _look_at_mark(self, line: bytes) -> None:
        """Of pruned events it is known how far they reached."""
        with suppress(BadRequest):
            mark = Pruned.parse(line)
            if mark.last > self.heads.get(mark.key, Head(0, "")).seq:
                self.heads[mark.key] = Head(mark.last, mark.hash)


class _Told(msgspec.Struct):
    """Of an event. What else stands in it, unknown fields too, is no matter: a host may write there as it likes."""

    sid: str = ""
    server_id: str = ""
    emitter: str = ""


def _session(body: bytes) -> str:
    """The id of the session and its host that an event is about, as keys have them; empty when it is of no session."""
    one = msgspec.json.decode(body, type=_Told)
    return f"{one.sid}/{one.server_id or one.emitter}" if one.sid else ""


class _Open(msgspec.Struct):
    """Of the record of an open session, which auth wrote."""

    sid: str = ""
    host_id: str = ""


def _open_session(record: bytes) -> str:
    """As `_session`, of such a record."""
    one = msgspec.json.decode(record, type=_Open)
    return f"{one.sid}/{one.host_id}"


@dataclass(slots=True)
class Settled:
    """What is stored anew."""

    items: list[StoredItem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # how many, by what they are
    open_sessions: list[bytes] = field(default_factory=list)  # records of those that were open when it was made
    unknown: Counter[str] = field(default_factory=Counter)  # how many, by the first part of their key


def outbox_uids(items: Iterable[StoredItem]) -> set[str]:
    """The events that were on their way to the log."""
    return {_uid_of(item.key) for item in items if item.key.startswith(OUTBOX)}


def _uid_of(key: str) -> str:
    """Keys of the outbox are `time-uid`, the time in hex."""
    return key.removeprefix(OUTBOX).partition("-")[2]


def settle(manifest: Manifest, items: Iterable[StoredItem], log: LogEnd, now: datetime) -> Settled:
    """The state that a restore stores at `now`."""
    done = Settled()
    heads = dict(log.heads)
    ends = dict(log.ended)
    holds = {HOLDS + one: event for one, event in log.held.items() if one not in log.let_go}
    for item in items:
        if item.expires is not None and item.expires <= now:
            continue
        row = row_of(item.key)
        if row is None:
            done.unknown[item.key.partition("/")[0]] += 1
            continue
        holds.pop(item.key, None)
        if row.prefix == OPEN:
            done.open_sessions.append(item.value)
        if row.prefix == ENDS:
            ends.pop(item.key.removeprefix(ENDS), None)
        kept: StoredItem | None = item if row.fate is not Fate.LEFT_OUT else None
        if row.fate is Fate.CHANGED:
            kept = _CHANGES[row.prefix](item, manifest, log, now)
        if row.prefix == HEADS:
            heads.pop(_chain_of(item.key), None)
        if kept is not None:
            done.items.append(kept)
        elif row.gone:
            done.left_out[row.gone] += 1
    done.items += [StoredItem(key=_head_key(key), value=_encoded_head(head)) for key, head in heads.items()]
    done.items += [StoredItem(key=ENDS + one, value=uid.encode(), expires=now + ENDS_KEPT) for one, uid in ends.items()]
    done.items += [StoredItem(key=key, value=_encoded_hold(event)) for key, event in holds.items()]
    if log.checkpoint is not None and not any(item.key == CHECKPOINT for item in done.items):
        done.items.append(StoredItem(key=CHECKPOINT, value=_encoded_checkpoint(log.checkpoint)))
    closed = set(log.ended)
    done.open_sessions = [record for record in done.open_sessions if _open_session(record) not in closed]
    return done


# what is changed


def without_shown_codes(secret: UserSecret, now: datetime) -> UserSecret:
    """A code that was good until now may have been seen, and used, since."""
    period = int(now.timestamp()) // TOTP_PERIOD
    devices = [
        msgspec.structs.replace(device, totp_last_period=max(device.totp_last_period, period))
        if device.totp_secret
        else device
        for device in secret.devices
    ]
    return msgspec.structs.replace(secret, devices=devices)


def _secret(item: StoredItem, manifest: Manifest, log: LogEnd, now: datetime) -> StoredItem:
    secret = msgspec.json.decode(item.value, type=UserSecret)
    return msgspec.structs.replace(item, value=without_shown_codes(secret, now).encode())


def _host(item: StoredItem, manifest: Manifest, log: LogEnd, now: datetime) -> StoredItem | None:
    """Whoever has the disk of the auth server that was lost must not be a host of the cluster; and no host joins again
    by repeating a request with a token that is gone."""
    if item.key == f"hosts/{manifest.host_id}":
        return None
    fields: dict[str, Any] = msgspec.json.decode(item.value)
    fields["role_request"] = {}
    return msgspec.structs.replace(item, value=msgspec.json.encode(fields))


def _node(item: StoredItem, manifest: Manifest, log: LogEnd, now: datetime) -> StoredItem | None:
    spec = msgspec.json.decode(item.value).get("spec", {})
    return None if spec.get("heard") else item


def _head(item: StoredItem, manifest: Manifest, log: LogEnd, now: datetime) -> StoredItem:
    stored = msgspec.json.decode(item.value, type=_StoredHead)
    further = log.heads.get(_chain_of(item.key))
    if further is None or further.seq <= stored.seq:
        return item
    return msgspec.structs.replace(item, value=_encoded_head(further))


def _checkpoint(item: StoredItem, manifest: Manifest, log: LogEnd, now: datetime) -> StoredItem:
    stored = msgspec.json.decode(msgspec.json.decode(item.value)["event"], type=AuditCheckpoint)
    if log.checkpoint is None or log.checkpoint.number < stored.number:
        return item
    return msgspec.structs.replace(item, value=_encoded_checkpoint(log.checkpoint))


def _outbox(item: StoredItem, manifest: Manifest, log: LogEnd, now: datetime) -> StoredItem | None:
    return None if _uid_of(item.key) in log.told else item


_CHANGES: Final[Mapping[str, Callable[[StoredItem, Manifest, LogEnd, datetime], StoredItem | None]]] = {
    "users-secret/": _secret,
    "hosts/": _host,
    "nodes/": _node,
    HEADS: _head,
    CHECKPOINT: _checkpoint,
    OUTBOX: _outbox,
}


class _StoredHead(msgspec.Struct):
    """As `auth.evidence_store` writes it."""

    seq: int
    hash: str


def head_seqs(settled: Settled) -> list[tuple[str, int]]:
    """How far each chain is held: emitter and epoch with a slash between them, and the last event."""
    return [
        (item.key.removeprefix(HEADS), msgspec.json.decode(item.value, type=_StoredHead).seq)
        for item in settled.items
        if item.key.startswith(HEADS)
    ]


def _chain_of(key: str) -> ChainKey:
    emitter, _, epoch = key.removeprefix(HEADS).rpartition("/")
    return ChainKey(emitter, int(epoch))


def _head_key(key: ChainKey) -> str:
    return f"{HEADS}{key.emitter}/{key.epoch}"


def _encoded_head(head: Head) -> bytes:
    return msgspec.json.encode(_StoredHead(head.seq, head.hash))


def _encoded_checkpoint(event: AuditCheckpoint) -> bytes:
    plain = msgspec.structs.replace(event, emitter="", epoch=0, seq=0, prev="", checkpoint="", hash=msgspec.UNSET)
    return msgspec.json.encode({"event": msgspec.json.encode(plain).decode(), "written": True})


def _encoded_hold(event: HoldCreated) -> bytes:
    return msgspec.json.encode(
        Hold(
            id=event.hold,
            reason=event.reason,
            created=event.time,
            creator=event.user,
            user=event.held_user,
            session=event.held_session,
            start=None if event.held_from is msgspec.UNSET else event.held_from,
            end=None if event.held_to is msgspec.UNSET else event.held_to,
        )
    )
