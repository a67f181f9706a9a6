"""The .deb and the .rpm: one tree of files for both, and the same scripts around it.

A package manager takes the files of the old version away as soon as the new ones are there, and a daemon that runs
would miss what it has not imported yet. So the package's own copy is in `packaged/`, and what runs is in `versions/`:
hard links to it, which stay until no process runs from them any more.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scripts.dist.interpreter import run
from scripts.dist.locked import ROOT
from scripts.dist.tree import settle

NAME = "teleport-access"
SUMMARY = "Access plane for servers and Kubernetes clusters"
UNITS = ("teleport", "teleport-node")
PROGRAMS = ("teleport", "tctl", "tsh")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def lay_out(root: Path, place: Path, release: str, moment: int) -> None:
    """What both packages install, below `root`. The units and the configuration are what the commands print."""
    packaged = root / "usr/lib/teleport/packaged" / release
    packaged.parent.mkdir(parents=True)
    shutil.copytree(place, packaged, symlinks=True, copy_function=os.link)
    (root / "usr/bin").mkdir(parents=True)
    for program in PROGRAMS:
        (root / "usr/bin" / program).symlink_to(f"../lib/teleport/current/bin/{program}")
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        command = (str(packaged / "bin/teleport"), "install", "systemd", f"--unit={unit}")
        (units / f"{unit}.service").write_text(run(*command, "--teleport-path=/usr/bin/teleport"))
    (root / "etc").mkdir()
    (root / "etc/teleport.yaml").write_text(run(str(packaged / "bin/teleport"), "configure"))
    documents = root / "usr/share/doc" / NAME
    documents.mkdir(parents=True)
    for name in ("LICENSE", "SECURITY.md"):
        shutil.copy2(ROOT / name, documents / name)
    (documents / "LICENSE").rename(documents / "copyright")
    settle(root, moment)
    (root / "etc/teleport.yaml").chmod(0o640)


def deb(out: Path, root: Path, release: str, version: str, machine: str, glibc: str, moment: int, work: Path) -> Path:
    """Writes the .deb. `machine` as uname says it."""
    architecture = _ARCHITECTURES.get(machine, machine)
    staged = work / "deb"
    shutil.copytree(root, staged, symlinks=True, copy_function=_linked)
    control = staged / "DEBIAN"
    control.mkdir()
    size = sum(path.lstat().st_size for path in root.rglob("*")) // 1024
    (control / "control").write_text(
        f"Package: {NAME}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: The {NAME} project\n"
        f"Installed-Size: {size}\nDepends: libc6 (>= {glibc}), passwd\nConflicts: teleport\nSection: net\n"
        f"Priority: optional\nDescription: {SUMMARY}\n"
        " Short-lived certificates, one proxy, roles, recordings and an audit log that proves itself.\n"
        " It brings the interpreter and the libraries that it needs.\n"
    )
    (control / "conffiles").write_text("/etc/teleport.yaml\n")
    for name in ("postinst", "prerm", "postrm"):
        (control / name).write_text(script(name, release))
        (control / name).chmod(0o755)
    settle(control, moment)
    os.utime(staged, (moment, moment))
    target = out / f"{NAME}_{version}_{architecture}.deb"
    run("dpkg-deb", "--root-owner-group", "--threads-max=1", "-Zxz", "-z1", "--build", str(staged), str(target))
    return target


def rpm(out: Path, root: Path, release: str, version: str, machine: str, glibc: str, moment: int, work: Path) -> Path:
    """Writes the .rpm."""
    top = work / "rpm"
    top.mkdir()
    spec = (ROOT / "packaging" / "teleport.spec").read_text()
    for key, text in {
        "NAME": NAME,
        "VERSION": version,
        "SUMMARY": SUMMARY,
        "ROOT": str(root),
        "GLIBC": glibc,
        "POST": _body("postinst", release),
        "PREUN": _body("prerm", release),
        "POSTUN": _body("postrm", release),
    }.items():
        spec = spec.replace(f"@{key}@", text)
    (top / "teleport.spec").write_text(spec)
    defined = {"_topdir": str(top), "_rpmdir": str(top), "_buildhost": "localhost", "_rpmfilename": "%{NAME}.rpm"}
    flags = [word for key, text in defined.items() for word in ("--define", f"{key} {text}")]
    run("rpmbuild", "-bb", "--quiet", f"--target={machine}-linux", *flags, str(top / "teleport.spec"))
    target = out / f"{NAME}-{version}-1.{machine}.rpm"
    shutil.move(top / f"{NAME}.rpm", target)
    return target


def script(name: str, release: str) -> str:
    """A maintainer's script, whole."""
    return f"#!/bin/sh\nset -e\n{_body(name, release)}"


def _body(name: str, release: str) -> str:
    return (ROOT / "packaging" / name).read_text().replace("@RELEASE@", release)


def _linked(source: str, target: str) -> None:
    """A hard link, or a copy of what a package changes in place."""
    shutil.copy2(source, target) if source.endswith("teleport.yaml") else os.link(source, target, follow_symlinks=False)
