"""The root of an image: a release as the archive installs it, with the little that it needs of a host.

That is the C library, busybox for the few words of shell that start a program, the authorities that browsers trust,
and a user who owns `/var/lib/teleport`. `packaging/Containerfile` makes an image of it without a base, so that nothing
is in it that the list beside it does not name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from scripts.dist import interpreter
from scripts.dist.archive import pack
from scripts.dist.system_packages import PROGRAMS
from scripts.dist.tree import settle

PACKAGES: Final = ("libc6", "libgcc-s1", "busybox-static", "ca-certificates")
"""libgcc-s1: the C library loads it by name when a thread ends early."""
OWNER: Final = 65532
"""The user of the image, and of `teleport kube manifest`: none that a host has."""
_APPLETS: Final = ("cat", "dirname", "env", "id", "kill", "ls", "ps", "readlink", "sh", "sleep", "tail")
_FILES: Final = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nteleport:x:{OWNER}:{OWNER}::/tmp:/bin/sh\n",
    "etc/group": f"root:x:0:\nteleport:x:{OWNER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_FOLDERS: Final = {"tmp": 0o1777, "root": 0o700, "run": 0o755, "proc": 0o755, "sys": 0o755, "dev": 0o755}
_DATA: Final = "var/lib/teleport"


def write(target: Path, release: str, place: Path, debs: list[Path], moment: int, work: Path) -> None:
    """`target`, a tar, of the release in `place` and of `debs`, the files of `PACKAGES`."""
    root = work / "image"
    installed = root / "usr/local/lib/teleport"
    shutil.copytree(place, installed / "versions" / release, symlinks=True, copy_function=os.link)
    (installed / "current").symlink_to(f"versions/{release}")
    (root / "usr/local/bin").mkdir()
    for program in PROGRAMS:
        (root / "usr/local/bin" / program).symlink_to(f"../lib/teleport/current/bin/{program}")
    for deb in debs:
        unpacked = work / "image-of" / deb.stem
        interpreter.run("dpkg-deb", "--extract", str(deb), str(_made(unpacked)))
        _take(root, unpacked)
    for name in _APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    for folder in ("lib", "lib64"):
        if (root / "usr" / folder).exists() and not (root / folder).exists():
            (root / folder).symlink_to(f"usr/{folder}")  # newer Debian has them there alone
    for name, text in _FILES.items():
        _made((root / name).parent)
        (root / name).write_text(text)
    for name in (*_FOLDERS, _DATA):
        _made(root / name)
    settle(root, moment)
    for name, mode in {**_FOLDERS, _DATA: 0o700}.items():
        (root / name).chmod(mode)
    pack(target, root, ".", owners={_DATA: OWNER})
    shutil.rmtree(root)


def _take(root: Path, unpacked: Path) -> None:
    """What an image needs of a package, and what its authors want said."""
    authorities = sorted(unpacked.glob("usr/share/ca-certificates/mozilla/*.crt"))
    if authorities:
        bundle = _made(root / "etc/ssl/certs") / "ca-certificates.crt"
        bundle.write_text("".join(path.read_text() for path in authorities))
    for path in sorted(unpacked.rglob("*")):
        name = path.relative_to(unpacked)
        library = interpreter.of_the_host(path.name) or path.name.startswith("libgcc_s.so.")
        kept = library or name.match("usr/share/doc/*/copyright")
        if kept and not path.is_dir():
            shutil.copy2(path, _made((root / name).parent) / path.name, follow_symlinks=False)
        elif path.name == "busybox" and path.is_file() and name.parent.name == "bin":
            shutil.copy2(path, _made(root / "bin") / "busybox")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
