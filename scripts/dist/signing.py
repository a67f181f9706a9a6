"""SHA256SUMS, and its signature by the tool that the key is for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NAMESPACE = "teleport-access"


def sums(files: Sequence[Path]) -> str:
    """As sha256sum -c reads it."""
    return "".join(f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n" for one in sorted(files))


def command(key: str, file: Path) -> tuple[list[str], Path]:
    """What signs `file`, and the signature that it writes. A key that is no file is the name of one that gpg has."""
    path = Path(key)
    begin = path.read_bytes()[:200] if path.is_file() else b""
    if begin.startswith(b"untrusted comment: minisign"):
        return ["minisign", "-S", "-s", key, "-m", str(file)], file.with_name(file.name + ".minisig")
    if b"PRIVATE KEY" in begin or begin.startswith((b"ssh-", b"sk-", b"ecdsa-")):
        return ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", key, str(file)], file.with_name(file.name + ".sig")
    signature = file.with_name(file.name + ".asc")
    if begin:
        sys.exit(f"dist: {key} is no secret key of minisign or SSH; of gpg's keys give the name, not a file")
    return [
        "gpg",
        "--batch",
        "--yes",
        "--armor",
        "--detach-sign",
        "-u",
        key,
        "-o",
        str(signature),
        str(file),
    ], signature


def sign(key: str, file: Path) -> Path:
    """Signs it; the tool asks for a passphrase itself. Ends the program when it does not."""
    words, signature = command(key, file)
    signature.unlink(missing_ok=True)
    try:
        done = subprocess.run(words, check=False)
    except FileNotFoundError:
        sys.exit(f"dist: {words[0]} is not installed, which this key is for")
    if done.returncode or not signature.exists():
        sys.exit(f"dist: {words[0]} did not sign {file.name}")
    return signature
