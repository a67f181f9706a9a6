"""System packages that tests need beside the product: installed where that is possible."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from teleport.testing.cluster import run

ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
APT: Final = Path(__file__).resolve().parents[2] / "scripts" / "apt.sh"  # waits for another apt
INSTALL_SECONDS: Final = 180.0
LOCK: Final = Path("/run/lock/teleport-tests-apt" if os.geteuid() == 0 else f"/tmp/teleport-tests-apt-{os.geteuid()}")


@contextlib.contextmanager
def packages_lock() -> Iterator[None]:
    """Lists of tests run side by side: what one of them fetches, the other one finds."""
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(package: str, what: str) -> str:
    """Installs `package`, of which `what` is missing, by apt as root; why that is not possible, empty when it was."""
    if os.geteuid() != 0:
        return f"{what} is not installed, and only root installs it (apt-get install {package})"
    if shutil.which("apt-get") is None:
        return f"{what} is not installed, and there is no apt-get to install it with"
    patience = {**ENVIRONMENT, "TELEPORT_APT_PATIENCE": f"{INSTALL_SECONDS / 2:.0f}"}
    with packages_lock():
        done = run(str(APT), "tests", package, environment=patience, seconds=INSTALL_SECONDS)
    return f"{what} cannot be installed: {done.stderr.strip()[-300:]}" if done.status else ""
