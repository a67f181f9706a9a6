"""Announcements that say what is written already: which are not written again, and what is decided all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.hosts import announcing, unchanged
from teleport.auth.hosts.unchanged import EVERY, FORGOTTEN, LONGEST_LOST_AFTER, MISSED, WRITES, Unchanged, digest_of
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.resources.codec import from_json, to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.server import LOST_AFTER, Server, ServerSpec
from teleport.store import records
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


def crowd(hosts: int) -> Unchanged:
    known = Unchanged()
    for number in range(hosts):
        known.wrote(str(number), b"same", number, 0.0, known.lost_after)
    return known


def test_every_announcement_of_a_few_hosts_is_written() -> None:
    known = crowd(int(WRITES * EVERY))
    assert known.lost_after == 0
    assert known.revision("0", b"same", EVERY) is None


@pytest.mark.parametrize("hosts", [3000, 6000, 10_000, 100_000])
def test_of_many_hosts_no_more_is_written_than_a_second_bears_and_none_is_lost_meanwhile(hosts: int) -> None:
    """Announcements come each minute, some seconds early or late; two that are missed make nobody lost."""
    known = crowd(hosts)
    lost_after = known.lost_after
    assert LOST_AFTER.total_seconds() < lost_after <= LONGEST_LOST_AFTER
    known.wrote("0", b"same", 7, 0.0, lost_after)
    for late in (-10.0, 0.0, 10.0):
        minutes = [minute for minute in range(1, 9) if known.revision("0", b"same", minute * EVERY + late) is None]
        written = minutes[0] * EVERY
        assert minutes == list(range(minutes[0], 9)), "once it is time, it is"
        assert hosts / written <= WRITES or minutes[0] == unchanged.MOST
        assert written + MISSED == lost_after


def test_what_was_written_when_there_were_few_hosts_is_written_again_when_there_are_many() -> None:
    known = Unchanged()
    known.wrote("first", b"same", 1, 0.0, known.lost_after)
    for number in range(10_000):
        known.wrote(str(number), b"same", number, 1.0, known.lost_after)
    assert known.lost_after == LONGEST_LOST_AFTER
    assert known.revision("first", b"same", EVERY) is None, "it says that it is lost after 150 s"
    assert known.revision("9999", b"same", EVERY) == 9999


def test_what_says_something_else_is_written_and_hosts_that_are_silent_are_forgotten() -> None:
    known = crowd(10_000)
    assert known.revision("9999", b"another", 1.0) is None
    assert known.revision("nobody", b"same", 1.0) is None
    known.forget("9999")
    assert known.revision("9999", b"same", 1.0) is None
    known.wrote("alone", b"same", 1, FORGOTTEN + 2, 0)
    assert known.lost_after == 0


def test_a_record_depends_on_all_that_it_is_made_of() -> None:
    parts: list[Any] = [b"said", b"proof", ["10.0.0.1"], {"env": "prod"}, b"services"]
    others: list[tuple[int, Any]] = [
        (0, b"said "),
        (1, b"another"),
        (2, ["10.0.0.2"]),
        (2, ["10.0.0.1", "10.0.0.2"]),
        (3, {}),
        (3, {"env": "dev"}),
        (3, {"envp": "rod"}),
        (4, b"others"),
    ]
    made = {digest_of(*parts)}
    for place, other in others:
        changed = list(parts)
        changed[place] = other
        made.add(digest_of(*changed))
    assert len(made) == 1 + len(others)
    assert digest_of(b"a", b"bc", [], {}) != digest_of(b"ab", b"c", [], {})
    assert digest_of(b"", b"", ["env", "prod"], {}) != digest_of(b"", b"", [], {"env": "prod"})


# at auth


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One host is as many as ten thousand."""
    monkeypatch.setattr(unchanged, "WRITES", 0.0001)
    monkeypatch.setattr(announcing, "_apart", lambda: 1.0)


def clock_of(auth: RunningAuth) -> FakeClock:
    assert isinstance(auth.clock, FakeClock)
    return auth.clock


async def say(auth: RunningAuth, who: Credentials, **spec: Any) -> None:
    fields = {"hostname": "web", "addr": "127.0.0.1:3022", "epoch": "5", **spec}
    said = Server(metadata=Metadata(name=who.host_id), spec=ServerSpec(**fields))
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(said))))


async def stored(auth: RunningAuth, who: Credentials) -> tuple[int, Server] | None:
    item = await auth.service.state.backend.get(records.NODES + who.host_id)
    if item is None:
        return None
    found = from_json(item.value)
    assert isinstance(found, Server)
    return item.revision, found


of_many = pytest.mark.usefixtures("many")


