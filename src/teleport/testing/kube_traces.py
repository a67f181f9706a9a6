"""What a container runtime and a kubelet leave behind on a machine, taken away again.

`Traces.taken()` looks at what there is; `undo` brings that back: kernel settings, mounts and control groups, network
namespaces, the bridge, folders in /var and /run. Only what was not there before goes, and of network namespaces only
those that pods have, since other tests make some, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SETTINGS: Final = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
)
FOLDERS: Final = tuple(
    map(Path, ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/run/containerd"))
)
NAMESPACES: Final = Path("/run/netns")
GROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Traces:
    settings: dict[str, str]
    files: frozenset[Path]
    groups: frozenset[Path]

    @classmethod
    def taken(cls) -> Traces:
        settings = {name: text for name in SETTINGS if (text := _setting(name)) is not None}
        return cls(settings, frozenset(_files()), frozenset(_groups()))

    def undo(self, folder: Path, bridge: str) -> list[str]:
        """Takes away what is new, and everything that is mounted below `folder`; what could not be taken away."""
        for name, text in self.settings.items():
            if _setting(name) != text:
                Path("/proc/sys", name).write_text(text)
        for place in (folder, *FOLDERS):
            for mounted in _mounted(place):
                subprocess.run(["umount", "-l", mounted], capture_output=True, check=False)
        for path in sorted(set(_files()) - self.files, reverse=True):
            if path.parent == NAMESPACES:  # a mounted file
                subprocess.run(["umount", "-l", path], capture_output=True, check=False)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)
        for group in sorted(set(_groups()) - self.groups, reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
        return self.left(folder)

    def left(self, folder: Path) -> list[str]:
        """What is still there that was not before."""
        return [
            *(f"{name}={_setting(name)}" for name, text in self.settings.items() if _setting(name) != text),
            *map(str, _mounted(folder)),
            *map(str, sorted(set(_files()) - self.files)),
            *map(str, sorted(set(_groups()) - self.groups)),
        ]


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        if folder.exists():
            yield folder
            yield from folder.rglob("*")
    yield from NAMESPACES.glob("cni-*")


def _groups() -> Iterator[Path]:
    """Those of containers, in every hierarchy."""
    for top, folders, _ in os.walk(GROUPS):
        if "/k8s.io" in top or top.endswith("/kubepods"):
            yield Path(top)
        elif top.count("/") > GROUPS.as_posix().count("/") + 2:
            folders.clear()


def _mounted(folder: Path) -> list[str]:
    """The mount points below a folder, the innermost first."""
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = str(folder)
    return sorted((one for one in found if one == inside or one.startswith(f"{inside}/")), reverse=True)
