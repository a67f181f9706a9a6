"""An identity of a host follows a rotation: trust before use, listeners after clients, nothing lost by a crash."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.daemon import credentials
from teleport.daemon.credentials import Credentials
from teleport.daemon.following import Effects, Follower
from teleport.daemon.host import Host
from teleport.errors import ConnectionProblem, LimitExceeded
from teleport.identity import SystemRole
from teleport.pki.keys import PublicKey
from teleport.resources.authority import Authority, AuthorityType, KeySet
from teleport.testing.auth import RunningAuth, running_auth

ROLE = SystemRole.NODE


@dataclass
class Following:
    """A host whose identity follows `auth`, step by step; what it did is told in `did`."""

    auth: RunningAuth
    host: Host
    held: dict[SystemRole, Credentials]
    did: list[str] = field(default_factory=list)
    newest: bool = True
    refused: Exception | None = None
    asked: int = 0

    def __post_init__(self) -> None:
        self.follower = self.make()

    def make(self, wait: Callable[[asyncio.Event, float], Awaitable[None]] | None = None) -> Follower:
        async def source() -> dict[AuthorityType, Authority]:
            return {kind: (await self.auth.service.state.authority(kind)).without_secrets() for kind in AuthorityType}

        follower = Follower(
            self.host,
            ROLE,
            self.held,
            source=source,
            ask=self.ask,
            names=lambda: (),
            clock=self.auth.clock,
            may=lambda: self.newest,
            jitter=lambda: 0.0,
            wait=wait,
        )

        async def trust(held: Credentials, dropped: bool) -> None:
            self.did.append(f"trusts {len(held.cluster.ssh_ca_keys)}{', fewer' if dropped else ''}")

        async def shown(held: Credentials) -> None:
            self.did.append("shows")

        follower.effects = Effects(trust, shown, lambda: self.did.append("says"))
        return follower

    async def ask(self, ssh_key: str, tls_key: str) -> m.HostCredentials:
        self.asked += 1
        if self.refused is not None:
            raise self.refused
        return await self.auth.service.local_host(self.host.host_id, "alpha", ROLE, (), ssh_key, tls_key)

    async def rotate(self, phase: str, *types: str, force: bool = True) -> None:
        request = m.RotateRequest(types=list(types) or ["host"], phase=phase, force=force)
        await self.auth.call(await self.auth.admin(), routes.ROTATE, request)
        await self.auth.follow_rotation()

    async def steps(self) -> list[str]:
        """What the follower does now."""
        self.did.clear()
        await self.follower.step()
        return list(self.did)

    @property
    def now(self) -> Credentials:
        return self.held[ROLE]

    async def keys(self) -> tuple[bytes, bytes]:
        """The SSH keys (blobs) of the active set and of the other one, if there is one."""
        authority = await self.auth.service.state.authority("host")

        def blob(keys: KeySet) -> bytes:
            return PublicKey.parse(keys.ssh[0].public_key).blob if keys.ssh else b""

        return blob(authority.spec.active_keys), blob(authority.spec.additional_trusted_keys)


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[Following]:
    async with running_auth(folder) as auth:
        host = Host(folder / "data", str(uuid.uuid4()), 1, -1)

        async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
            return await auth.service.local_host(host.host_id, "alpha", ROLE, (), ssh_key, tls_key)

        found = Following(auth, host, {ROLE: await credentials.obtain(host.proc_dir, ROLE, ask)})
        await found.steps()
        yield found


def shows(held: Credentials) -> tuple[bytes, bytes]:
    """Whose certificates a client, and a listener, shows."""
    return held.ssh_cert.signer, held.server_ssh_cert.signer


async def test_each_phase_asks_what_the_table_says_and_in_that_order(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        old, _ = await it.keys()
        key = it.now.ssh_key.public
        assert shows(it.now) == (old, old)
        assert await it.steps() == [], "nothing to do, nothing done"

        await it.rotate("init")
        _, new = await it.keys()
        assert await it.steps() == ["trusts 2", "says"]
        assert shows(it.now) == (old, old)

        await it.rotate("update_clients")
        assert await it.keys() == (new, old)
        assert await it.steps() == ["shows", "says"]
        assert shows(it.now) == (new, old)

        await it.rotate("update_servers")
        assert await it.steps() == ["shows", "says"]
        assert shows(it.now) == (new, new)

        await it.rotate("standby")
        assert await it.steps() == ["trusts 1, fewer", "says"]
        assert [PublicKey.parse(line).blob for line in it.now.cluster.ssh_ca_keys] == [new]
        assert it.now.ssh_key.public == key, "who vouches has changed, not the host"
        assert it.asked == 1, "auth was asked in one phase only"


async def test_a_rollback_leads_back_from_every_phase(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        old, _ = await it.keys()
        way = ["init", "update_clients", "update_servers"]
        for length in range(1, len(way) + 1):
            for phase in way[:length]:
                await it.rotate(phase)
                await it.steps()
            await it.rotate("rollback")
            await it.steps()
            assert shows(it.now) == (old, old)
            assert len(it.now.cluster.ssh_ca_keys) == 2
            await it.rotate("standby")
            await it.steps()
            assert [PublicKey.parse(line).blob for line in it.now.cluster.ssh_ca_keys] == [old]


async def test_what_is_said_is_what_is_done(tmp_path: Path) -> None:
    """A phase is reported when everything it asks for is done, and not before."""
    async with following(tmp_path) as it:
        for phase in ("init", "update_clients"):
            await it.rotate(phase)
            it.refused = ConnectionProblem("auth is away") if phase == "update_clients" else None
            with contextlib.suppress(ConnectionProblem):
                await it.steps()
        assert it.follower.reached[AuthorityType.HOST].phase == "init"
        it.refused = None
        await it.steps()
        said = it.follower.reached[AuthorityType.HOST]
        rotation = (await it.auth.service.state.authority("host")).spec.rotation
        assert (said.phase, said.current_id) == ("update_clients", rotation.current_id)


async def test_a_phase_is_not_reported_before_listeners_show_it(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        await it.rotate("init")
        await it.steps()
        works, failing = it.follower.effects, ConnectionProblem("the listener cannot be changed now")

        async def fail(*_: object) -> None:
            raise failing

        it.follower.effects = replace(works, shown=fail)
        await it.rotate("update_clients")
        for _ in range(2):
            with pytest.raises(ConnectionProblem):
                await it.steps()
            assert it.follower.reached[AuthorityType.HOST].phase == "init"
        it.follower.effects = works
        assert await it.steps() == ["shows", "says"]
        it.follower.effects = replace(works, trust=fail)
        await it.rotate("update_servers")
        await it.rotate("standby")
        for _ in range(2):
            with pytest.raises(ConnectionProblem):
                await it.steps()
            assert it.follower.reached[AuthorityType.HOST].phase == "update_clients"
        it.follower.effects = works
        assert await it.steps() == ["trusts 1, fewer", "says"]


async def test_user_authorities_need_no_certificates_but_are_reported(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        before = it.now
        for phase, did in (("init", ["trusts 1", "says"]), ("update_clients", ["says"]), ("update_servers", ["says"])):
            await it.rotate(phase, "user")
            assert await it.steps() == did
        await it.rotate("standby", "user")
        assert await it.steps() == ["trusts 1, fewer", "says"]
        assert it.now == before


async def test_a_start_goes_on_where_a_crash_ended_it(tmp_path: Path) -> None:
    """In every phase one whole identity lies on the disk, and the first step makes it the one that is asked."""
    async with following(tmp_path) as it:
        for phase in ("init", "update_clients", "update_servers", "standby"):
            await it.rotate(phase)
            it.refused = ConnectionProblem("the power goes")
            with contextlib.suppress(ConnectionProblem):
                await it.steps()
            it.refused = None
            loaded = credentials.load(it.host.proc_dir, ROLE)
            assert loaded is not None
            it.held[ROLE] = loaded
            it.follower = it.make()
            await it.follower.step()
            active, other = await it.keys()
            assert shows(it.now) == (active, other if phase == "update_clients" else active)
            again = credentials.load(it.host.proc_dir, ROLE)
            assert again is not None
            assert shows(again) == shows(it.now)
            assert sorted(again.cluster.ssh_ca_keys) == sorted(it.now.cluster.ssh_ca_keys)


async def test_the_older_of_two_processes_takes_what_the_newer_one_got(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        older = Following(it.auth, it.host, {ROLE: it.now}, newest=False)
        for phase in ("init", "update_clients", "update_servers", "standby"):
            await it.rotate(phase)
            waiting = asyncio.create_task(older.steps(), name="older")
            await it.steps()
            await waiting
            assert shows(older.now) == shows(it.now)
            assert set(older.now.cluster.ssh_ca_keys) == set(it.now.cluster.ssh_ca_keys)
        assert older.asked == 0


async def test_two_who_both_think_that_they_are_the_newest_leave_one_whole_identity(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        other = Following(it.auth, it.host, {ROLE: it.now})
        for phase in ("init", "update_clients", "update_servers", "standby"):
            await it.rotate(phase)
            await asyncio.gather(it.steps(), other.steps())
            assert shows(other.now) == shows(it.now)
        loaded = credentials.load(it.host.proc_dir, ROLE)
        assert loaded is not None
        assert shows(loaded) == shows(it.now)
        assert it.asked + other.asked == 1


async def test_who_is_told_to_come_later_comes_later(tmp_path: Path) -> None:
    async with following(tmp_path) as it:
        await it.rotate("init")
        await it.rotate("update_clients")
        it.refused = LimitExceeded("too often", retry_after=1000)
        pauses: list[float] = []
        followed = asyncio.Event()

        async def wait(event: asyncio.Event, seconds: float) -> None:
            pauses.append(seconds)
            it.refused = None
            if it.follower.reached:
                followed.set()
                await event.wait()

        it.follower = it.make(wait)
        running = asyncio.create_task(it.follower.run(), name="following")
        async with asyncio.timeout(10):
            await followed.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert it.asked == 2
        assert pauses[0] == 1000
        assert shows(it.now)[0] == (await it.keys())[0]
