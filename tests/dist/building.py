"""What tests build with `make dist`, and the Debian that they install it on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from scripts.dist.locked import ROOT
from tests.cluster.cluster_kubectl import CACHE
from tests.cluster.cluster_packages import install

TOOLS: Final = {"patchelf": "patchelf", "rpmbuild": "rpm", "busybox": "busybox-static", "mmdebstrap": "mmdebstrap"}


def why_not() -> str:
    """Why nothing can be built here; empty when it can. Installs what is missing where that is possible."""
    if os.geteuid():
        return "roots and namespaces of their own are for root"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None and (problem := install(package, tool)):
            return problem
    return ""


def build(out: Path, *flags: str, source: Path = ROOT) -> Path:
    """Builds into a folder, with flags of the command; out of this tree, or a copy of it."""
    command = [sys.executable, "-m", "scripts.dist", f"--out={out}", f"--debs={CACHE.parent / 'debs'}", *flags]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def published(out: Path, *flags: str) -> Path:
    """As `build`; or what is to be published, where TELEPORT_TEST_DIST names that."""
    built = os.environ.get("TELEPORT_TEST_DIST")
    return Path(built) if built else build(out, *flags)


@contextlib.contextmanager
def debian_root(root: Path, *flags: str) -> Iterator[Path]:
    """A Debian of required packages in a folder, from the archive that this machine uses."""
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt").glob("sources.list.d/*s")]
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    words = ["mmdebstrap", "--quiet", "--variant=required", '--aptopt=APT::Sandbox::User "root"', *flags]
    done = subprocess.run(
        [*words, release["VERSION_CODENAME"], str(root), *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mmdebstrap makes no Debian here: {done.stderr[-300:]}")
    yield root
    shutil.rmtree(root)