async def announced(auth: RunningAuth) -> tuple[Credentials, int]:
    """A host whose record says that it is not written every minute, and the revision of that."""
    who = await auth.host(SystemRole.NODE)
    await say(auth, who)
    clock_of(auth).advance(EVERY)
    await say(auth, who)  # the first was written as that of one host
    found = await stored(auth, who)
    assert found is not None
    assert found[1].spec.lost_after == LONGEST_LOST_AFTER
    return who, found[0]


@of_many
async def test_the_same_is_written_every_few_minutes_and_the_host_is_never_lost(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, first = await announced(auth)
        revisions = []
        for _ in range(8):
            clock_of(auth).advance(EVERY)
            found = await stored(auth, who)
            assert found is not None
            assert not found[1].lost(auth.service.state.clock.now())
            assert not found[1].expired(auth.service.state.clock.now())
            await say(auth, who)
            found = await stored(auth, who)
            assert found is not None
            revisions.append(found[0])
        assert revisions[:3] == [first] * 3
        assert first < revisions[3] == revisions[6] < revisions[7]
        clock_of(auth).advance(LONGEST_LOST_AFTER)
        found = await stored(auth, who)
        assert found is not None
        assert found[1].lost(auth.service.state.clock.now())


@of_many
async def test_what_changed_is_written_at_once(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, first = await announced(auth)
        await say(auth, who, version="7.1")
        found = await stored(auth, who)
        assert found is not None
        assert (found[0] > first, found[1].spec.version) == (True, "7.1")


@of_many
async def test_a_record_that_somebody_removed_is_written_again(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, _ = await announced(auth)
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=who.host_id))
        assert await stored(auth, who) is None
        with pytest.raises(AccessDenied):  # it was expelled with its record
            await say(auth, who)
        assert await stored(auth, who) is None


@of_many
async def test_a_run_that_another_has_followed_is_not_taken_for_the_one_on_record(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, _ = await announced(auth)
        await say(auth, who, epoch="6")
        await say(auth, who)
        found = await stored(auth, who)
        assert found is not None
        assert found[1].spec.epoch == "6"


@of_many
async def test_a_locked_host_is_refused_although_it_says_the_same(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, first = await announced(auth)
        lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(node=who.host_id)))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))
        with pytest.raises(AccessDenied):
            await say(auth, who)
        found = await stored(auth, who)
        assert found is not None
        assert found[0] == first


@of_many
async def test_other_labels_from_its_token_are_written_at_once(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, first = await announced(auth)
        backend = auth.service.state.backend
        item = await backend.get(records.HOSTS + who.host_id)
        assert item is not None
        host = msgspec.json.decode(item.value, type=records.HostRecord)
        forced = msgspec.structs.replace(host, labels={"env": "dev"})
        await backend.commit([PutOp(item.key, forced.encode())])
        await say(auth, who)
        found = await stored(auth, who)
        assert found is not None
        assert found[0] > first
        assert found[1].metadata.labels == {"env": "dev"}


def test_hosts_that_came_within_a_minute_are_not_written_within_a_minute_for_ever() -> None:
    known = Unchanged()
    lost_after = crowd(10_000).lost_after
    for number in range(100):
        known.wrote(str(number), b"same", number, 0.0, lost_after, apart=(number + 1) / 100)
    due = [known.within(str(number), 0.0) for number in range(100)]
    assert min(due) < EVERY + 3
    assert max(due) == lost_after - MISSED
    assert all(sum(one < minute * EVERY for one in due) > minute * 15 for minute in (2, 3, 4))
    assert all(known.revision(str(number), b"same", due[number] - 1) is None for number in range(100))
    for number in range(100):
        known.wrote(str(number), b"same", number, float(due[number]), lost_after, apart=(number + 1) / 100)
    assert all(known.within(str(n), float(due[n])) == lost_after - MISSED for n in range(100)), "and stay apart"


@pytest.mark.parametrize("hosts", [10, 3000, 10_000])
def test_a_host_is_told_to_announce_itself_when_it_is_written_and_no_sooner(hosts: int) -> None:
    known = crowd(hosts)
    lost_after = known.lost_after
    known.wrote("0", b"same", 7, 0.0, lost_after)
    within = known.within("0", 0.0)
    assert within == (lost_after - MISSED if lost_after else EVERY)
    assert known.revision("0", b"same", within * 0.9) is None, "a tenth early, as hosts do"
    assert known.within("0", 30.0) == max(within - 30, EVERY)
    assert known.within("nobody", 0.0) == EVERY


async def test_among_few_a_host_announces_itself_each_minute(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        server = Server(kind="node", metadata=Metadata(name=node.host_id), spec=ServerSpec(hostname="h"))
        heard = await auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
        assert heard.within == 60
