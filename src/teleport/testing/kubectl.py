"""Which `kubectl` is installed."""

from __future__ import annotations

import shutil
from pathlib import Path


def newest_kubectl() -> Path | None:
    """What is installed may be a program that runs another one by the server's version, which it asks for first: then
    the newest of those, which lie beside it. None: there is none."""
    found = shutil.which("kubectl")
    if found is None:
        return None
    real = Path(found).resolve()
    beside = [one for one in real.parent.glob("kubectl.1.*") if one.suffix[1:].isdigit()]
    return max(beside, key=lambda one: int(one.suffix[1:]), default=real)
