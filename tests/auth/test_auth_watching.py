"""What auth remembers of a host that announces itself within its watch: nothing that has changed, and no sign of life
that is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import client as api_client
from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.auth.authorizer import Authorizer
from teleport.auth.hosts import announcing, presence, silence, unchanged
from teleport.auth.hosts.silence import Pace, Silence
from teleport.auth.hosts.together import Together
from teleport.auth.watching import Found, Watching
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import SystemRole
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store import records
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until


def resting(watching: Watching, *, patient: bool = True) -> Watching:
    """Its telling side has told something and waits."""
    watching.begin(Pace(Silence(), patient=patient))
    watching.tells(7)
    watching.rest(1800)
    return watching


async def test_what_was_found_out_holds_until_something_changes_also_meanwhile() -> None:
    watching = Watching()
    watching.look()
    watching.find(Found())
    watching.look()
    assert watching.found is None, "nothing is followed yet"
    resting(watching)
    watching.look()
    watching.find(Found({"env": "prod"}))
    watching.look()
    assert watching.found == Found({"env": "prod"})
    watching.doubt()
    assert watching.found == Found({"env": "prod"}), "what is said at this moment is decided by one state"
    watching.look()
    assert watching.found is None
    watching.doubt()
    watching.find(Found())
    watching.look()
    assert watching.found is None, "it changed while it was looked at"


async def test_nothing_holds_while_the_side_that_hears_of_changes_is_kept_from_it() -> None:
    """A host that does not read keeps it at a line for ever."""
    watching = resting(Watching())
    watching.look()
    watching.find(Found())
    watching.wake()
    watching.tells(8)
    watching.look()
    assert watching.found is None
    watching.find(Found())
    assert watching.sign() == (0, 0)
    watching.rest(1800)
    watching.look()
    assert watching.found == Found(), "what was found before holds again"
    watching.wake()
    watching.doubt()
    watching.look()
    watching.find(Found())
    watching.rest(1800)
    watching.look()
    assert watching.found is None


async def test_an_answer_is_no_sign_of_life_of_a_side_that_is_stuck_or_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(silence, "HEARTBEAT", 0.02)
    monkeypatch.setattr("teleport.auth.watching.STUCK", 0.02)
    watching = Watching()
    assert watching.sign() == (0, 0)
    watching.begin(Pace(Silence(), patient=True))
    assert watching.sign() == (0, 0), "nothing was told yet"
    resting(watching)
    watching.expect(240)
    assert watching.sign() == (7, 255)
    assert watching.pause > 240
    assert resting(Watching(), patient=False).sign() == (0, 0)
    stuck = resting(Watching())
    stuck.expect(240)
    await asyncio.sleep(0.1)
    assert stuck.sign() == (0, 0)
    stuck.rest(1800)
    assert stuck.sign() == (7, 255)


async def test_no_line_is_promised_before_the_side_that_tells_wakes() -> None:
    watching = resting(Watching())
    watching.expect(240)
    watching.sign()
    watching.rest(1800)
    watching.expect(0)  # there are few hosts by now
    _, within = watching.sign()
    assert 254 <= within <= 255
    watching.wake()
    watching.rest(0)
    _, within = watching.sign()
    assert within == silence.HEARTBEAT


# at auth


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One host is as many as ten thousand."""
    monkeypatch.setattr(unchanged, "WRITES", 0.0001)
    monkeypatch.setattr(announcing, "_apart", lambda: 1.0)


class Host:
    """One that watches, and says what it is within its watch."""

    def __init__(self, auth: RunningAuth, who: Credentials, client: AuthClient) -> None:
        self.auth, self.who, self.client = auth, who, client
        self.heard: list[m.WatchLine] = []

    async def say(self, **spec: Any) -> float:
        """Raises `TeleportError` when it is not taken, also for want of a watch."""
        fields = {"hostname": "web", "use_tunnel": True, "epoch": "5", **spec}
        said = Server(metadata=Metadata(name=self.who.host_id), spec=ServerSpec(**fields))
        return await self.client.announce(m.HeartbeatRequest(item=m.Document(to_json(said))))

    async def listen(self, lines: AsyncIterator[m.WatchLine]) -> None:
        async for line in lines:
            self.heard.append(line)

    def later(self, seconds: float = 240) -> None:
        assert isinstance(self.auth.clock, FakeClock)
        self.auth.clock.advance(seconds)

    async def record(self) -> tuple[int, dict[str, Any]]:
        item = await self.auth.service.state.backend.get(records.NODES + self.who.host_id)
        return (0, {}) if item is None else (item.revision, msgspec.json.decode(item.value))


