"""Sessions of lost hosts get an end from auth."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

from teleport.audit.events import (
    REGISTRY,
    Event,
    SessionConflict,
    SessionEnd,
    SessionJoin,
    SessionStart,
    encode_event,
    new_event,
)
from teleport.audit.outbox import PREFIX as OUTBOX
from teleport.auth.evidence.store import ENDS, EvidenceStore
from teleport.auth.sessions import participants
from teleport.auth.sessions.claims import HOSTS, Claim, Claims, claimants
from teleport.auth.sessions.opened import OPEN, LostHosts, OpenSession, SessionTracker, end_of, hosts_of, opened
from teleport.auth.sessions.participants import PEOPLE, Participants, people_of, people_of_each, put_people
from teleport.backend.interface import BackendClosed, PutOp
from teleport.backend.memory import MemoryBackend
from teleport.store import records
from teleport.testing.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
SID = "11111111-1111-4111-8111-111111111111"
HOST = "22222222-2222-4222-8222-222222222222"


@contextlib.asynccontextmanager
async def _lease() -> AsyncIterator[None]:
    yield


_Told = type[SessionStart] | type[SessionJoin] | type[SessionEnd]


def _line(cls: _Told, user: str = "ann") -> bytes:
    uid = f"u-{cls.__name__}-{user}"
    return encode_event(new_event(cls, START, uid, sid=SID, server_id=HOST, user=user, login="root"))


async def test_a_session_is_open_from_its_start_to_its_end() -> None:
    async with MemoryBackend(FakeClock(), sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        await tracker.append([_line(SessionStart), b'{"event":"exec"}', b"not json"])
        assert [item.key for item in await backend.range(OPEN)] == [f"{OPEN}{SID}/{HOST}"]
        await tracker.append([_line(SessionEnd)])
        assert not await backend.range(OPEN)
        await tracker.append([_line(SessionStart), _line(SessionEnd)])
        assert not await backend.range(OPEN), "what is delivered again ends as it did"


async def test_a_host_that_is_gone_for_ten_minutes_has_its_sessions_ended_once() -> None:
    clock = FakeClock()
    told: list[Event] = []
    async with MemoryBackend(clock, sweep_every=None) as backend:
        tracker = SessionTracker(backend)

        async def tell(event: Event) -> None:
            told.append(event)
            await tracker.append([encode_event(event)])

        lost = LostHosts(backend, clock, "c1", tell, _lease)
        await tracker.append([_line(SessionStart)])
        await backend.put(records.NODES + HOST, b"{}")
        clock.advance(3600)
        assert await lost.step() == 0, "a host that is here ends its sessions itself"
        await backend.delete(records.NODES + HOST)
        assert await lost.step() == 0
        clock.advance(599)
        assert await lost.step() == 0
        clock.advance(2)
        assert await lost.step() == 1
        assert await lost.step() == 0
    assert len(told) == 1
    end = told[0]
    assert isinstance(end, SessionEnd)
    assert (end.sid, end.reason, end.user, end.server_id) == (SID, "node lost", "ann", HOST)


async def test_the_end_of_a_lost_session_is_told_once_while_intake_is_behind() -> None:
    """And anew for a session that began later under the same id, or whose end could not be told."""
    clock = FakeClock()
    told: list[Event] = []
    refuse = True

    async def tell(event: Event) -> None:
        if refuse:
            raise BackendClosed("no storage")
        told.append(event)

    async with MemoryBackend(clock, sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        lost = LostHosts(backend, clock, "c1", tell, _lease)
        await tracker.append([_line(SessionStart)])
        assert await lost.step() == 0
        clock.advance(601)
        with pytest.raises(BackendClosed):
            await lost.step()
        refuse = False
        assert [await lost.step() for _ in range(3)] == [1, 0, 0]
        await tracker.append([encode_event(told[0])])
        assert await lost.step() == 0
        await tracker.append([_line(SessionStart)])
        assert await lost.step() == 0
        clock.advance(601)
        assert [await lost.step() for _ in range(2)] == [1, 0]
    assert len(told) == 2


async def test_the_end_that_auth_writes_names_everybody_who_took_part() -> None:
    """Also when the joining is heard of together with the start, twice, or of a session that is over."""
    clock = FakeClock()
    told: list[Event] = []

    async def tell(event: Event) -> None:
        told.append(event)

    async with MemoryBackend(clock, sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        await tracker.append([_line(SessionJoin, "late"), _line(SessionStart), _line(SessionJoin, "bob")])
        await tracker.append([_line(SessionJoin, "bob"), _line(SessionJoin, "ann"), _line(SessionJoin, "carol")])
        lost = LostHosts(backend, clock, "c1", tell, _lease)
        await lost.step()
        clock.advance(601)
        assert await lost.step() == 1
        await tracker.append([_line(SessionEnd), _line(SessionJoin, "bob")])
        assert not await backend.range(OPEN)
    (end,) = told
    assert isinstance(end, SessionEnd)
    assert end.participants == ["ann", "bob", "carol"]


def test_the_end_of_a_lost_session_in_a_pod_says_where_it_was() -> None:
    """As its start did, also after auth has kept it meanwhile."""
    places = {
        "kubernetes_cluster": "one",
        "kubernetes_pod_namespace": "dev",
        "kubernetes_pod_name": "web",
        "kubernetes_container_name": "",
        "kubernetes_users": ["ann"],
    }
    start = new_event(
        SessionStart, START, "u", sid=SID, server_id=HOST, user="ann", login="ann", proto="kube", **places
    )
    kept = msgspec.json.decode(msgspec.json.encode(opened(start)), type=OpenSession)
    end = end_of(kept, "example", START, "node lost")
    assert end.proto == "kube"
    assert {name: getattr(end, name) for name in places} == places
    host = new_event(SessionStart, START, "u", sid=SID, server_id=HOST, user="ann", login="root", proto="ssh")
    assert b"kubernetes" not in encode_event(end_of(opened(host), "example", START, "node lost"))


async def test_what_another_host_tells_of_a_session_changes_nothing() -> None:
    """Neither whose it is, nor who took part, nor that it ended; also after its end, or without naming a server."""
    other = "33333333-3333-4333-8333-333333333333"

    def line(cls: _Told, server: str, user: str) -> bytes:
        event = new_event(cls, START, f"u-{cls.__name__}-{user}-{server}", sid=SID, server_id=server, user=user)
        return encode_event(msgspec.structs.replace(event, emitter=other))

    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        forged = [
            line(cls, server, "mallory") for cls in (SessionStart, SessionJoin, SessionEnd) for server in (other, "")
        ]
        await tracker.append([_line(SessionStart), *forged])
        await tracker.append(forged)
        (item,) = await backend.range(OPEN)
        session = msgspec.json.decode(item.value, type=OpenSession)
        assert (session.host_id, session.user, session.joined) == (HOST, "ann", [])
        assert await people_of(backend, SID, HOST) is None
        await tracker.append([_line(SessionJoin, "bob"), _line(SessionEnd)])
        await tracker.append(forged)
        assert not await backend.range(OPEN), "it is over, and nobody begins it again"
        found = await people_of(backend, SID, HOST)
        assert found is not None
        assert (found.host_id, found.people) == (HOST, ["ann", "bob"])
        assert await people_of(backend, SID, other) is None
        assert await claimants(backend, SID) == {HOST: True, other: True}
        assert len(await backend.range("audit/outbox/")) == 1, "the conflict is told once"


async def test_what_a_stranger_tells_first_takes_nothing_from_the_host() -> None:
    """Its start, its end and who took part, before the host's own arrive."""
    other = "33333333-3333-4333-8333-333333333333"

    def line(cls: _Told, user: str) -> bytes:
        event = new_event(cls, START, f"u-{cls.__name__}-{user}", sid=SID, server_id=other, user=user)
        return encode_event(msgspec.structs.replace(event, emitter=other))

    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        await tracker.append([line(SessionEnd, "mallory"), line(SessionStart, "mallory")])
        await tracker.append([_line(SessionStart), _line(SessionJoin, "bob")])
        assert {item.key for item in await backend.range(OPEN)} == {f"{OPEN}{SID}/{one}" for one in (HOST, other)}
        await tracker.append([line(SessionJoin, "eve"), line(SessionEnd, "mallory")])
        assert [item.key for item in await backend.range(OPEN)] == [f"{OPEN}{SID}/{HOST}"]
        await tracker.append([_line(SessionEnd)])
        found = await people_of(backend, SID, HOST)
        assert found is not None
        assert found.people == ["ann", "bob"]
        (told,) = [REGISTRY.decode(item.value) for item in await backend.range("audit/outbox/")]
        assert isinstance(told, SessionConflict)
        assert (told.sid, told.server_id, told.others, told.claim) == (SID, HOST, [other], "session.start")
        assert told.others_left_out == 0


