"""A release as it stands on a host: programs, the interpreter, the packages, all of it below one directory.

Nothing in it depends on where it stands, on when or by whom it was built, or on what else the machine had: two builds
from the same files are the same bytes, and its name has their digest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from scripts.dist import interpreter
from scripts.dist.locked import ROOT, Locked

PROGRAM = """\
#!/bin/sh
'''exec' "$(dirname -- "$(readlink -f -- "$0")")/python" "$0" "$@"
'''
import sys
from teleport.cli.{name} import main
sys.exit(main())
"""
_USELESS = (".pyi", ".pyx", ".pxd", ".c", ".h", ".cpp")
_OF_PIP = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_BOTOCORE = ("dynamodb", "application-autoscaling", "s3", "sts", "sso", "sso-oidc", "kms")
"""The services of botocore that are asked; the descriptions of all others are most of its size."""


def install(place: Path, version: str, locked: dict[str, Locked], wheel: Path, work: Path) -> None:
    """The packages and the wheel into the tree, without what only pip or a compiler reads."""
    packages = place / "lib" / f"python{version}" / "dist-packages"
    wanted = work / f"{place.name}.txt"
    wanted.write_text("".join(f"{one.text}\n" for one in locked.values()))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(place / "bin/python"))
    into = (*pip, "install", "--no-compile", "--no-deps", "--only-binary=:all:", "--target", str(packages))
    interpreter.run(*into, "--require-hashes", "-r", str(wanted))
    interpreter.run(*pip, "install", "--no-compile", "--no-deps", "--target", str(packages), str(wheel))
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for path in sorted(packages.rglob("*")):
        if path.suffix in _USELESS or (path.parent.suffix == ".dist-info" and path.name in _OF_PIP):
            path.unlink()
        elif path.is_dir() and path.parent.as_posix().endswith("botocore/data") and path.name not in _BOTOCORE:
            shutil.rmtree(path)


def finish(place: Path, version: str, programs: tuple[str, ...], moment: int) -> None:
    """Programs, compiled modules, modes and times."""
    for name in programs:
        file = place / "bin" / name
        file.write_text(PROGRAM.format(name=name))
        file.chmod(0o755)
    lib = place / "lib" / f"python{version}"
    for folder in [*lib.rglob("__pycache__")]:  # of an interpreter that ran here meanwhile, with the times of files
        shutil.rmtree(folder)
    command = [str(place / "bin" / "python"), "-I", "-B", "-m", "compileall", "-q", "-f", "-s", str(place), "-p", "/"]
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
    compiled = [*command, "--invalidation-mode", "unchecked-hash", str(lib)]
    interpreter.run("env", "-i", *(f"{key}={text}" for key, text in environment.items()), *compiled)
    shutil.copy2(ROOT / "LICENSE", place / "LICENSE")
    settle(place, moment)


def settle(folder: Path, moment: int) -> None:
    """Modes and times that do not depend on who builds it, and when."""
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (moment, moment), follow_symlinks=False)


def digest(place: Path) -> str:
    """Of every name, mode and content in it."""
    total = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_symlink():
            total.update(f"{name} -> {os.readlink(path)}\n".encode())
        elif path.is_file():
            held = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{name} {path.stat().st_mode & 0o100:o} {held}\n".encode())
    return total.hexdigest()


def product_version() -> str:
    text = (ROOT / "src" / "teleport" / "__init__.py").read_text()
    match = re.search(r'__version__ = "([^"]+)"', text)
    assert match is not None
    return match[1]
