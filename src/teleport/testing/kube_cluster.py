"""A real Kubernetes cluster of one node on this machine, for `make test-kube`: etcd, the API server, the controller
manager, the scheduler, containerd and a kubelet whose pods run busybox.

    with KubeCluster() as kube:
        kube.kubectl("get", "nodes")            # as the administrator of the cluster

`scripts/kube-cluster.sh` makes the programs. It needs root; everything listens on 127.0.0.1, pods have a bridge of
their own. The machine may be a container itself: swap may be on, pods have no control groups by quality of service,
scores of the out-of-memory killer are left alone. At its end nothing of it is left: pods, processes that it started,
mounts, control groups, kernel settings (`kube_traces`). Two of them do not run at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from teleport.testing.kube_authority import KubeAuthority
from teleport.testing.kube_image import BUSYBOX, IMAGE, PAUSE, write_image
from teleport.testing.kube_traces import Traces
from teleport.testing.loopback import free_port
from teleport.testing.processes import Ran, plain_environment, processes_with, run, wait_until

VERSION: Final = "1.20.2"
KEPT: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teleport-tests" / "kubernetes"
PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
NEEDED: Final = ("etcd", "containerd", "ctr", "runc", "ip", "kubectl")
BRIDGE: Final = "tkubetest0"
SUBNET: Final = "10.231.0.0/24"
NODE: Final = "localhost"  # so that the API server reaches the kubelet on loopback
LOCK: Final = Path("/run/lock/teleport-tests-kubernetes")
KUBELET: Final = Path("/var/lib/kubelet")
READY: Final = 90.0  # seconds
FEATURES: Final = "EphemeralContainers=true"  # what `kubectl debug` needs, alpha in this version

UP: list[KubeCluster] = []  # whose logs a failing test shows, where a program has ended


def why_none() -> str:
    """Why no cluster can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root: a real Kubernetes cluster has containers, mounts and a bridge"
    if not all((KEPT / VERSION / name).exists() for name in PROGRAMS):
        kept = KEPT / "why-not"
        why = kept.read_text().strip() if kept.exists() else "scripts/kube-cluster.sh builds it"
        return f"there is no Kubernetes {VERSION} here: {why}"
    environment = plain_environment(Path("/"))
    missing = [name for name in NEEDED if shutil.which(name, path=environment["PATH"]) is None]
    if missing or not BUSYBOX.exists():
        return f"{', '.join(missing) or 'busybox'} is not installed: scripts/kube-cluster.sh installs it"
    if has_another():
        return f"this machine has a kubelet of its own ({KUBELET}), which is left alone"
    return ""


