"""Watches and certificates end with the right they were opened by, and show no more than lists do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.hosts import presence, silence
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, ConnectionProblem
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.authority import AuthorityType
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth


async def _node(auth: RunningAuth, name: str, **labels: str) -> Credentials:
    host = await auth.host(SystemRole.NODE, name=name)
    server = Server(metadata=Metadata(name=host.host_id, labels=labels), spec=ServerSpec(hostname=name))
    await auth.call(host, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
    return host


async def _store(auth: RunningAuth, kind: str, version: str, name: str, spec: dict[str, object]) -> None:
    document = {"kind": kind, "version": version, "metadata": {"name": name}, "spec": spec}
    item = m.Document(json.dumps(document).encode())
    await auth.call(await auth.admin(), routes.STORE[kind], m.StoreRequest(item=item, force=True))


@asynccontextmanager
async def _watching(
    auth: RunningAuth, who: Credentials, kinds: Sequence[str]
) -> AsyncIterator[asyncio.Task[list[str]]]:
    """A task that watches until the stream ends and returns the keys it saw; it has its snapshot already."""
    client = auth.async_client(who)
    seen: list[str] = []
    ready = asyncio.Event()

    async def work() -> list[str]:
        async for line in client.watch(m.WatchRequest(kinds=list(kinds))):
            seen.extend(item.key for item in line.put)
            ready.set()
        return seen

    task = asyncio.create_task(work(), name="watching")
    waiting = asyncio.create_task(ready.wait(), name="snapshot")
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        yield task
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.wait([task, waiting])
        await client.close()


async def test_users_do_not_watch_at_all(tmp_path: Path) -> None:
    """A list shows a user the nodes that the user may use; a watch would show every one."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        for name, role in (("joe", "access"), ("ed", "editor")):
            client = auth.async_client(await auth.user(name, [role]))
            try:
                with pytest.raises(AccessDenied):
                    await anext(client.watch(m.WatchRequest(kinds=["node"])))
            finally:
                await client.close()


async def test_a_watch_of_one_setting_shows_no_other(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        client = auth.async_client(await auth.host(SystemRole.NODE, name="n"))
        try:
            line = await anext(client.watch(m.WatchRequest(kinds=["cluster_name", "session_recording_config"])))
        finally:
            await client.close()
        assert {item.key for item in line.put} <= {"cluster/cluster-name", "cluster/session-recording-config"}


@pytest.mark.parametrize("how", ["certificate", "expelled", "authority"])
async def test_a_watch_ends_when_its_host_loses_the_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(silence, "HEARTBEAT", 0.05)
    clock = present_clock()
    async with running_auth(tmp_path, sqlite=True, clock=clock) as auth:
        who = await _node(auth, "n")
        async with _watching(auth, who, ["role"]) as task:
            assert not task.done()
            match how:
                case "certificate":
                    clock.advance(91 * 86400)
                case "expelled":
                    await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=who.host_id))
                case "authority":  # a rotation ends the keys that its certificate is of
                    rotation = m.RotateRequest(types=["host"], grace_period=0)
                    await auth.call(await auth.admin(), routes.ROTATE, rotation)
            await asyncio.wait([task], timeout=5)
            assert task.done(), "the watch outlived its right"


async def test_the_end_of_its_authority_is_the_last_thing_that_a_host_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys were replaced at once, perhaps because they were stolen: a host that this shuts out still stops trusting
    what they sign for people."""
    monkeypatch.setattr(presence, "RECHECK", 0.0)
    async with running_auth(tmp_path, sqlite=True) as auth:
        client = auth.async_client(await _node(auth, "n"))
        try:
            stream = client.watch(m.WatchRequest(kinds=["cert_authority"]))
            before = {item.key: bytes(item.value) for item in (await anext(stream)).put}
            every = m.RotateRequest(types=[str(one) for one in AuthorityType], grace_period=0)
            await auth.call(await auth.admin(), routes.ROTATE, every)
            heard = {item.key: bytes(item.value) for item in (await anext(stream)).put}
            assert heard.keys() == before.keys()
            assert all(heard[key] != before[key] for key in heard)
            with pytest.raises(ConnectionProblem, match="auth ended the stream"):
                await anext(stream)
        finally:
            await client.close()


@pytest.mark.parametrize("how", ["lock", "expelled"])
async def test_what_ends_a_watch_ends_it_while_nothing_else_is_heard_and_nothing_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The certificate, or the host itself: also where the watch is of other kinds, and long before anybody asks, or
    the silence would be broken."""
    monkeypatch.setattr(presence, "RECHECK_CALM", 1e9)
    async with running_auth(tmp_path, sqlite=True) as auth:
        who = await _node(auth, "n")
        async with _watching(auth, who, ["cluster_name"]) as task:
            await asyncio.wait([task], timeout=0.3)
            assert not task.done()
            if how == "expelled":
                await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=who.host_id))
            else:
                page = await auth.call(await auth.admin(), routes.LIST_CERTS, m.ListCertsRequest(type="host"))
                (cert,) = [one for one in page.items if one.subject == who.host_id]
                await auth.call(await auth.admin(), routes.REVOKE_CERT, m.RevokeCertRequest(serial=cert.serial))
            await asyncio.wait([task], timeout=5)
            assert task.done(), "the watch outlived its right"


