"""Certificates that were overtaken: by an expelled host, a removed authority, a user made anew, a role given since."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.authz.api import APIAccessRequest, evaluate_api_access
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.ssh import SSHAccessRequest, evaluate_ssh_access, why_out_of_reach
from teleport.backend.interface import DeleteOp, PutOp
from teleport.daemon.view import View
from teleport.errors import AccessDenied
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import generate_p256
from teleport.pki.sshcert import HOST_LIFETIME
from teleport.pki.sshformat import parse_certificate_line
from teleport.resources.codec import to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.resources.user import CreatedBy, Creator, User, UserSpec
from teleport.store import records
from teleport.store.cache import Cache
from teleport.store.records import HostRecord
from teleport.store.standing import CLOCK_SLACK, host_counts, user_present, with_role, without_role
from teleport.testing.auth import CLUSTER, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until
from teleport.testing.views import filled_view


@asynccontextmanager
async def _view(auth: RunningAuth, role: SystemRole = SystemRole.NODE) -> AsyncIterator[View]:
    """What a service of another host knows of the cluster."""
    async with filled_view(auth, Cache("test", auth.clock, jitter=lambda: 0.5), role, "watcher") as view:
        yield view


async def _host_certificate(auth: RunningAuth, role: SystemRole, host_id: str) -> bytes:
    """The SSH certificate of a host of the cluster."""
    key = generate_p256()
    found = await auth.service.local_host(host_id, "gate", role, [], key.public.line(), key.public.spki_pem().decode())
    return parse_certificate_line(found.ssh_cert).blob


def _roles(view: View, host_id: str) -> list[str]:
    item = view.cache.get(records.HOSTS + host_id)
    return msgspec.json.decode(item.value, type=HostRecord).roles if item is not None else []


@pytest.mark.parametrize("role", [SystemRole.NODE, SystemRole.PROXY])
async def test_services_refuse_the_certificate_of_an_expelled_host(tmp_path: Path, role: SystemRole) -> None:
    """An expelled proxy could otherwise vouch for any client address until its certificate ends, for 90 days."""
    async with running_auth(tmp_path) as auth, _view(auth, role) as view:
        host_id = str(uuid.uuid4())
        certificate = await _host_certificate(auth, SystemRole.PROXY, host_id)
        metadata, spec = Metadata(name=host_id), ServerSpec(hostname="gate")
        for held, server in (
            (SystemRole.NODE, Server(kind="node", metadata=metadata, spec=spec)),
            (SystemRole.PROXY, Server(kind="proxy", metadata=metadata, spec=spec)),
        ):
            host = await auth.host(held, host_id=host_id, name="gate")
            await auth.call(host, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
        await wait_until(lambda: _roles(view, host_id) == ["Node", "Proxy"])
        assert view.verify_host(certificate).role is SystemRole.PROXY
        admin = await auth.admin()
        await auth.call(admin, routes.REMOVE["node"], m.ExpelRequest(name=host_id))
        await wait_until(lambda: _roles(view, host_id) == ["Proxy"])
        assert view.verify_host(certificate).role is SystemRole.PROXY, "another service of the host stays"
        await auth.call(admin, routes.REMOVE["proxy"], m.ExpelRequest(name=host_id))
        await wait_until(lambda: not _roles(view, host_id))
        with pytest.raises(AccessDenied, match="does not belong to the cluster any more"):
            view.verify_host(certificate)
        await auth.host(SystemRole.PROXY, host_id=host_id, name="gate")
        await wait_until(lambda: _roles(view, host_id) == ["Proxy"])


async def test_what_services_hear_of_hosts_is_only_whether_their_certificates_count(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, _view(auth) as view:
        # of a proxy: nodes are told of no other nodes
        record = HostRecord(host_id="h", node_name="vault", roles=["Proxy"], labels={"owner": "treasury"})
        await auth.backend.commit([records_put("h", record)])
        await wait_until(lambda: view.cache.get("hosts/h") is not None)
        found = view.cache.get("hosts/h")
        assert found is not None
        assert b"vault" not in found.value
        assert b"treasury" not in found.value


async def _user_certificates(auth: RunningAuth, name: str) -> tuple[bytes, Credentials]:
    """A user's SSH certificate, and what the API knows the user by."""
    key = generate_p256()
    request = m.SignUserRequest(name=name, public_key=key.public.line(), ttl=7200)
    certs = await auth.call(await auth.admin(), routes.SIGN_USER, request)
    return parse_certificate_line(certs.cert).blob, auth.keep(key, certs.tls_cert)


