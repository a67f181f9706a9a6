"""What is built from is pinned by hash and names no index, and no secret lies in the repository (threat T63).

Reproducible builds, the list of contents and signatures are tested beside this; `make audit` asks which of what is
pinned has known weaknesses, where PyPI's and npm's answers are to be had.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(path for path in (ROOT / "requirements").glob("*.txt"))
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[a-z,]+\])?==\S+( ; .+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")

SECRETS = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\n(?:[A-Za-z0-9+/=]{40,}\n)+"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token of a code host": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|glpat-[A-Za-z0-9_-]{20})\b"),
    "a token of a package index": re.compile(r"\b(?:pypi-[A-Za-z0-9_-]{32,}|npm_[A-Za-z0-9]{36})\b"),
}


def unpinned(text: str) -> Iterator[str]:
    """What in a lock file is neither a pinned requirement with hashes nor a comment."""
    hashes = 1
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if HASH.match(line):
            hashes += 1
            continue
        if not hashes:
            yield "a requirement without a hash"
        hashes = 0
        if not PINNED.match(line):
            yield line
    if not hashes:
        yield "a requirement without a hash"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_by_hash(lock: Path) -> None:
    assert list(unpinned(lock.read_text())) == []


def test_what_is_not_pinned_is_found() -> None:
    good = f"one==1.0 \\\n    --hash=sha256:{'0' * 64}\n    # via two\n"
    assert not list(unpinned(good))
    for bad in (
        "one==1.0\n",
        "one>=1.0 \\\n" + good.partition("\n")[2],
        "-i https://x/\n" + good,
        "one==1.0 \\\n" + good,
    ):
        assert list(unpinned(bad)), bad


def test_every_package_of_the_pages_is_pinned_and_names_no_registry() -> None:
    locked = json.loads((ROOT / "webui" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in locked["packages"].items() if name and not entry.get("link")}
    assert packages
    assert [name for name, entry in packages.items() if not entry.get("integrity", "").startswith("sha512-")] == []
    assert [name for name, entry in packages.items() if "resolved" in entry] == []


def secrets(text: str) -> list[str]:
    return [what for what, pattern in SECRETS.items() if pattern.search(text)]


def test_no_secret_is_in_the_repository() -> None:
    """Keys that parsers are tried with are made when tests run; the corpus of fuzzing and the stores of former
    releases hold keys of clusters that never were anywhere."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this tree is no git repository, so nobody says what belongs to it")
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or name.startswith(("tests/fuzz/corpus/", "tests/vectors/")):
            continue
        found += [(name, what) for what in secrets(path.read_bytes().decode("utf-8", "replace"))]
    assert found == []


def test_secrets_are_found() -> None:
    body = "\n".join(["MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg"] * 2)
    planted = [
        f"x\n-----BEGIN {'EC '}PRIVATE KEY-----\n{body}\n",
        "aws_access_key_id = AKIA" + "A" * 16,
        "token: ghp_" + "a" * 36,
        "password = pypi-" + "A" * 40,
    ]
    assert [len(secrets(text)) for text in planted] == [1] * len(planted)
