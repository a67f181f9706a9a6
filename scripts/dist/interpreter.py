"""An interpreter that can stand anywhere: Debian's own CPython, unpacked with the libraries that it needs.

What it leaves to the host is the C library and the kernel. Its libraries are found beside it (`$ORIGIN`), it looks
at no directory of the user's for packages, and it trusts the authorities that the host does, wherever that keeps them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
HOST_LIBRARIES = ("libc6", "libc-bin", "gcc-12-base", "gcc-13-base", "gcc-14-base", "libcrypt1")
"""Of the packages that it depends on: those that the host has, or that hold no library."""
_FROM_HOST = re.compile(r"(ld-linux.*|lib(c|m|dl|pthread|rt|resolv|util|nsl|anl|thread_db|BrokenLocale))\.so(\.\d+)?$")
_LEFT_OUT = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo", "tkinter", "test", "EXTERNALLY-MANAGED")
_NO_MODULES = ("_dbm", "_gdbm", "nis", "_crypt", "readline", "_curses", "_curses_panel", "_tkinter")
"""Modules in C that nothing here imports and that need libraries of their own, some under another licence."""
_TRUST = """

# --- added where this interpreter was put together for an archive
_KNOWN = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_load_default_certs = SSLContext.load_default_certs


def _load_those_of_the_host(self, purpose=Purpose.SERVER_AUTH):
    _load_default_certs(self, purpose)
    if not os.path.isdir("/usr/lib/ssl/certs") and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        for known in _KNOWN:
            if os.path.isfile(known):
                return self.load_verify_locations(known)


