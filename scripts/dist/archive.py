"""Archives: a release, and a script that puts it in its place."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from scripts.dist import interpreter
from scripts.dist.locked import ROOT
from scripts.dist.tree import settle


def write(target: Path, name: str, product: str, release: str, place: Path, moment: int, work: Path) -> None:
    """`target` with one directory `name`: the release, its name, and `install`."""
    folder = work / name
    folder.mkdir()
    (folder / "RELEASE").write_text(f"{product} {release} {interpreter.glibc_needed(place)}\n")
    shutil.copy2(ROOT / "packaging" / "install", folder / "install")
    (folder / "install").chmod(0o755)
    shutil.copy2(ROOT / "LICENSE", folder / "LICENSE")
    place.rename(folder / "release")
    settle(folder, moment)
    try:
        pack(target, folder, name)
    finally:
        (folder / "release").rename(place)


def pack(target: Path, folder: Path, name: str, *, owners: Mapping[str, int] = MappingProxyType({})) -> None:
    """A tar of `folder` that depends on its content alone. `owners`: of what is not root's, by its path in `folder`."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in (folder, *sorted(folder.rglob("*"))):
            inside = name if path == folder else f"{name}/{path.relative_to(folder).as_posix()}"
            info = tar.gettarinfo(str(path), inside)
            info.uid = info.gid = owners.get(path.relative_to(folder).as_posix(), 0)
            info.uname = info.gname = "" if info.uid else "root"
            if info.islnk():
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
            if info.isfile():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
