"""What a service knows of other clusters: whose users it lets in and as what, and whose hosts it believes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import DeleteOp, PutOp
from teleport.daemon.view import AnyUsers, View
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.identity import SystemRole, UserIdentity
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshformat import parse_certificate, parse_certificate_line
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.trusted_cluster import RemoteCluster, RemoteClusterSpec
from teleport.store import records
from teleport.store.cache import Cache
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.running import wait_until
from teleport.testing.trusting import distrust, establish
from teleport.testing.views import filled_view

HOST = "7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11"


@dataclass(frozen=True)
class Two:
    """A root and a leaf, and a view of the leaf's."""

    root: RunningAuth
    leaf: RunningAuth
    view: View


@asynccontextmanager
async def two(tmp_path: Path, role: SystemRole = SystemRole.NODE, **given: object) -> AsyncIterator[Two]:
    clock = present_clock()
    async with AsyncExitStack() as stack:
        root = await stack.enter_async_context(running_auth(tmp_path / "root", clock=clock, cluster="root"))
        leaf = await stack.enter_async_context(running_auth(tmp_path / "leaf", clock=clock, cluster="leaf"))
        await establish(root.service.state, leaf.service.state, **given)  # type: ignore[arg-type]
        watching = root if role is SystemRole.AUTH else leaf
        wanted = SystemRole.PROXY if role is SystemRole.AUTH else role
        cache = Cache("test", clock, jitter=lambda: 0.0)
        yield Two(root, leaf, await stack.enter_async_context(filled_view(watching, cache, wanted, "host")))


async def user_of(auth: RunningAuth, name: str = "alice", roles: tuple[str, ...] = ("access",)) -> bytes:
    admin = await auth.admin()
    await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=list(roles), traits={"logins": ["me"]}))
    request = m.SignUserRequest(name=name, public_key=generate_p256().public.line(), ttl=3600)
    return parse_certificate_line((await auth.call(admin, routes.SIGN_USER, request)).cert).blob


async def host_of(auth: RunningAuth, role: SystemRole, host_id: str = HOST) -> bytes:
    tls = generate_p256().public.spki_pem().decode()
    given = await auth.service.local_host(host_id, "front", role, [], generate_ed25519().public.line(), tls)
    return parse_certificate_line(given.ssh_cert).blob


async def test_a_user_of_the_root_is_mapped_and_judged_while_the_trust_stands(tmp_path: Path) -> None:
    """T31: what takes the trust away is in view within moments, and then nothing is left of the identity."""
    async with two(tmp_path) as both:
        view, certificate = both.view, await user_of(both.root)
        signer = parse_certificate(certificate).signer
        identity = AnyUsers(view).verify_user(certificate)
        assert (identity.name, identity.cluster, identity.roles) == ("remote-alice-root", "leaf", ("access",))
        assert view.present(identity) == identity
        assert view.trusts_user_authority(signer)

        mapped = (RoleMapping(remote="access", local=("auditor",)),)
        await establish(both.root.service.state, both.leaf.service.state, mapped)
        await wait_until(lambda: (view.present(identity) or identity).roles == ("auditor",))
        await establish(both.root.service.state, both.leaf.service.state, (RoleMapping(remote="x", local=("access",)),))
        await wait_until(lambda: view.present(identity) is None)
        with pytest.raises(AccessDenied, match="None of your roles"):
            view.verify_any_user(certificate)

        await establish(both.root.service.state, both.leaf.service.state, enabled=False)
        await wait_until(lambda: view.trusted_clusters() == [])
        assert view.present(identity) is None
        assert not view.trusts_user_authority(signer)
        with pytest.raises(AccessDenied, match="not signed by a user authority"):
            view.verify_any_user(certificate)
        await establish(both.root.service.state, both.leaf.service.state)
        await wait_until(lambda: view.present(identity) == identity)
        await distrust(both.leaf.service.state, "root")
        await wait_until(lambda: view.present(identity) is None)
        assert not view.trusts_user_authority(signer)


async def test_the_authority_alone_or_the_record_alone_lets_nobody_in(tmp_path: Path) -> None:
    async with two(tmp_path) as both:
        view, certificate, state = both.view, await user_of(both.root), both.leaf.service.state
        key = records.authority_key("user", "root")
        authority = await state.backend.get(key)
        assert authority is not None
        await state.commit([DeleteOp(key)], events=[])
        await wait_until(lambda: view.remote_user_authorities() == [])
        with pytest.raises(AccessDenied):
            view.verify_any_user(certificate)
        await distrust(state, "root")
        await state.commit([PutOp(key, authority.value)], events=[])
        await wait_until(lambda: view.cache.get(key) is not None)
        with pytest.raises(AccessDenied):
            view.verify_any_user(certificate)


