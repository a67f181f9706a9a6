"""The view of a cluster that node and proxy decide by: filled from a real auth service, kept when that is away."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import Changes, Deleted
from teleport.daemon.proxy_side import Directory
from teleport.daemon.view import VERIFIED, View
from teleport.errors import ConnectionProblem, TeleportError
from teleport.identity import SystemRole, UserIdentity
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import Authority
from teleport.resources.cluster import RecordingMode
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store.cache import Cache
from teleport.store.records import authority_key
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until
from teleport.testing.views import filled_view

HOST = "7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11"


def empty_cache(clock: FakeClock) -> Cache:
    async def soon(_: float) -> None:
        await asyncio.sleep(0.01)

    return Cache("test", clock, jitter=lambda: 0.0, sleep=soon)


@asynccontextmanager
async def filled(auth: RunningAuth, role: SystemRole = SystemRole.PROXY) -> AsyncIterator[View]:
    """A view over the API, as a daemon has it."""
    assert isinstance(auth.clock, FakeClock)
    async with filled_view(auth, empty_cache(auth.clock), role, role.value.lower()) as view:
        yield view


async def signed(auth: RunningAuth, name: str, roles: list[str]) -> bytes:
    """A new user's SSH certificate."""
    admin = await auth.admin()
    await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=roles, traits={"logins": ["root"]}))
    request = m.SignUserRequest(name=name, public_key=generate_p256().public.line(), ttl=3600)
    certs = await auth.call(admin, routes.SIGN_USER, request)
    return parse_certificate_line(certs.cert).blob


async def announce(auth: RunningAuth, **labels: str) -> None:
    spec = ServerSpec(addr="127.0.0.1:3022", public_addrs=("alpha.example.com:22",), hostname="alpha", epoch="1")
    item = m.Document(to_json(Server(metadata=Metadata(name=HOST, labels=labels), spec=spec)))
    host = await auth.host(SystemRole.NODE, host_id=HOST, name="alpha")
    await auth.call(host, routes.HEARTBEAT, m.HeartbeatRequest(item=item))


def test_before_the_first_snapshot_every_read_is_an_error_and_never_empty() -> None:
    """No data never means yes: an empty answer could mean that there are no locks."""
    clock = FakeClock()
    view = View(empty_cache(clock), clock, CLUSTER)
    reads: list[Callable[[], Any]] = [view.roles, view.locks, view.nodes, view.defaults, view.policy]
    for read in reads:
        with pytest.raises(ConnectionProblem):
            read()
    with pytest.raises(ConnectionProblem):
        view.verify_user(b"")


async def test_what_the_cluster_holds_is_read_typed(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        assert {"access", "editor", "auditor"} <= set(view.roles())
        assert view.recording_mode() is RecordingMode.NODE
        assert view.policy().cluster.record_sessions
        identity = view.verify_user(await _known(auth, view))
        assert (identity.name, identity.cluster) == ("alice", CLUSTER)


async def _known(auth: RunningAuth, view: View) -> bytes:
    certificate = await signed(auth, "alice", ["access"])
    await wait_until(lambda: any(item.key == "users/alice" for item in view.cache.range("users/")))
    return certificate


async def test_a_removed_user_and_a_foreign_certificate_are_refused(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        certificate = await _known(auth, view)
        view.verify_user(certificate)
        await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="alice"))
        await wait_until(lambda: view.cache.get("users/alice") is None)
        with pytest.raises(TeleportError, match="does not exist any more"):
            view.verify_user(certificate)
        with pytest.raises(TeleportError):
            view.verify_host(certificate)
    async with running_auth(tmp_path / "other") as other, filled(other) as elsewhere:
        with pytest.raises(TeleportError):
            elsewhere.verify_user(certificate)


async def test_a_locked_proxy_vouches_for_nobody(tmp_path: Path) -> None:
    """Nodes ask this of whoever vouches: the word of a proxy that was stopped says nothing of where clients are."""
    async with running_auth(tmp_path) as auth, filled(auth, SystemRole.NODE) as view:
        proxy, tls = generate_ed25519(), generate_p256().public.spki_pem().decode()
        given = await auth.service.local_host(HOST, "front", SystemRole.PROXY, [], proxy.public.line(), tls)
        certificate = parse_certificate_line(given.ssh_cert).blob
        await wait_until(lambda: view.cache.get(f"hosts/{HOST}") is not None)
        assert view.verify_host(certificate).host_id == HOST
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(node=HOST)))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))
        await wait_until(lambda: bool(view.locks()))
        with pytest.raises(TeleportError, match="locked"):
            view.verify_host(certificate)
        view.own_host = HOST
        assert view.verify_host(certificate).host_id == HOST, "the node beside it says itself that its host is locked"
        serial = str(view.verify_host(certificate).serial)
        ended = Lock(metadata=Metadata(name="ended"), spec=LockSpec(target=LockTarget(serial=serial)))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(ended))))
        await wait_until(lambda: len(view.locks()) == 2)
        with pytest.raises(TeleportError, match="locked"):
            view.verify_host(certificate)


