"""What users of a trusted cluster may and may not do at the leaf's auth service (threats T02, T27, T31, T33).

They come with certificates of their own cluster; the key that signed says which. Everything else is the role map's.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.security.test_security_recordings import _read, _recorded

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities.certify import UserGrant
from teleport.auth.authorizer import NOT_FOR_OTHERS
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import RemoteOrigin, SystemRole, UserIdentity
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.sshverify import verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.resources.authority import RoleMapping
from teleport.resources.cluster import AuthPreference, AuthPreferenceSpec
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store import records
from teleport.store.cache import Cache
from teleport.testing.auth import Credentials, RunningAuth, present_clock
from teleport.testing.running import wait_until
from teleport.testing.two_clusters import TwoClusters, lead_to, two_clusters
from teleport.testing.views import filled_view

TO_EDITOR = (RoleMapping(remote="access", local=("access",)), RoleMapping(remote="boss", local=("editor",)))


async def of_root(both: TwoClusters, name: str = "alice", *roles: str) -> Credentials:
    return await both.root.user(name, roles or ("access",), traits={"logins": ["me"]})


async def ask(both: TwoClusters, who: Credentials, route: str, request: m.Request | None = None) -> object:
    return await both.leaf.call(who, routes.ROUTES[route], request or m.Empty())


async def announce(auth: RunningAuth, name: str) -> str:
    host = await auth.host(SystemRole.NODE, name=name)
    server = Server(metadata=Metadata(name=host.host_id), spec=ServerSpec(hostname=name, addr="192.0.2.1:22"))
    await auth.call(host, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
    return host.host_id


async def test_a_user_of_the_root_uses_the_leaf_with_mapped_roles(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        alice = await of_root(both)
        with pytest.raises(TeleportError):
            await ask(both, alice, "who_am_i")  # before there is trust
        await both.establish()
        me = await ask(both, alice, "who_am_i")
        assert isinstance(me, m.WhoAmI)
        assert (me.kind, me.name, me.roles, me.cluster) == ("user", "remote-alice-root", ["access"], "leaf")
        host = await announce(both.leaf, "web")
        page = await both.leaf.call(alice, routes.LIST["node"], m.ListRequest())
        assert [msgspec.json.decode(item)["metadata"]["name"] for item in page.items] == [host]
        assert page.logins == [["me"]], "the logins of the certificate, where the mapped role allows them"
        for route, request in (
            ("list_user", m.ListRequest()),
            ("list_role", m.ListRequest()),
            ("add_user", m.AddUserRequest(name="eve", roles=["editor"])),
            ("add_token", m.AddTokenRequest(roles=["node"])),
            ("rotate", m.RotateRequest(types=["user"])),
            ("sign_user", m.SignUserRequest(name="alice", public_key="", ttl=3600)),
            ("remove_trusted_cluster", m.ExpelRequest(name="root")),
            ("get_trusted_cluster", m.GetRequest(name="root")),
            ("watch", m.WatchRequest(kinds=["role"])),
            ("create_backup", m.BackupRequest()),
        ):
            with pytest.raises(AccessDenied):
                await ask(both, alice, route, request)
        denied = await both.leaf.events("api.denied", where=lambda event: event["route"] == "list_user")
        assert denied[0]["user"] == "remote-alice-root"


async def test_what_needs_a_record_of_the_user_is_refused_with_words(tmp_path: Path) -> None:
    """Also to whom the map makes an editor: renewing, devices, second factors for a session."""
    async with two_clusters(tmp_path) as both:
        await both.establish((RoleMapping(remote="*", local=("access", "editor", "auditor")),))
        alice = await of_root(both)
        requests: dict[str, m.Request] = {
            routes.SESSION_CHALLENGE.name: m.SessionChallengeRequest(host="web", login="me"),
            routes.SESSION_CERT.name: m.SessionCertRequest(host="web", login="me", factor=m.FactorResponse()),
            routes.BEGIN_FACTOR.name: m.BeginFactorRequest(name="x", type="totp"),
            routes.FINISH_FACTOR.name: m.NewFactorProof(id="x"),
            routes.REMOVE_FACTOR.name: m.RemoveFactorRequest(name="x"),
        }
        for name in sorted(NOT_FOR_OTHERS):
            with pytest.raises(AccessDenied, match="users of the cluster root have no record in leaf") as refused:
                await ask(both, alice, name, requests.get(name))
            assert "tsh login" in refused.value.hint
        told = await both.leaf.events("api.denied", wait_for=len(NOT_FOR_OTHERS))
        assert {event["route"] for event in told} == set(NOT_FOR_OTHERS)
        await ask(both, alice, "add_token", m.AddTokenRequest(roles=["node"]))  # what its roles give, they give


async def test_trust_that_ends_ends_at_once(tmp_path: Path) -> None:
    """T31: an unmapped user, a disabled and a removed trust; on connections that are open as well."""
    async with two_clusters(tmp_path) as both:
        wanted = await both.establish(TO_EDITOR)
        alice, stranger = await of_root(both), await of_root(both, "sam", "auditor")
        with pytest.raises(AccessDenied, match=r"None of your roles in the cluster root \(auditor\) is mapped"):
            await ask(both, stranger, "who_am_i")

        with both.leaf.client(alice) as client:
            await asyncio.to_thread(client.call, routes.WHO_AM_I, m.Empty())
            off = msgspec.structs.replace(wanted, spec=msgspec.structs.replace(wanted.spec, enabled=False))
            await both.create(off, force=True)
            with pytest.raises(AccessDenied):
                await asyncio.to_thread(client.call, routes.WHO_AM_I, m.Empty())
        with pytest.raises(TeleportError):
            await ask(both, alice, "who_am_i")
        await both.create(wanted, force=True)
        await ask(both, alice, "who_am_i")
        await both.leaf.call(await both.leaf.admin(), routes.REMOVE["trusted_cluster"], m.ExpelRequest(name="root"))
        with pytest.raises(TeleportError):
            await ask(both, alice, "who_am_i")


async def test_certificates_of_hosts_and_of_the_leaf_open_nothing_elsewhere(tmp_path: Path) -> None:
    """T02: the root's own administrator is nobody in the leaf, and whoever the leaf signs for is nobody in the root."""
    async with two_clusters(tmp_path) as both:
        await both.establish((RoleMapping(remote="*", local=("editor",)),))
        for role in (SystemRole.ADMIN, SystemRole.PROXY, SystemRole.NODE, SystemRole.AUTH):
            with pytest.raises(TeleportError):
                await ask(both, await both.root.host(role, host_id=both.root.host_id, name="x"), "who_am_i")
        for who in (
            await both.leaf.admin(),
            await both.leaf.host(SystemRole.PROXY),
            await both.leaf.user("eve", ["editor"]),
        ):
            with pytest.raises(TeleportError):
                await both.root.call(who, routes.WHO_AM_I, m.Empty())


