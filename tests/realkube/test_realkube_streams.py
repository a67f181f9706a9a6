"""What people do in pods of a real Kubernetes cluster, by both ways to it and with kubectl of two generations."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.realkube.conftest import Use, running

from teleport.testing.cluster import Ran, free_port, wait_until
from teleport.testing.kube_cluster import pod
from teleport.testing.kube_image import IMAGE, PAGE
from teleport.testing.terminal import Terminal

pytestmark = pytest.mark.real_kube


def line(process: subprocess.Popen[str]) -> str:
    """The next one that it prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_pods_are_listed(use: Use) -> None:
    assert {"pod/web", "pod/quiet"} <= set(use.kubectl("get", "pods", "-o", "name").ok().stdout.split())
    table = use.kubectl("get", "pods", "web").ok().stdout
    assert table.split()[:8] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "web", "2/2", "Running"]
    assert "Image:         docker.io/local/busybox:1" in use.kubectl("describe", "pod", "web").ok().stdout


def test_a_command_has_its_input_output_and_status(use: Use) -> None:
    words = ("exec", "-i", "quiet", "--", "sh", "-c", "cat; echo bad >&2; exit 7")
    data = "".join(f"line {number}\n" for number in range(20_000))
    done = use.kubectl(*words, stdin=data)
    assert (done.status, done.stdout) == (7, data)
    assert done.stderr.splitlines()[0] == "bad"
    assert use.kubectl("exec", "quiet", "--", "no-such-program").status not in (0, 7)


def test_a_terminal(use: Use) -> None:
    """It is one, has a size that follows the client's, and what is typed arrives."""
    with Terminal(use.words("exec", "-it", "quiet", "--", "sh"), use.environment) as terminal:
        terminal.expect("# ")
        terminal.type("stty size; test -t 0 && echo a-termi'nal'\r")
        terminal.expect("30 100\r\na-terminal")
        terminal.resize(91, 33)
        terminal.type("sleep 0.5; stty size\r")
        terminal.expect("33 91")
        terminal.type("(trap 'echo interru''pted; exit' INT; echo be''gun; while :; do sleep 1; done)\r")
        terminal.expect("begun\r\n")
        terminal.type("\x03")
        terminal.expect("interrupted")
        terminal.expect("# ")
        terminal.type("exit 5\r")
        assert terminal.ended() == 5


def test_files_are_copied_both_ways(use: Use, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "large").write_bytes(os.urandom(3_000_000))
    (folder / "below" / "small").write_text("small\n")
    use.kubectl("cp", str(folder), f"quiet:/tmp/{use.name}").ok()
    back = tmp_path / "back"
    use.kubectl("cp", f"quiet:/tmp/{use.name}", str(back)).ok()
    assert (back / "large").read_bytes() == (folder / "large").read_bytes()
    assert (back / "below" / "small").read_text() == "small\n"


def test_logs_are_followed(use: Use) -> None:
    with running(use, "logs", "-f", "web", "-c", "main", "--tail=1") as process:
        numbers = [int(line(process).removeprefix("line ")) for _ in range(5)]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    every = use.kubectl("logs", "-l", "app=web", "--all-containers", "--tail=2", "--timestamps").ok().stdout
    assert every.count("line") == 2


def test_a_port_is_forwarded(use: Use) -> None:
    """Several connections at once and one after another."""
    port = free_port()
    with running(use, "port-forward", "web", f"{port}:8000") as process:
        assert "Forwarding from" in line(process)
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)) for _ in range(4)
            ]
            assert [one.read().decode() for one in opened] == [PAGE] * 4
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=20) as one:
            assert one.read().decode() == PAGE


def test_pods_are_watched(use: Use) -> None:
    """What comes and goes is seen."""
    use.estate.kube.apply(pod(f"seen-{use.name}", "dev"))
    words = ("get", "pods", "-w", "-o", "name", f"--field-selector=metadata.name=seen-{use.name}")
    with running(use, *words) as process:
        assert line(process) == f"pod/seen-{use.name}\n"
        use.estate.kube.kubectl("label", "pod", "-n", "dev", f"seen-{use.name}", "new=label").ok()
        assert line(process) == f"pod/seen-{use.name}\n"
        use.kubectl("delete", "pod", f"seen-{use.name}", "--wait=false").ok()
        assert line(process) == f"pod/seen-{use.name}\n"


def test_a_running_container_is_attached_to(use: Use) -> None:
    asks = {
        "name": "main",
        "stdin": True,
        "tty": True,
        "command": ["/bin/sh", "-c", "read a; echo got $a; exec sleep 1000"],
    }
    use.estate.kube.add_pod(f"asks-{use.name}", "dev", asks)
    with Terminal(use.words("attach", "-it", f"asks-{use.name}"), use.environment) as terminal:
        terminal.expect("see a command prompt")
        terminal.type("word\r")
        terminal.expect("got word")
    use.kubectl("delete", "pod", f"asks-{use.name}", "--wait=false").ok()