async def test_a_host_certificate_that_is_remembered_counts_no_longer_than_others(tmp_path: Path) -> None:
    """What was verified once is not verified again while nothing that it rests on has changed."""
    async with running_auth(tmp_path) as auth, filled(auth, SystemRole.NODE) as view:
        assert isinstance(auth.clock, FakeClock)
        proxy, tls = generate_ed25519(), generate_p256().public.spki_pem().decode()
        given = await auth.service.local_host(HOST, "front", SystemRole.PROXY, [], proxy.public.line(), tls)
        certificate = parse_certificate_line(given.ssh_cert).blob
        await wait_until(lambda: view.cache.get(f"hosts/{HOST}") is not None)
        identity = view.verify_host(certificate)
        assert view.verify_host(certificate) == identity
        assert list(view._verified) == [certificate]
        longer = view._verified[certificate]
        auth.clock.jump(-10 * 365 * 86400.0)
        with pytest.raises(TeleportError, match="not valid before"):
            view.verify_host(certificate)
        auth.clock.jump(10 * 365 * 86400.0)
        view.verify_host(certificate)
        auth.clock.jump((identity.expires - auth.clock.now()).total_seconds())
        with pytest.raises(TeleportError, match="expired"):
            view.verify_host(certificate)
        auth.clock.jump(-3600.0)
        view._verified[certificate] = replace(longer, authorities=[])  # as if others had been believed then
        assert view.verify_host(certificate) == identity
        assert view._verified[certificate].authorities == view.ssh_authorities(AuthorityKind.HOST)
        view._verified = {bytes([number]): longer for number in range(VERIFIED)}
        assert view.verify_host(certificate) == identity
        assert list(view._verified) == [certificate], "no more than so many are kept"
        stored = view._items(authority_key(AuthorityKind.HOST, CLUSTER), Authority)
        assert view._trusted[AuthorityKind.HOST][0] == stored
        key = authority_key(AuthorityKind.HOST, CLUSTER)
        view.cache._take(Changes([Deleted(key, view.cache.revision + 1)], view.cache.revision + 1))
        assert not view.ssh_authorities(AuthorityKind.HOST), "an authority that is gone"
        with pytest.raises(TeleportError, match="not signed by"):
            view.verify_host(certificate)


async def test_a_hosts_certificate_in_tls_counts_as_long_as_the_host_does(tmp_path: Path) -> None:
    """Proxies ask this of each other. Who it is can be said also of one that may not be here."""
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        key = generate_p256()
        spki = key.public.spki_pem().decode()
        given = await auth.service.local_host(HOST, "front", SystemRole.PROXY, [], key.public.line(), spki)
        certificate = ssl.PEM_cert_to_DER_cert(given.tls_cert)
        await wait_until(lambda: view.cache.get(f"hosts/{HOST}") is not None)
        assert view.verify_host_tls(certificate).role is SystemRole.PROXY
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(node=HOST)))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))
        await wait_until(lambda: bool(view.locks()))
        with pytest.raises(TeleportError, match="locked"):
            view.verify_host_tls(certificate)
        assert view.identify_host_tls(certificate).host_id == HOST
        await auth.call(await auth.admin(), routes.REMOVE["lock"], m.ExpelRequest(name="stop"))
        await wait_until(lambda: not view.locks())
        assert view.verify_host_tls(certificate).host_id == HOST
        person = (await auth.user("alice", ["access"])).cert
        assert person is not None
        with pytest.raises(TeleportError):
            view.identify_host_tls(ssl.PEM_cert_to_DER_cert(person.read_text()))
    async with running_auth(tmp_path / "other") as other, filled(other) as elsewhere:
        with pytest.raises(TeleportError):
            elsewhere.identify_host_tls(certificate)


async def test_nodes_come_change_and_go(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        assert view.nodes() == []
        await announce(auth, env="prod")
        await wait_until(lambda: bool(view.nodes()))
        first = view.nodes()[0]
        assert view.nodes()[0] is first, "parsed once, while it does not change"
        node = next(iter(Directory(view).nodes()))
        assert (node.hostname, str(node.address)) == ("alpha", "alpha.example.com:22")
        await announce(auth, env="test")
        await wait_until(lambda: view.nodes()[0].all_labels.get("env") == "test")
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=HOST))
        await wait_until(lambda: view.nodes() == [])
        assert not view.known_nodes._known, "what is gone is forgotten"


async def test_people_see_the_nodes_that_a_role_lets_them_into(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        await announce(auth, env="prod")
        certificate = await _known(auth, view)
        await wait_until(lambda: bool(view.nodes()))
        directory = Directory(view)
        node = next(iter(directory.nodes()))
        alice = view.verify_user(certificate)
        assert isinstance(alice, UserIdentity)
        assert not directory.why_hidden(alice, node)
        await signed(auth, "bob", ["auditor"])
        await wait_until(lambda: view.cache.get("users/bob") is not None)
        assert directory.why_hidden(replace(alice, name="bob", roles=("auditor",)), node)
        assert directory.why_hidden(replace(alice, name="nobody"), node)
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=HOST))
        await wait_until(lambda: view.nodes() == [])
        assert directory.why_hidden(alice, node), "a node that is gone is nobody's"


async def test_the_last_view_stays_when_auth_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with contextlib.AsyncExitStack() as outlives:
        async with running_auth(tmp_path) as auth:
            view = await outlives.enter_async_context(filled(auth))
            certificate = await _known(auth, view)
            roles = set(view.roles())
        await wait_until(lambda: "cache lost its source" in caplog.text)
        assert set(view.roles()) == roles
        assert view.verify_user(certificate).name == "alice"


async def test_a_node_does_not_watch_other_nodes(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth, SystemRole.NODE) as view:
        await announce(auth)
        await signed(auth, "alice", ["access"])
        await wait_until(lambda: view.cache.get("users/alice") is not None)
        assert view.nodes() == []
