"""A real systemd that boots in a container, over this machine's own files or others, to run the documented unit.

The container has a file system of its own, an overlay that keeps changes in memory, and processes of its own; the
network is this machine's, so that clients here reach the daemon there, unless it is `alone`. It boots in under a
second, since nothing is installed into it. Nothing runs in it but what systemd needs itself and what a test starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.cluster.cluster_packages import ENVIRONMENT, install

from teleport.testing.cluster import Ran, alive, run, wait_until

TARGET: Final = "tested.target"  # what is booted

# The mounts are made in a mount namespace of their own, and go with it. `seed` has the files that differ.
BOOT = """\
set -e
mount --make-rprivate /
mount -t tmpfs none "$1/layers"
mkdir "$1/layers/upper" "$1/layers/work" "$1/layers/root"
cp -a "$1/seed/." "$1/layers/upper/"
mount -t overlay overlay -o "lowerdir=$4,upperdir=$1/layers/upper,workdir=$1/layers/work" "$1/layers/root"
name=$2
target=$3
folder=$1
shift 4
exec systemd-nspawn --quiet -D "$folder/layers/root" -M "$name" --register=no --keep-unit --link-journal=no "$@" \\
    --boot "systemd.unit=$target" systemd.log_target=journal systemd.show_status=0
"""


def why_not() -> str:
    """Why no systemd can be booted here; empty when it can. Installs what is missing where that is possible."""
    if os.geteuid() != 0:
        return "needs root: it boots a systemd in a container"
    if shutil.which("systemd-nspawn") is None:
        why = install("systemd-container", "systemd-nspawn")
        if why:
            return why
    for program in ("/sbin/init", "/bin/systemctl"):
        if not Path(program).exists():
            return f"this machine has no {program}, and the container boots what this machine has"
    probe = run("unshare", "--mount", "--pid", "--fork", "true", environment=ENVIRONMENT)
    return f"no namespaces can be made here: {probe.stderr.strip()}" if probe.status else ""


class Machine:
    """A booted container; its init sees `binds` at the same paths."""

    def __init__(
        self,
        folder: Path,
        files: dict[str, str],
        links: dict[str, Path],
        binds: Sequence[Path],
        *,
        alone: bool = False,
        root: Path = Path("/"),
    ) -> None:
        """`files`: content by path in the container; `links`: what symbolic links there point to; `alone`: with a
        network of its own that leads nowhere, so that every port is free; `root`: the files beneath, in place of this
        machine's."""
        self._folder = folder
        self._name = f"tested-{uuid.uuid4().hex[:8]}"
        self._binds = binds
        self._root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0
        self.console = folder / "console.log"
        self.boot_seconds = 0.0
        (folder / "layers").mkdir(parents=True)
        self.alone = alone
        self.seed = seed = folder / "seed"  # what is put there before the boot is in the container
        seed.mkdir()
        wants = "[Unit]\nDescription=What is tested\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n"
        for path, text in {f"/etc/systemd/system/{TARGET}": wants, **files}.items():
            place = self._seed(seed, path)
            place.write_text(text)
            place.chmod(0o644)
        # no timer of this machine (apt's, for one) goes off in it
        nowhere = Path("/dev/null")
        for path, to in {"/etc/systemd/system/timers.target": nowhere, **links}.items():
            self._seed(seed, path).symlink_to(to)

    @staticmethod
    def _seed(seed: Path, path: str) -> Path:
        place = seed / path.lstrip("/")
        for parent in reversed(place.relative_to(seed).parents):
            (seed / parent).mkdir(mode=0o755, exist_ok=True)
        return place

    def __enter__(self) -> Self:
        began = time.monotonic()
        binds = [f"--bind={path}" for path in self._binds]
        if self.alone:
            binds.append("--private-network")
        with self.console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", BOOT, "sh", self._folder, self._name, TARGET, self._root, *binds],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
            )
        try:
            wait_until("the container has booted", self._booted, 60)
        except BaseException:
            self._put_down()
            raise
        self.boot_seconds = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nspawn is not None
        self.systemctl("poweroff")
        try:
            self._nspawn.wait(60)
        finally:
            self._put_down()

    def _booted(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise AssertionError(f"no systemd boots:\n{self.console.read_text(errors='replace')}")
        below = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not below or Path(f"/proc/{below[0]}/comm").read_text().strip() != "systemd":
            return False
        self._init = int(below[0])
        return self.systemctl("is-active", TARGET).status == 0

    def _put_down(self) -> None:
        assert self._nspawn is not None
        if self._nspawn.poll() is None:
            if self._init and alive(self._init):
                os.kill(self._init, 9)  # with it all that it runs
            self._nspawn.kill()
        self._nspawn.wait()
        # nspawn leaves the groups that the container's processes were in
        for top in Path("/sys/fs/cgroup").glob("*/payload"), Path("/sys/fs/cgroup").glob("payload"):
            for group in top:
                for folder, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)

    def words(self, *words: str) -> list[str]:
        """The command that runs one in the container."""
        return ["nsenter", "-t", str(self._init), "-a", *words]

    def run(self, *words: str, seconds: float = 30.0) -> Ran:
        """A command in the container."""
        return run(*self.words(*words), environment=ENVIRONMENT, seconds=seconds)

    def systemctl(self, *words: str, seconds: float = 60.0) -> Ran:
        return self.run("systemctl", *words, seconds=seconds)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", unit, f"--property={name}", "--value").ok().stdout.strip()