async def test_a_node_hears_of_itself_and_of_hosts_that_may_be_proxies_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "HEARTBEAT", 0.2)
    async with running_auth(tmp_path, sqlite=True) as auth:
        await auth.admin()
        who, other = await _node(auth, "n"), await _node(auth, "other")
        proxy = await auth.host(SystemRole.PROXY, name="proxy")
        client = auth.async_client(who)
        of_proxy = auth.async_client(proxy)
        try:
            stream = client.watch(m.WatchRequest(kinds=["host_cert"]))
            snapshot = {item.key for item in (await anext(stream)).put}
            assert {f"hosts/{who.host_id}", f"hosts/{proxy.host_id}"} <= snapshot
            assert f"hosts/{other.host_id}" not in snapshot
            whole = of_proxy.watch(m.WatchRequest(kinds=["host_cert"]))
            every = {item.key for item in (await anext(whole)).put}
            await whole.aclose()
            assert f"hosts/{other.host_id}" in every
            later = await auth.host(SystemRole.NODE, name="later")
            second = await auth.host(SystemRole.PROXY, host_id=later.host_id, name="later")
            assert second.host_id == later.host_id
            await auth.call(await auth.admin(), routes.REMOVE["proxy"], m.ExpelRequest(name=proxy.host_id))
            puts, gone = set[str](), set[str]()
            async for line in stream:
                puts |= {item.key for item in line.put}
                gone |= set(line.deleted)
                if gone:
                    break
            assert puts == {f"hosts/{later.host_id}"}, "once it may be a proxy, and not before"
            assert gone == {f"hosts/{proxy.host_id}"}
            await stream.aclose()
        finally:
            await client.close()
            await of_proxy.close()


async def test_what_a_watch_does_not_show_does_not_make_it_look_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts may join without a pause, of which a node hears nothing."""
    monkeypatch.setattr(silence, "HEARTBEAT", 0.2)
    async with running_auth(tmp_path, sqlite=True) as auth:
        client = auth.async_client(await _node(auth, "n"))
        joining = asyncio.create_task(_join_on_and_on(auth), name="joining")
        try:
            stream = client.watch(m.WatchRequest(kinds=["host_cert"]))
            await anext(stream)
            async with asyncio.timeout(5):
                for _ in range(3):
                    line = await anext(stream)
                    assert (line.put, line.deleted) == ([], [])
            await stream.aclose()
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            await client.close()


async def _join_on_and_on(auth: RunningAuth) -> None:
    while True:
        await auth.host(SystemRole.NODE, name="one more")


async def test_a_locked_host_hears_of_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "RECHECK", 0.0)
    async with running_auth(tmp_path, sqlite=True) as auth:
        who = await _node(auth, "n")
        client = auth.async_client(who)
        try:
            stream = client.watch(m.WatchRequest(kinds=["lock"]))
            assert (await anext(stream)).put == []
            await _store(auth, "lock", "v2", "stop", {"target": {"node": who.host_id}})
            assert [item.key for item in (await anext(stream)).put] == ["locks/stop"]
            await stream.aclose()
        finally:
            await client.close()


async def test_an_expired_user_logs_in_no_more_and_calls_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        secret = await auth.person("joe")
        who = await auth.user("joe", ["access"])
        await auth.call(who, routes.WHO_AM_I, m.Empty())
        end = rfc3339(auth.clock.now() - timedelta(seconds=1))
        await _store(auth, "user", "v2", "joe", {"roles": ["access"], "expires": end})
        with pytest.raises(AccessDenied):
            await auth.call(who, routes.WHO_AM_I, m.Empty())
        proxy = await auth.host(SystemRole.PROXY, name="gate")
        for name in ("joe", "nobody"):
            with pytest.raises(AccessDenied, match="wrong"):
                await auth.call(
                    proxy,
                    routes.LOGIN,
                    m.LoginRequest(
                        user=name,
                        password=PASSWORD,
                        otp_token=auth.code(secret, periods=1),
                        public_key=generate_p256().public.line(),
                        ttl=1e300,
                        client_addr="192.0.2.1:1",
                    ),
                )
