"""`make dist`: the wheel, archives with their own interpreter, packages, what is inside them, sums and a signature.

python -m scripts.dist --out=dist [--only=tsh] [--extras="etcd postgresql"] [--sign-key=KEY]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.dist import archive, image, interpreter, locked, sbom, signing, small, system_packages, tree
from scripts.dist.locked import ROOT

KINDS = ("wheel", "tsh", "archive", "image", "deb", "rpm")
EXTRAS = "dynamodb etcd hsm postgresql"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dist", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--only", action="append", choices=KINDS, help="no others; may be repeated")
    parser.add_argument("--extras", default=EXTRAS, help="storages and modules that the archive for hosts has")
    parser.add_argument("--sign-key", default="", help="a secret key of minisign or SSH, or the name of one of gpg's")
    parser.add_argument("--debs", type=Path, default=None, help="where packages of the interpreter are kept")
    given = parser.parse_args()
    need(given.only or KINDS)
    os.umask(0o022)
    given.out.mkdir(parents=True, exist_ok=True)
    for old in given.out.iterdir():  # what an earlier run made, so that the sums are of this one
        if old.is_file():
            old.unlink()
    with tempfile.TemporaryDirectory(prefix="teleport-dist-") as work:
        made = build(given.out, Path(work), given.only or KINDS, given.extras.split(), given.debs)
    listed = given.out / "SHA256SUMS"
    listed.write_text(signing.sums(made))
    if given.sign_key:
        made.append(signing.sign(given.sign_key, listed))
    for path in (*made, listed):
        sys.stdout.write(f"{path.stat().st_size:>12}  {path.name}\n")


def need(kinds: tuple[str, ...] | list[str]) -> None:
    """Ends the program when a tool is missing, with the command that brings it."""
    tools = {"dpkg-deb": "dpkg", "patchelf": "patchelf"} if set(kinds) - {"wheel"} else {}
    tools |= {"rpmbuild": "rpm"} if "rpm" in kinds else {}
    missing = sorted(package for tool, package in tools.items() if shutil.which(tool) is None)
    if missing:
        sys.exit(f"dist: missing: {' '.join(missing)}; run: sudo apt-get install {' '.join(missing)}")


def build(
    out: Path, work: Path, kinds: tuple[str, ...] | list[str], extras: list[str], debs: Path | None
) -> list[Path]:
    """Builds `kinds` into `out`; what was built."""
    moment, version, machine = source_date(), tree.product_version(), platform.machine()
    os.environ |= {"SOURCE_DATE_EPOCH": str(moment), "PYTHONDONTWRITEBYTECODE": "1"}
    wheel = build_wheel(work)
    made: list[Path] = []
    if "wheel" in kinds:
        made.append(Path(shutil.copy2(wheel, out / wheel.name)))
    if not set(kinds) - {"wheel"}:
        return made
    base, kept = work / "interpreter", debs or work / "debs"
    python, used, libraries = interpreter.put(base, interpreter.download(kept), work / "unpacked")

    def bill(release: str, name: str, packages: dict[str, locked.Locked], debs: set[Path]) -> None:
        target = out / f"{name}.cdx.json"
        target.write_text(
            json.dumps(sbom.document(version, release, packages, interpreter.described(debs), moment), indent=1) + "\n"
        )
        made.append(target)

    if "tsh" in kinds:
        source = ROOT / "src" / "teleport"
        files = small.kept(source)
        packages = small.packages(files, source, locked.runtime())
        place = work / "tsh"
        shutil.copytree(base, place, symlinks=True)
        tree.install(place, python, packages, wheel, work)
        installed = place / "lib" / f"python{python}" / "dist-packages" / "teleport"
        keep = {path.relative_to(source) for path in files}
        for path in sorted(installed.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path.relative_to(installed) not in keep:
                path.unlink()
        more = interpreter.add_libraries(place, libraries)
        tree.finish(place, python, ("tsh",), moment)
        release = f"{version}-{tree.digest(place)[:10]}"
        name = f"tsh-{version}-linux-{machine}"
        archive.write(out / f"{name}.tar.gz", name, "tsh", release, place, moment, work)
        made.append(out / f"{name}.tar.gz")
        bill(release, name, packages, used | more)
        shutil.rmtree(place)
    if {"archive", "image", "deb", "rpm"} & set(kinds):
        packages = {**locked.runtime(), **locked.of_extras(extras)}
        place = work / "hosts"
        shutil.copytree(base, place, symlinks=True)
        tree.install(place, python, packages, wheel, work)
        more = interpreter.add_libraries(place, libraries)
        tree.finish(place, python, system_packages.PROGRAMS, moment)
        release = f"{version}-{tree.digest(place)[:10]}"
        name = f"teleport-{version}-linux-{machine}"
        bill(release, name, packages, used | more)
        if "archive" in kinds:
            archive.write(out / f"{name}.tar.gz", name, "teleport", release, place, moment, work)
            made.append(out / f"{name}.tar.gz")
        if "image" in kinds:
            around = interpreter.fetch(kept, set(image.PACKAGES))
            made.append(out / f"image-{version}-linux-{machine}.tar.gz")
            image.write(made[-1], release, place, around, moment, work)
            bill(release, f"image-{version}-linux-{machine}", packages, used | more | set(around))
        root, glibc = work / "root", interpreter.glibc_needed(place)
        if {"deb", "rpm"} & set(kinds):
            system_packages.lay_out(root, place, release, moment)
        for kind, build_it in (("deb", system_packages.deb), ("rpm", system_packages.rpm)):
            if kind in kinds:
                made.append(build_it(out, root, release, version, machine, glibc, moment, work))
    return made


def build_wheel(work: Path) -> Path:
    if not (ROOT / "src/teleport/web/static/app").is_dir():
        sys.exit("dist: the web client is not built: make setup")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel")
    interpreter.run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(ROOT), cwd=ROOT)
    return next(work.glob("*.whl"))


def source_date() -> int:
    """SOURCE_DATE_EPOCH, else the time of the last commit, else that of the changelog."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    words = ("git", "-C", str(ROOT), "log", "-1", "--format=%ct")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else int((ROOT / "CHANGELOG.md").stat().st_mtime)


if __name__ == "__main__":
    main()
