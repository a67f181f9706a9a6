"""Enhanced recording by a real daemon: what the kernel saw of a session is on record, and of nothing else.

Needs root and a kernel that gives its tracepoints; an ordinary user's daemon is shown to refuse to start.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.cluster.cluster_packages import install
from tests.kernel.kernel_traced import open_watcher

from teleport.testing.cluster import BIN, NODE, Cluster, Person, plain_environment, run, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root may use the kernel's tracepoints")
ROLE = """kind: role
version: v4
metadata: {{name: {name}}}
spec:
  allow: {{logins: [root], node_labels: {{'*': '*'}}}}
  options: {{enhanced_recording: [{kinds}]}}
"""


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root may use the kernel's tracepoints")

    async def probe() -> None:
        open_watcher().close()

    asyncio.run(probe())
    cluster = Cluster(tmp_path_factory.mktemp("enhanced"))
    cluster.config["ssh_service"]["enhanced_recording"] = {"enabled": True}
    cluster.write()
    with cluster:
        for name, kinds in (("everything", "command, disk, network"), ("unwatched", "")):
            cluster.tctl("create", "-f", "-", stdin=ROLE.format(name=name, kinds=kinds)).ok()
        yield cluster


@pytest.fixture(scope="module")
def wanda(watching: Cluster) -> Person:
    person = watching.add_person("wanda", roles=["everything"], logins=[])
    person.log_in()
    return person


def target(cluster: Cluster) -> str:
    return f"root@{NODE}.{cluster.name}"


def ended(cluster: Cluster, mark: str) -> dict[str, Any]:
    """The end of the session whose command holds `mark`."""

    def found() -> dict[str, Any] | None:
        for event in cluster.events("--type=session.end"):
            if mark in " ".join(event["initial_command"]):
                return event
        return None

    return wait_until(f"the end of the session of {mark}", found)


def stream(cluster: Cluster, sid: str) -> list[dict[str, Any]]:
    return [event for event in cluster.events() if event.get("sid") == sid]


def commands(cluster: Cluster, sid: str) -> list[list[str]]:
    return [event["argv"] for event in stream(cluster, sid) if event["event"] == "session.command"]


@needs_root
def test_commands_of_a_session_are_named_and_not_those_of_another_or_of_nobody(
    watching: Cluster, wanda: Person
) -> None:
    """Through setsid, through two forks, and both at once, while another session and a process of no session run."""
    ours, other, nobody = (f"m{uuid.uuid4().hex[:8]}" for _ in range(3))
    script = (
        f"setsid sh -c '/bin/echo {ours} setsid; (/bin/echo {ours} forked &) ; (setsid /bin/echo {ours} both &)' "
        f">/dev/null; cat /etc/hostname >/dev/null; bash -c 'exec 3<>/dev/tcp/127.0.0.1/{watching.web_port}'; exit 0"
    )
    go_on = watching.folder / "go-on"
    cron = subprocess.Popen(
        ["/bin/sh", "-c", f"while [ ! -e {go_on} ]; do /bin/echo {nobody}; done"], stdout=subprocess.DEVNULL
    )
    try:
        beside = Thread(target=lambda: wanda.ssh(target(watching), f"/bin/echo {other}; cat /etc/passwd; exit 0").ok())
        beside.start()
        wanda.ssh(target(watching), script).ok()
        beside.join()
    finally:
        go_on.touch()
        cron.wait()
    end, beside_end = ended(watching, ours), ended(watching, other)
    assert end["enhanced_recording"] is True
    assert commands(watching, end["sid"])[0][1:] == ["-c", script]

    def said() -> list[str]:
        """What was put aside may run after the session's own program has ended."""
        return sorted(argv[2] for argv in commands(watching, end["sid"]) if argv[:2] == ["/bin/echo", ours])

    wait_until("every command is on record", lambda: said() == ["both", "forked", "setsid"])
    assert commands(watching, beside_end["sid"])[-2:] == [["/bin/echo", other], ["cat", "/etc/passwd"]]
    everything = [event for event in watching.events() if event["event"] == "session.command"]
    assert not [event for event in everything if nobody in event["argv"]]
    assert {event["sid"] for event in everything} <= {event["sid"] for event in watching.events("--type=session.start")}
    files = [event["path"] for event in stream(watching, end["sid"]) if event["event"] == "session.disk"]
    assert "/etc/hostname" in files
    (connection,) = [event for event in stream(watching, end["sid"]) if event["event"] == "session.network"]
    assert (connection["dst_addr"], connection["dst_port"]) == ("127.0.0.1", watching.web_port)
    numbers = [event["ei"] for event in stream(watching, end["sid"]) if event["ei"] < 2**31 - 2]
    assert sorted(numbers) == list(range(len(numbers)))
    assert not [event for event in watching.events() if event["event"] == "session.enhanced_gap"]