async def test_the_same_name_in_another_cluster_gives_nothing(tmp_path: Path) -> None:
    """T27: own recordings are those of the very user, whatever others are called elsewhere."""
    async with two_clusters(tmp_path) as both:
        await both.establish()
        remote, local = await of_root(both), await both.leaf.user("alice", ["access"])
        sid = await _recorded(both.leaf, "alice")
        assert await _read(both.leaf, local, sid)
        with pytest.raises(AccessDenied):
            await _read(both.leaf, remote, sid)
        listed = await both.leaf.call(remote, routes.LIST_RECORDINGS, m.ListRecordingsRequest())
        assert not [field for field in listed.__struct_fields__ if getattr(listed, field)]
        theirs = await _recorded(both.leaf, "remote-alice-root")
        assert await _read(both.leaf, remote, theirs)
        with pytest.raises(AccessDenied):
            await _read(both.leaf, local, theirs)


async def test_a_second_factor_for_calls_is_refused_with_words(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        remote = await of_root(both)
        theirs = await _recorded(both.leaf, "remote-alice-root")
        preference = AuthPreference(spec=AuthPreferenceSpec(require_session_mfa=True))
        key = records.CLUSTER + "cluster-auth-preference"
        await both.leaf.service.state.commit([PutOp(key, to_json(preference))], events=[])
        with pytest.raises(AccessDenied, match="users of the cluster root cannot give one here"):
            await _read(both.leaf, remote, theirs)


async def test_a_rotation_of_the_root_reaches_what_the_leaf_believes(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        before = await of_root(both, "before")
        for phase in ("init", "update_clients", "update_servers", "standby"):
            turn = m.RotateRequest(types=["user"], phase=phase, mode="manual", grace_period=3600)
            await both.root.call(await both.root.admin(), routes.ROTATE, turn)
            assert await both.exchange() == ""
        after = await of_root(both, "after")
        await ask(both, after, "who_am_i")
        with pytest.raises(TeleportError):
            await ask(both, before, "who_am_i")


async def test_two_roots_are_told_apart_by_the_key_that_signed(tmp_path: Path) -> None:
    """T-3: what a certificate says of its cluster only has to agree."""
    async with AsyncExitStack() as stack:
        both = await stack.enter_async_context(two_clusters(tmp_path))
        other = await stack.enter_async_context(two_clusters(tmp_path / "more", root="other", leaf="unused"))
        await both.establish()
        second = TwoClusters(other.root, both.leaf)
        lead_to(both.leaf, other.root)
        await second.establish((RoleMapping(remote="access", local=("auditor",)),))
        lead_to(both.leaf, both.root)
        expected = ((both.root, "remote-alice-root", ["access"]), (other.root, "remote-alice-other", ["auditor"]))
        for auth, name, roles in expected:
            who = await auth.user("alice", ["access"])
            me = await both.leaf.call(who, routes.WHO_AM_I, m.Empty())
            assert (me.name, me.roles) == (name, roles)


# where proxies of the leaf record, they show nodes a certificate that says who is behind it


ORIGIN = RemoteOrigin("root", "alice", ("access",))


async def test_a_proxy_that_records_shows_nodes_who_it_is(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        certifier = await both.leaf.service.state.certifier()
        grant = UserGrant(
            user="remote-alice-root", roles=("access",), logins=("me",), traits={}, ttl=timedelta(minutes=5),
            route_to_cluster="leaf", recorded_by=str(uuid.uuid4()), origin=ORIGIN,
        )  # fmt: skip
        key, now = generate_p256().public, both.leaf.clock.now()
        made = certifier.proxied_user_cert(grant, key, now)
        with pytest.raises(ValueError, match="certificates of their own"):
            certifier.user_certs(replace(grant, recorded_by=""), key.line(), now)
        cache = Cache("test", both.leaf.clock, jitter=lambda: 0.0)
        async with filled_view(both.leaf, cache, SystemRole.NODE, "web") as view:
            identity = view.verify_user(made.blob)
            assert (identity.name, identity.origin, identity.roles) == ("remote-alice-root", ORIGIN, ("access",))
            assert identity.recorded_by
            await both.leaf.call(await both.leaf.admin(), routes.REMOVE["trusted_cluster"], m.ExpelRequest(name="root"))
            await wait_until(lambda: view.present(identity) is None)
            with pytest.raises(AccessDenied):
                view.verify_user(made.blob)


@pytest.mark.parametrize(
    ("origin", "recorded_by"),
    [(ORIGIN, ""), (replace(ORIGIN, cluster="leaf"), "proxy"), (replace(ORIGIN, cluster="ro ot"), "proxy")],
)
def test_an_origin_that_cannot_be_is_neither_issued_nor_believed(origin: RemoteOrigin, recorded_by: str) -> None:
    now, authority = present_clock().now(), generate_ed25519()
    request = UserCertRequest(
        generate_p256().public, "remote-alice-root", ("me",), ("access",), timedelta(minutes=5),
        recorded_by=recorded_by, origin=origin,
    )  # fmt: skip
    with pytest.raises(TeleportError):
        issue_user_cert(request, authority, "leaf", now)


def test_a_users_own_certificate_says_no_origin() -> None:
    now, authority = present_clock().now(), generate_ed25519()
    request = UserCertRequest(generate_p256().public, "alice", ("me",), ("access",), timedelta(minutes=5))
    line = issue_user_cert(request, authority, "leaf", now).line()
    trusted = TrustedSSHAuthority(AuthorityKind.USER, "leaf", (authority.public,))
    identity = verify_user_cert(parse_certificate_line(line).blob, (trusted,), now)
    assert isinstance(identity, UserIdentity)
    assert identity.origin is None
