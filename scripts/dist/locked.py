"""What the lock files say: the pinned packages that the product needs at run time, each with the hashes of its files.

python scripts/dist/locked.py etcd hsm     prints the entries that these extras need beside requirements/runtime.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of a lock file."""

    name: str
    version: str
    hashes: tuple[str, ...]
    text: str


def entries(text: str) -> dict[str, Locked]:
    """The entries of a lock file, by name."""
    found: dict[str, Locked] = {}
    for one in re.split(r"\n(?=[a-z0-9])", text):
        if (match := re.match(r"([A-Za-z0-9_.-]+)==(\S+)", one)) is not None:
            hashes = tuple(sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", one)))
            found[plain(match[1])] = Locked(plain(match[1]), match[2], hashes, one.rstrip())
    return found


def plain(text: str) -> str:
    """The name in a requirement, in the one form that is compared."""
    match = _NAME.match(text)
    assert match is not None, text
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def runtime() -> dict[str, Locked]:
    """What every installation needs."""
    return entries((ROOT / "requirements" / "runtime.txt").read_text())


def of_extras(extras: list[str]) -> dict[str, Locked]:
    """What `extras` need beside that. Raises `SystemExit` for one that there is not."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = entries((ROOT / "requirements" / "dev.txt").read_text())
    have = runtime()
    waiting: list[str] = []
    for extra in extras:
        if extra not in known:
            sys.exit(f"there is no extra {extra!r}: {', '.join(sorted(known))}")
        waiting += map(plain, known[extra])
    found: dict[str, Locked] = {}
    while waiting:
        one = waiting.pop()
        if one in found or one in have:
            continue
        found[one] = pinned[one]
        waiting += needed_by(one, pinned)
    return dict(sorted(found.items()))


def needed_by(name: str, among: dict[str, Locked]) -> list[str]:
    """The packages that an installed one needs, as far as they are `among` the locked."""
    try:
        texts = requires(name) or ()
    except PackageNotFoundError:
        sys.exit(f"{name} is not installed here, so nobody knows what it needs: make setup-dev")
    return [plain(text) for text in texts if "extra ==" not in text and plain(text) in among]


if __name__ == "__main__":
    sys.stdout.write("".join(one.text + "\n" for one in of_extras(sys.argv[1:]).values()))
