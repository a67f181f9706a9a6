"""teleport version, configure and status as scripts."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from teleport import __version__
from teleport.cli.teleport.command import teleport
from teleport.cli.teleport.status import session_text
from teleport.testing.commands import Ran, run_command
from teleport.testing.public_authority import PublicAuthority

SESSION = {
    "SSH_SESSION_ID": "b7b5cdb9-63ba-4d64-a1b4-9c1a4a7b7b21",
    "SSH_TELEPORT_USER": "ann",
    "SSH_TELEPORT_CLUSTER_NAME": "example.com",
    "SSH_TELEPORT_HOST_UUID": "713f9fa7-56f8-4f27-8b20-5dd0ce536c94",
    "SSH_SESSION_WEBPROXY_ADDR": "web.example.com:443",
    "SSH_CLIENT": "192.0.2.7 50000 3022",
    "LOGNAME": "root",
}


def run(*arguments: str) -> Ran:
    return run_command(teleport, "teleport", *arguments)


def test_version_is_one_line_or_one_object() -> None:
    """The installed version, and the Python that runs it."""
    assert run("version").ok().out.startswith(f"Teleport v{__version__} python3.")
    assert json.loads(run("version", "--format=json").ok().out)["version"] == __version__


def test_the_sample_configuration_passes_its_own_test(tmp_path: Path) -> None:
    """Printed or written; never over a file that is there."""
    place = tmp_path / "teleport.yaml"
    run("configure", f"--output=file://{place}", "--cluster-name=example.com").ok()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert place.read_text() == run("configure", "--cluster-name=example.com").ok().out
    assert "It runs: auth, proxy, node" in run("configure", f"--test={place}").ok().out
    assert run("configure", f"--output=file://{place}").status == 4
    assert run("configure", "--output=somewhere").status == 2
    assert run("configure", f"--test={place}", "--cluster-name=x").status == 2


def test_every_mistake_of_a_tested_file_is_named(tmp_path: Path) -> None:
    """Exit status 1, each with line and key."""
    place = tmp_path / "teleport.yaml"
    place.write_text("teleport:\n  data_dirr: /x\nssh_service:\n  enabled: maybe\n")
    ran = run("configure", f"--test={place}")
    assert ran.status == 1
    assert f"{place}:2: teleport.data_dirr" in ran.err
    assert f"{place}:4: ssh_service.enabled" in ran.err
    assert run("configure", f"--test={tmp_path / 'missing'}").status == 3


def test_status_tells_of_the_session_that_the_shell_belongs_to() -> None:
    """Five lines inside, one outside, exit status 0 both times."""
    lines = session_text(SESSION).splitlines()
    assert len(lines) == 5
    assert lines[0].split(maxsplit=2)[2] == "ann, logged in as root from 192.0.2.7"
    url = "https://web.example.com:443/web/cluster/example.com/node/713f9fa7-56f8-4f27-8b20-5dd0ce536c94/root/"
    assert lines[4].endswith(url + SESSION["SSH_SESSION_ID"])
    assert len(session_text({}).splitlines()) == 1


def test_help_lists_the_commands_and_explains_one() -> None:
    """`help`, `help COMMAND` and -h."""
    assert "configure" in run("help").ok().out
    assert "--test" in run("help", "configure").ok().out
    assert run("help", "nothing").status == 2
    assert run("-h").ok().out == run("help").ok().out


def test_the_check_of_a_file_looks_into_its_certificates(tmp_path: Path) -> None:
    """What would keep the daemon from starting, and what it would warn of."""
    made, place = PublicAuthority().issue("a.test"), tmp_path / "teleport.yaml"
    chain, key = made.write(tmp_path)
    place.write_text(
        f"proxy_service:\n  public_addr: b.test:443\n  https_keypairs: [{{key_file: {key}, cert_file: {chain}}}]\n"
    )
    done = run("configure", f"--test={place}")
    assert done.status != 0
    assert "the certificate of CN=Test Root is missing" in done.err
    chain.write_bytes(made.chain + made.root)
    done = run("configure", f"--test={place}").ok()
    assert "a root that this host does not know" in done.err
    assert "no certificate of https_keypairs is for b.test" in done.err
