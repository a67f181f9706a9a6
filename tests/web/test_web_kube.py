"""The page of Kubernetes clusters: each sees those of the own roles, and nobody else's (T34)."""

from __future__ import annotations

from pathlib import Path

from tests.web.session_rig import Browser, Person, lock, proxy_with_sessions

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import PutOp
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.resources.server import KubeClusterEntry, Server, ServerSpec
from teleport.store.records import KUBE_SERVICES
from teleport.testing.auth import CLUSTER, RunningAuth, present_clock, running_auth

KUBE = f"/webapi/sites/{CLUSTER}/kube_clusters"
SERVICE = Server(
    kind="kube_service",
    metadata=Metadata(name="00000000-0000-4000-8000-000000000001"),
    spec=ServerSpec(
        hostname="k",
        kube_clusters=(
            KubeClusterEntry(name="prod", static_labels={"env": "prod"}),
            KubeClusterEntry(name="dev", static_labels={"env": "dev", "team": "blue"}),
        ),
    ),
)


async def made(auth: RunningAuth, name: str, env: str) -> Person:
    """Somebody who may use the clusters with that label."""
    allow = Conditions(kubernetes_labels={"env": (env,)}, kubernetes_groups=("developers",))
    role = Role(metadata=Metadata(name=f"kube-{name}"), spec=RoleSpec(allow=allow))
    await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(role))))
    return await Person.made(auth, name, (role.name,))


async def test_a_browser_shows_the_clusters_of_its_user(tmp_path: Path) -> None:
    """By name, with labels, searched; strangers, people whose roles lead to none, other clusters and locked users get
    nothing."""
    async with running_auth(tmp_path, clock=present_clock()) as auth, proxy_with_sessions(auth, tmp_path) as web:
        await auth.service.state.commit([PutOp(KUBE_SERVICES + SERVICE.name, to_json(SERVICE))], events=[])
        dora, nobody = await made(auth, "dora", "dev"), await made(auth, "nobody", "test")
        assert (await Browser(web).ask("GET", KUBE)).status == 401
        window = await dora.browser(web)
        dev = {"name": "dev", "labels": {"env": "dev", "team": "blue"}, "silent_for": 0}
        for query in ("", "?search=BLUE", "?start=0&limit=1"):
            answer = await window.ask("GET", KUBE + query)
            assert (answer.status, answer.json) == (200, {"items": [dev], "total": 1, "next_start": 0})
        assert (await window.ask("GET", f"{KUBE}?search=prod")).json["items"] == []
        assert (await window.ask("GET", KUBE.replace(CLUSTER, "-current-"))).json["total"] == 1
        for query, status in (("?limit=0", 400), ("?limit=x", 400), ("?start=-1", 400), ("?search=" + "x" * 300, 400)):
            assert (await window.ask("GET", KUBE + query)).status == status
        assert (await window.ask("GET", KUBE.replace(CLUSTER, "nowhere.test"))).status == 404
        other = await nobody.browser(web)
        assert (await other.ask("GET", KUBE)).json == {"items": [], "total": 0, "next_start": 0}
        await lock(auth, user="dora")
        assert (await window.ask("GET", KUBE)).status in (401, 403)