async def _made(auth: RunningAuth, view: View, name: str, *roles: str, by_document: bool = False) -> int:
    """A user, of whom the view has heard; the revision."""
    admin = await auth.admin()
    if by_document:
        forged = CreatedBy(time=auth.clock.now() - timedelta(days=1), user=Creator(name="root"))
        spec = UserSpec(roles=roles, traits={"logins": ("root",)}, created_by=forged)
        item = m.Document(to_json(User(metadata=Metadata(name=name), spec=spec)))
        await auth.call(admin, routes.STORE["user"], m.StoreRequest(item=item, force=True))
    else:
        await auth.call(
            admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=list(roles), traits={"logins": ["root"]})
        )
    stored = await auth.backend.get(records.USERS + name)
    assert stored is not None
    await wait_until(lambda: _revision(view, records.USERS + name) == stored.revision)
    return stored.revision


def _revision(view: View, key: str) -> int:
    item = view.cache.get(key)
    return item.revision if item is not None else 0


@pytest.mark.parametrize("between", [0.0, 0.2, 2])
@pytest.mark.parametrize("by_document", [False, True])
async def test_a_user_made_again_under_the_same_name_does_not_revive_old_certificates(
    tmp_path: Path, by_document: bool, between: float
) -> None:
    """Whatever a document says of when the user was made: another person may have got the name, also within the very
    second that a certificate says."""
    async with running_auth(tmp_path) as auth, _view(auth) as view:
        assert isinstance(auth.clock, FakeClock)
        await _made(auth, view, "alice", "access")
        auth.clock.advance(0.3)
        ssh, tls = await _user_certificates(auth, "alice")
        view.verify_user(ssh)
        await auth.call(tls, routes.WHO_AM_I, m.Empty())
        await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="alice"))
        auth.clock.advance(between)
        await _made(auth, view, "alice", "access", by_document=by_document)
        with pytest.raises(AccessDenied):
            view.verify_user(ssh)
        with pytest.raises(AccessDenied):
            await auth.call(tls, routes.WHO_AM_I, m.Empty())
        fresh, again = await _user_certificates(auth, "alice")
        view.verify_user(fresh)
        await auth.call(again, routes.WHO_AM_I, m.Empty())


async def test_changing_a_user_leaves_when_and_by_whom_it_was_made(tmp_path: Path) -> None:
    """A document could else make old certificates count again, or lock the user out."""
    async with running_auth(tmp_path) as auth, _view(auth) as view:
        assert isinstance(auth.clock, FakeClock)
        await _made(auth, view, "alice", "access")
        before = await auth.service.state.user("alice")
        auth.clock.advance(60)
        await _made(auth, view, "alice", "auditor", by_document=True)
        after = await auth.service.state.user("alice")
        assert before is not None
        assert after is not None
        assert after.roles == ("auditor",)
        assert after.spec.created_by == before.spec.created_by
        assert after.spec.created_by.time == auth.clock.now() - timedelta(seconds=60)


async def test_a_role_given_later_denies_at_once_and_allows_only_after_the_next_login(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, _view(auth) as view:
        admin = await auth.admin()
        rules = {"rules": [{"resources": ["user"], "verbs": ["list", "read"]}]}
        for name, spec in (
            ("reader", {"allow": rules}),
            ("no-reader", {"deny": {**rules, "node_labels": {"*": ["*"]}}}),
        ):
            document = {"kind": "role", "version": "v4", "metadata": {"name": name}, "spec": spec}
            item = m.Document(msgspec.json.encode(document))
            await auth.call(admin, routes.STORE["role"], m.StoreRequest(item=item))
        await _made(auth, view, "alice", "access")
        ssh, tls = await _user_certificates(auth, "alice")

        def reach() -> bool:
            identity = view.present(view.verify_user(ssh))
            assert identity is not None
            policy, now = view.policy(), auth.clock.now()
            return not why_out_of_reach(identity, policy, cluster=CLUSTER, now=now, node_id="n", node_labels={})

        async def give(*roles: str) -> None:
            await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="alice", roles=list(roles)))
            stored = await auth.backend.get("users/alice")
            assert stored is not None
            await wait_until(lambda: _revision(view, "users/alice") == stored.revision)

        assert reach()
        await give("access", "reader")
        with pytest.raises(AccessDenied):
            await auth.call(tls, routes.LIST["user"], m.ListRequest())
        _, tls = await _user_certificates(auth, "alice")
        await auth.call(tls, routes.LIST["user"], m.ListRequest())
        await give("access", "reader", "no-reader")
        assert not reach()
        with pytest.raises(AccessDenied):
            await auth.call(tls, routes.LIST["user"], m.ListRequest())
        await give("access", "reader")
        assert reach()
        await give("access")
        with pytest.raises(AccessDenied):
            await auth.call(tls, routes.LIST["user"], m.ListRequest())