@needs_root
def test_what_a_session_leaves_running_stays_on_record(watching: Cluster, wanda: Person) -> None:
    """After the session's end, in the same stream."""
    mark = f"m{uuid.uuid4().hex[:8]}"
    fifo = watching.folder / mark
    os.mkfifo(fifo)
    wanda.ssh(
        target(watching), f"setsid sh -c 'read x <{fifo}; /bin/echo {mark} late' </dev/null >/dev/null 2>&1 & exit 0"
    ).ok()
    end = ended(watching, mark)
    fifo.write_text("go\n")
    wait_until(
        "what was done later is on record",
        lambda: ["/bin/echo", mark, "late"] in commands(watching, end["sid"]),
    )


@needs_root
def test_roles_that_ask_for_nothing_leave_nothing(watching: Cluster) -> None:
    """Also in a monitor that has just served a session that was watched."""
    mark = f"m{uuid.uuid4().hex[:8]}"
    person = watching.add_person("otto", roles=["unwatched"], logins=[])
    person.log_in()
    for _ in range(3):
        person.ssh(target(watching), f"/bin/echo {mark}").ok()
    assert ended(watching, mark)["enhanced_recording"] is False
    assert not [event for event in watching.events("--type=session.command") if mark in event["argv"]]


@pytest.mark.long
@needs_root
def test_commands_of_the_real_cron_are_of_no_session(watching: Cluster, wanda: Person, tmp_path: Path) -> None:
    """The scheduler starts a job, once a minute, that a session wrote down for it."""
    if why := install("cron", "cron"):
        pytest.skip(why)
    mark = f"m{uuid.uuid4().hex[:8]}"
    tab, ran = Path(f"/etc/cron.d/{mark}"), tmp_path / "ran"
    cron = subprocess.Popen(["cron", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wanda.ssh(
            target(watching), f"printf '* * * * * root /bin/echo {mark} job >{ran}\\n' >{tab}; chmod 644 {tab}; exit 0"
        ).ok()
        wait_until("cron has run the job", ran.exists, 130)
    finally:
        tab.unlink(missing_ok=True)
        cron.terminate()
        cron.wait()
    wanda.ssh(target(watching), f"/bin/true {mark}; exit 0").ok()
    ended(watching, f"/bin/true {mark}")
    seen = [event["argv"] for event in watching.events("--type=session.command") if mark in event["argv"]]
    assert seen == [["/bin/true", mark]]


def test_a_node_that_cannot_watch_does_not_start_and_says_why(tmp_path: Path) -> None:
    """An ordinary user's daemon; as root, one that has given up its rights but for the files."""
    cluster = Cluster(tmp_path)
    cluster.config["ssh_service"]["enhanced_recording"] = {"enabled": True}
    cluster.write()
    command: list[str | Path] = [BIN / "teleport", "start", "--config", cluster.config_path]
    if os.geteuid() == 0:
        # Capabilities of the bounding set are lost at exec: root without them may use neither bpf nor perf.
        code = (
            "import ctypes,os,sys\n"
            "libc=ctypes.CDLL(None)\n"
            "for number in (21, 38, 39): libc.prctl(24, number, 0, 0, 0)\n"  # sys_admin, perfmon, bpf
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        command = [sys.executable, "-c", code, *command]
    done = run(*command, environment=plain_environment(tmp_path), seconds=30)
    assert done.status == 1
    assert "ssh_service.enhanced_recording is on, but this host does not give it" in done.stderr
    assert "ssh_service.enhanced_recording.enabled: no" in done.stderr
    assert "Traceback" not in done.stderr
