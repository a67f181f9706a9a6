"""The .deb on a Debian that boots and has no network: installed, a cluster under its units, upgraded under an open
session, removed and purged. What is said where is in docs/packages.md.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from scripts.dist import interpreter, system_packages, tree
from tests.cluster.cluster_packages import ENVIRONMENT
from tests.cluster.cluster_sessions import check_counted
from tests.cluster.systemd_machine import Machine, why_not
from tests.dist.building import debian_root

from teleport.testing.cluster import Ran, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
PACKAGE = "teleport-access"
VERSIONS = "/usr/lib/teleport/versions"
NEXT = "99.0.0"
COUNTS = "echo begin; i=0; until [ -e /run/stop ]; do echo $i; i=$((i + 1)); sleep 0.05; done; echo end"


@pytest.fixture(scope="module")
def packages(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """This version, and the next one: the same files with another number, packed as all are."""
    this, work = next(dist.glob("*.deb")), tmp_path_factory.mktemp("next")
    subprocess.run(["dpkg-deb", "--extract", str(this), str(work / "unpacked")], check=True)
    (place,) = (work / "unpacked/usr/lib/teleport/packaged").iterdir()
    (init,) = place.glob("lib/python3.*/dist-packages/teleport/__init__.py")
    init.write_text(init.read_text().replace(f'"{tree.product_version()}"', f'"{NEXT}"'))
    compiled = ("-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", str(init))
    subprocess.run([str(place / "bin/python"), "-I", *compiled], check=True)
    release, moment = f"{NEXT}-{tree.digest(place)[:10]}", int(this.stat().st_mtime)
    system_packages.lay_out(work / "root", place, release, moment)
    glibc = interpreter.glibc_needed(place)
    machine = platform.machine()
    return this, system_packages.deb(work, work / "root", release, NEXT, machine, glibc, moment, work)


class Installed:
    """A machine, and what is asked of it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def sh(self, script: str, seconds: float = 90.0) -> Ran:
        return self.machine.run("bash", "-e", "-c", script, seconds=seconds)

    def main(self, unit: str) -> str:
        """The main process of a unit."""
        return self.machine.show(unit, "MainPID")

    def runs_from(self, pid: str) -> str:
        """The release from which a process was started."""
        found = re.search(rf"{VERSIONS}/([^/]+)/", self.sh(f"readlink /proc/{pid}/exe").ok().stdout)
        assert found is not None
        return found[1]

    def serves(self, unit: str) -> str:
        """The release of the process that takes connections, as the unit's line on how it stands names it."""
        said = re.match(r"pid (\d+) serves", self.machine.show(unit, "StatusText"))
        return self.runs_from(said[1]) if said is not None else ""

    def journal(self, unit: str) -> str:
        return self.machine.run("journalctl", "--unit", unit, "--output=cat").stdout


