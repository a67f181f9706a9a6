"""Sessions in pods through a real daemon: kubectl of two generations, played, listed, cut, repaired after a kill."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_kube import serve_kubectl
from tests.cluster.cluster_kubectl import debian_kubectl
from tests.cluster.test_cluster_agentless import on_disk

from teleport.testing.cluster import Cluster, Person, Ran, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api
from teleport.testing.terminal import Terminal

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

ROLE = """
kind: role
version: v5
metadata: {name: developers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    rules: [{resources: [session], verbs: [list, read]}]
"""
MODE = """
kind: session_recording_config
version: v2
metadata: {name: session-recording-config}
spec: {mode: %s}
"""


@dataclass
class Kube:
    cluster: Cluster
    api: KubeApi

    def person(self, name: str) -> Person:
        """Somebody whose kubectl leads to the pods."""
        person = self.cluster.add_person(name, roles=["developers"])
        person.log_in()
        person.tsh("kube", "login", "one").ok()
        return person

    def end(self, user: str) -> dict[str, Any]:
        return self.cluster.wait_event("session.end", user=user)

    def played(self, person: Person, sid: str) -> str:
        """What `tsh play` shows, once the recording is there."""
        self.cluster.wait_event("session.upload", sid=sid)
        return person.tsh("play", sid, "--format=text").ok().stdout


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("kube")
    with running_kube_api(folder) as api:
        cluster = Cluster(folder / "cluster")
        serve_kubectl(cluster, api)
        with cluster:
            cluster.tctl("create", "-f", stdin=ROLE).ok()
            yield Kube(cluster, api)


@pytest.fixture(params=["present", "debian"])
def kubectl(request: pytest.FixtureRequest) -> str:
    found: Path | str = debian_kubectl() if request.param == "debian" else Path(shutil.which("kubectl") or "missing")
    if isinstance(found, str):
        pytest.skip(found)
    return str(found)


def test_a_terminal_is_played(kube: Kube, kubectl: str) -> None:
    """What it showed and how large it was, whichever protocol kubectl speaks; what was typed unseen is nowhere."""
    name = "tess" if kubectl == shutil.which("kubectl") else "tom"
    person = kube.person(name)
    script = "stty -echo; echo ready; read word; echo thanks; stty size; read word; exit 7"
    words = [kubectl, "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", script]
    with Terminal(words, person.environment) as terminal:
        terminal.expect("ready")
        terminal.resize(91, 33)
        terminal.type("hunter2\r")
        terminal.expect("thanks")
        terminal.type("x\r")
        assert terminal.ended() == 7
    end = kube.end(name)
    assert (end["interactive"], end["reason"], end["proto"]) == (True, "", "kube")
    shown = kube.played(person, end["sid"])
    assert "ready" in shown
    assert "thanks" in shown
    assert "hunter2" not in shown
    start = kube.cluster.wait_event("session.start", user=name)
    assert (start["kubernetes_pod_name"], start["kubernetes_groups"][0]) == ("web", "developers")
    assert kube.cluster.wait_event("exec", user=name)["exitCode"] == "7"
    assert kube.cluster.wait_event("resize", user=name)["sid"] == end["sid"]
    listed = person.tsh("recordings", "ls").ok().stdout
    assert "one/dev/web" in listed
    assert "session.start" in kube.cluster.tctl("audit", "ls", f"--user={name}").ok().stdout


def test_files_come_and_go(kube: Kube, kubectl: str, tmp_path: Path) -> None:
    name = "cleo" if kubectl == shutil.which("kubectl") else "carl"
    person = kube.person(name)

    def copy(*words: str) -> Ran:
        return run(kubectl, "cp", "-n", "dev", *words, environment=person.environment).ok()

    (tmp_path / "in").write_bytes(bytes(range(256)) * 400)
    copy(str(tmp_path / "in"), f"web:{name}")
    copy(f"web:{name}", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    assert kube.cluster.wait_event("session.upload", user=name)["kubernetes_pod_namespace"] == "dev"


@pytest.mark.parametrize("mode", ["proxy", "proxy-sync"])
def test_a_lock_ends_a_session(kube: Kube, mode: str) -> None:
    """Within 2 s, and its recording is whole."""
    kube.cluster.tctl("create", "-f", stdin=MODE % mode).ok()
    name = f"larry-{mode}"
    person = kube.person(name)
    words = ["kubectl", "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", "echo ready; sleep 100"]
    with Terminal(words, person.environment) as terminal:
        terminal.expect("ready")
        kube.cluster.tctl("lock", f"--user={name}").ok()
        assert terminal.ended(2.0) != 0
    end = kube.end(name)
    assert (end["reason"], end["session_recording"]) == ("access has ended", mode)
    assert kube.cluster.wait_event("session.upload", sid=end["sid"])["recording_hash"] == end["recording_hash"]
    wait_until("the command is over", lambda: kube.api.open_streams == 0)


def test_a_daemon_that_is_stopped_or_killed(kube: Kube) -> None:
    """Its sessions have their ends, of which the killed one's is told by the next daemon."""
    kube.cluster.tctl("rm", "session_recording_config").ok()
    for name, sent, reason in (("stan", signal.SIGTERM, "the service stopped"), ("kim", signal.SIGKILL, "node lost")):
        person = kube.person(name)
        words = ["kubectl", "exec", "-n", "dev", "-it", "web", "--", "sh", "-c", "echo ready; sleep 100"]
        with Terminal(words, person.environment) as terminal:
            terminal.expect("ready")
            start = kube.cluster.wait_event("session.start", user=name)
            wait_until("it is on disk", lambda: b"ready" in on_disk(kube.cluster))
            if sent is signal.SIGKILL:
                kube.cluster.daemon.kill()
            else:
                kube.cluster.daemon.stop()
            terminal.ended()
        kube.cluster.daemon.start()
        end = kube.cluster.wait_event("session.end", 60, sid=start["sid"])
        assert (end["reason"], end["proto"], end["kubernetes_pod_name"]) == (reason, "kube", "web")
        assert "ready" in kube.played(person, start["sid"])
