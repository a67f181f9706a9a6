"""Private keys of authorities are touched in two modules: one that keeps them, one that signs with them.

Whoever adds a third way to them changes this list, and is asked why.
"""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "teleport"
PLACES = ("auth", "backup", "daemon", "store", "proxy", "node", "web", "tunnel")  # where authorities are at hand
PRIVATE_HALF = re.compile(r"\bpair\.private_key\b|\.ssh\[\d+\]\.private_key\b|\bpair\.key\b|\.tls\[\d+\]\.key\b")
LOADING = re.compile(r"\bkeys\.load\(")
KEEPS, SIGNS = "auth/authorities/keys.py", "auth/authorities/certify.py"


def mentioning(pattern: re.Pattern[str]) -> set[str]:
    files = (path for place in PLACES for path in (SOURCE / place).rglob("*.py"))
    return {str(path.relative_to(SOURCE)) for path in files if pattern.search(path.read_text())}


def test_only_two_modules_reach_for_private_keys_of_authorities() -> None:
    assert mentioning(PRIVATE_HALF) == {KEEPS, SIGNS}


def test_only_one_module_signs_with_them() -> None:
    assert mentioning(LOADING) == {SIGNS}
