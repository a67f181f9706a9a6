"""`tsh config --install` against a real cluster: editors find the hosts, `ssh node` works, certificates renew."""

from __future__ import annotations

import base64
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.client import keystore
from teleport.testing.cluster import Cluster, Person, Ran, run


@pytest.fixture(scope="module")
def ines(cluster: Cluster, login: str) -> Iterator[Person]:
    """Logged in, with the hosts in OpenSSH's configuration."""
    person = cluster.add_person("ines", logins=[login])
    person.log_in()
    person.tsh("config", "--install").ok()
    yield person
    person.tsh("config", "--uninstall").ok()


def own_config(person: Person) -> Path:
    return person.home / ".ssh" / "config"


def ssh(person: Person, *arguments: str) -> Ran:
    """Plain ssh with the person's configuration. ssh asks the account for its home, so that it is named here."""
    options = ["-F", str(own_config(person)), "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null"]
    return run("ssh", *options, *arguments, environment=person.environment, seconds=30)


def offered(config: Path) -> list[str]:
    """The hosts that an editor offers: it follows Includes, and takes the words of Host lines that are no pattern."""
    found: list[str] = []
    for line in config.read_text().splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["Include"]:
            found += offered(Path(words[1]))
        elif words[:1] == ["Host"]:
            found += [word for word in words[1:] if not set(word) & set("*?!")]
    return found


def certificate(person: Person, cluster: Cluster) -> Path:
    found = list((person.home / ".tsh" / "keys").glob(f"*/{person.name}-ssh/*-cert.pub"))
    assert len(found) == 1
    return found[0]


def forget_renewal(person: Person) -> None:
    for stamp in (person.home / ".tsh" / "hosts").glob("*.renewed"):
        stamp.unlink()


def refresh(person: Person) -> Ran:
    """What ssh runs before it connects, as it stands in the configuration."""
    text = (person.home / ".tsh" / "ssh_config").read_text()
    command = re.search(r'exec "(.*)"', text)
    assert command
    return run("/bin/sh", "-c", command[1], environment=person.environment)


def test_editors_find_the_hosts_and_plain_ssh_reaches_them(cluster: Cluster, ines: Person) -> None:
    assert own_config(ines).read_text().count("Include") == 1
    names = [line for line in ines.tsh("ls", "--format=names").ok().stdout.splitlines() if line]
    assert names
    hosts = offered(own_config(ines))
    assert sorted(hosts) == sorted(names)
    said = ssh(ines, hosts[0], "echo", "here").ok()
    assert (said.stdout, said.stderr) == ("here\n", "")


def test_installing_again_changes_nothing(ines: Person) -> None:
    before = own_config(ines).read_bytes(), (ines.home / ".tsh" / "ssh_config").read_bytes()
    ran = ines.tsh("config", "--install").ok()
    assert ran.stdout == ""
    assert (own_config(ines).read_bytes(), (ines.home / ".tsh" / "ssh_config").read_bytes()) == before


def test_connecting_renews_certificate_and_known_hosts_quietly(cluster: Cluster, ines: Person) -> None:
    host = offered(own_config(ines))[0]
    file = certificate(ines, cluster)
    before = keystore.facts(file.read_text())
    known = ines.home / ".tsh" / "known_hosts"
    hosts_before = known.read_text()
    known.write_text("")
    forget_renewal(ines)
    said = ssh(ines, host, "echo", "here").ok()
    assert (said.stdout, said.stderr) == ("here\n", "")
    after = file.read_text()
    assert keystore.facts(after).expires == before.expires
    assert known.read_text() == hosts_before
    ssh(ines, host, "true").ok()
    assert file.read_text() == after, "not twice within minutes"
    created = [event for event in cluster.events("--type=cert.create") if event.get("user") == "ines"]
    assert created[-1]["subject"] == "ines"


def test_what_cannot_be_renewed_is_left_alone_and_nothing_is_said(cluster: Cluster, ines: Person) -> None:
    """A proxy that is away, and a login that has ended or is gone: silent, and soon over."""
    profile = next(path for path in (ines.home / ".tsh").glob("*.yaml"))
    text, file = profile.read_text(), certificate(ines, cluster)
    line = file.read_bytes()
    try:
        forget_renewal(ines)
        profile.write_text(re.sub(r'web_proxy_addr: "[^"]*"', 'web_proxy_addr: "127.0.0.1:1"', text))
        ran = refresh(ines)
        assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
        assert file.read_bytes() == line
        profile.unlink()
        ran = refresh(ines)
        assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    finally:
        profile.write_text(text)
        forget_renewal(ines)


def test_a_host_that_joins_appears_with_the_next_listing_and_goes_with_the_logout(cluster: Cluster, login: str) -> None:
    person = cluster.add_person("olga", logins=[login])
    person.log_in()
    own = own_config(person)
    own.parent.mkdir()
    own.write_text("Host *\n    Compression no\n")
    person.tsh("config", "--install").ok()
    ours = person.home / ".tsh" / "ssh_config"
    whole = ours.read_text()
    ours.write_text(re.sub(r"Host \S+\n    HostName \S+\n", "", whole))
    assert offered(own) == []
    person.tsh("ls").ok()
    assert ours.read_text() == whole
    ours.write_text(re.sub(r"Host \S+\n    HostName \S+\n", "", whole))
    person.tsh("login").ok()
    assert ours.read_text() == whole
    person.tsh("logout").ok()
    assert offered(own) == []
    assert "Match" not in ours.read_text()
    person.log_in()
    assert ours.read_text() == whole, "asked for once, it comes back with the login"
    person.tsh("config", "--uninstall").ok()
    assert own.read_text() == "Host *\n    Compression no\n"
    assert not ours.exists()


def test_a_login_that_has_ended_renews_nothing_and_says_nothing(cluster: Cluster, ines: Person) -> None:
    """ssh goes on with what there is, and the proxy says why it refuses."""
    file = certificate(ines, cluster)
    line = file.read_text()
    kind, blob = line.split()[:2]
    ends = int(keystore.facts(line).expires.timestamp()).to_bytes(8, "big")
    past = (int(time.time()) - 60).to_bytes(8, "big")
    old = base64.b64encode(base64.b64decode(blob).replace(ends, past)).decode()
    file.write_text(f"{kind} {old}\n")
    try:
        assert keystore.facts(file.read_text()).expires.timestamp() < time.time()
        forget_renewal(ines)
        ran = refresh(ines)
        assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
        assert file.read_text() == f"{kind} {old}\n"
        refused = ssh(ines, offered(own_config(ines))[0], "true")
        assert refused.status == 255
    finally:
        file.write_text(line)
        forget_renewal(ines)