def has_another(kubelet: Path = KUBELET, lock: Path = LOCK) -> bool:
    """Whether a kubelet is here that is no test's: while one of these clusters runs its lock is held, and who comes
    waits for its end."""
    if not kubelet.exists():
        return False
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class KubeCluster:
    """Runs within `with`. Blocking."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kube-"))  # short: sockets lie in it
        self.folder.chmod(0o755)
        self.port, self._etcd, self._peers, self._kubelet, self._health, self._controllers, self._scheduler = (
            free_port() for _ in range(7)
        )
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = contextlib.ExitStack()

    # for tests

    def kubectl(self, *words: str, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        """As the administrator of the cluster."""
        return run(
            *("kubectl", f"--kubeconfig={self.folder}/admin.conf", *words),
            environment=plain_environment(self.folder),
            stdin=stdin,
            seconds=seconds,
        )

    def get(self, *words: str) -> Any:
        """What `kubectl get` reads."""
        return self.kubectl("get", *words, "-o", "json").json()

    def apply(self, *documents: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        self.kubectl("apply", "-f", "-", stdin=text).ok()

    def add_pod(self, name: str, namespace: str, *containers: dict[str, Any]) -> None:
        """A pod, which runs when this returns. Containers without a command sleep."""
        self.apply(pod(name, namespace, *containers))
        self.wait_pod(name, namespace)

    def wait_pod(self, name: str, namespace: str) -> None:
        def ready() -> bool:
            status = self.get("pod", name, "-n", namespace)["status"]
            return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))

        wait_until(f"the pod {namespace}/{name} is ready", ready, READY)

    def import_image(self, file: Path) -> None:
        """An image for pods, an archive as container engines save one."""
        self._ctr("-n", "k8s.io", "images", "import", str(file), seconds=120.0).ok()

    def log(self, name: str) -> str:
        """What a program of the cluster said: `kube-apiserver`, `kubelet`, ..."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kubeconfig(self, context: str = "demo") -> str:
        """That of a proxy, or of a service: it is in the group `impersonators`, to which tests give what it may do."""
        return self._authority.kubeconfig("proxy", self.port, context)

    def ended(self) -> dict[str, str]:
        """The programs that ended by themselves, and what they said last."""
        over = [name for name, process in self._running.items() if process.poll() is not None]
        return {name: _last_words(self.log(name)) for name in over}

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    # its life

    def __enter__(self) -> KubeCluster:
        self._lock.enter_context(_alone())
        self._traces = Traces.taken()
        UP.append(self)
        try:
            self._start()
        except BaseException as error:
            for name in self._running:
                error.add_note(f"{name}: {self.log(name)[-1500:]}")
            self._stop()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        left = self._stop()
        assert not left, f"a Kubernetes cluster left behind: {left}"

    def _start(self) -> None:
        self._certificates()
        etcd = f"http://127.0.0.1:{self._etcd}"
        self._run(
            "etcd",
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{self._peers}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{self._peers}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{self._peers}"),
        )
        self._run(
            "kube-apiserver",
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.port}"),
            *("--endpoint-reconciler-type=none", "--advertise-address=192.0.2.10", "--allow-privileged=true"),
            *("--tls-cert-file=apiserver.pem", "--tls-private-key-file=apiserver.key", "--client-ca-file=ca.pem"),
            *("--cert-dir=.", "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.0.0.0/24"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=sa.pub"),
            "--service-account-signing-key-file=sa.key",
            *("--kubelet-certificate-authority=ca.pem", "--kubelet-client-certificate=kubelet-client.pem"),
            *("--kubelet-client-key=kubelet-client.key", "--kubelet-preferred-address-types=Hostname,InternalIP"),
            f"--feature-gates={FEATURES}",
        )
        self._wait("the API server is ready", lambda: self.kubectl("get", "--raw", "/readyz").status == 0)
        self._run(
            "kube-controller-manager",
            *("--kubeconfig=admin.conf", "--bind-address=127.0.0.1", f"--secure-port={self._controllers}", "--port=0"),
            *("--leader-elect=false", "--root-ca-file=ca.pem", "--service-account-private-key-file=sa.key"),
            *("--cluster-signing-cert-file=ca.pem", "--cluster-signing-key-file=ca.key", "--cert-dir=."),
        )
        self._run(
            "kube-scheduler",
            *("--kubeconfig=sched.conf", "--bind-address=127.0.0.1", f"--secure-port={self._scheduler}", "--port=0"),
            *("--leader-elect=false", "--cert-dir=.", f"--feature-gates={FEATURES}"),
        )
        self._start_node()

    def _start_node(self) -> None:
        runtime = self.folder / "ctr"
        (runtime / "cni").mkdir(parents=True)
        (runtime / "config.toml").write_text(_CONTAINERD.format(folder=runtime, pause=PAUSE))
        (runtime / "cni" / "10-bridge.conflist").write_text(json.dumps(_bridge(runtime)))
        write_image(self.folder / "image.tar")
        self._run("containerd", "-c", str(runtime / "config.toml"))
        self._wait("containerd answers", lambda: self._ctr("version").status == 0)
        self._ctr("-n", "k8s.io", "images", "import", str(self.folder / "image.tar"), seconds=60.0).ok()
        (self.folder / "kubelet.yaml").write_text(json.dumps(self._kubelet_config()))
        self._run(
            "kubelet",
            *("--config=kubelet.yaml", "--kubeconfig=kubelet.conf", f"--root-dir={self.folder}/kubelet-root"),
            *("--container-runtime=remote", f"--container-runtime-endpoint=unix://{runtime}/c.sock"),
            *(f"--hostname-override={NODE}", "--cert-dir=.", f"--pod-infra-container-image={PAUSE}"),
        )

        def ready() -> bool:
            node = self.kubectl("get", "node", NODE, "-o", "json")
            if node.status:
                return False
            found = node.json()
            up = any(one["type"] == "Ready" and one["status"] == "True" for one in found["status"]["conditions"])
            return up and not found["spec"].get("taints")

        self._wait("the node is ready", ready)
        self._wait(
            "the namespace has its account",
            lambda: self.kubectl("get", "serviceaccount", "default").status == 0,
        )

    def _certificates(self) -> None:
        authority = self._authority = KubeAuthority(self.folder)
        for file, name, *groups in (
            ("apiserver", "kube-apiserver"),
            ("admin", "admin", "system:masters"),
            ("kubelet", f"system:node:{NODE}", "system:nodes"),
            ("kubelet-server", NODE),
            ("kubelet-client", "apiserver-kubelet-client", "system:masters"),
            ("sched", "system:kube-scheduler"),
            ("proxy", "access-proxy", "impersonators"),
        ):
            authority.issue(file, name, *groups)
        authority.account_keys()
        for file in ("admin", "kubelet", "sched"):
            (self.folder / f"{file}.conf").write_text(authority.kubeconfig(file, self.port, file))

    def _kubelet_config(self) -> dict[str, Any]:
        here = str(self.folder)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            **{"address": "127.0.0.1", "port": self._kubelet, "readOnlyPort": 0},
            **{"healthzBindAddress": "127.0.0.1", "healthzPort": self._health},
            **{"tlsCertFile": f"{here}/kubelet-server.pem", "tlsPrivateKeyFile": f"{here}/kubelet-server.key"},
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{here}/ca.pem"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            "resolvConf": "",
            "containerLogMaxSize": "2Gi",  # no log begins anew while it is read
            "featureGates": {"EphemeralContainers": True},
        }

    def _run(self, name: str, *arguments: str) -> None:
        program = KEPT / VERSION / name if name in PROGRAMS else name
        with (self.folder / f"{name}.log").open("ab") as out:
            self._running[name] = subprocess.Popen(
                [program, *arguments],
                cwd=self.folder,
                env=plain_environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, what: str, found: Any) -> None:
        def alive() -> Any:
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}: {self.log(name)[-1500:]}"
            return found()

        wait_until(what, alive, READY)

    def _ctr(self, *words: str, seconds: float = 30.0) -> Ran:
        address = f"{self.folder}/ctr/c.sock"
        return run("ctr", "-a", address, *words, environment=plain_environment(self.folder), seconds=seconds)

    def _stop(self) -> list[str]:
        """Pods, kubelet, containers, then the rest; what is left behind."""
        if "kubelet" in self._running and self._running["kubelet"].poll() is None:
            every = ("delete", "pods", "--all", "-A", "--grace-period=0", "--force", "--wait=false")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.kubectl(*every, seconds=30.0)
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                wait_until("no container is left", lambda: not self._containers(), 30.0)
        UP.remove(self)
        self._end("kubelet")
        with contextlib.suppress(subprocess.TimeoutExpired):
            for container in self._containers() if "containerd" in self._running else ():
                self._ctr("-n", "k8s.io", "tasks", "delete", "--force", container)
        for name in ("containerd", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self._end(name)
        for shim in processes_with(f"{self.folder}/ctr/c.sock"):  # each holds a pod, and none of another runtime
            with contextlib.suppress(OSError):
                os.kill(shim, signal.SIGKILL)
        left: list[str] = []
        for _ in range(50):  # control groups go when the last process in them has
            left = self._traces.undo(self.folder, BRIDGE)
            if not left:
                break
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        return left

    def _containers(self) -> list[str]:
        return self._ctr("-n", "k8s.io", "tasks", "list", "-q").stdout.split()

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pod(name: str, namespace: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """The document of a pod of the one image."""
    usual = {"image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sleep", "100000"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [{**usual, **one} for one in containers or ({"name": "main"},)],
            **spec,
        },
    }


def _last_words(log: str) -> str:
    """What a program died of stands before what all its parts were doing then."""
    died = max(log.find("\nfatal error: "), log.find("\npanic: "))
    return log[died : died + 2000] if died >= 0 else log[-2000:]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bridge(runtime: Path) -> dict[str, Any]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "dataDir": str(runtime / "ipam")}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "tests", "plugins": [bridge, {"type": "loopback"}]}


_CONTAINERD: Final = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""
