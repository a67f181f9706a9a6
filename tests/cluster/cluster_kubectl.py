"""The generations of `kubectl`: the one that is installed, the newest, and Debian's, which knows SPDY alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from tests.cluster.cluster_packages import ENVIRONMENT, INSTALL_SECONDS, packages_lock

from teleport.testing.cluster import run

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teleport-tests" / "debian-kubectl"


def debian_kubectl() -> Path | str:
    """Debian's `kubectl`, unpacked beside the system, which may have another one; or why there is none."""
    found = CACHE / "usr/bin/kubectl"
    with packages_lock():
        if found.exists():
            return found
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            return "Debian's kubectl is not here, and there is no apt-get to fetch it with"
        if os.geteuid() != 0:
            return "Debian's kubectl is not here, and only root fetches it (apt-get download kubernetes-client)"
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        fetch = f'cd "{CACHE}" && apt-get -qq -o APT::Sandbox::User=root download kubernetes-client'
        unpack = f'cd "{CACHE}" && dpkg-deb -x kubernetes-client_*.deb . && rm kubernetes-client_*.deb'
        for command in (fetch, unpack):
            done = run("sh", "-c", command, environment=ENVIRONMENT, seconds=INSTALL_SECONDS)
            if done.status:
                shutil.rmtree(CACHE, ignore_errors=True)
                return f"Debian's kubectl cannot be fetched: {done.stderr.strip()[-300:]}"
    return found if found.exists() else "Debian's package kubernetes-client holds no kubectl"