@pytest.mark.parametrize("role", ["held", "given since"])
async def test_a_lock_on_a_role_stops_whoever_has_it_now(role: str) -> None:
    now = FakeClock().now()
    user = User(metadata=Metadata(name="alice"), spec=UserSpec(roles=("held", "given since")))
    identity = UserIdentity("alice", CLUSTER, ("held",), ("root",), now + timedelta(hours=1))
    present = user_present(identity, user, now)
    assert present is not None
    lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(role=role)))
    api = evaluate_api_access(APIAccessRequest(present, Verb.LIST, Kind.NODE, CLUSTER, now, locks=[lock]), Policy())
    assert isinstance(api, AccessDenial)
    assert api.code is DenialCode.LOCKED
    ssh = evaluate_ssh_access(SSHAccessRequest(present, "root", CLUSTER, now, "n", locks=[lock]), Policy())
    assert isinstance(ssh, AccessDenial)
    assert ssh.code is DenialCode.LOCKED


def test_what_a_host_held_before_it_was_expelled_does_not_come_back_to_life() -> None:
    """Neither when it joins in the role again, nor when it joins anew after it lost the last one."""
    now = FakeClock().now()
    joined = with_role(with_role(HostRecord(host_id="h"), SystemRole.NODE, now), SystemRole.PROXY, now)
    old = HostIdentity("h", CLUSTER, SystemRole.PROXY, now + HOST_LIFETIME)
    assert host_counts(old, joined)
    later = now + timedelta(hours=1)
    fresh = HostIdentity("h", CLUSTER, SystemRole.PROXY, later + HOST_LIFETIME)
    for remaining in (
        without_role(joined, SystemRole.PROXY),
        without_role(without_role(joined, SystemRole.PROXY), SystemRole.NODE),
    ):
        assert not host_counts(old, remaining)
        again = with_role(remaining, SystemRole.PROXY, later)
        assert not host_counts(old, again)
        assert host_counts(fresh, again)


@pytest.mark.parametrize("role", [SystemRole.PROXY, SystemRole.ADMIN])
@pytest.mark.parametrize("why", ["unknown", "expelled", "role gone", "joined anew", None])
def test_a_hosts_certificate_counts_only_while_the_host_is_what_it_says(why: str | None, role: SystemRole) -> None:
    now = FakeClock().now()
    identity = HostIdentity("h", CLUSTER, role, now + HOST_LIFETIME)
    record = {
        "unknown": None,
        "expelled": HostRecord(host_id="h", roles=[str(role)], expelled=True),
        "role gone": HostRecord(host_id="h", roles=["Node"]),
        "joined anew": HostRecord(
            host_id="h", roles=[str(role)], valid_from=now + CLOCK_SLACK + timedelta(milliseconds=1)
        ),
        None: HostRecord(host_id="h", roles=["Node", str(role)], valid_from=now),
    }[why]
    assert host_counts(identity, record) is (why is None)


async def test_the_administrator_of_an_auth_server_that_is_no_host_any_more_may_do_nothing(tmp_path: Path) -> None:
    """A restore leaves out the server that made the backup: whoever has its disk must not be administrator."""
    async with running_auth(tmp_path) as auth:
        other = await auth.host(SystemRole.ADMIN, name="lost")
        await auth.call(other, routes.STATUS, m.Empty())
        await auth.backend.commit([DeleteOp(records.HOSTS + other.host_id)])
        with pytest.raises(AccessDenied, match="does not belong"):
            await auth.call(other, routes.STATUS, m.Empty())
        await auth.call(await auth.admin(), routes.STATUS, m.Empty())


def records_put(host_id: str, record: HostRecord) -> PutOp:
    return PutOp(records.HOSTS + host_id, record.encode())