@pytest.fixture(scope="module")
def host(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if why := why_not():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("systemd")
    with debian_root(folder / "debian", "--include=systemd-sysv") as root:
        machine = Machine(folder / "machine", {"/etc/hosts": "127.0.0.1 localhost\n"}, {}, [], alone=True, root=root)
        for name, package in zip(("this.deb", "next.deb"), packages, strict=True):
            shutil.copy2(package, machine.seed / name)
        with machine:
            yield Installed(machine)


def test_it_is_installed_without_a_network_and_starts_nothing(host: Installed) -> None:
    assert "lo" in host.sh("ls /sys/class/net").ok().stdout.split()
    assert "Network is unreachable" in host.sh("echo > /dev/tcp/192.0.2.1/80").stderr
    host.sh("dpkg --install /this.deb").ok()
    assert host.sh(f"dpkg --verify {PACKAGE}").ok().stdout == ""
    shown = host.sh("getent passwd teleport").ok().stdout.strip().split(":")
    assert shown[5:] == ["/var/lib/teleport", "/usr/sbin/nologin"]
    for unit in ("teleport", "teleport-node"):
        assert host.machine.systemctl("is-enabled", unit).stdout == "disabled\n"
        assert host.machine.systemctl("is-active", unit).stdout == "inactive\n"


def test_auth_and_proxy_start_as_their_user_and_say_how_they_are(host: Installed) -> None:
    config = yaml.safe_load(host.sh("cat /etc/teleport.yaml").ok().stdout)
    config["ssh_service"] = {"enabled": False}
    config["auth_service"]["cluster_name"] = "packaged.example.com"
    config["proxy_service"]["public_addr"] = "localhost:3080"
    config["teleport"]["diag_addr"] = "127.0.0.1:3000"
    host.machine.run("sh", "-c", 'printf %s "$1" > /etc/teleport.yaml', "sh", yaml.safe_dump(config)).ok()
    host.sh("teleport configure --test=/etc/teleport.yaml").ok()
    started = host.machine.systemctl("enable", "--now", "teleport")
    assert started.status == 0, started.stderr + host.journal("teleport")
    assert "serves: auth, proxy" in host.machine.systemctl("status", "teleport").ok().stdout
    assert "packaged.example.com" in host.sh("tctl status").ok().stdout
    assert host.sh("teleport healthcheck").ok().stdout == "ok\n"
    status = host.sh(f"cat /proc/{host.main('teleport')}/status; id -u teleport").ok().stdout
    assert f"\nUid:\t{status.splitlines()[-1]}\t" in status
    assert host.sh("stat -c '%A %U' /var/lib/teleport").ok().stdout == "drwx------ teleport\n"
    assert "Traceback" not in host.journal("teleport")


def test_a_host_joins_with_the_unit_of_the_package(host: Installed) -> None:
    """`teleport join` finds the program and the unit that the package brought, and writes no other."""
    host.sh("tctl tokens add --type=node --ttl=1h --out=/etc/node.token").ok()
    (pin,) = set(re.findall(r"sha256:[0-9a-f]{64}", host.sh("tctl status").ok().stdout))
    flags = f"--auth-server=localhost:3080 --token-file=/etc/node.token --ca-pin={pin} --nodename=first"
    for _ in range(2):
        joined = host.sh(f"teleport join --systemd {flags}", seconds=120)
        assert joined.status == 0, joined.stdout + joined.stderr + host.journal("teleport-node")
        assert "/usr/lib/systemd/system/teleport-node.service is as it should be" in joined.stdout
    assert host.sh("ls /etc/systemd/system/*.service").status != 0
    assert host.machine.systemctl("is-enabled", "teleport-node").stdout == "enabled\n"
    wait_until("the host is listed", lambda: "first" in host.sh("tctl nodes ls").stdout, 60)


def test_an_upgrade_keeps_the_session_and_the_configuration(host: Installed) -> None:
    """The daemons are of the new release, the session goes on in the old one, which stays on disk for as long."""
    host.sh(
        "tctl users add alice --roles=access --logins=root >&2; tctl auth sign --user=alice --ttl=1h --out=/run/alice"
    ).ok()
    before = host.sh("cat /etc/teleport.yaml /etc/teleport-node.yaml").ok().stdout
    former = {unit: host.main(unit) for unit in ("teleport", "teleport-node")}
    (old,) = {host.runs_from(pid) for pid in former.values()}
    out = host.machine.console.parent / "session.out"
    typed = f"tsh --proxy=localhost:3080 --identity=/run/alice ssh root@first '{COUNTS}'"
    with out.open("wb") as file:
        session = subprocess.Popen(
            host.machine.words("bash", "-c", typed),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_more(out)
        installed = host.sh("dpkg --install /next.deb")
        assert installed.status == 0, installed.stderr
        assert NEXT in host.sh("teleport version").ok().stdout
        assert host.sh("cat /etc/teleport.yaml /etc/teleport-node.yaml").ok().stdout == before
        for unit, main in former.items():
            wait_until(f"{unit} is new", lambda unit=unit: host.serves(unit) not in ("", old), 120)  # type: ignore[misc]
            assert host.main(unit) == main, "the former process has its session, and is what systemd looks at"
        assert f"{old}\n" in host.sh(f"ls {VERSIONS}").ok().stdout
        _wait_more(out)
        host.sh("tctl status").ok()
        host.sh("touch /run/stop").ok()
        assert session.wait(60) == 0, out.read_text()
        check_counted(out.read_text())
    finally:
        session.kill()
        session.wait()
    for unit, main in former.items():
        wait_until("systemd follows", lambda unit=unit, main=main: host.main(unit) not in ("0", main), 60)  # type: ignore[misc]
        assert host.runs_from(host.main(unit)) != old
    wait_until("the old ones are gone", lambda: host.sh(f"readlink /proc/[0-9]*/exe | grep -c /{old}/").status != 0, 60)
    host.sh("tctl audit verify").ok()
    host.sh("dpkg --install /next.deb").ok()
    assert old not in host.sh(f"ls {VERSIONS}").ok().stdout
    for unit in former:
        assert host.machine.systemctl("is-active", unit).stdout == "active\n"
        assert "Traceback" not in host.journal(unit)


def _wait_more(out: Path) -> None:
    before = out.read_bytes().count(b"\n")
    wait_until("the session goes on", lambda: out.read_bytes().count(b"\n") > before + 3, 60)


def test_removed_it_leaves_configuration_and_data_and_comes_back(host: Installed) -> None:
    pin = host.sh("tctl status").ok().stdout.partition("sha256:")[2][:64]
    host.sh(f"dpkg --remove {PACKAGE}").ok()
    assert host.sh("ls /etc/teleport.yaml /etc/teleport-node.yaml /var/lib/teleport/host_uuid").status == 0
    assert host.sh("command -v teleport || ls /usr/lib/teleport || pgrep -f teleport.start").status != 0
    assert host.sh("ls /etc/systemd/system/*.wants | grep teleport").status != 0
    host.sh("dpkg --install /next.deb").ok()
    host.machine.systemctl("enable", "--now", "teleport").ok()
    assert pin in host.sh("tctl status").ok().stdout


def test_purged_it_leaves_the_data_and_whose_it_is(host: Installed) -> None:
    purged = host.sh(f"dpkg --purge {PACKAGE}").ok()
    assert "/var/lib/teleport stays, and its user" in purged.stdout + purged.stderr
    left = host.sh(
        "find / -xdev -name '*teleport*' ! -path '/proc/*' ! -path '/tmp/*' ! -path '/var/log/journal/*'"
    ).ok()
    kept = {"/var/lib/teleport", "/var/lib/teleport-node", "/etc/teleport-node.yaml"}
    assert {one for one in left.stdout.split() if not one.startswith(tuple(f"{place}/" for place in kept))} == kept
    assert host.sh("stat -c %U /var/lib/teleport; id -un teleport").ok().stdout == "teleport\nteleport\n"
    for unit in ("teleport", "teleport-node"):
        assert "No files found" in host.machine.systemctl("cat", unit).stderr
