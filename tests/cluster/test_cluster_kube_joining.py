"""Several people in one session in a pod, with the real kubectl and tsh: through the proxy, and through a service
behind a tunnel; limits, locks and changes of roles end what they have to, on both ways."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from tests.cluster.cluster_kube import KubeHost, serve_kubectl, wait_known

from teleport.testing.cluster import Cluster, Person, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api
from teleport.testing.processes import BIN
from teleport.testing.terminal import Terminal

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

ROLE = """
kind: role
version: v5
metadata: {name: developers}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}}
---
kind: role
version: v5
metadata: {name: pod-watchers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: [developers], kinds: [k8s], modes: [observer]}]
---
kind: role
version: v5
metadata: {name: pod-peers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: [developers], kinds: [k8s], modes: [peer, moderator]}]
---
kind: role
version: v5
metadata: {name: host-watchers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: ['*'], kinds: [ssh], modes: [observer]}]
---
kind: role
version: v5
metadata: {name: of-no-pods}
spec:
  allow:
    join_sessions: [{roles: ['*'], kinds: ['*'], modes: [observer]}]
---
kind: role
version: v5
metadata: {name: limited}
spec:
  options: {max_connections: 1, client_idle_timeout: 3s}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}
"""
CALLERS = ("developers", "limited")  # others take part alone
SHELL = "stty -echo; echo ready; exec sh"


@dataclass
class Kube:
    cluster: Cluster
    api: KubeApi
    way: str  # name of the Kubernetes cluster

    def person(self, name: str, role: str = "developers") -> Person:
        person = self.cluster.add_person(f"{name}-{self.way}", roles=[role])
        person.log_in()
        wait_known(person, self.cluster.config["proxy_service"]["kubernetes"]["public_addr"])
        chosen = person.tsh("kube", "login", self.way)
        assert chosen.status == 0 or role not in CALLERS, chosen.stderr
        return person

    def shell(self, person: Person, script: str = SHELL) -> Terminal:
        words = ["kubectl", "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", script]
        return Terminal(words, person.environment)

    def sid(self, person: Person) -> str:
        """The id of the session that the person began, once it is listed."""
        found: list[str] = []

        def listed() -> bool:
            rows = person.tsh("sessions", "ls", "--format=json").ok().json()
            found[:] = [one["sid"] for one in rows if one["user"] == person.name and one["join_at"]]
            return len(found) == 1

        wait_until("the session is listed", listed)
        return found[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, KubeApi]]:
    folder = tmp_path_factory.mktemp("kube")
    with ExitStack() as stack:
        api = stack.enter_context(running_kube_api(folder))
        cluster = Cluster(folder / "cluster")
        serve_kubectl(cluster, api)
        stack.enter_context(cluster)
        cluster.tctl("create", "-f", stdin=ROLE).ok()
        host = KubeHost(folder / "behind", cluster, "behind", api)
        stack.enter_context(host)
        wait_until("the service's tunnel stands", lambda: host.host_id in cluster.tctl("get", "kube_service").stdout)
        yield cluster, api


@pytest.fixture(params=["one", "demo"])
def kube(served: tuple[Cluster, KubeApi], request: pytest.FixtureRequest) -> Kube:
    """The same pods, once led to by the proxy itself and once by a service that only a tunnel reaches."""
    return Kube(*served, request.param)


def join(person: Person, sid: str, *more: str) -> Terminal:
    return Terminal([str(BIN / "tsh"), "join", sid, *more], person.environment)


def test_a_session_in_a_pod_is_watched_and_joined(kube: Kube) -> None:
    """One begins it with kubectl, one only watches, one types along; everything of it is on record."""
    ann, wim, pia = kube.person("ann"), kube.person("wim", "pod-watchers"), kube.person("pia", "pod-peers")
    with kube.shell(ann) as shell:
        shell.expect("ready")
        shell.type("echo ear''lier\n")
        shell.expect("earlier")
        sid = kube.sid(ann)
        (one,) = [one for one in wim.tsh("sessions", "ls", "--format=json").ok().json() if one["sid"] == sid]
        assert (one["kind"], one["kube_cluster"], one["pod_namespace"], one["pod"]) == ("k8s", kube.way, "dev", "web")
        assert one["modes"] == ["observer"]
        assert f"{kube.way}/dev/web" in wim.tsh("sessions", "ls").ok().stdout
        assert f"{kube.way}/dev/web" in kube.cluster.tctl("sessions", "ls").ok().stdout
        with join(wim, sid) as watching:
            watching.expect("earlier")  # what was shown before they came
            shell.expect(f"{wim.name} has joined this session as observer")
            watching.type("echo inserted\n")
            watching.expect("what you type is not passed on")
            shell.type("echo la''ter\n")
            watching.expect("later")
            with join(pia, sid, "--mode=peer") as typing:
                typing.expect("later")
                shell.expect(f"{pia.name} has joined this session as peer")
                typing.type("echo by-$((40+2)); stty size\n")
                for terminal in (shell, watching, typing):
                    terminal.expect("by-42")
                    terminal.expect("30 100")
                typing.resize(77, 22)
                kube.cluster.wait_event("resize", sid=sid, size="77:22")
                typing.type("stty size\n")
                shell.expect("22 77")
                shell.type("echo still-$((6*7))\n")
                typing.expect("still-42")
            shell.expect(f"{pia.name} has left this session")
            shell.type("exit 3\n")
            assert shell.ended() == 3
            assert watching.ended() == 3
        assert b"inserted" not in shell.shown
    end = kube.cluster.wait_event("session.end", sid=sid)
    assert end["participants"] == [ann.name, wim.name, pia.name]
    joined = kube.cluster.wait_event("session.join", sid=sid, user=pia.name)
    assert (joined["mode"], joined["granted_by"], joined["kubernetes_pod_name"]) == ("peer", "pod-peers", "web")
    assert kube.cluster.wait_event("session.leave", sid=sid, user=pia.name)["mode"] == "peer"
    assert kube.cluster.wait_event("session.data", sid=sid)["rx"] > 0
    wait_until("it is listed no more", lambda: sid not in kube.cluster.tctl("sessions", "ls").ok().stdout)


def test_who_may_not_join_learns_nothing(kube: Kube) -> None:
    """A stranger, somebody who may join other kinds only, and somebody who may not enter the pods hear that there is no
    such session; whoever may only watch it hears that they may not type."""
    ada = kube.person("ada")
    with kube.shell(ada) as shell:
        shell.expect("ready")
        sid = kube.sid(ada)
        for name, role in (("sue", "developers"), ("hal", "host-watchers"), ("nia", "of-no-pods")):
            person = kube.person(name, role)
            assert sid not in person.tsh("sessions", "ls").ok().stdout
            assert "there is no session with this id that you may join" in person.tsh("join", sid).stderr
        wim = kube.person("una", "pod-watchers")
        assert "You may not join this session as peer" in wim.tsh("join", sid, "--mode=peer").stderr
        assert shell.shown.count(b"has joined") == 0
    denied = kube.cluster.wait_event("session.request_denied", user=f"una-{kube.way}")
    assert (denied["request"], sid in denied["reason"]) == ("join", True)


def opened(kube: Kube, environment: Mapping[str, str]) -> list[subprocess.Popen[bytes]]:
    """A watch, a followed log, a port and two commands without a terminal, all open."""
    words = (
        ["get", "pods", "-n", "dev", "-w"],
        ["logs", "-f", "web", "-n", "dev"],
        ["port-forward", "-n", "dev", "pod/web", ":80"],
        ["exec", "-n", "dev", "web", "--", "sleep", "100"],
        ["attach", "-n", "dev", "-i", "web"],
    )
    running = [
        subprocess.Popen(
            ["kubectl", *one],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for one in words
    ]
    try:
        wait_until("all are open", lambda: kube.api.open_streams == len(words))
    except AssertionError:
        end_all(running)
        raise
    return running


def end_all(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.parametrize("change", ["lock", "role"])
def test_what_ends_access_ends_what_is_open(kube: Kube, change: str) -> None:
    """Watches, logs, ports and commands, within 2 s, also where a service behind a tunnel leads to the pods."""
    person = kube.person(change)
    running = opened(kube, person.environment)
    try:
        match change:
            case "lock":
                kube.cluster.tctl("lock", f"--user={person.name}").ok()
            case "role":
                kube.cluster.tctl("users", "update", person.name, "--set-roles=access").ok()
        wait_until("all are cut", lambda: kube.api.open_streams == 0, 2.0 * 5)
    finally:
        end_all(running)
    assert kube.cluster.wait_event("session.end", user=person.name)["reason"] == "access has ended"


def test_a_session_that_an_administrator_ends(kube: Kube) -> None:
    """For everybody in it, who read why; those who may not be in it any more leave before."""
    eva, wes = kube.person("eva"), kube.person("wes", "pod-watchers")
    vic = kube.person("vic", "pod-watchers")
    with kube.shell(eva) as shell:
        shell.expect("ready")
        sid = kube.sid(eva)
        with join(wes, sid) as watching, join(vic, sid) as other:
            shell.expect("has joined.*has joined")
            kube.cluster.tctl("users", "update", vic.name, "--set-roles=developers").ok()
            other.expect("This session is over for you", 2.0 * 5)
            assert other.ended() == 255
            shell.expect(f"{vic.name} has left this session")
            kube.cluster.tctl("sessions", "rm", sid).ok()
            assert shell.ended(2.0 * 5) != 0
            assert watching.ended() != 0
            assert b"an administrator ended it" in shell.shown
            assert b"an administrator ended it" in watching.shown
    assert kube.cluster.wait_event("session.end", sid=sid)["reason"] == "an administrator ended it"


def test_limits_of_roles(kube: Kube) -> None:
    """One connection, and not for long without a key."""
    ida = kube.person("ida", "limited")
    with kube.shell(ida, "stty -echo; echo ready; while echo alive; do sleep 0.2; done") as shell:
        shell.expect("ready")
        second = run("kubectl", "exec", "-n", "dev", "web", "--", "id", environment=ida.environment)
        assert "Your roles allow 1 connections at the same time" in second.stderr
        assert shell.ended() != 0
        assert b"idle for more than 3 s" in shell.shown
    assert kube.cluster.wait_event("session.end", user=ida.name)["reason"] == "idle for more than 3 s"
    assert kube.cluster.wait_event("client.disconnect", user=ida.name)["reason"] == "idle for more than 3 s"
    assert kube.cluster.wait_event("session.rejected", user=ida.name)["max"] == 1
