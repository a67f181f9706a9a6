"""Containers of podman for tests: a store and a state of their own, which go with them.

This machine may be a container itself: the host's network is used, limits are those that it has, and runc starts what
runs, since it knows control groups of both kinds at once. No registry of images is asked.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.cluster.cluster_packages import ENVIRONMENT, install

from teleport.testing.cluster import RUNNING, Cluster, DaemonProcess, Host, Ran, run, wait_until

NEEDED: Final = {"podman": "podman", "runc": "runc", "busybox": "busybox-static"}
PROBE: Final = 'FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox"]\n'
DATA: Final = "/var/lib/teleport"
READY: Final = 60.0  # seconds


@dataclass(frozen=True)
class Engine:
    """podman with a folder of its own."""

    folder: Path

    def __call__(self, *words: str | Path, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        return run(*self.words(*words), environment=ENVIRONMENT, stdin=stdin, seconds=seconds)

    def words(self, *words: str | Path) -> list[str]:
        own = ("podman", f"--root={self.folder}/store", f"--runroot={self.folder}/state", f"--tmpdir={self.folder}/tmp")
        return [*own, "--events-backend=none", "--cgroup-manager=cgroupfs", "--runtime=runc", *map(str, words)]

    def build(self, name: str, containerfile: Path, context: Path) -> None:
        self("build", "--quiet", f"--tag={name}", f"--file={containerfile}", context, seconds=120).ok()

    def run(self, *words: str | Path) -> Ran:
        """A container of which nothing can be changed but volumes, and that may do nothing that an account may not."""
        files, processes = (
            min(resource.getrlimit(limit)[1], 16_384) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
        )
        limits = (f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={processes}:{processes}")
        closed = ("--network=host", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
        return self("run", *closed, *limits, *words)


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine | str]:
    """An engine that has been seen to run something, or why there is none."""
    if os.geteuid() != 0:
        yield "needs root: containers are started by root here"
        return
    for program, package in NEEDED.items():
        if shutil.which(program, path=ENVIRONMENT["PATH"]) is None and (why := install(package, program)):
            yield why
            return
    made = Engine(folder)
    (folder / "probe").mkdir(parents=True)
    try:
        yield _why_not(made) or made
    finally:
        made("rm", "--all", "--force", "--time=0", "--volumes")
        made("rmi", "--all", "--force")
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if (place := line.split()[1]).startswith(f"{folder}/"):
                run("umount", place, environment=ENVIRONMENT)


def _why_not(made: Engine) -> str:
    busybox = shutil.which("busybox", path=ENVIRONMENT["PATH"])
    assert busybox is not None
    shutil.copy2(busybox, made.folder / "probe" / "busybox")
    (made.folder / "probe" / "Containerfile").write_text(PROBE)
    built = made("build", "--quiet", "--tag=probe", made.folder / "probe")
    ran = made.run("--rm", "probe", "true") if built.status == 0 else built
    return f"no container runs here: {ran.stderr.strip()[-300:]}" if ran.status else ""


class ContainedDaemon(DaemonProcess):
    """`teleport start` as process 1 of a container."""

    def __init__(self, folder: Path, made: Engine, image: str, config: Path) -> None:
        super().__init__(folder, [])
        self.engine = made
        self.name = f"teleport-{uuid.uuid4().hex[:8]}"
        self._image = image
        self._options = (f"--volume={config}:/etc/teleport.yaml:ro", f"--volume={self.name}:{DATA}")

    def begin(self) -> Self:
        self.engine.run("--detach", f"--name={self.name}", *self._options, self._image).ok()
        RUNNING.append(self)
        return self

    def start(self) -> Self:
        self.begin()
        try:
            wait_until("the container is healthy", self.ready, READY)
        except BaseException:
            self.abandon()
            raise
        return self

    def ready(self) -> bool:
        """By the command that is meant for it."""
        assert self.state() == "running", self.log()
        return self.exec("teleport", "healthcheck").status == 0

    def exec(self, *words: str | Path, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        """A command in the container, as its user."""
        return self.engine("exec", "--interactive", self.name, *words, stdin=stdin, seconds=seconds)

    def state(self) -> str:
        return self._shown("{{.State.Status}}")

    def _shown(self, what: str) -> str:
        return self.engine("inspect", f"--format={what}", self.name).ok().stdout.strip()

    @property
    def pid(self) -> int:
        """Process 1, as this machine numbers it."""
        return int(self._shown("{{.State.Pid}}"))

    def log(self) -> str:
        done = subprocess.run(self.engine.words("logs", self.name), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def signal(self, number: signal.Signals) -> None:
        self.engine("kill", f"--signal={number.name}", self.name).ok()

    def ended(self, seconds: float = READY) -> int:
        return int(self.engine("wait", self.name, seconds=seconds).ok().stdout)

    def stop(self, seconds: float = 20.0) -> None:
        """As whoever runs it stops it: TERM, and KILL after a while, which must not be needed."""
        try:
            if self.state() == "running":
                self.engine("stop", f"--time={seconds:.0f}", self.name, seconds=seconds + 20).ok()
            assert self.ended() == 0, self.log()
            assert "Traceback" not in self.log(), self.log()
        finally:
            self.abandon()

    def abandon(self) -> None:
        self.engine("rm", "--force", "--time=0", self.name)
        if self in RUNNING:
            RUNNING.remove(self)


class ContainedCluster(Cluster):
    """Auth and proxy in a container, and a node on this machine that is a member by a token."""

    def __init__(self, folder: Path, made: Engine, image: str) -> None:
        super().__init__(folder)
        self.config["teleport"] |= {"data_dir": DATA, "nodename": "hub"}
        node = self.config["ssh_service"]
        self.config["ssh_service"] = {"enabled": False}
        self.write()
        self.config_path.chmod(0o644)  # no secret is in it, and the image's user reads it
        self.daemon = self.contained = ContainedDaemon(folder, made, image, self.config_path)
        self.node = Host(folder / "node", {**self.node_config("alpha"), "ssh_service": node})

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            made = self.tctl("tokens", "add", "--type=node", "--format=json").json()
            token = self.folder / "token"
            token.write_text(made["token"])
            token.chmod(0o600)
            self.node.config["teleport"] |= {"auth_token": str(token), "ca_pin": self.ca_pin()}
            self.node.write()
            self.node.__enter__()
            wait_until("the node is listed", lambda: "alpha" in self.tctl("nodes", "ls").ok().stdout, 30)
        except BaseException:
            self.contained.abandon()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        try:
            self.node.daemon.__exit__(*about)  # type: ignore[arg-type]
        finally:
            super().__exit__(*about)  # type: ignore[arg-type]

    def tctl(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 30.0) -> Ran:
        """In the container, which has the data_dir."""
        return self.contained.exec("tctl", *arguments, stdin=stdin, seconds=seconds)