SSLContext.load_default_certs = _load_those_of_the_host
"""


@dataclass(frozen=True, slots=True)
class Deb:
    """A package that something was taken from."""

    name: str
    version: str
    sha256: str


def run(*command: str, cwd: Path | None = None) -> str:
    """What a command prints; ends the program when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        sys.exit(f"dist: {' '.join(command)[:200]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def download(folder: Path) -> list[Path]:
    """The packages of the interpreter and its libraries, as apt has them, which checks their signatures."""
    for version in VERSIONS:
        policy = run("apt-cache", "policy", f"python{version}-minimal")
        if policy and "Candidate: (none)" not in policy:
            break
    else:
        sys.exit(f"dist: apt has none of Python {', '.join(VERSIONS)}: run apt-get update, on a Debian or Ubuntu host")
    begin = (f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib")
    wanted = {*begin, "libstdc++6", "libgcc-s1", "libffi8"}
    for name in begin:
        wanted |= set(re.findall(r"^ *(?:Pre)?Depends: ([a-z0-9.+-]+)$", run("apt-cache", "depends", name), re.M))
    return fetch(folder, {name for name in wanted if name not in HOST_LIBRARIES and not name.startswith("media-types")})


def fetch(folder: Path, wanted: set[str]) -> list[Path]:
    """Packages as apt has them now; those that are in `folder` already are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {
        name: match[1]
        for name in sorted(wanted)
        if (match := re.search(r"Candidate: (\S+)", run("apt-cache", "policy", name))) and match[1] != "(none)"
    }
    if unknown := sorted(wanted - versions.keys()):
        sys.exit(f"dist: apt has no {', '.join(unknown)}: run apt-get update, on a Debian or Ubuntu host")
    missing = [name for name, said in versions.items() if not _kept(folder, name, said)]
    if missing:
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *missing, cwd=folder)
    return [
        _kept(folder, name, said) or sys.exit(f"dist: apt gave no {name} {said}") for name, said in versions.items()
    ]


def _kept(folder: Path, name: str, version: str) -> Path | None:
    found = sorted(folder.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))
    return found[0] if found else None


Libraries = dict[str, tuple[Path, Path]]
"""By name: the package that has it, and the file."""


def put(place: Path, debs: list[Path], work: Path) -> tuple[str, set[Path], Libraries]:
    """The interpreter into `place`: bin/python, lib. Its version, the packages that something came from, and what there
    is for the packages of others that come beside it."""
    unpacked = {deb: work / deb.stem for deb in debs}
    for deb, folder in unpacked.items():
        folder.mkdir(parents=True)
        run("dpkg-deb", "--extract", str(deb), str(folder))
    used: set[Path] = set()
    for deb, folder in unpacked.items():
        for lib in folder.glob("usr/lib/python3.*"):
            shutil.copytree(lib, place / "lib" / lib.name, dirs_exist_ok=True, symlinks=True)
            used.add(deb)
        for program in folder.glob("usr/bin/python3.*"):
            if re.fullmatch(r"python3\.\d+", program.name):
                (place / "bin").mkdir(parents=True, exist_ok=True)
                shutil.copy2(program, place / "bin" / "python")
    version = next((place / "lib").glob("python3.*")).name.removeprefix("python")
    lib = place / "lib" / f"python{version}"
    for name in _LEFT_OUT:
        gone = lib / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
    for path in [*lib.rglob("*")]:
        module = path.name.partition(".")[0]
        if path.is_symlink() or (path.parent.name == "lib-dynload" and module in _NO_MODULES):
            path.unlink()  # links lead to /etc
    _alter(lib / "site.py", "ENABLE_USER_SITE = None", "ENABLE_USER_SITE = False")
    with (lib / "ssl.py").open("a") as file:
        file.write(_TRUST)
    libraries = {
        path.name: (deb, path)
        for deb, folder in unpacked.items()
        for path in sorted(folder.rglob("*.so*"))
        if "python3" not in path.as_posix()
        and "ossl-modules" not in path.as_posix()
        and "engines" not in path.as_posix()
    }
    return version, used | add_libraries(place, libraries), libraries


def described(debs: set[Path]) -> list[Deb]:
    """What was taken something from."""
    found = []
    for deb in sorted(debs):
        name, version = run("dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(deb)).split()
        found.append(Deb(name, version, hashlib.sha256(deb.read_bytes()).hexdigest()))
    return found


def add_libraries(place: Path, libraries: Libraries) -> set[Path]:
    """Copies what the programs and modules in `place` need beside the C library, and makes them find it."""
    used: set[Path] = set()
    seen: set[Path] = set()
    while waiting := [path for path in sorted(place.rglob("*")) if path not in seen and is_elf(path)]:
        for path in waiting:
            seen.add(path)
            ours = False
            for name in run("patchelf", "--print-needed", str(path)).split():
                if _FROM_HOST.fullmatch(name) or (path.parent != place / "lib" and (path.parent / name).exists()):
                    continue
                if name not in libraries and not (place / "lib" / name).exists():
                    if run("patchelf", "--print-rpath", str(path)).startswith("$ORIGIN"):
                        continue  # a wheel that brings it
                    sys.exit(f"dist: {path.relative_to(place)} needs {name}, which no package here has")
                ours = True
                target = place / "lib" / name
                if not target.exists():
                    deb, source = libraries[name]
                    shutil.copy2(source.resolve(), target)
                    target.chmod(0o644)
                    used.add(deb)
            if ours:
                up = "/".join([".."] * (len(path.parent.relative_to(place).parts)))
                run("patchelf", "--set-rpath", f"$ORIGIN/{up}/lib", str(path))
    return used


def is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def of_the_host(name: str) -> bool:
    """Whether a file is of the C library, which an archive leaves to the host and an image has itself."""
    return _FROM_HOST.fullmatch(name) is not None


def glibc_needed(place: Path) -> str:
    """The C library that a host needs at least."""
    found: set[tuple[int, ...]] = set()
    for path in place.rglob("*"):
        if is_elf(path):
            for match in re.finditer(rb"GLIBC_(\d+(?:\.\d+)+)\0", path.read_bytes()):
                found.add(tuple(map(int, match[1].split(b"."))))
    return ".".join(map(str, max(found, default=(2,))))


def _alter(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        sys.exit(f"dist: {path.name} has no line {old!r} any more")
    path.write_text(text.replace(old, new))