async def test_a_cluster_that_cannot_be_read_lets_nobody_in_and_keeps_nobody_else_out(tmp_path: Path) -> None:
    async with two(tmp_path) as both:
        view, certificate, own = both.view, await user_of(both.root), await user_of(both.leaf, "lea")
        key = records.TRUSTED_CLUSTERS + "root"
        await both.leaf.service.state.commit([PutOp(key, b'{"schema": 2, "kind": "trusted_cluster"}')], events=[])
        await wait_until(lambda: view.trusted_clusters() == [])
        with pytest.raises(AccessDenied):
            view.verify_any_user(certificate)
        assert view.verify_any_user(own).name == "lea"
    async with two(tmp_path / "other", SystemRole.AUTH) as both:
        view = both.view
        assert [one.name for one in view.remote_clusters()] == ["leaf"]
        key = records.REMOTE_CLUSTERS + "leaf"
        await both.root.service.state.commit([PutOp(key, b'{"schema": 2, "kind": "remote_cluster"}')], events=[])
        await wait_until(lambda: view.remote_clusters() == [])
        assert view.authorities_now()[0]


async def test_the_ssh_port_of_the_leafs_proxy_is_not_for_them(tmp_path: Path) -> None:
    """Users of the root come in by the root's proxies, which know where they are from."""
    async with two(tmp_path, SystemRole.PROXY) as both:
        certificate = await user_of(both.root)
        with pytest.raises(AccessDenied, match="of the cluster root: its users come in through its own proxy"):
            both.view.verify_user(certificate)


async def test_a_local_user_of_the_same_name_is_not_the_remote_one(tmp_path: Path) -> None:
    """T27: identities are compared with where they came from."""
    async with two(tmp_path) as both:
        view, state = both.view, both.leaf.service.state
        remote = view.verify_any_user(await user_of(both.root))
        local = view.verify_any_user(await user_of(both.leaf))
        assert (local.name, local.origin) == ("alice", None)
        assert remote.name != local.name
        pretended = UserIdentity(remote.name, "leaf", remote.roles, remote.logins, remote.expires)
        assert view.present(pretended) is None, "there is no such user here"
        await state.commit([DeleteOp(records.USERS + "alice")], events=[])
        await wait_until(lambda: view.present(local) is None)
        assert view.present(remote) == remote


async def test_hosts_of_the_root_are_believed_by_name_and_role_only(tmp_path: Path) -> None:
    async with two(tmp_path, SystemRole.PROXY) as both:
        view = both.view
        proxy, node = await host_of(both.root, SystemRole.PROXY), await host_of(both.root, SystemRole.NODE)
        assert view.verify_host_of("root", proxy, SystemRole.PROXY).cluster == "root"
        with pytest.raises(AccessDenied, match="is no Proxy"):
            view.verify_host_of("root", node, SystemRole.PROXY)
        for cluster in ("leaf", "other", ""):
            with pytest.raises(NotFound, match="not known here"):
                view.verify_host_of(cluster, proxy, SystemRole.PROXY)
        with pytest.raises(AccessDenied):
            view.verify_host_of("root", await host_of(both.leaf, SystemRole.PROXY), SystemRole.PROXY)
        with pytest.raises(TeleportError):
            view.verify_host(proxy)  # never as a host of this cluster
        with pytest.raises(TeleportError):
            view.verify_any_user(proxy)
        lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(node=HOST)))
        await both.leaf.service.state.commit([PutOp(records.LOCKS + "l", to_json(lock))], events=[])
        await wait_until(lambda: bool(view.locks()))
        with pytest.raises(AccessDenied, match="locked"):
            view.verify_host_of("root", proxy, SystemRole.PROXY)


async def test_the_root_believes_hosts_of_a_leaf_and_never_its_users(tmp_path: Path) -> None:
    async with two(tmp_path, SystemRole.AUTH, labels={"env": "prod"}) as both:
        view, state = both.view, both.root.service.state
        (cluster,) = view.remote_clusters()
        assert (cluster.name, dict(cluster.metadata.labels)) == ("leaf", {"env": "prod"})
        proxy = await host_of(both.leaf, SystemRole.PROXY)
        assert view.verify_host_of("leaf", proxy, SystemRole.PROXY).cluster == "leaf"
        with pytest.raises(AccessDenied):
            view.verify_any_user(await user_of(both.leaf))
        user_authority = (await both.leaf.service.state.authority("user")).without_secrets()
        await state.commit([PutOp(records.authority_key("user", "leaf"), to_json(user_authority))], events=[])
        await wait_until(lambda: view.authority_of(AuthorityKind.USER, "leaf") is not None)
        with pytest.raises(AccessDenied):
            view.verify_any_user(await user_of(both.leaf, "bob"))
        gone = RemoteCluster(metadata=Metadata(name="leaf"), spec=RemoteClusterSpec(removed=both.root.clock.now()))
        await state.commit([PutOp(records.REMOTE_CLUSTERS + "leaf", to_json(gone))], events=[])
        await wait_until(lambda: view.remote_clusters()[0].removed)
        with pytest.raises(NotFound):
            view.verify_host_of("leaf", proxy, SystemRole.PROXY)


async def test_only_proxies_watch_which_clusters_are_reached(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        for role, allowed in ((SystemRole.NODE, False), (SystemRole.PROXY, True)):
            async with auth.async_client(await auth.host(role, name=str(role))) as client:
                stream = client.watch(m.WatchRequest(kinds=["remote_cluster"]))
                if allowed:
                    assert (await anext(stream)).snapshot
                else:
                    with pytest.raises(AccessDenied):
                        await anext(stream)
                await stream.aclose()
