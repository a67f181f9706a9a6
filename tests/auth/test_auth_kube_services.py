"""Kubernetes services at auth: who announces one, what a token forces on its clusters, who sees and removes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.identity import SystemRole
from teleport.resources.codec import from_json, to_json
from teleport.resources.forced_labels import with_forced
from teleport.resources.metadata import Metadata
from teleport.resources.role import Role
from teleport.resources.server import CommandLabelState, KubeClusterEntry, Server, ServerSpec
from teleport.resources.values import Duration
from teleport.testing.auth import running_auth


def kube_service(host_id: str, *names: str, hostname: str = "k", **spec: Any) -> Server:
    clusters = tuple(KubeClusterEntry(name=name, static_labels={"env": "dev"}) for name in names)
    said = {"addr": "192.0.2.1:3027", "hostname": hostname, "epoch": "1", "kube_clusters": clusters, **spec}
    return Server(kind="kube_service", metadata=Metadata(name=host_id), spec=ServerSpec(**said))


def announced(server: Server) -> m.HeartbeatRequest:
    return m.HeartbeatRequest(item=m.Document(to_json(server)))


async def test_a_service_announces_its_own_clusters_and_no_other_host_does(tmp_path: Path) -> None:
    """Threat T14: only a certificate of the role Kube announces one, under its own UUID, and no name of a proxy."""
    async with running_auth(tmp_path) as auth:
        kube, node, proxy = [
            await auth.host(role, name=str(role)) for role in (SystemRole.KUBE, SystemRole.NODE, SystemRole.PROXY)
        ]
        await auth.call(kube, routes.HEARTBEAT, announced(kube_service(kube.host_id, "demo")))
        for who, server in (
            (kube, kube_service(node.host_id, "demo")),
            (node, kube_service(node.host_id, "demo")),
            (proxy, kube_service(proxy.host_id, "demo")),
            (kube, kube_service(kube.host_id, "demo", addr="127.0.0.1:3027", public_addrs=("169.254.169.254:80",))),
        ):
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.HEARTBEAT, announced(server))
        of_proxy = Server(
            kind="proxy",
            metadata=Metadata(name=proxy.host_id),
            spec=ServerSpec(addr="192.0.2.2:443", hostname="front", epoch="1"),
        )
        await auth.call(proxy, routes.HEARTBEAT, announced(of_proxy))
        with pytest.raises(AccessDenied, match="belongs to another host"):
            await auth.call(kube, routes.HEARTBEAT, announced(kube_service(kube.host_id, "demo", hostname="front")))
        for wrong in (("demo", "demo"), ("",), ("x" * 300,)):
            with pytest.raises(BadRequest):
                await auth.call(kube, routes.HEARTBEAT, announced(kube_service(kube.host_id, *wrong)))
        listed = await auth.call(proxy, routes.LIST["kube_service"], m.ListRequest())
        (found,) = [from_json(bytes(item)) for item in listed.items]
        assert isinstance(found, Server)
        assert [one.name for one in found.spec.kube_clusters] == ["demo"]


def test_labels_of_a_token_are_those_of_every_cluster_of_the_service() -> None:
    """A service says nothing against the labels that its token forces on it."""
    state = CommandLabelState(period=Duration.of(seconds=60), command=("true",), result="prod")
    entry = KubeClusterEntry(
        name="demo", static_labels={"env": "prod", "own": "1"}, dynamic_labels={"team": state, "env": state}
    )
    server = Server(
        kind="kube_service", metadata=Metadata(name="x"), spec=ServerSpec(hostname="k", kube_clusters=(entry,))
    )
    (said,) = with_forced(server, {"env": "dev", "team": "blue"}).spec.kube_clusters
    assert said.all_labels == {"env": "dev", "team": "blue", "own": "1"}


async def test_a_person_sees_services_by_a_rule_and_whoever_removes_one_expels_it(tmp_path: Path) -> None:
    """Which services there are concerns administrators: others are told by proxies which clusters are theirs."""
    async with running_auth(tmp_path) as auth:
        admin, kube = await auth.admin(), await auth.host(SystemRole.KUBE, name="k")
        await auth.call(kube, routes.HEARTBEAT, announced(kube_service(kube.host_id, "demo")))
        role = Role(metadata=Metadata(name="nothing"))
        await auth.call(admin, routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(role))))
        user = await auth.user("alice", ["nothing"])
        assert (await auth.call(user, routes.LIST["kube_service"], m.ListRequest())).items == []
        with pytest.raises(NotFound):
            await auth.call(user, routes.GET["kube_service"], m.GetRequest(name=kube.host_id))
        with pytest.raises(AccessDenied):
            await auth.call(user, routes.REMOVE["kube_service"], m.ExpelRequest(name=kube.host_id))
        assert (await auth.call(admin, routes.LIST["kube_service"], m.ListRequest())).items

        hidden = m.ExpelRequest(name=kube.host_id, keep_identity=True)
        await auth.call(admin, routes.REMOVE["kube_service"], hidden)
        await auth.call(kube, routes.HEARTBEAT, announced(kube_service(kube.host_id, "demo")))
        await auth.call(kube, routes.WITHDRAW, m.Named(name="1"))  # as one that was stopped
        await auth.call(admin, routes.REMOVE["kube_service"], m.ExpelRequest(name=kube.host_id))
        with pytest.raises(AccessDenied):
            await auth.call(kube, routes.HEARTBEAT, announced(kube_service(kube.host_id, "demo")))
        told = await auth.events("kube_service.delete", wait_for=2)
        kept = sorted((event["name"], bool(event.get("keep_identity"))) for event in told)
        assert kept == [(kube.host_id, False), (kube.host_id, True)]
