"""Two clusters come to trust each other, keep up with each other's authorities, and part; and what is refused."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities.rotation import NotFollowed
from teleport.auth.clusters import statements
from teleport.auth.clusters.root import NOT_BELIEVED
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, TeleportError
from teleport.identity import RemoteOrigin, SystemRole
from teleport.pki.cluster_statement import Purpose, SignedStatement, StatedKeys, Statement, sign_statement
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.pki.x509cert import new_tls_authority, pem_of
from teleport.resources.authority import Authority, RoleMapping, RotationMode, RotationPhase
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster
from teleport.store import records
from teleport.store.records import ClusterLink
from teleport.testing.auth import ANONYMOUS, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until
from teleport.testing.two_clusters import TwoClusters, lead_to, two_clusters


async def stored(auth: RunningAuth, key: str) -> Any:
    item = await auth.backend.get(key)
    return None if item is None else from_json(item.value)


async def ssh_keys(auth: RunningAuth, kind: str, cluster: str) -> tuple[str, ...]:
    found = await stored(auth, records.authority_key(kind, cluster))
    return found.trusted_ssh_keys if isinstance(found, Authority) else ()


async def got(auth: RunningAuth, kind: str, name: str) -> Any:
    reply = await auth.call(await auth.admin(), routes.GET[kind], m.GetRequest(name=name))
    return from_json(bytes(reply.item))


async def remove(auth: RunningAuth, kind: str, name: str) -> m.Done:
    reply = await auth.call(await auth.admin(), routes.REMOVE[kind], m.ExpelRequest(name=name))
    assert isinstance(reply, m.Done)
    return reply


async def turn(
    auth: RunningAuth, phase: str, *, types: tuple[str, ...] = ("user", "host"), force: bool = False
) -> None:
    """A step of a rotation by hand; this auth's own services follow at once."""
    request = m.RotateRequest(types=list(types), phase=phase, mode="manual", grace_period=3600, force=force)
    await auth.call(await auth.admin(), routes.ROTATE, request)
    if phase != "init":
        await auth.follow_rotation()