async def test_an_end_whose_start_is_not_known_says_itself_where_and_of_whom_it_was() -> None:
    """A restore may have lost the start; another host's word for it counts for that host."""
    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        end = new_event(SessionEnd, START, "u", sid=SID, user="ann", participants=["ann", "bob"])
        await SessionTracker(backend).append([encode_event(msgspec.structs.replace(end, emitter=HOST))])
        found = await people_of(backend, SID, HOST)
        assert found is not None
        assert found.people == ["ann", "bob"]
        assert await claimants(backend, SID) == {HOST: False}


async def test_what_a_version_before_kept_by_session_alone_is_read_and_kept_by_host_from_then_on() -> None:
    """Open sessions, hosts, people and ends."""
    other = "33333333-3333-4333-8333-333333333333"
    joined = msgspec.json.encode(Participants(host_id=HOST, people=["ann", "bob"]))
    async with MemoryBackend(clock := FakeClock(START), sweep_every=None) as backend:
        store = EvidenceStore(backend, clock)
        start = new_event(SessionStart, START, "s", sid=SID, server_id=HOST, user="ann")
        for key, value in (
            (OPEN, msgspec.json.encode(opened(start))), (HOSTS, HOST.encode()), (PEOPLE, joined), (ENDS, b"lost"),
        ):  # fmt: skip
            await backend.put(key + SID, value)
        assert await hosts_of(backend, SID) == {HOST}
        assert await store.claim_end(SID, "late", HOST) == "lost", "after `node lost` of auth, before the upgrade"
        assert await store.claim_end(SID, "forged", other) == "forged", "it is another host's end"
        tracker = SessionTracker(backend)
        forged = new_event(SessionStart, START, "f", sid=SID, server_id=other, user="eve")
        await tracker.append([encode_event(forged), _line(SessionJoin, "carol")])
        assert {item.key for item in await backend.range(OPEN)} == {f"{OPEN}{SID}/{one}" for one in (HOST, other)}
        await tracker.append([_line(SessionEnd)])
        assert [item.key for item in await backend.range(OPEN)] == [f"{OPEN}{SID}/{other}"]
        assert (await people_of_each(backend, [SID]))[SID, HOST, ""].people == ["ann", "bob", "carol"]
        assert await people_of(backend, SID, other) is None


