"""Which Kubernetes clusters auth lists for somebody: those that they may use, decided as where kubectl comes (T34)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import PutOp, Write
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.resources.codec import to_json
from teleport.resources.forced_labels import with_forced
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec, Rule
from teleport.resources.server import KubeClusterEntry, Server, ServerSpec
from teleport.store.records import KUBE_SERVICES, PROXIES
from teleport.testing.auth import Credentials, RunningAuth, running_auth


def leading(
    number: int, clusters: Mapping[str, Mapping[str, str]], kind: Literal["proxy", "kube_service"] = "kube_service"
) -> Server:
    """What leads to clusters with these labels."""
    return Server(
        kind=kind,
        metadata=Metadata(name=f"00000000-0000-4000-8000-{number:012}"),
        spec=ServerSpec(
            addr="192.0.2.1:3027",
            hostname=f"k{number}",
            kube_clusters=tuple(KubeClusterEntry(name=name, static_labels=said) for name, said in clusters.items()),
        ),
    )


async def store(auth: RunningAuth, *servers: Server, prefix: str = KUBE_SERVICES) -> None:
    writes: list[Write] = [PutOp(prefix + one.name, to_json(one)) for one in servers]
    await auth.service.state.commit(writes, events=[])


async def role(
    auth: RunningAuth, name: str, allow: Conditions, deny: Conditions | None = None, mfa: bool = False
) -> None:
    options = Options(require_session_mfa=True) if mfa else Options()
    made = Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow, deny=deny or Conditions(), options=options))
    request = m.StoreRequest(item=m.Document(to_json(made)))
    await auth.call(await auth.admin(), routes.STORE["role"], request)


async def found(auth: RunningAuth, who: Credentials, search: str = "") -> dict[str, dict[str, str]]:
    page = await auth.call(who, routes.FIND_KUBE_CLUSTERS, m.FindKubeClustersRequest(search=search))
    assert [one.name for one in page.items] == sorted(one.name for one in page.items)
    assert page.total == len(page.items)
    return {one.name: one.labels for one in page.items}


DEV = Conditions(kubernetes_labels={"env": ("dev",)}, kubernetes_groups=("developers",))
CLUSTERS = {"dev-1": {"env": "dev"}, "prod-1": {"env": "prod"}, "dev-2": {"env": "dev", "team": "Blue"}}


async def test_everybody_sees_what_their_roles_lead_to(tmp_path: Path) -> None:
    """Labels decide, and what deny names is hidden; who has no role for any sees none, and is told nothing of the rest.
    A rule about services adds nothing: it shows services, not clusters to use."""
    async with running_auth(tmp_path) as auth:
        await store(
            auth, leading(1, CLUSTERS), leading(2, {"both": {"env": "prod"}}), leading(3, {"both": {"env": "dev"}})
        )
        await store(auth, leading(4, {"own": {}}, kind="proxy"), prefix=PROXIES)
        reads = Rule(resources=("kube_service",), verbs=("list", "read"))
        await role(auth, "developer", DEV)
        await role(auth, "factor", DEV, mfa=True)
        await role(auth, "careful", DEV, Conditions(kubernetes_labels={"team": ("Blue",)}))
        await role(auth, "every", Conditions(kubernetes_labels={"*": ("*",)}, kubernetes_users=("a", "b")))
        await role(auth, "reader", Conditions(logins=("root",), rules=(reads,)))
        dev = {"both": {"env": "dev"}, "dev-1": CLUSTERS["dev-1"], "dev-2": CLUSTERS["dev-2"]}
        assert await found(auth, await auth.user("dora", ["developer"])) == dev
        assert await found(auth, await auth.user("fay", ["factor"])) == dev, "a second factor is asked for later"
        assert list(await found(auth, await auth.user("cora", ["careful"]))) == ["both", "dev-1"]
        every = await auth.user("ella", ["every"])
        assert list(await found(auth, every)) == ["both", "dev-1", "dev-2", "own", "prod-1"]
        assert await found(auth, await auth.user("rhea", ["reader"])) == {}
        assert list(await found(auth, every, "DEV blue")) == ["dev-2"]
        assert list(await found(auth, every, "env=prod")) in (["both", "prod-1"], ["prod-1"])


async def test_only_people_ask_and_only_for_pages(tmp_path: Path) -> None:
    """Hosts have no clusters; a page is one."""
    async with running_auth(tmp_path) as auth:
        await role(auth, "every", Conditions(kubernetes_labels={"*": ("*",)}, kubernetes_groups=("g",)))
        ann = await auth.user("ann", ["every"])
        await store(
            auth, leading(1, {f"c-{number:04}": {f"text-{n}": "x" * 200 for n in range(4)} for number in range(300)})
        )
        for asked in ({"limit": 0}, {"limit": 201}, {"start": -1}, {"search": "x" * 300}):
            with pytest.raises(BadRequest):
                await auth.call(ann, routes.FIND_KUBE_CLUSTERS, m.FindKubeClustersRequest(**asked))
        proxy = await auth.host(SystemRole.PROXY, name="front")
        with pytest.raises(AccessDenied):
            await auth.call(proxy, routes.FIND_KUBE_CLUSTERS, m.FindKubeClustersRequest())
        names: list[str] = []
        while True:
            asked_for = m.FindKubeClustersRequest(start=len(names), limit=200)
            page = await auth.call(ann, routes.FIND_KUBE_CLUSTERS, asked_for)
            names += [one.name for one in page.items]
            if not page.next_start:
                break
            assert page.next_start == len(names)
        assert names == [f"c-{number:04}" for number in range(300)]
        assert page.total == 300


async def test_a_cluster_is_silent_when_all_of_its_services_are(tmp_path: Path) -> None:
    """A lost one of two says nothing."""
    async with running_auth(tmp_path) as auth:
        await role(auth, "every", Conditions(kubernetes_labels={"*": ("*",)}, kubernetes_groups=("g",)))
        ann = await auth.user("ann", ["every"])
        now = auth.service.state.clock.now()

        def heard(server: Server, seconds: int) -> Server:
            return replace(server, spec=replace(server.spec, heard=now - timedelta(seconds=seconds)))

        one, two, three = (leading(number, {name: {}}) for number, name in ((1, "twins"), (2, "twins"), (3, "alone")))
        await store(auth, heard(one, 5000), heard(two, 0), heard(three, 5000))
        page = await auth.call(ann, routes.FIND_KUBE_CLUSTERS, m.FindKubeClustersRequest())
        assert [(one.name, one.silent_for >= 5000) for one in page.items] == [("alone", True), ("twins", False)]


def test_labels_of_a_proxys_token_are_not_those_of_its_clusters() -> None:
    """It decides about them as about ones without labels; roles that it would not let in see none of them."""
    proxy = leading(1, {"own": {}}, kind="proxy")
    (said,) = with_forced(proxy, {"env": "prod"}).spec.kube_clusters
    assert said.all_labels == {}
