"""What `make dist` is made of, each part by itself; test_dist_whole.py builds everything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from scripts.dist import archive, image, locked, sbom, signing, small, system_packages, tree
from scripts.dist.interpreter import Deb

from teleport.daemon.kube import manifest

SOURCE = locked.ROOT / "src" / "teleport"
PACKAGING = locked.ROOT / "packaging"


def test_the_small_archive_has_the_program_and_none_of_the_services() -> None:
    """Whatever a file that is kept imports is kept, too, and its packages are among the locked."""
    files = small.kept(SOURCE)
    names = {path.relative_to(SOURCE).as_posix() for path in files}
    assert {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "cli" / "tsh").glob("*.py")} <= names
    assert not {name.partition("/")[0] for name in names} & set(small.SERVICES)
    packages = small.packages(files, SOURCE, locked.runtime())
    assert {"asyncssh", "cryptography", "cffi", "click"} <= packages.keys()
    assert "argon2-cffi" not in packages


def test_extras_bring_what_they_need_and_nothing_twice() -> None:
    found = locked.of_extras(["etcd", "dynamodb"])
    assert {"grpcio", "aiobotocore", "botocore"} <= found.keys()
    assert not found.keys() & locked.runtime().keys()
    assert all(one.hashes for one in found.values())
    with pytest.raises(SystemExit, match="no extra 'gold'"):
        locked.of_extras(["gold"])


def test_the_list_of_what_is_inside_names_each_package_once_with_hashes() -> None:
    """CycloneDX: what is referred to is there; two of the same release are equal."""
    packages = locked.runtime()
    debs = [Deb("libssl3", "3.0.1-1~deb12u1", "ab" * 32)]
    made = sbom.document("1.2.3", "1.2.3-0123456789", packages, debs, 1_700_000_000)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    references = [one["bom-ref"] for one in made["components"]]
    assert len(references) == len(set(references))
    assert made["dependencies"] == [{"ref": "teleport-access", "dependsOn": references}]
    assert {f"pkg:pypi/{one.name}@{one.version}" for one in packages.values()} <= set(references)
    assert any(reference.startswith("pkg:npm/%40xterm/xterm@") for reference in references)
    assert json.dumps(made) == json.dumps(sbom.document("1.2.3", "1.2.3-0123456789", packages, debs, 1_700_000_000))


def test_sums_are_signed_and_whoever_has_the_key_can_check(tmp_path: Path) -> None:
    """By a key of SSH, and of minisign where it is installed; a file that is no key is refused."""
    (tmp_path / "a.tar.gz").write_bytes(b"a")
    listed = tmp_path / "SHA256SUMS"
    listed.write_text(signing.sums([tmp_path / "a.tar.gz"]))
    subprocess.run(["sha256sum", "-c", "--quiet", str(listed)], cwd=tmp_path, check=True)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signature = signing.sign(str(key), listed)
    (tmp_path / "signers").write_text(f"us {(tmp_path / 'key.pub').read_text()}")
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "signers"), "-I", "us", "-n", signing.NAMESPACE]
    with listed.open() as file:
        subprocess.run([*verify, "-s", str(signature)], stdin=file, check=True, capture_output=True)
    if shutil.which("minisign"):
        pair = ["-p", str(tmp_path / "m.pub"), "-s", str(tmp_path / "m.key")]
        subprocess.run(["minisign", "-G", "-W", *pair], check=True, capture_output=True)
        assert signing.sign(str(tmp_path / "m.key"), listed).name == "SHA256SUMS.minisig"
        words = ["minisign", "-V", "-p", str(tmp_path / "m.pub"), "-m", str(listed)]
        subprocess.run(words, check=True, capture_output=True)
    assert signing.command("ABCD", listed)[0][0] == "gpg"
    with pytest.raises(SystemExit, match="no secret key"):
        signing.sign(str(listed), listed)


def release_folder(tmp_path: Path, release: str) -> Path:
    """An archive, unpacked, whose interpreter is the shell."""
    place = tmp_path / "place"
    (place / "bin").mkdir(parents=True)
    for name in ("python", "teleport", "tsh"):
        (place / "bin" / name).write_text(f"#!/bin/sh\necho {release}\n")
        (place / "bin" / name).chmod(0o755)
    tree.settle(place, 1_700_000_000)
    target = tmp_path / f"{release}.tar.gz"
    archive.write(target, release, "teleport", release, place, 1_700_000_000, tmp_path)
    shutil.rmtree(tmp_path / release)
    shutil.rmtree(place)
    with tarfile.open(target) as tar:
        tar.extractall(tmp_path, filter="tar")
    return tmp_path / release


def test_releases_are_installed_side_by_side_and_taken_away_again(tmp_path: Path) -> None:
    """As `make install` lays them out; what is not ours is not touched."""
    destination = tmp_path / "there"
    bin_ = destination / "opt" / "bin"

    def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        words = [str(folder / "install"), "--prefix=/opt", f"--destdir={destination}", *flags]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    one, two = release_folder(tmp_path, "1.0-a"), release_folder(tmp_path, "1.1-b")
    for folder, release in ((one, "1.0-a"), (two, "1.1-b"), (two, "1.1-b"), (one, "1.0-a")):
        done = run(folder)
        assert done.returncode == 0, done.stderr
        assert subprocess.check_output([bin_ / "tsh"], text=True) == f"{release}\n"
    assert {path.name for path in (destination / "opt/lib/teleport/versions").iterdir()} == {"1.0-a", "1.1-b"}
    assert os.readlink(bin_ / "teleport") == "../lib/teleport/current/bin/teleport"
    assert run(one, "--uninstall").returncode == 0
    assert [path.name for path in destination.rglob("*") if not path.is_dir()] == []
    (bin_ / "tsh").write_text("somebody's")
    refused = run(one)
    assert (refused.returncode, "no link of ours" in refused.stderr) == (1, True)
    assert (bin_ / "tsh").read_text() == "somebody's"
    assert run(one, "--prefix=here").returncode == 2


def test_an_archive_depends_on_its_content_alone(tmp_path: Path) -> None:
    """Neither on the order in which files were made, nor on when, nor on their owner."""
    packed = []
    for number in range(2):
        folder = tmp_path / str(number) / "x"
        folder.mkdir(parents=True)
        for name in ("a", "b") if number else ("b", "a"):
            (folder / name).write_text(name)
        (folder / "link").symlink_to("a")
        os.chmod(folder / "a", 0o600 if number else 0o644)
        tree.settle(folder, 1_700_000_000)
        archive.pack(tmp_path / f"{number}.tar.gz", folder, "x")
        packed.append((tree.digest(folder), (tmp_path / f"{number}.tar.gz").read_bytes()))
    assert packed[0] == packed[1]


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm", "install"])
def test_scripts_of_packages_are_plain_shell(name: str, tmp_path: Path) -> None:
    """Of the kind that busybox and dash have."""
    text = (PACKAGING / name).read_text()
    script = text if name == "install" else system_packages.script(name, "1.0-a")
    assert "@" not in script.replace('"$@"', "")
    (tmp_path / "script").write_text(script)
    for shell in (["dash"], ["busybox", "sh"]):
        if shutil.which(shell[0]):
            subprocess.run([*shell, "-n", str(tmp_path / "script")], check=True)


def test_the_image_runs_as_nobody_of_the_host_and_as_the_manifest_says() -> None:
    """One user for the image, what it keeps, and pods; test_dist_image.py builds and runs it."""
    text = (PACKAGING / "Containerfile").read_text()
    assert f"\nUSER {image.OWNER}:{image.OWNER}\n" in text
    assert manifest._UID == image.OWNER
    assert "\nFROM scratch\n" in text