def test_a_pod_that_is_made_for_one_command(use: Use) -> None:
    """`kubectl run --rm -it` makes, attaches, and deletes."""
    words = ("run", f"once-{use.name}", f"--image={IMAGE}", "--rm", "-it", "--restart=Never", "--", "sh")
    with Terminal(use.words(*words), use.environment) as terminal:
        terminal.expect("see a command prompt|# ", 40.0)
        terminal.type("echo o''nce; exit\r")
        terminal.expect("once\r\n")
        terminal.expect("deleted", 30.0)
        assert terminal.ended() == 0


def test_objects_are_made_changed_and_deleted(use: Use, tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(DEPLOYMENT.format(name=use.name, image=IMAGE, replicas=1))
    assert "created" in use.kubectl("apply", "-f", str(file)).ok().stdout
    use.kubectl("rollout", "status", "deployment", use.name, "--timeout=60s", seconds=70).ok()
    file.write_text(DEPLOYMENT.format(name=use.name, image=IMAGE, replicas=0))
    assert "+  replicas: 0" in use.kubectl("diff", "-f", str(file)).stdout
    assert "configured" in use.kubectl("apply", "-f", str(file)).ok().stdout
    use.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file)).ok()
    use.kubectl("scale", "deployment", use.name, "--replicas=1").ok()
    use.kubectl("patch", "deployment", use.name, "-p", '{"metadata":{"labels":{"patched":"yes"}}}').ok()
    assert use.kubectl("get", "deployment", "-l", "patched=yes", "-o", "name").ok().stdout.strip().endswith(use.name)
    use.kubectl("delete", "-f", str(file)).ok()
    wait_until("it is gone", lambda: "NotFound" in use.kubectl("get", "deployment", use.name).stderr)


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{made-by: {name}}}}}
  template:
    metadata: {{labels: {{made-by: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, image: "{image}", imagePullPolicy: Never, command: [/bin/sleep, "100000"]}}]
"""


def test_a_debugging_container(use: Use) -> None:
    """In a copy of the pod; added to the pod itself where this kubectl knows how this API server wants to be asked."""
    use.estate.kube.add_pod(f"sick-{use.name}", "dev")
    ways: list[tuple[str, ...]] = [("--copy-to", f"copy-{use.name}", "--container=debugger")]
    if "debian" in use.name:
        ways.append(("--target=main",))
    for way in ways:
        words = ("debug", "-it", f"sick-{use.name}", f"--image={IMAGE}", *way, "--", "sh")
        with Terminal(use.words(*words), use.environment) as terminal:
            terminal.expect("see a command prompt|# ", 40.0)
            terminal.type("echo de''bugging; exit\r")
            terminal.expect("debugging\r\n")
            assert terminal.ended() == 0
    use.kubectl("delete", "pod", f"sick-{use.name}", f"copy-{use.name}", "--wait=false").ok()


SAME = (
    "version -o json",
    "api-versions",
    "api-resources",
    "explain pod.spec.containers",
    "get pods quiet -o yaml",
    "get pods -l app=web -o wide",
    "get pods -A",
    "get nodes",
    "get pods -n prod",
    "get secrets -n kube-system",
    "get all -l app=web",
    "get pods -l app=quiet --chunk-size=1 -o name",
    "get nosuchthing",
    "get pod nosuchpod",
    "get --raw /api/v1/namespaces/dev/pods/quiet/status",
    "auth can-i --list",
    "auth can-i create pods",
    "auth can-i delete nodes",
    "describe pod quiet --show-events=false",
    "delete pod hidden -n prod",
    "create namespace more",
    "exec hidden -n prod -- id",
    "exec quiet -c nosuchcontainer -- id",
    "logs hidden -n prod",
    "logs nosuchpod",
    "port-forward hidden -n prod 0:80",
    "cp hidden:/etc/passwd /dev/null -n prod",
    "drain localhost",
    "top pods",
)


AGE = re.compile(r" +([0-9]+[dhm])*[0-9]+[smhd](?=\s)")


def printed(done: Ran) -> tuple[int, str, str]:
    """What it printed, with no ages: they grow from one call to the next, and columns with them."""
    return done.status, re.sub(" +", " ", AGE.sub(" AGE", done.stdout)), done.stderr


def test_ages_alone_are_not_compared() -> None:
    def row(*words: str) -> tuple[int, str, str]:
        return printed(Ran((), 0, "  ".join(words).encode() + b"\n", b""))

    assert row("web", "2/2", "Running", "59s", "10.0.0.1") == row("web", "2/2", "Running", "1m0s", "10.0.0.1")
    assert row("web", "2/2", "Running", "2d3h") == row("web", "2/2", "Running", "9m")
    assert row("web", "2/2", "Running", "59s") != row("web", "1/2", "Running", "59s")
    assert row("web", "2m", "10.0.0.1") != row("web", "2m", "10.0.0.2")


@pytest.mark.parametrize("command", SAME)
def test_kubectl_prints_what_it_prints_without_us(use: Use, command: str) -> None:
    """Answers and refusals of the API server, in the person's name, are those that somebody with that name gets."""
    kube = use.estate.kube
    admin = (f"--kubeconfig={kube.folder}/admin.conf", f"--as={use.name}", "--as-group=developers")
    as_group = ("--as-group=system:authenticated",)
    direct = use.kubectl(*admin, *as_group, *command.split())
    through = use.kubectl(*command.split())
    assert printed(through) == printed(direct)
