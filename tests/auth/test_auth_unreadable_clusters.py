"""What is stored of another cluster and cannot be read counts for nothing, and keeps nobody else out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities.following import Followers
from teleport.errors import AccessDenied, BadRequest, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.trusted_cluster import RemoteCluster
from teleport.store import records
from teleport.testing.two_clusters import TwoClusters, two_clusters

ROLE = """{"schema": 1, "kind": "role", "version": "v4", "metadata": {"name": "reader"}, "spec": {"allow":
{"rules": [{"resources": ["remote_cluster"], "verbs": ["list", "read", "delete", "create", "update"]}]}}}"""
BROKEN = {
    "edited by hand": b'{"schema": 1, "kind": "remote_cluster", "version',
    "of a newer version": b'{"schema": 2, "kind": "remote_cluster", "version": "v3", "metadata": {"name": "NAME"}}',
    "with a field of a newer version": b'{"schema": 1, "kind": "KIND", "version": "VERSION", "metadata": '
    b'{"name": "NAME"}, "spec": {"only_on_sundays": true}}',
    "under another name": b'{"schema": 1, "kind": "remote_cluster", "version": "v3", "metadata": {"name": "other"}}',
    "of another kind": to_json(RemoteCluster(metadata=Metadata(name="x"))).replace(b"remote_cluster", b"user"),
}
ONCE = itertools.count(1)


async def spoil(both: TwoClusters, kind: str, how: str = "edited by hand", name: str = "") -> None:
    """What the root holds of the leaf, or the leaf of the root, cannot be read any more."""
    side, name = (both.root, name or "leaf") if kind == "remote_cluster" else (both.leaf, name or "root")
    value = BROKEN[how].replace(b"NAME", name.encode()).replace(b"KIND", kind.encode())
    value = value.replace(b"VERSION", b"v3" if kind == "remote_cluster" else b"v2")
    await side.backend.put(records.PREFIX_OF_KIND[kind] + name, value + b" " * next(ONCE))  # what no test has read yet


@asynccontextmanager
async def trusting(tmp_path: Path) -> AsyncIterator[TwoClusters]:
    async with two_clusters(tmp_path) as both:
        await both.establish((RoleMapping(remote="access", local=("access",)),))
        yield both


@pytest.mark.parametrize("how", BROKEN)
async def test_people_log_in_to_the_root_though_a_leaf_cannot_be_read(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is as if that cluster were not there: nothing leads to it, and whoever comes from there is not believed."""
    async with trusting(tmp_path) as both:
        alice = await both.root.user("alice", ["access"])
        assert len((await both.root.call(alice, routes.RENEW_USER, m.RenewUserRequest())).host_signers) == 2
        with caplog.at_level(logging.ERROR):
            await spoil(both, "remote_cluster", how)
            for _ in range(3):
                certs = await both.root.call(alice, routes.RENEW_USER, m.RenewUserRequest())
                assert [one.domain_name for one in certs.host_signers] == ["root"]
        assert sum("remote_cluster leaf cannot be read" in one.getMessage() for one in caplog.records) == 1
        with pytest.raises(NotFound, match="is not known here"):
            await both.root.call(alice, routes.RENEW_USER, m.RenewUserRequest(route_to_cluster="leaf"))
        page = await both.root.call(alice, routes.LIST["remote_cluster"], m.ListRequest())
        assert (page.items, page.unreadable) == ([], []), "who may go to it by its labels: nobody knows"
        with pytest.raises(NotFound):
            await both.root.call(alice, routes.GET["remote_cluster"], m.GetRequest(name="leaf"))
        assert await both.leaf.service.clusters.leaf.exchange("root"), "the leaf is told no"
        await both.root.call(
            await both.root.host(SystemRole.PROXY), routes.SEEN_CLUSTERS, m.SeenClustersRequest(clusters=["leaf"])
        )