@asynccontextmanager
async def watching_host(auth: RunningAuth) -> AsyncIterator[Host]:
    who = await auth.host(SystemRole.NODE)
    async with auth.async_client(who) as client:
        host = Host(auth, who, client)
        listening = asyncio.create_task(
            host.listen(client.watch(m.WatchRequest(kinds=["role", "lock"]))), name="listening"
        )
        try:
            await wait_until(lambda: client.hears)
            yield host
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was, each time."""
    found: list[str] = []
    whole = Authorizer.identify

    async def counting(self: Authorizer, certificate: bytes | None) -> Any:
        identity = await whole(self, certificate)
        found.append(getattr(identity, "host_id", ""))
        return identity

    monkeypatch.setattr(Authorizer, "identify", counting)
    return found


async def test_who_says_the_same_is_looked_up_once_and_is_put_on_record_each_time(
    tmp_path: Path, looked_up: list[str]
) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth, watching_host(auth) as host:
        revisions, times = [], []
        for _ in range(4):
            await host.say()
            host.later()
            revision, said = await host.record()
            revisions.append(revision)
            times.append(said["spec"]["heard"])
            if len(revisions) == 1:
                looked_up.clear()
        assert sorted(set(revisions)) == revisions
        assert sorted(set(times)) == times
        assert host.who.host_id not in looked_up


async def test_an_answer_is_a_sign_of_life_that_says_when_the_next_one_comes(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth, watching_host(auth) as host:
        await host.say()  # the first is written as that of one host
        within = await host.say()
        await wait_until(lambda: host.heard[-1].within > within)
        sign = host.heard[-1]
        assert within == 240
        assert sign.revision
        assert (sign.put, sign.deleted, sign.snapshot) == ([], [], False)


async def _lock(host: Host) -> None:
    lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(node=host.who.host_id)))
    auth = host.auth
    await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))


async def _expel(host: Host) -> None:
    await host.auth.call(await host.auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=host.who.host_id))


async def _take_its_name(host: Host) -> None:
    proxy = await host.auth.host(SystemRole.PROXY, name="web")
    said = Server(kind="proxy", metadata=Metadata(name=proxy.host_id), spec=ServerSpec(hostname="web", epoch="1"))
    await host.auth.call(proxy, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(said))))


async def _end_its_authority(host: Host) -> None:
    rotation = m.RotateRequest(types=["host"], grace_period=0)
    await host.auth.call(await host.auth.admin(), routes.ROTATE, rotation)


async def _outlive_its_certificate(host: Host) -> None:
    assert isinstance(host.auth.clock, FakeClock)
    host.auth.clock.advance(91 * 86400)


@pytest.mark.parametrize("how", [_lock, _expel, _take_its_name, _end_its_authority, _outlive_its_certificate])
async def test_what_shuts_a_host_out_does_so_although_it_was_looked_up_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    """Also long before anybody would have looked again."""
    monkeypatch.setattr(presence, "RECHECK_CALM", 1e9)
    monkeypatch.setattr(presence, "RECHECK", 1e9)
    monkeypatch.setattr(api_client, "WATCH_AGAIN", 0.02)  # it does not come again
    async with running_auth(tmp_path, sqlite=True) as auth, watching_host(auth) as host:
        for _ in range(3):
            await host.say()
            host.later()
        await how(host)

        # a watch that ends with the host's right is refused when it is asked for again
        expected = AccessDenied if how in (_lock, _take_its_name) else TeleportError

        async def refused() -> bool:
            try:
                await host.say()
            except expected:
                return True
            return False

        async with asyncio.timeout(15):
            while not await refused():  # noqa: ASYNC110 - what changed is heard of within moments
                await asyncio.sleep(0.02)
        kept = await host.record()
        for said in ({}, {"version": "7.1"}):
            host.later(1)
            with pytest.raises(expected):
                await host.say(**said)
        assert await host.record() == kept


async def test_labels_that_its_token_forces_on_it_count_within_moments(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth, watching_host(auth) as host:
        for _ in range(3):
            await host.say()
        backend = auth.service.state.backend
        item = await backend.get(records.HOSTS + host.who.host_id)
        assert item is not None
        record = msgspec.json.decode(item.value, type=records.HostRecord)
        await backend.commit([PutOp(item.key, msgspec.structs.replace(record, labels={"env": "dev"}).encode())])

        async def forced() -> bool:
            await host.say()
            _, said = await host.record()
            return bool(said["metadata"].get("labels") == {"env": "dev"})

        async with asyncio.timeout(15):
            while not await forced():  # noqa: ASYNC110 - auth does it
                await asyncio.sleep(0.02)


async def test_a_record_that_another_wrote_is_looked_at_whole(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth, watching_host(auth) as host:
        for _ in range(2):
            await host.say()
        _, other = await host.record()
        other["metadata"]["labels"] = {"from": "elsewhere"}
        key = records.NODES + host.who.host_id
        await auth.service.state.backend.commit([PutOp(key, msgspec.json.encode(other))])
        host.later()
        await host.say()
        assert "labels" not in (await host.record())[1]["metadata"]


@pytest.mark.parametrize("crowd", [True, False])
async def test_a_host_that_is_expelled_while_it_announces_itself_stays_off_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowd: bool
) -> None:
    """What waits to be written with others is written only if the host still belongs here."""
    if not crowd:
        monkeypatch.setattr(unchanged, "WRITES", 40)
    monkeypatch.setattr(api_client, "WATCH_AGAIN", 0.02)
    async with running_auth(tmp_path, sqlite=True) as auth, watching_host(auth) as host:
        for _ in range(3):
            await host.say()
            host.later()
        await auth.admin()
        commit = auth.service.state.commit
        expelled, given_up = False, asyncio.Event()

        async def late(writes: Any, **rest: Any) -> int:
            nonlocal expelled
            if not expelled and any(one.key.startswith(records.NODES) for one in writes):
                expelled = True
                await _expel(host)
            return await commit(writes, **rest)

        alone = Together.alone

        async def to_its_end(self: Together, *asked: Any) -> int | None:
            try:
                return await alone(self, *asked)
            finally:
                given_up.set()

        monkeypatch.setattr(Together, "alone", to_its_end)

        monkeypatch.setattr(auth.service.state, "commit", late)
        with pytest.raises(TeleportError):
            await host.say(version="7.1")
        assert expelled
        await wait_until(given_up.is_set)
        assert await host.record() == (0, {})
