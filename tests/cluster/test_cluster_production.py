"""docs/production.md, followed as it stands by somebody with an empty host: installed, under units, a session."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.systemd_machine import Machine, why_not

from teleport.testing.cluster import Ran, wait_until
from teleport.testing.public_authority import PublicAuthority

pytestmark = pytest.mark.timeout(400)  # a release is installed, for which a busy machine takes its time
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "production.md"
PYTHON = Path("/usr/bin/python3")  # that of the system: one in somebody's home is hidden from the units
NAME = "teleport.example.com"


def section(heading: str) -> str:
    """What stands under a heading."""
    return PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def blocks(heading: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", section(heading), re.MULTILINE | re.DOTALL)
    assert found, f"no block of {language} under {heading}"
    return found


class Host:
    """A host with nothing on it, in a network of its own, on which the release is installed."""

    def __init__(self, folder: Path) -> None:
        pair = PublicAuthority().issue(NAME)
        start_files = {str(Path.home() / name): "" for name in (".bashrc", ".bash_profile", ".bash_login", ".profile")}
        self.machine = Machine(
            folder / "machine",
            {
                "/etc/teleport/fullchain.pem": (pair.chain + pair.root).decode(),
                "/etc/teleport/privkey.pem": pair.key.decode(),
                "/opt/source/scripts/install.sh": (ROOT / "scripts" / "install.sh").read_text(),
                "/etc/hosts": f"127.0.0.1 localhost {NAME}\n",
                **start_files,
            },
            {},
            [],
            alone=True,
        )
        self.installed = self.install()

    def install(self) -> subprocess.CompletedProcess[str]:
        words = ["make", "-s", "install", f"PYTHON={PYTHON}", f"DESTDIR={self.machine.seed}"]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def sh(self, script: str, seconds: float = 90.0) -> Ran:
        """Commands of the page, as root types them; the first that fails ends them."""
        return self.machine.run("sh", "-e", "-c", script, seconds=seconds)

    def follow(self, heading: str) -> list[str]:
        """What the blocks under a heading print."""
        return [self.sh(block).ok().stdout for block in blocks(heading, "sh")]

    def write(self, path: str, text: str) -> None:
        self.machine.run("sh", "-c", 'printf %s "$1" > "$2"', "sh", text, path).ok()

    def journal(self, unit: str) -> str:
        return self.machine.run("journalctl", "--unit", unit, "--output=cat").stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if why := why_not():
        pytest.skip(why)
    if subprocess.run([PYTHON, "-c", "import sys, venv; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip(f"{PYTHON} is not Python 3.11 or newer with its module venv: apt-get install python3")
    host = Host(tmp_path_factory.mktemp("production"))
    assert host.installed.returncode == 0, host.installed.stdout + host.installed.stderr
    with host.machine:
        yield host
        for unit in ("teleport", "teleport-node"):
            assert "Traceback" not in host.journal(unit), host.journal(unit)


def test_a_release_is_installed_once_and_only_where_its_place_is_named_whole(host: Host, tmp_path: Path) -> None:
    again = host.install()
    assert again.returncode == 0, again.stderr
    assert "into" not in again.stdout
    for wrong in ("PREFIX=usr", "DESTDIR=here", "EXTRAS=oracle"):
        refused = subprocess.run(
            ["make", "-s", "install", f"PYTHON={PYTHON}", f"DESTDIR={tmp_path}", wrong],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert refused.returncode != 0, wrong
        assert re.search(r"^install: \w+ is a", refused.stderr, re.MULTILINE), refused.stderr
        assert list(tmp_path.rglob("bin/teleport")) == []


def test_auth_and_proxy_run_under_their_unit_as_a_user_of_their_own(host: Host) -> None:
    made, checked, started = blocks("Auth and proxy under systemd", "sh")
    host.sh(made).ok()
    config = yaml.safe_load(host.sh("cat /etc/teleport.yaml").ok().stdout)
    config["ssh_service"] = {"enabled": False}
    (tls,) = blocks("TLS at the proxy", "yaml")
    config["proxy_service"] |= yaml.safe_load(tls)["proxy_service"]
    config["proxy_service"]["public_addr"] = f"{NAME}:3080"
    config["teleport"]["diag_addr"] = "127.0.0.1:3000"
    host.write("/etc/teleport.yaml", yaml.safe_dump(config))
    host.sh("chown root:teleport /etc/teleport/privkey.pem && chmod 0640 /etc/teleport/privkey.pem").ok()
    looked = host.sh(checked)
    assert looked.status in (0, 1), looked.stdout + looked.stderr
    assert "Traceback" not in looked.stdout + looked.stderr
    ran = host.sh(started)
    assert ran.status == 0, ran.stdout + ran.stderr + host.journal("teleport")
    assert "serves: auth, proxy" in ran.stdout
    main = host.machine.show("teleport", "MainPID")
    status = host.sh(f"cat /proc/{main}/status; stat --format=%a /var/lib/teleport; id -u teleport").ok().stdout
    uid = status.splitlines()[-1]
    assert uid != "0"
    assert re.search(rf"^Uid:\s{uid}\s{uid}\s{uid}\s{uid}$", status, re.MULTILINE)
    assert status.splitlines()[-2] == "700"
    assert host.sh("find /var/lib/teleport ! -user teleport").ok().stdout == ""
    assert all(host.follow("Watching it"))


def test_the_proxy_shows_the_certificate_that_it_was_given(host: Host) -> None:
    script = f"import ssl; print(ssl.get_server_certificate(('{NAME}', 3080)))"
    shown = host.machine.run(str(PYTHON), "-c", script).ok().stdout
    given = host.sh("cat /etc/teleport/fullchain.pem").ok().stdout
    first = ssl.PEM_cert_to_DER_cert(given.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----")
    assert ssl.PEM_cert_to_DER_cert(shown.strip()) == first


def test_it_listens_where_the_page_and_the_command_say_and_nowhere_else(host: Host) -> None:
    (listed,) = host.follow("Firewall")
    table = set(re.findall(r"^\| (\d{4}) \|.*\| (?:proxy|auth) \|$", section("Firewall"), re.MULTILINE))
    open_ports = set(re.findall(r"^LISTEN.*?:(\d+) ", host.sh("ss -Hltn").ok().stdout, re.MULTILINE))
    assert open_ports - {"3000"} <= table
    assert {"3080", "3023", "3024", "3025"} <= open_ports
    for port in open_ports - {"3000"}:
        assert port in listed


def test_a_host_joins_by_a_token_file_and_the_pin_and_takes_a_session(host: Host) -> None:
    token, joined, listed = blocks("Adding hosts", "sh")
    printed = host.sh(token).ok().stdout
    (pin,) = set(re.findall(r"sha256:[0-9a-f]{64}", printed))
    assert host.sh("stat --format=%a /etc/node.token").ok().stdout == "600\n"
    for how in ("joined", "and again, which changes nothing"):
        ran = host.sh(joined.replace("sha256:PIN", pin), seconds=120)
        assert ran.status == 0, how + ran.stdout + ran.stderr + host.journal("teleport-node")
    wait_until("the host is listed", lambda: "env=prod" in host.sh(listed).stdout, 60)
    host.follow("The first administrator")
    host.sh("tctl auth sign --user=alice --ttl=10m --out=/run/alice").ok()
    ran = host.sh(f"tsh --proxy={NAME}:3080 --identity=/run/alice ssh root@first id -un")
    assert ran.stdout == "root\n", ran.stdout + ran.stderr
    wait_until("it is on record", lambda: '"session.start"' in host.sh("tctl audit ls --format=json").stdout, 30)


def test_the_next_release_takes_over_and_the_one_before_stays_while_it_is_used(host: Host) -> None:
    """Another release beside the first: the same programs with one line more."""
    machine = host.machine
    versions = "/usr/local/lib/teleport/versions"
    (first,) = host.sh(f"ls {versions}").ok().stdout.split()
    host.sh(f"cp -a {versions}/{first} {versions}/next").ok()
    host.sh(f"sed -i s/{first}/next/g {versions}/next/bin/* {versions}/next/pyvenv.cfg").ok()
    host.sh("ln -sfn versions/next /usr/local/lib/teleport/current.new").ok()
    host.sh("mv -T /usr/local/lib/teleport/current.new /usr/local/lib/teleport/current").ok()
    former = machine.show("teleport", "MainPID")
    assert f"{versions}/{first}/" in host.sh(f"cat /proc/{former}/cmdline").ok().stdout
    machine.systemctl("reload", "teleport").ok()
    wait_until("systemd follows", lambda: machine.show("teleport", "MainPID") not in ("0", former), 60)
    main = machine.show("teleport", "MainPID")
    assert f"{versions}/next/" in host.sh(f"cat /proc/{main}/cmdline").ok().stdout
    assert host.sh(f"grep -c {versions}/{first}/ /proc/{main}/maps").stdout.strip() == "0"
    host.sh("tctl status").ok()
    uninstall = "bash /opt/source/scripts/install.sh uninstall"
    refused = host.sh(uninstall)
    assert refused.status == 1
    assert "still runs from" in refused.stderr
    for unit in ("teleport-node", "teleport"):
        machine.systemctl("stop", unit).ok()
    host.sh(uninstall).ok()
    assert host.sh("ls /usr/local/bin /usr/local/lib").ok().stdout.count("teleport") == 0
    assert host.sh("ls /etc/teleport.yaml /var/lib/teleport/host_uuid").status == 0
