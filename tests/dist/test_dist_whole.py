"""What `make dist` writes, installed where there is nothing else: no Python, no network, little more than a C library.

Everything is built, so only `make test-long` runs these. They need root (roots of their own, namespaces) and Debian's
packages; where these are missing, they say what is.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.dist.locked import ROOT
from tests.dist.building import build, debian_root

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
C_LIBRARY = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2")


def files_of(root: Path) -> set[str]:
    """What is in a root, without what the kernel shows there."""
    found = set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) not in (root / "proc", root / "sys", root / "tmp")]
        found |= {str(Path(folder, name).relative_to(root)) for name in (*folders, *names)}
    return found


def inside(root: Path, script: str, *, status: int = 0) -> str:
    """Runs a script in `root`: no network, processes of its own."""
    (root / "proc").mkdir(exist_ok=True)
    mounts = f'mount --make-rprivate /; mount -t proc proc "{root}/proc"; exec chroot "{root}" /bin/sh -euc "$1"'
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-ec", mounts, "sh", script]
    clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A root with the C library and busybox."""
    root = tmp_path / "root"
    libraries = root / "lib" / "x86_64-linux-gnu"
    for folder in (libraries, root / "lib64", root / "bin", root / "dev", root / "etc", root / "tmp", root / "root"):
        folder.mkdir(parents=True)
    for name in C_LIBRARY:
        shutil.copy2(Path("/lib/x86_64-linux-gnu", name), libraries / name)
    shutil.copy2("/lib64/ld-linux-x86-64.so.2", root / "lib64")
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy2(busybox, root / "bin")
    subprocess.run(["chroot", str(root), "/bin/busybox", "--install", "-s", "/bin"], check=True)
    for name, minor in (("null", 3), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    return root


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Path]:
    """A Debian of required packages."""
    with debian_root(tmp_path_factory.mktemp("debian") / "root") as root:
        yield root


def test_two_builds_are_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again")
    assert (again / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=again, check=True)


def test_tsh_runs_on_a_host_that_has_nothing(dist: Path, empty: Path) -> None:
    """Every module of it is there; it is taken away without a trace."""
    shutil.copy2(next(dist.glob("tsh-*.tar.gz")), empty / "tmp")
    source = ROOT / "src" / "teleport" / "cli" / "tsh"
    names = [f"import teleport.cli.tsh.{path.stem}" for path in sorted(source.glob("*.py")) if path.stem != "__init__"]
    (empty / "tmp" / "all.py").write_text("\n".join(names))
    before = files_of(empty)
    said = inside(empty, "cd /tmp; tar xzf tsh-*.tar.gz; tsh-*/install; tsh version; command -v teleport tctl || true")
    assert "Teleport v" in said
    assert "/teleport" not in said
    inside(empty, "/usr/local/lib/tsh/current/bin/python -W error /tmp/all.py")
    inside(empty, "tsh login --proxy=127.0.0.1:1 --user=x", status=6)
    inside(empty, "/tmp/tsh-*/install --uninstall")
    left = files_of(empty) - before
    assert left <= {"usr", "usr/local", "usr/local/bin", "usr/local/lib"}