async def test_an_end_kept_without_a_host_by_a_version_before_takes_nothing_from_the_host_of_the_session() -> None:
    """It may have been a stranger's; the same event delivered again is what it was."""
    async with MemoryBackend(clock := FakeClock(START), sweep_every=None) as backend:
        store = EvidenceStore(backend, clock)
        await backend.put(ENDS + SID, b"stranger")
        assert await store.claim_end(SID, "true", HOST) == "true"
        assert await store.claim_end(SID, "second", HOST) == "true"
        assert await store.claim_end(SID, "stranger", HOST) == "stranger"


@pytest.mark.parametrize("few", [0, 2000])
async def test_who_took_part_is_read_of_the_sessions_asked_for_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(participants, "FEW", few)
    other = "33333333-3333-4333-8333-333333333333"
    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        sids = [f"{SID[:-4]}{number:04}" for number in range(450)]
        former = msgspec.json.encode(Participants(host_id=HOST, people=["ann", "old"]))
        await backend.commit([PutOp(PEOPLE + sids[0], former), *(put_people(sid, HOST, ["ann", sid]) for sid in sids)])
        await backend.commit([put_people(sids[0], other, ["eve"])])
        found = await people_of_each(backend, [*sids[:300], SID[:-4] + "9999"])
        assert {key: one.people for key, one in found.items()} == {
            **{(sid, HOST, ""): ["ann", sid] for sid in sids[:300]}, (sids[0], other, ""): ["eve"],
        }  # fmt: skip


async def test_what_can_never_be_kept_of_a_session_stops_nothing_else() -> None:
    """A key that is too long: what came with it is kept, and auth's own events go on."""
    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        long = new_event(SessionStart, START, "long", sid="s" * 1100, server_id=HOST, user="eve")
        await SessionTracker(backend).append([encode_event(long), _line(SessionStart)])
        assert [item.key for item in await backend.range(OPEN)] == [f"{OPEN}{SID}/{HOST}"]


async def test_names_of_who_took_part_are_kept_to_a_length() -> None:
    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        await tracker.append([_line(SessionStart), _line(SessionJoin, "b" * 9000)])
        found = await people_of(backend, SID, HOST)
        assert found is not None
        assert found.people == ["ann", "b" * 512]


async def test_who_took_part_is_kept_by_who_told_of_it() -> None:
    """Of a host with a plain sshd proxies tell: one lets nobody into what another recorded."""
    proxy, other = "44444444-4444-4444-8444-444444444444", "55555555-5555-4555-8555-555555555555"
    async with MemoryBackend(FakeClock(START), sweep_every=None) as backend:
        tracker = SessionTracker(backend)
        for teller, guest in ((other, "mallory"), (proxy, "bob")):
            end = new_event(SessionEnd, START, teller, sid=SID, server_id=HOST, user="ann", participants=["ann", guest])
            await tracker.append([encode_event(msgspec.structs.replace(end, emitter=teller))])
        assert await people_of(backend, SID, HOST) is None
        found = await people_of(backend, SID, HOST, proxy)
        assert found is not None
        assert found.people == ["ann", "bob"]
        assert set(await people_of_each(backend, [SID])) == {(SID, HOST, proxy), (SID, HOST, other)}


def test_a_conflict_among_very_many_names_a_hundred_and_says_how_many_it_leaves_out() -> None:
    """A list in an event is cut at a thousand, and nobody would know."""
    claims = Claims(MemoryBackend(FakeClock()), FakeClock())
    known = {f"host{number:04}": True for number in range(1500)}
    writes = claims.noted(SID, HOST, Claim.START, known)
    (event,) = [
        REGISTRY.decode(write.value) for write in writes if isinstance(write, PutOp) and write.key.startswith(OUTBOX)
    ]
    assert isinstance(event, SessionConflict)
    assert (len(event.others), event.others_left_out) == (100, 1400)