async def test_a_token_makes_two_clusters_trust_each_other(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        token = await both.token(labels={"env": "prod"})
        reply = await both.create(await both.document(token, name="whatever"))
        assert (reply.name, reply.note) == ("root", ""), "it is called as the root calls itself"
        trusted = await got(both.leaf, "trusted_cluster", "root")
        assert isinstance(trusted, TrustedCluster)
        assert trusted.spec.token is None
        assert trusted.status.last_exchange is not None
        assert await ssh_keys(both.leaf, "user", "root") == await ssh_keys(both.root, "user", "root")
        assert await ssh_keys(both.leaf, "host", "root") == await ssh_keys(both.root, "host", "root")
        remote = await got(both.root, "remote_cluster", "leaf")
        assert isinstance(remote, RemoteCluster)
        assert dict(remote.metadata.labels) == {"env": "prod"}
        assert await ssh_keys(both.root, "host", "leaf") == await ssh_keys(both.leaf, "host", "leaf")
        assert await stored(both.root, records.authority_key("user", "leaf")) is None, "its users are nobody here"
        for auth, kind in ((both.leaf, "user"), (both.leaf, "host"), (both.root, "host")):
            other = "root" if auth is both.leaf else "leaf"
            authority = await stored(auth, records.authority_key(kind, other))
            assert authority == authority.without_secrets()
        assert token not in repr([item.value for item in await both.leaf.backend.range("")])
        (created,) = await both.leaf.events("trusted_cluster.create")
        assert (created["code"], created["name"], created["role_map"]) == ("T7000I", "root", {"access": ["access"]})
        (taken,) = await both.root.events("remote_cluster.create")
        assert (taken["code"], taken["name"], taken["labels"]) == ("T9321I", "leaf", {"env": "prod"})
        (made,) = await both.root.events("trusted_cluster_token.create")
        assert made["code"] == "T7002I"
        assert taken["token"] == made["name"]


async def test_a_token_is_good_for_what_it_says_only(tmp_path: Path) -> None:
    """T11: wrong, of another type, expired, used: one answer, and the reason on record at the root."""
    async with two_clusters(tmp_path) as both:
        clock = both.root.clock
        assert isinstance(clock, FakeClock)
        short, once = await both.token(ttl=60), await both.token(single_use=True)
        clock.advance(61)
        for bad in ("0" * 32, await both.token(roles=["node", "proxy"]), short):
            with pytest.raises(AccessDenied, match="unknown, has expired, was used up, or is not for trusted clusters"):
                await both.create(await both.document(bad))
        assert await stored(both.leaf, records.TRUSTED_CLUSTERS + "root") is None
        assert await stored(both.root, records.REMOTE_CLUSTERS + "leaf") is None
        with pytest.raises(BadRequest, match="without a token"):
            await both.create(await both.document())
        await both.create(await both.document(once))
        async with running_auth(tmp_path / "third", clock=clock, cluster="third") as third:
            lead_to(third, both.root)
            other = TwoClusters(both.root, third)
            with pytest.raises(AccessDenied, match="was used up"):
                await other.create(await other.document(once))
        failures = await both.root.events("remote_cluster.create", wait_for=5)
        reasons = [event["error"] for event in failures if event["code"] == "T9321W"]
        assert sorted(reason.partition(" for")[0] for reason in reasons) == [
            "the single-use token was used",
            "the token is not",
            "the token is unknown or has expired",
            "the token is unknown or has expired",
        ]
        request = m.JoinRequest(
            token=await both.token(), host_id="7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11", node_name="n",
            role="trusted_cluster", public_ssh_key="", public_tls_key="",
        )  # fmt: skip
        with pytest.raises(BadRequest, match="no host joins with the type"):
            await both.root.call(ANONYMOUS, routes.JOIN, request)


async def test_a_token_that_names_a_cluster_lets_in_that_one_alone(tmp_path: Path) -> None:
    """Whoever holds a token chooses the name of their cluster, unless the token says it."""
    async with two_clusters(tmp_path) as both:
        with pytest.raises(AccessDenied, match="is for the cluster other, and this one is called leaf") as refused:
            await both.create(await both.document(await both.token(cluster="other")))
        assert "tctl tokens add --type=trusted_cluster --cluster=leaf" in refused.value.hint
        assert await stored(both.root, records.REMOTE_CLUSTERS + "leaf") is None
        assert await stored(both.leaf, records.TRUSTED_CLUSTERS + "root") is None
        (failed,) = [event for event in await both.root.events("remote_cluster.create") if event["code"] == "T9321W"]
        assert "is for the cluster other" in failed["error"]
        await both.create(await both.document(await both.token(cluster="leaf", single_use=True)))
        made = await both.root.events("trusted_cluster_token.create", wait_for=2)
        assert {event["for_cluster"] for event in made} == {"other", "leaf"}
        for cluster in ("Leaf", "com", "a b", "10.0.0.1"):
            with pytest.raises(BadRequest, match=r"spec\.cluster"):
                await both.token(cluster=cluster)
        with pytest.raises(BadRequest, match=r"spec\.cluster"):
            await both.token(cluster="leaf", roles=["node"])


async def test_no_token_goes_to_whoever_does_not_prove_the_pin(tmp_path: Path) -> None:
    """T13: another cluster in between learns nothing; without pins a web certificate has to be known here."""
    async with (
        two_clusters(tmp_path) as both,
        running_auth(tmp_path / "third", clock=both.root.clock, cluster="third") as third,
    ):
        wanted = await both.document(await both.token())
        lead_to(both.leaf, third)
        with pytest.raises(AccessDenied):
            await both.create(wanted)
        spec = msgspec.structs.replace(wanted.spec, ca_pins=())
        with pytest.raises(TeleportError, match="does not prove who it is") as refused:
            await both.create(msgspec.structs.replace(wanted, spec=spec))
        assert "ca_pins" in refused.value.hint
        assert await third.events("remote_cluster.create", wait_for=0) == []
        lead_to(both.leaf, both.root)
        await both.create(wanted)


async def test_what_an_operator_may_not_write(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        token = await both.token()
        with pytest.raises(NotFound, match="roles that do not exist here: 'nope'"):
            await both.create(await both.document(token, [RoleMapping(remote="x", local=("access", "nope"))]))
        await both.create(await both.document(token))
        with pytest.raises(AlreadyExists):
            await both.create(await both.document(token))
        with pytest.raises(AlreadyExists, match="the name of the cluster behind"):
            await both.create(await both.document(token, name="again"))
        changed = await both.document(token, [RoleMapping(remote="*", local=("editor",))])
        with pytest.raises(BadRequest, match="only enabled may change"):
            await both.create(changed, force=True)
        for kind in ("user", "host"):
            with pytest.raises(BadRequest, match="exchanged with that cluster"):
                await remove(both.leaf, "cert_authority", f"{kind}/root")
        authority = await both.root.service.state.authority("user")
        item = m.Document(to_json(authority, with_secrets=True))
        with pytest.raises(BadRequest, match="exchanged with that cluster"):
            await both.leaf.call(
                await both.leaf.admin(), routes.STORE["cert_authority"], m.StoreRequest(item=item, force=True)
            )
        made = RemoteCluster(metadata=Metadata(name="mine"))
        with pytest.raises(BadRequest, match="not made by hand"):
            await both.root.call(
                await both.root.admin(), routes.STORE["remote_cluster"], m.StoreRequest(item=m.Document(to_json(made)))
            )
        with pytest.raises(BadRequest, match="names with remote-"):
            await both.leaf.call(
                await both.leaf.admin(), routes.ADD_USER, m.AddUserRequest(name="remote-a-root", roles=["access"])
            )


async def test_who_may_establish_trust(tmp_path: Path) -> None:
    """An editor may, as in the reference; others may not, nor see what is trusted."""
    async with two_clusters(tmp_path) as both:
        item = m.Document(to_json(await both.document(await both.token()), with_secrets=True))
        for who in (
            ANONYMOUS,
            await both.leaf.user("ann", ["access"]),
            await both.leaf.host(SystemRole.PROXY),
            await both.leaf.host(SystemRole.NODE),
        ):
            with pytest.raises(AccessDenied):
                await both.leaf.call(who, routes.STORE["trusted_cluster"], m.StoreRequest(item=item))
        editor = await both.leaf.user("eve", ["editor"])
        await both.leaf.call(editor, routes.STORE["trusted_cluster"], m.StoreRequest(item=item))
        for who in (await both.leaf.user("ann", ["access"]), ANONYMOUS, await both.leaf.host(SystemRole.NODE)):
            with pytest.raises(AccessDenied):
                await both.leaf.call(who, routes.REMOVE["trusted_cluster"], m.ExpelRequest(name="root"))
        with pytest.raises(AccessDenied):
            await both.leaf.call(
                await both.leaf.user("ann", ["access"]), routes.GET["trusted_cluster"], m.GetRequest(name="root")
            )
        await both.leaf.call(editor, routes.REMOVE["trusted_cluster"], m.ExpelRequest(name="root"))


@pytest.mark.parametrize("name", ["root", "Root"])
async def test_a_cluster_with_the_same_name_is_not_trusted(tmp_path: Path, name: str) -> None:
    async with two_clusters(tmp_path, leaf=name) as both:
        with pytest.raises(BadRequest, match="as this one is"):
            await both.establish()


async def test_names_that_clash_are_refused_on_both_sides(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        clock = both.root.clock
        async with running_auth(tmp_path / "false", clock=clock, cluster="leaf") as false:
            lead_to(false, both.root)
            another = TwoClusters(both.root, false)
            with pytest.raises(AccessDenied, match="another cluster leaf already"):
                await another.establish()
            await remove(both.root, "remote_cluster", "leaf")
            await another.establish()  # the name is free again
        async with running_auth(tmp_path / "east", clock=clock, cluster="east-root") as east:
            lead_to(both.leaf, east)
            with pytest.raises(BadRequest, match="could not be told from those of the trusted cluster root"):
                await TwoClusters(east, both.leaf).establish()
        lead_to(both.root, both.leaf)
        with pytest.raises(BadRequest, match="do not trust each other both ways"):
            await TwoClusters(both.leaf, both.root).establish()


@pytest.mark.parametrize(("root", "leaf"), [("a.example.com", "example.com"), ("root", "x.corp")])
async def test_a_leaf_does_not_take_the_names_of_the_roots_hosts(tmp_path: Path, root: str, leaf: str) -> None:
    """Whoever holds a token chooses the name of a cluster, and what ends with it is led there."""
    async with two_clusters(tmp_path, root=root, leaf=leaf) as both:
        host = await both.root.host(SystemRole.NODE, name="db.x.corp")
        server = Server(metadata=Metadata(name=host.host_id), spec=ServerSpec(hostname="db.x.corp"))
        await both.root.call(host, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
        with pytest.raises(AccessDenied, match="could not be told from ours"):
            await both.establish()
        assert await both.root.backend.get(records.REMOTE_CLUSTERS + leaf) is None


async def test_trust_is_switched_and_removed_and_the_root_hears_of_it(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        wanted = await both.establish()
        off = msgspec.structs.replace(wanted, spec=msgspec.structs.replace(wanted.spec, enabled=False))
        await both.create(off, force=True)
        assert not (await got(both.leaf, "trusted_cluster", "root")).spec.enabled
        assert await both.exchange() == "", "it keeps up, so that it can be switched on again"
        await both.create(wanted, force=True)
        assert (await got(both.leaf, "trusted_cluster", "root")).spec.enabled
        states = [event["enabled"] for event in await both.leaf.events("trusted_cluster.update", wait_for=2)]
        assert sorted(states) == [False, True]
        reply = await remove(both.leaf, "trusted_cluster", "root")
        assert reply.note == ""
        for key in (
            records.TRUSTED_CLUSTERS + "root",
            records.CLUSTER_LINKS + "root",
            records.authority_key("user", "root"),
            records.authority_key("host", "root"),
        ):
            assert await both.leaf.backend.get(key) is None, key
        assert (await got(both.root, "remote_cluster", "leaf")).removed
        (gone,) = await both.root.events("remote_cluster.update")
        assert gone["removed"]
        (deleted,) = await both.leaf.events("trusted_cluster.delete")
        assert deleted["code"] == "T7001I"
        await both.establish()  # the same cluster comes back with a new token
        assert not (await got(both.root, "remote_cluster", "leaf")).removed
        await remove(both.root, "remote_cluster", "leaf")
        assert await both.root.backend.get(records.authority_key("host", "leaf")) is None
        assert NOT_BELIEVED in await both.exchange()
        assert NOT_BELIEVED in (await got(both.leaf, "trusted_cluster", "root")).status.problem
        reply = await remove(both.leaf, "trusted_cluster", "root")
        assert "could not be told" in reply.note


async def test_labels_of_a_remote_cluster_change_and_nothing_else(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        cluster = RemoteCluster(metadata=Metadata(name="leaf", labels={"env": "dev"}))
        item = m.Document(to_json(cluster))
        admin = await both.root.admin()
        await both.root.call(admin, routes.STORE["remote_cluster"], m.StoreRequest(item=item, force=True))
        assert dict((await got(both.root, "remote_cluster", "leaf")).metadata.labels) == {"env": "dev"}
        assert await both.exchange() == ""
        assert dict((await got(both.root, "remote_cluster", "leaf")).metadata.labels) == {"env": "dev"}


async def test_people_see_the_clusters_that_they_may_go_to(tmp_path: Path) -> None:
    """T34: what is listed is what `cluster_labels` of roles let somebody reach; an editor sees all."""
    async with two_clusters(tmp_path) as both:
        await both.create(await both.document(await both.token(labels={"env": "prod"})))
        ann, eve = await both.root.user("ann", ["access"]), await both.root.user("eve", ["editor"])
        for who, seen in ((ann, 0), (eve, 1)):
            page = await both.root.call(who, routes.LIST["remote_cluster"], m.ListRequest())
            assert len(page.items) == seen
        with pytest.raises(NotFound):
            await both.root.call(ann, routes.GET["remote_cluster"], m.GetRequest(name="leaf"))
        plain = m.Document(to_json(RemoteCluster(metadata=Metadata(name="leaf"))))
        admin = await both.root.admin()
        await both.root.call(admin, routes.STORE["remote_cluster"], m.StoreRequest(item=plain, force=True))
        await both.root.call(ann, routes.GET["remote_cluster"], m.GetRequest(name="leaf"))


async def test_proxies_tell_that_a_cluster_is_there(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        assert (await got(both.root, "remote_cluster", "leaf")).status.connection == "offline"
        seen = m.SeenClustersRequest(clusters=["leaf", "unknown"])
        for who in (ANONYMOUS, await both.root.host(SystemRole.NODE), await both.root.user("eve", ["editor"])):
            with pytest.raises(AccessDenied):
                await both.root.call(who, routes.SEEN_CLUSTERS, seen)
        await both.root.call(await both.root.host(SystemRole.PROXY), routes.SEEN_CLUSTERS, seen)
        assert (await got(both.root, "remote_cluster", "leaf")).status.connection == "online"
        assert await both.root.backend.get(records.CLUSTER_LINKS + "unknown") is None


# rotations


async def test_authorities_of_both_sides_are_rotated_in_turn(tmp_path: Path) -> None:
    """Each phase reaches the other side by an exchange; at the end each holds the new keys and no others."""
    async with two_clusters(tmp_path) as both:
        await both.establish()
        for auth, other, kinds in ((both.root, both.leaf, ("user", "host")), (both.leaf, both.root, ("host",))):
            before = {kind: await ssh_keys(auth, kind, auth.cluster) for kind in kinds}
            for phase in ("init", "update_clients", "update_servers", "standby"):
                await turn(auth, phase)
                assert await both.exchange() == "", phase
                for kind in kinds:
                    assert await ssh_keys(other, kind, auth.cluster) == await ssh_keys(auth, kind, auth.cluster), phase
            for kind in kinds:
                now = await ssh_keys(other, kind, auth.cluster)
                assert len(now) == 1
                assert set(now).isdisjoint(before[kind])
        authority = await stored(both.leaf, records.authority_key("user", "root"))
        assert [len(one.ssh) for one in authority.spec.retired_keys] == [1], "what was let go is known, too"
        assert await both.leaf.events("cluster_authority.update", wait_for=4)


async def test_a_rotation_waits_for_a_cluster_as_for_a_host(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        clock = both.root.clock
        assert isinstance(clock, FakeClock)
        await both.establish()
        rotations = both.root.service.rotations
        await both.cut()
        await turn(both.root, "init", types=("user",))
        authority = await both.root.service.state.authority("user")
        (missing,) = await rotations.followers.missing(authority)
        assert (missing.kind, missing.host_id) == ("remote_cluster", "leaf")
        with pytest.raises(TeleportError, match="remote cluster leaf: does not hold the new keys yet"):
            await turn(both.root, "update_clients", types=("user",))
        progress = await both.root.call(await both.root.admin(), routes.ROTATION_PROGRESS, m.Empty())
        assert [(one.service, one.hostname) for one in progress.waiting] == [("remote_cluster", "leaf")]
        lead_to(both.leaf, both.root)
        assert await both.exchange() == ""
        await turn(both.root, "update_clients", types=("user",))
        await turn(both.root, "rollback", types=("user",))
        await turn(both.root, "standby", types=("user",))
        await both.cut()
        await turn(both.root, "init", types=("host",))
        clock.advance(600)
        await turn(both.root, "update_clients", types=("host",))  # who is silent is not waited for
        await turn(both.leaf, "init", types=("user",))
        await turn(both.leaf, "update_clients", types=("user",))  # nobody over there holds that


async def test_force_goes_on_without_the_other_cluster(tmp_path: Path) -> None:
    """Who missed the whole rotation believes nobody any more, and is told what to do."""
    async with two_clusters(tmp_path) as both:
        await both.establish()
        await both.cut()
        await turn(both.root, "init", types=("host",))
        found = [await both.root.service.state.need(f"{records.AUTHORITIES}host/", "root", Authority)]
        with pytest.raises(NotFollowed):
            await both.root.service.rotations.plan(found, RotationPhase.UPDATE_CLIENTS, RotationMode.MANUAL)
        for phase in ("update_clients", "update_servers", "standby"):
            await turn(both.root, phase, types=("host",), force=True)
        lead_to(both.leaf, both.root)
        problem = await both.exchange()
        assert "cannot prove" in problem
        trusted = await got(both.leaf, "trusted_cluster", "root")
        assert trusted.status.problem
        await remove(both.leaf, "trusted_cluster", "root")
        await both.establish()
        assert await both.exchange() == ""


# what a hostile leaf, or somebody in its name, may try


class Forger:
    """Says things to the root's auth service that the leaf's would not."""

    def __init__(self, both: TwoClusters) -> None:
        self.both = both

    async def honest(self) -> Statement:
        """What the leaf would say next."""
        statements = self.both.leaf.service.clusters.statements
        signed, _ = await statements.make(Purpose.EXCHANGE, "root", sent=await self._taken() + 1, holds=())
        return msgspec.json.decode(signed.document, type=Statement)

    async def _taken(self) -> int:
        found = await self.both.root.service.state.record(records.CLUSTER_LINKS + "leaf", ClusterLink)
        assert found is not None
        return found[0].taken

    async def key(self, cluster: str = "leaf") -> PrivateKey:
        auth = self.both.leaf if cluster == "leaf" else self.both.root
        secret = (await auth.service.state.authority("host")).spec.active_keys.ssh[0].private_key
        assert secret is not None
        return auth.service.state.keys.load(secret)

    async def say(self, statement: Statement, *keys: PrivateKey) -> m.ClusterStatement:
        signed = sign_statement(statement, list(keys) or [await self.key()])
        return await self.send(signed)

    async def send(self, signed: SignedStatement) -> m.ClusterStatement:
        request = m.ExchangeRequest(document=signed.document, signatures=dict(signed.signatures))
        reply = await self.both.root.call(ANONYMOUS, routes.EXCHANGE_AUTHORITIES, request)
        assert isinstance(reply, m.ClusterStatement)
        return reply


def fresh(cluster: str) -> StatedKeys:
    pem = pem_of(new_tls_authority(cluster, generate_p256(), FakeClock().now())).decode()
    return StatedKeys(ssh=(generate_ed25519().public.line(),), tls=(pem,))


async def of_root(both: TwoClusters, kind: str) -> StatedKeys:
    authority = await both.root.service.state.authority(kind)
    return StatedKeys(ssh=authority.trusted_ssh_keys, tls=authority.trusted_tls_certs)


Attack = Callable[[Forger], Awaitable[object]]


async def _as_the_root(forger: Forger) -> object:
    changed = msgspec.structs.replace(await forger.honest(), cluster="root", host=fresh("root"), user=fresh("root"))
    return await forger.say(changed)


async def _as_the_root_by_its_own_key(forger: Forger) -> object:
    changed = msgspec.structs.replace(await forger.honest(), cluster="root", host=fresh("root"), user=fresh("root"))
    return await forger.say(changed, await forger.key("root"))


async def _as_another_leaf(forger: Forger) -> object:
    changed = msgspec.structs.replace(await forger.honest(), cluster="other", host=fresh("other"), user=fresh("other"))
    return await forger.say(changed)


async def _with_the_roots_host_keys(forger: Forger) -> object:
    theirs = await of_root(forger.both, "host")
    mine = (await forger.honest()).host
    mixed = StatedKeys(ssh=(*mine.ssh, *theirs.ssh), tls=mine.tls)
    return await forger.say(msgspec.structs.replace(await forger.honest(), host=mixed))


async def _with_the_roots_user_keys(forger: Forger) -> object:
    theirs = await of_root(forger.both, "user")
    mine = (await forger.honest()).host
    mixed = StatedKeys(ssh=(*mine.ssh, *theirs.ssh), tls=mine.tls)
    return await forger.say(msgspec.structs.replace(await forger.honest(), host=mixed))


async def _with_the_roots_certificate(forger: Forger) -> object:
    theirs = await of_root(forger.both, "host")
    mine = (await forger.honest()).host
    mixed = StatedKeys(ssh=mine.ssh, tls=(*mine.tls, *theirs.tls))
    return await forger.say(msgspec.structs.replace(await forger.honest(), host=mixed))


async def _for_another_audience(forger: Forger) -> object:
    return await forger.say(msgspec.structs.replace(await forger.honest(), audience="elsewhere"))


async def _by_a_strange_key(forger: Forger) -> object:
    return await forger.say(await forger.honest(), generate_ed25519())


async def _by_a_key_that_it_brings(forger: Forger) -> object:
    key = generate_ed25519()
    host = StatedKeys(ssh=(key.public.line(),), tls=fresh("leaf").tls)
    return await forger.say(msgspec.structs.replace(await forger.honest(), host=host), key)


async def _by_the_users_authority(forger: Forger) -> object:
    secret = (await forger.both.leaf.service.state.authority("user")).spec.active_keys.ssh[0].private_key
    assert secret is not None
    return await forger.say(await forger.honest(), forger.both.leaf.service.state.keys.load(secret))


async def _replayed(forger: Forger) -> object:
    signed = sign_statement(await forger.honest(), [await forger.key()])
    await forger.send(signed)
    return await forger.send(signed)


async def _older(forger: Forger) -> object:
    old = msgspec.structs.replace(await forger.honest(), issued=1)
    return await forger.say(old)


async def _meant_to_establish(forger: Forger) -> object:
    return await forger.say(msgspec.structs.replace(await forger.honest(), purpose=Purpose.ESTABLISH))


@pytest.mark.parametrize(
    "attack",
    [
        _as_the_root,
        _as_the_root_by_its_own_key,
        _as_another_leaf,
        _with_the_roots_host_keys,
        _with_the_roots_user_keys,
        _with_the_roots_certificate,
        _for_another_audience,
        _by_a_strange_key,
        _by_a_key_that_it_brings,
        _by_the_users_authority,
        _replayed,
        _older,
        _meant_to_establish,
    ],
)
async def test_a_leaf_changes_nothing_but_its_own_authority(tmp_path: Path, attack: Attack) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        forger = Forger(both)
        before = {
            item.key: item.value
            for prefix in (records.AUTHORITIES, records.REMOTE_CLUSTERS)
            for item in await both.root.backend.range(prefix)
        }
        with pytest.raises(AccessDenied, match="does not know the other one") as refused:
            await attack(forger)
        assert refused.value.message == NOT_BELIEVED, "the same whatever was wrong"
        after = {
            item.key: item.value
            for prefix in (records.AUTHORITIES, records.REMOTE_CLUSTERS)
            for item in await both.root.backend.range(prefix)
        }
        assert after == before
        told = (await both.root.events("cluster_statement.refused"))[0]
        assert told["error"]
        assert told["code"] == "T9325W"
        await forger.say(await forger.honest())  # the honest one is believed as ever


async def test_a_key_that_a_rotation_ended_speaks_for_nobody(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        forger = Forger(both)
        old = await forger.key()
        for phase in ("init", "update_clients", "update_servers", "standby"):
            await turn(both.leaf, phase)
            assert await both.exchange() == ""
        with pytest.raises(AccessDenied):
            await forger.say(await forger.honest(), old)
        await forger.say(await forger.honest())


async def test_a_false_root_is_not_believed_by_the_leaf(tmp_path: Path) -> None:
    """What answers must prove the authority that is known; what it says must be signed by it, and not show ours."""
    async with two_clusters(tmp_path) as both:
        await both.establish()
        keys = await ssh_keys(both.leaf, "user", "root")
        async with running_auth(tmp_path / "false", clock=both.root.clock, cluster="root") as false:
            lead_to(both.leaf, false)
            assert "cannot prove" in await both.exchange()
        lead_to(both.leaf, both.root)
        assert await ssh_keys(both.leaf, "user", "root") == keys
        # a root that is taken over shows the leaf's own user authority as its own
        own = (await both.leaf.service.state.authority("user")).without_secrets()
        root = await both.root.service.state.authority("user")
        mixed = msgspec.structs.replace(root.spec, additional_trusted_keys=own.spec.active_keys)
        hostile = msgspec.structs.replace(root, spec=mixed)
        key = records.authority_key("user", "root")
        await both.root.service.state.commit([PutOp(key, to_json(hostile, with_secrets=True))], events=[])
        problem = await both.exchange()
        assert "certificate in another name" in problem or "shows a key of the user authority of leaf" in problem
        assert await ssh_keys(both.leaf, "user", "root") == keys
        assert await both.leaf.events("cluster_statement.refused")


async def test_authorities_are_exchanged_by_themselves_when_one_changes(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        request = m.RotateRequest(types=["host"], phase="init", mode="manual", grace_period=3600)
        await both.leaf.call(await both.leaf.admin(), routes.ROTATE, request)
        wanted = await ssh_keys(both.leaf, "host", "leaf")
        assert len(wanted) == 2
        seen: list[tuple[str, ...]] = []

        async def look() -> bool:
            seen[:] = [await ssh_keys(both.root, "host", "leaf")]
            return seen[0] == wanted

        for _ in range(500):
            if await look():
                break
            await _a_moment()
        assert seen == [wanted]


async def _a_moment() -> None:
    import asyncio

    with suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await asyncio.Event().wait()


async def test_what_open_routes_take_is_bounded(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        for document in ("", "{}", "x" * 59_000, json.dumps({"cluster": "leaf"})):
            with pytest.raises(AccessDenied):
                await both.root.call(
                    ANONYMOUS, routes.EXCHANGE_AUTHORITIES, m.ExchangeRequest(document=document, signatures={})
                )
        with pytest.raises(BadRequest, match="larger than"):
            await both.root.call(
                ANONYMOUS, routes.EXCHANGE_AUTHORITIES, m.ExchangeRequest(document="x" * 70_000, signatures={})
            )
        limited = False
        for _ in range(150):
            try:
                await both.root.call(
                    ANONYMOUS, routes.VALIDATE_CLUSTER,
                    m.ValidateClusterRequest(token="0" * 32, document="{}", signatures={}),
                )  # fmt: skip
            except AccessDenied:
                continue
            except TeleportError as error:
                limited = "too many attempts" in error.message
                break
        assert limited


# what another cluster states must say nothing but what was looked at


def _stating(monkeypatch: pytest.MonkeyPatch, cluster: str, kind: str, more: str) -> None:
    """The auth service of `cluster` is hostile: behind the certificate of an authority it writes `more`."""
    honest = statements._stated

    def stated(authority: Authority) -> StatedKeys:
        keys = honest(authority)
        if (authority.name, str(authority.type)) != (cluster, kind):
            return keys
        return msgspec.structs.replace(keys, tls=(keys.tls[0].strip() + "\n" + more,))

    monkeypatch.setattr(statements, "_stated", stated)


async def test_a_leaf_slips_no_other_certificate_in_behind_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People would believe it as the root's own authority."""
    async with two_clusters(tmp_path) as both:
        await both.establish()
        evil = pem_of(new_tls_authority("root", generate_p256(), both.root.clock.now())).decode()
        _stating(monkeypatch, "leaf", "host", f"# cluster root\n{evil}")
        assert await both.leaf.service.clusters.leaf.exchange("root") != ""
        alice = await both.root.user("alice", ["access"])
        reply = await both.root.call(alice, routes.RENEW_USER, m.RenewUserRequest())
        texts = [pem for one in reply.host_signers for pem in one.tls_certs]
        assert len(texts) == 2
        assert all(text.count("BEGIN") == 1 and evil.strip() not in text for text in texts)


async def test_what_a_root_writes_behind_its_certificate_does_not_end_the_leafs_auth_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        _stating(monkeypatch, "root", "user", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        assert await both.leaf.service.clusters.leaf.exchange("root") != ""
        await both.leaf.service.believe_now()
        leo = await both.leaf.user("leo", ["access"])
        assert (await both.leaf.call(leo, routes.WHO_AM_I, m.Empty())).name == "leo"


@pytest.mark.parametrize("name", ["LEAF", "com", "1", "0.1", "uk"])
async def test_a_leaf_takes_no_name_that_others_end_with_or_that_is_told_apart_by_case(
    tmp_path: Path, name: str
) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        async with running_auth(tmp_path / "third", clock=both.root.clock, cluster=name) as third:
            lead_to(third, both.root)
            other = TwoClusters(both.root, third)
            with pytest.raises((AccessDenied, BadRequest)):
                await other.create(await other.document(await other.token()))
        found = await both.root.backend.range(records.REMOTE_CLUSTERS)
        assert [item.key.removeprefix(records.REMOTE_CLUSTERS) for item in found] == ["leaf"]


async def test_a_root_does_not_say_who_users_of_another_root_are(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish((RoleMapping(remote="nothing", local=("access",)),))
        async with running_auth(tmp_path / "two", clock=both.root.clock, cluster="two") as two:
            lead_to(both.leaf, two)
            await TwoClusters(two, both.leaf).establish((RoleMapping(remote="admin", local=("editor",)),))
        state = both.root.service.clusters.root._state
        user = await state.authority("user")
        private = user.spec.active_keys.ssh[0].private_key
        assert private is not None
        key = state.keys.load(private)
        request = UserCertRequest(
            public_key=generate_ed25519().public,
            user="bob",
            logins=("root",),
            roles=("whatever",),
            ttl=timedelta(hours=1),
            recorded_by="7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11",
            origin=RemoteOrigin("two", "bob", ("admin",)),
        )
        certificate = issue_user_cert(request, key, "root", both.root.clock.now())
        with pytest.raises(AccessDenied, match="does not say who somebody of another cluster is here"):
            await both.leaf.service.clusters.root._state.ssh_user(certificate.blob)


async def test_a_root_that_never_answers_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        clusters, asked, over = both.leaf.service.clusters.leaf, threading.Event(), threading.Event()

        def stall(*_: object) -> None:
            asked.set()
            over.wait()

        monkeypatch.setattr(clusters.reaching, "call", stall)
        try:
            waiting = asyncio.create_task(clusters.exchange("root"))
            await wait_until(asked.is_set)
            assert await clusters.exchange("another") == ""
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            monkeypatch.setattr("teleport.auth.clusters.leaf.EXCHANGE_SECONDS", 0.05)
            assert "did not answer within" in await clusters.exchange("root")
        finally:
            over.set()