def test_a_cluster_runs_on_a_host_that_has_nothing(dist: Path, empty: Path) -> None:
    """Auth and proxy start, say that they are ready, and serve tctl; modules in C of every storage are there."""
    shutil.copy2(next(dist.glob("teleport-*.tar.gz")), empty / "tmp")
    (empty / "etc" / "teleport.yaml").write_text(
        "teleport: {data_dir: /var/lib/teleport, nodename: lone, diag_addr: 127.0.0.1:3000}\n"
        "auth_service: {enabled: yes, cluster_name: lone.example.com}\n"
        "proxy_service: {enabled: yes}\nssh_service: {enabled: no}\n"
    )
    (empty / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    said = inside(
        empty,
        "cd /tmp; tar xzf teleport-*.tar.gz; teleport-*/install; ip link set lo up; mkdir -p /var/lib;"
        "teleport start > /tmp/log 2>&1 & daemon=$!;"
        "tries=0; until teleport healthcheck > /dev/null 2>&1;"
        "do tries=$((tries + 1)); [ $tries -lt 600 ]; usleep 100000; done;"
        "tctl status; tsh version; kill $daemon; wait $daemon",
    )
    assert "lone.example.com" in said
    modules = "asyncpg, grpc, pkcs11, aiobotocore.session, sqlite3, zstandard, argon2"
    inside(empty, f"/usr/local/lib/teleport/current/bin/python -c 'import {modules}'")


def test_the_deb_is_installed_upgraded_and_purged(dist: Path, debian: Path) -> None:
    """The configuration is the administrator's; what a release runs from stays; in the end nothing is left."""
    before = files_of(debian)
    shutil.copy2(next(dist.glob("*.deb")), debian / "tmp" / "package.deb")
    said = inside(
        debian,
        "dpkg --install /tmp/package.deb >&2; teleport version; tctl version; tsh version; id -un teleport;"
        "stat -c '%A %U %G' /etc/teleport.yaml; teleport configure --test=/etc/teleport.yaml >&2;"
        '[ -z "$(dpkg --verify teleport-access)" ]; cat /usr/lib/systemd/system/teleport.service',
    )
    assert said.count("Teleport v") == 3
    assert "teleport\n-rw-r----- root teleport\n" in said
    assert "ExecStart=/usr/bin/teleport start --config=/etc/teleport.yaml" in said
    # a process of an older release: its directory stays while it runs
    said = inside(
        debian,
        "cp -R /usr/lib/teleport/versions/* /tmp/old; mv /tmp/old /usr/lib/teleport/versions/0.0-old;"
        "echo '# mine' >> /etc/teleport.yaml; mkfifo /tmp/gate;"
        "/usr/lib/teleport/versions/0.0-old/bin/python -c 'open(\"/tmp/gate\").read()' & old=$!; exec 3> /tmp/gate;"
        "dpkg --install /tmp/package.deb >&2; [ -e /usr/lib/teleport/versions/0.0-old ]; exec 3>&-; wait $old;"
        "dpkg --install /tmp/package.deb >&2; [ ! -e /usr/lib/teleport/versions/0.0-old ]; rm /tmp/gate;"
        "tail -n 1 /etc/teleport.yaml",
    )
    assert said.endswith("# mine\n")
    inside(
        debian, "dpkg --remove teleport-access >&2; [ -e /etc/teleport.yaml ]; [ ! -e /usr/lib/teleport ]; id teleport"
    )
    inside(debian, "dpkg --purge teleport-access >&2; ! grep -q ^teleport: /etc/passwd")
    left = files_of(debian) - before
    assert {name for name in left if "teleport" in name} == set()
    assert left <= {
        "var/log/dpkg.log",
        "etc/passwd-",
        "etc/group-",
        "etc/shadow-",
        "etc/gshadow-",
        "etc/subuid-",
        "etc/subgid-",
        "root/never",
    }


def test_purging_leaves_the_keys_of_a_cluster(dist: Path, debian: Path) -> None:
    """And the user whose they are."""
    shutil.copy2(next(dist.glob("*.deb")), debian / "tmp" / "package.deb")
    inside(
        debian,
        "dpkg --install /tmp/package.deb >&2; mkdir /var/lib/teleport; touch /var/lib/teleport/x;"
        "dpkg --purge teleport-access >&2; [ -e /var/lib/teleport/x ]; id teleport;"
        "rm -r /var/lib/teleport; userdel teleport",
    )


def test_the_rpm_has_the_same_files_and_is_installed_into_a_root(dist: Path, empty: Path) -> None:
    package = str(next(dist.glob("*.rpm")))
    listed = subprocess.check_output(["rpm", "-qlp", package], text=True).splitlines()
    deb = subprocess.check_output(["dpkg-deb", "--fsys-tarfile", str(next(dist.glob("*.deb")))])
    names = subprocess.run(["tar", "t"], input=deb, capture_output=True, check=True).stdout.decode().splitlines()
    files = {name.removeprefix(".") for name in names if not name.endswith("/")}
    assert files <= set(listed)
    assert {name for name in listed if "/usr/lib/teleport" not in name} - files <= {"/usr/share/doc/teleport-access"}
    assert "/etc/teleport.yaml" in subprocess.check_output(["rpm", "-qcp", package], text=True)
    (empty / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (empty / "etc" / "group").write_text("root:x:0:\n")
    # what shadow-utils brings on such a host
    (empty / "bin" / "useradd").write_text("#!/bin/sh\nexec adduser -S -D -H -h /var/lib/teleport teleport\n")
    (empty / "bin" / "useradd").chmod(0o755)
    (empty / "etc" / "group").write_text("root:x:0:\nteleport:x:99:\nnogroup:x:65533:\n")
    command = ["rpm", f"--root={empty}", "--nodeps", "--nosignature"]
    done = subprocess.run([*command, "--install", package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Teleport v" in inside(empty, "/usr/bin/teleport version")
    done = subprocess.run([*command, "--erase", "teleport-access"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (empty / "usr/lib/teleport").exists()


def test_the_archive_has_the_web_client_and_no_path_of_the_builder(dist: Path, tmp_path: Path) -> None:
    packed = gzip.decompress(next(dist.glob("teleport-*.tar.gz")).read_bytes())
    assert b"teleport/web/static/app/" in packed
    assert str(ROOT).encode() not in packed
