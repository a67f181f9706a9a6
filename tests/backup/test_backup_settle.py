"""What of a backup comes back to life: a row for every part of the storage, and what is changed (T59)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

import teleport
from teleport.audit.chain import ChainKey, ChainState, Head
from teleport.audit.chain.link import seal
from teleport.audit.events import (
    AuditCheckpoint,
    Event,
    HoldCreated,
    HoldDeleted,
    SessionEnd,
    SessionStart,
    UserLogin,
    encode_event,
    new_event,
)
from teleport.audit.outbox import outbox_write
from teleport.audit.retention import Hold
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.sessions.opened import opened
from teleport.backend.memory import MemoryBackend
from teleport.backup.archive import Manifest, StoredItem
from teleport.backup.settle import TABLE, LogEnd, Settled, outbox_uids, row_of, settle
from teleport.store.records import HostRecord, UserSecret
from teleport.testing.clock import FakeClock

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
MAKER, NODE = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
MANIFEST = Manifest(version="0.1.0", cluster="c", created=NOW - timedelta(days=1), host_id=MAKER)


def test_every_part_of_the_storage_has_a_row() -> None:
    """Whoever keeps something new says what a restore does with it."""
    source = Path(teleport.__file__).parent
    prefixes = set()
    for folder in ("store", "auth", "audit", "daemon"):
        for path in (source / folder).rglob("*.py"):
            prefixes |= set(re.findall(r'^[A-Z_]+(?:: Final)? = "([a-z][a-z_-]*/[a-z_/-]*)"', path.read_text(), re.M))
    prefixes -= {"cluster/cluster-networking-config"}  # in the cache, of what lies below cluster/
    assert len(prefixes) > 20, "they are found"
    assert {prefix for prefix in prefixes if row_of(prefix) is None} == set()
    assert len({row.prefix for row in TABLE}) == len(TABLE)


def settled(*items: StoredItem, log: LogEnd | None = None) -> Settled:
    return settle(MANIFEST, items, log or LogEnd(set()), NOW)


def kept(*items: StoredItem, log: LogEnd | None = None) -> dict[str, Any]:
    found = settled(*items, log=log)
    return {
        item.key: msgspec.json.decode(item.value) if item.value[:1] in b"{[" else item.value for item in found.items
    }


def test_what_proves_something_once_is_left_out() -> None:
    later = NOW + timedelta(hours=1)
    items = [StoredItem(key=f"{prefix}x", value=b"{}", expires=later) for prefix in ("tokens/", "user-tokens/")]
    items += [
        StoredItem(key=key, value=b"{}") for key in ("proxies/x", "auth_servers/x", "audit/lease", "audit/position")
    ]
    found = settled(
        *items, StoredItem(key="later/thing", value=b"{}"), StoredItem(key="locks/x", value=b"{}", expires=NOW)
    )
    assert found.items == []
    assert (found.left_out["join tokens"], found.left_out["links of invitations and resets"]) == (1, 1)
    assert found.unknown == {"later": 1}, "what this version does not know stays out, and is named"


def test_lockouts_stay_and_codes_that_were_shown_do_not_count_again() -> None:
    until = NOW + timedelta(minutes=9)
    secret = UserSecret(password_hash="h", totp_secret="s", totp_last_period=5, locked_until=until, failures=[NOW])
    (value,) = kept(StoredItem(key="users-secret/a", value=secret.encode())).values()
    back = msgspec.convert(value, UserSecret)
    (device,) = back.devices
    assert device.totp_last_period == int(NOW.timestamp()) // 30
    same = msgspec.structs.replace(back, devices=[msgspec.structs.replace(device, totp_last_period=5)])
    assert same == secret


def test_hosts_stay_but_not_the_one_that_made_the_backup() -> None:
    record = HostRecord(host_id=NODE, roles=["Node"], expelled=True, role_request={"Node": "digest"})
    found = kept(*(StoredItem(key=f"hosts/{host}", value=record.encode()) for host in (MAKER, NODE)))
    assert list(found) == [f"hosts/{NODE}"]
    assert msgspec.convert(found[f"hosts/{NODE}"], HostRecord) == msgspec.structs.replace(record, role_request={})


def test_nodes_that_announced_themselves_announce_themselves_again() -> None:
    items = [
        StoredItem(key="nodes/a", value=b'{"spec":{"heard":"2026-01-01T00:00:00Z"}}'),
        StoredItem(key="nodes/by-hand", value=b'{"spec":{}}'),
    ]
    assert list(kept(*items)) == ["nodes/by-hand"]


def event(cls: type[Event], uid: str, **fields: Any) -> Event:
    return new_event(cls, NOW, uid, cluster_name="c", **fields)


def lines(key: ChainKey, *events: Event) -> list[bytes]:
    state, found = ChainState(key), []
    for one in events:
        line, state = state.append(one)
        found.append(line)
    return found


def test_what_the_log_has_beyond_the_state_counts() -> None:
    """Heads, the last checkpoint, events on their way, ends of sessions: as a server reads them after a crash."""
    key, other = ChainKey(MAKER, 3), ChainKey(NODE, 1)
    old = AuditCheckpoint(time=NOW, uid="c1", number=1)
    new = AuditCheckpoint(time=NOW, uid="c2", number=2, previous="x")
    start = event(SessionStart, "s", sid="open", server_id=NODE)
    written = lines(
        key, event(UserLogin, "told", user="a"), start, event(SessionStart, "t", sid="over", server_id=NODE),
        event(SessionEnd, "the-end", sid="over", server_id=NODE), event(SessionEnd, "forged", sid="open"), old, new,
    )  # fmt: skip
    written += lines(other, event(UserLogin, "u1", user="b"))
    told, waiting = event(UserLogin, "told", user="a"), event(UserLogin, "waiting", user="c")
    outbox = [StoredItem(key=name, value=value) for name, value in (outbox_write(told), outbox_write(waiting))]
    assert outbox_uids(outbox) == {"told", "waiting"}
    log = LogEnd(outbox_uids(outbox))
    for line in written:
        log.look(line)
    log.look(b"damaged")
    log.look(written[0].replace(b'"user":"a"', b'"user":"z"'))
    saved = {"event": msgspec.json.encode(old).decode(), "written": False}
    items = [
        StoredItem(key=f"audit/heads/{MAKER}/3", value=b'{"seq":1,"hash":"x"}'),
        StoredItem(key="audit/heads/elsewhere/9", value=b'{"seq":7,"hash":"y"}'),
        StoredItem(key="audit/checkpoint", value=msgspec.json.encode(saved)),
        StoredItem(
            key="audit/open-sessions/over",
            value=msgspec.json.encode(opened(SessionStart(time=NOW, uid="t", sid="over", server_id=NODE))),
        ),
        *outbox,
    ]
    found = kept(*items, log=log)
    assert found[f"audit/heads/{MAKER}/3"]["seq"] == 7
    assert found["audit/heads/elsewhere/9"] == {"seq": 7, "hash": "y"}, "the log may have been left out"
    assert found[f"audit/heads/{NODE}/1"]["seq"] == 1
    assert msgspec.json.decode(found["audit/checkpoint"]["event"], type=AuditCheckpoint) == new
    assert found["audit/checkpoint"]["written"] is True
    assert found[f"audit/session-ends/over/{NODE}"] == b"the-end"
    assert found[f"audit/session-ends/open/{MAKER}"] == b"forged", "of another host, which ends nothing"
    assert [name for name in found if name.startswith("audit/outbox/")] == [outbox_write(waiting)[0]]
    assert settled(*items, log=log).open_sessions == [], "it has ended in the log"
    assert list(log.begun) == [f"open/{NODE}"]


def test_holds_that_the_log_has_beyond_the_state_hold() -> None:
    """Also where the file that lets one go is read first; one of the state is never lost to what the log says."""
    told = [
        event(HoldCreated, "1", hold="new", user="admin", held_user="eve", held_from=NOW, reason="case 7"),
        event(HoldDeleted, "2", hold="over", user="admin", reason="done"),
        event(HoldCreated, "3", hold="over", user="admin", held_session="s-1", reason="case 8"),
        event(HoldCreated, "4", hold="kept", user="admin", held_session="told", reason="case 9"),
        event(HoldDeleted, "5", hold="kept", user="admin", reason="done"),
    ]
    log = LogEnd(set())
    for line in lines(ChainKey(MAKER, 3), *told):
        log.look(line)
    state = Hold(id="kept", reason="case 9", created=NOW, creator="admin", session="stored")
    items = settled(StoredItem(key="audit/holds/kept", value=msgspec.json.encode(state)), log=log).items
    found = {item.key: msgspec.json.decode(item.value, type=Hold) for item in items if "holds" in item.key}
    new = Hold(id="new", reason="case 7", created=NOW, creator="admin", user="eve", start=NOW)
    assert found == {"audit/holds/kept": state, "audit/holds/new": new}


def test_a_field_that_events_do_not_have_ends_no_session_of_another_host() -> None:
    """A host may write what it likes into its events; whose session it is follows from what intake looks at."""
    end = msgspec.structs.replace(
        event(SessionEnd, "forged", sid="open", server_id=MAKER), emitter=MAKER, epoch=1, seq=1
    )
    line, _ = seal(encode_event(end)[:-1] + f',"host_id":"{NODE}"}}'.encode())
    log = LogEnd(set())
    for one in (*lines(ChainKey(NODE, 1), event(SessionStart, "s", sid="open", server_id=NODE)), line):
        log.look(one)
    assert list(log.begun) == [f"open/{NODE}"]
    (item,) = [item for item in settled(log=log).items if item.key.startswith("audit/session-ends/")]
    assert (item.key, item.value) == (f"audit/session-ends/open/{MAKER}", b"forged")
    assert item.expires is not None, "it is kept no longer than others"


async def test_what_is_stored_is_what_auth_reads() -> None:
    """The keys and forms of heads and checkpoint are those of `auth.evidence_store`."""
    log = LogEnd(set())
    for line in lines(ChainKey(MAKER, 3), AuditCheckpoint(time=NOW, uid="c", number=4), event(UserLogin, "u")):
        log.look(line)
    clock = FakeClock()
    async with MemoryBackend(clock) as backend:
        for item in settled(log=log).items:
            await backend.put(item.key, item.value)
        store = EvidenceStore(backend, clock)
        heads, position = await store.load_heads()
        assert (heads, position) == ({ChainKey(MAKER, 3): Head(2, log.heads[ChainKey(MAKER, 3)].hash)}, "")
        saved = await store.load_checkpoint()
        assert saved is not None
        assert (msgspec.json.decode(saved.event, type=AuditCheckpoint).number, saved.written) == (4, True)
