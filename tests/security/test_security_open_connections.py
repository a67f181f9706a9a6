"""Connections to a node that outlive what they began with: the certificate, the user, the user's roles."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from teleport.authz.decision import ClusterDefaults
from teleport.authz.locks import locked_denial
from teleport.backend.interface import Changes, Item, Snapshot
from teleport.daemon.proxy_side import Directory
from teleport.daemon.starting.ground import DECIDED_BY
from teleport.daemon.view import NODE_KINDS, View
from teleport.errors import TeleportError
from teleport.identity import UserIdentity
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.pki.keys import generate_ed25519
from teleport.resources.authority import Authority, AuthoritySpec, AuthorityType, KeySet, SSHKeyPair
from teleport.resources.codec import Resource, to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.resources.server import Server, ServerSpec
from teleport.resources.user import User, UserSpec
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.store.cache import Cache
from teleport.store.resolve import RegisteredNode
from teleport.testing.clock import FakeClock
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()
LOCK = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(user="alice")))


async def _connect(lab: Lab) -> SshClient:
    user = lab.authorities.user([ME])
    key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())

    def check(certificate: bytes) -> None:
        lab.authorities.verify_host(certificate)

    return await connect(("127.0.0.1", lab.node_port), login=ME, key=key, check=check)


async def _run(client: SshClient) -> int | None:
    session = await client.start(command="true", on_output=lambda data, stderr: None)
    return (await session.wait()).status


@pytest.mark.parametrize("how", ["locked", "role taken", "certificate expired", "user removed", "authority removed"])
async def test_an_open_connection_starts_no_session_that_a_new_one_would_be_refused(
    launcher_end: LauncherEnd, how: str
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await _connect(lab)
        assert await _run(client) == 0
        match how:
            case "locked":
                lab.rules.locked = [LOCK]
            case "role taken":
                lab.rules.role = Role(metadata=Metadata(name="access"), spec=RoleSpec())
            case "certificate expired":
                lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(hours=2))
            case "user removed":
                lab.node._present = lambda identity: None  # as the view of a daemon answers then
            case "authority removed":
                lab.authorities.user_key = generate_ed25519()
        with pytest.raises(TeleportError):
            await _run(client)
        await lab.events.wait_for("session.request_denied")
        await client.close()


async def test_a_lock_ends_a_connection_whose_certificate_has_expired(launcher_end: LauncherEnd) -> None:
    """Expiry alone ends it only where a role says so; it must not hide that the user is locked."""
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await _connect(lab)
        lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(hours=2))
        lab.node.reconsider()
        assert lab.node.connections == 1
        assert not lab.events.named("client.disconnect")
        lab.rules.locked = [LOCK]
        lab.node.reconsider()
        event = (await lab.events.wait_for("client.disconnect"))[0]
        assert "no longer allowed" in getattr(event, "reason", "")
        await client.close()


async def test_a_setting_that_comes_later_ends_a_connection_whose_certificate_has_expired(
    launcher_end: LauncherEnd,
) -> None:
    """`disconnect_expired_cert` of the cluster: at once for certificates that are over, at their end for others."""
    async with running_lab(Launcher(launcher_end)) as lab:
        clock = FakeClock(lab.node.clock.now())
        lab.node.clock, lab.node.tools = clock, replace(lab.node.tools, clock=clock)
        client = await _connect(lab)
        lab.rules.cluster = ClusterDefaults(disconnect_expired_cert=True)
        lab.node.reconsider()
        assert await _run(client) == 0, "it is good for an hour"
        assert not lab.events.named("client.disconnect")
        lab.rules.cluster = ClusterDefaults()
        lab.node.reconsider()
        clock.advance(2 * 3600)
        lab.node.reconsider()
        assert not lab.events.named("client.disconnect")
        lab.rules.cluster = ClusterDefaults(disconnect_expired_cert=True)
        lab.node.reconsider()
        event = (await lab.events.wait_for("client.disconnect"))[0]
        assert getattr(event, "reason", "") == "the certificate has expired"
        await client.close()


async def test_a_label_of_the_host_that_changes_ends_what_rested_on_it(launcher_end: LauncherEnd) -> None:
    """T31: the daemon calls `reconsider` when the command of a dynamic label says something new."""
    async with running_lab(Launcher(launcher_end)) as lab:
        labels = {"stage": "test"}
        lab.node.labels = MutableLabels(labels)
        allow = Conditions(logins=(ME,), node_labels={"stage": ("test",)})
        lab.rules.role = Role(metadata=Metadata(name="access"), spec=RoleSpec(allow=allow))
        client = await _connect(lab)
        assert await _run(client) == 0
        lab.node.reconsider()
        assert not lab.events.named("client.disconnect")
        labels["stage"] = "production"
        lab.node.reconsider()
        event = (await lab.events.wait_for("client.disconnect"))[0]
        assert "role 'access'" in getattr(event, "reason", "")
        await client.close()
        with pytest.raises(TeleportError, match="do not allow the login"):
            await _connect(lab)


@dataclass
class MutableLabels:
    labels: dict[str, str]

    def current(self) -> dict[str, str]:
        return dict(self.labels)


async def test_removing_a_user_authority_ends_the_connections_that_its_certificates_opened(
    launcher_end: LauncherEnd,
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await _connect(lab)
        lab.node.reconsider()
        assert not lab.events.named("client.disconnect")
        lab.authorities.user_key = generate_ed25519()
        lab.node.reconsider()
        event = (await lab.events.wait_for("client.disconnect"))[0]
        assert "authority" in getattr(event, "reason", "")
        await client.close()
    assert "authorities/".startswith(DECIDED_BY), "the daemon calls reconsider for it"


async def test_the_proxy_leads_nobody_on_whose_certificate_ceased_to_count(launcher_end: LauncherEnd) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        user = lab.authorities.user([ME])
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
        outer = await connect(("127.0.0.1", lab.proxy_port), login=ME, key=key, check=lambda certificate: None)
        inner = await outer.through("node1", 0, login=ME, check=lambda certificate: None)
        lab.authorities.user_key = generate_ed25519()
        with pytest.raises(TeleportError, match="not signed by a user authority"):
            await outer.through("node1", 0, login=ME, check=lambda certificate: None)
        await lab.events.wait_for("session.request_denied")
        await inner.close()  # which closes what it went through


async def test_the_proxy_leads_nobody_on_who_was_locked_meanwhile(launcher_end: LauncherEnd) -> None:
    """The user hears that there is a lock; why there is one is on record only."""
    async with running_lab(Launcher(launcher_end)) as lab:
        user = lab.authorities.user([ME])
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
        outer = await connect(("127.0.0.1", lab.proxy_port), login=ME, key=key, check=lambda certificate: None)
        inner = await outer.through("node1", 0, login=ME, check=lambda certificate: None)
        lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"), message="affair"))
        lab.directory.forbidden = locked_denial(lock)
        with pytest.raises(TeleportError) as refused:
            await outer.through("node1", 0, login=ME, check=lambda certificate: None)
        assert refused.value.message == "Access is locked."
        assert "affair" not in refused.value.message + refused.value.hint
        event = (await lab.events.wait_for("session.request_denied"))[0]
        assert "locked: lock l on user: alice: affair" in getattr(event, "reason", "")
        await inner.close()


async def test_a_service_knows_which_user_authorities_are_left() -> None:
    clock, kept, gone = FakeClock(), generate_ed25519().public, generate_ed25519().public
    keys = KeySet(ssh=(SSHKeyPair(public_key=kept.line()),))
    spec = AuthoritySpec(type=AuthorityType.USER, cluster_name="c1", active_keys=keys)
    authority = Authority(sub_kind=AuthorityType.USER, metadata=Metadata(name="c1"), spec=spec)
    view = await _view(clock, ("authorities/user/c1", authority))
    assert view.trusts_user_authority(kept.blob)
    assert not view.trusts_user_authority(gone.blob)
    assert not view.trusts_user_authority(b"")


async def _view(clock: FakeClock, *resources: tuple[str, Resource]) -> View:
    """A view of these resources, by key."""
    items = [Item(key, to_json(one), number) for number, (key, one) in enumerate(resources, 1)]

    async def source() -> AsyncGenerator[Snapshot | Changes, None]:
        yield Snapshot(items, len(items))
        await asyncio.Event().wait()

    cache = Cache("test", clock, jitter=lambda: 0.5)
    filled = asyncio.Event()
    task = asyncio.create_task(cache.run(source, filled.set), name="cache")
    await filled.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return View(cache, clock, "c1")


def _user(name: str, *roles: str, expires: datetime | None = None) -> tuple[str, Resource]:
    return f"users/{name}", User(metadata=Metadata(name=name), spec=UserSpec(roles=roles, expires=expires))


async def test_a_service_knows_which_users_and_roles_are_left_of_a_certificate() -> None:
    clock = FakeClock()
    access = Role(
        metadata=Metadata(name="access"), spec=RoleSpec(allow=Conditions(logins=("a",), node_labels={"*": ("*",)}))
    )
    view = await _view(
        clock,
        _user("ann", "access", "new"),
        _user("ann-other", "access", "gone"),
        _user("old", "access", expires=clock.now()),
        ("roles/access", access),
        (
            "nodes/11111111-1111-4111-8111-111111111111",
            Server(
                metadata=Metadata(name="11111111-1111-4111-8111-111111111111"),
                spec=ServerSpec(hostname="n", addr="127.0.0.1:1"),
            ),
        ),
    )
    assert "user" in NODE_KINDS

    def identity(name: str) -> UserIdentity:
        return UserIdentity(name, "c1", ("access", "gone"), ("a",), clock.now() + timedelta(hours=1))

    present = view.present(identity("ann"))
    assert present is not None
    assert present.roles == ("access",)
    node = RegisteredNode("11111111-1111-4111-8111-111111111111", "n", "127.0.0.1:1")
    assert not Directory(view).why_hidden(identity("ann"), node)
    for name in ("old", "removed", "an", "ann-o"):
        assert view.present(identity(name)) is None
        assert Directory(view).why_hidden(identity(name), node)