async def test_nobody_of_a_root_that_cannot_be_read_gets_in_and_all_others_do(tmp_path: Path) -> None:
    async with trusting(tmp_path) as both:
        await both.root.user("alice", ["access"])
        key = generate_p256()
        request = m.SignUserRequest(name="alice", public_key=key.public.line(), ttl=3600)
        certs = await both.root.call(await both.root.admin(), routes.SIGN_USER, request)
        alice, lea = both.leaf.keep(key, certs.tls_cert), await both.leaf.user("lea", ["access"])
        await both.leaf.service.believe_now()
        assert (await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())).roles == ["access"]
        await spoil(both, "trusted_cluster")
        await both.leaf.service.believe_now()
        with pytest.raises(TeleportError):
            await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())
        assert (await both.leaf.call(lea, routes.WHO_AM_I, m.Empty())).roles == ["access"]
        await both.leaf.call(lea, routes.RENEW_USER, m.RenewUserRequest())
        assert "cannot be read" in await both.leaf.service.clusters.leaf.exchange("root")


async def test_what_cannot_be_read_is_shown_with_the_reason_and_removed_by_an_administrator(tmp_path: Path) -> None:
    async with trusting(tmp_path) as both:
        for kind, side, name in (("remote_cluster", both.root, "leaf"), ("trusted_cluster", both.leaf, "root")):
            await spoil(both, kind, "with a field of a newer version")
            await spoil(both, kind, name="another")
            admin = await side.admin()
            page = await side.call(admin, routes.LIST[kind], m.ListRequest())
            assert page.items == []
            assert [one.name for one in page.unreadable] == ["another", name]
            assert "only_on_sundays" in page.unreadable[1].problem
            with pytest.raises(BadRequest, match="cannot be read, and counts for nothing") as refused:
                await side.call(admin, routes.GET[kind], m.GetRequest(name=name))
            assert "tctl rm" in refused.value.hint
            item = m.Document(to_json(await both.document(), with_secrets=True))
            if kind == "remote_cluster":
                item = m.Document(to_json(RemoteCluster(metadata=Metadata(name=name))))
            with pytest.raises(TeleportError, match="cannot be read, and counts for nothing"):
                await side.call(admin, routes.STORE[kind], m.StoreRequest(item=item, force=True))
            note = (await side.call(admin, routes.REMOVE[kind], m.ExpelRequest(name=name))).note
            assert kind == "remote_cluster" or "its address cannot be read" in note
            await side.call(admin, routes.REMOVE[kind], m.ExpelRequest(name="another"))
            page = await side.call(admin, routes.LIST[kind], m.ListRequest())
            assert (page.items, page.unreadable) == ([], [])
            assert await side.backend.get(records.authority_key("host", name)) is None
        assert await both.establish(), "the trust is made anew"


async def test_a_rule_shows_it_but_only_an_administrator_takes_it_away(tmp_path: Path) -> None:
    """Conditions of roles ask for labels, which nobody can read there."""
    async with trusting(tmp_path) as both:
        admin = await both.root.admin()
        item = m.Document(" ".join(ROLE.split()).encode())
        await both.root.call(admin, routes.STORE["role"], m.StoreRequest(item=item))
        rita = await both.root.user("rita", ["reader"])
        await spoil(both, "remote_cluster")
        page = await both.root.call(rita, routes.LIST["remote_cluster"], m.ListRequest())
        assert [one.name for one in page.unreadable] == ["leaf"]
        with pytest.raises(AccessDenied):
            await both.root.call(rita, routes.REMOVE["remote_cluster"], m.ExpelRequest(name="leaf"))
        assert await both.root.backend.get(records.REMOTE_CLUSTERS + "leaf") is not None


async def test_a_token_does_not_write_over_what_cannot_be_read(tmp_path: Path) -> None:
    """Its labels say who may go there; a leaf that comes anew would be without them."""
    async with trusting(tmp_path) as both:
        await spoil(both, "remote_cluster")
        await both.leaf.call(await both.leaf.admin(), routes.REMOVE["trusted_cluster"], m.ExpelRequest(name="root"))
        with pytest.raises(TeleportError, match="cannot be read"):
            await both.establish()


async def test_a_rotation_waits_for_a_leaf_that_cannot_be_read(tmp_path: Path) -> None:
    async with trusting(tmp_path) as both:
        state = both.root.service.state
        await spoil(both, "remote_cluster")
        believers = await Followers(state).believers(await state.authority("host"))
        assert [one.hostname for one in believers] == ["leaf"]
