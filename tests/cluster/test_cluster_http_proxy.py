"""People whose machine leaves its site by an HTTP proxy only: tsh, tctl and plain ssh through a real one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.cluster.cluster_site_proxy import HOME, SECRET, WHO, tinyproxy

from teleport.testing.cluster import BIN, NODE, Cluster, Person, processes_with, run


class Inside(Person):
    """Somebody at such a site."""

    variables: Mapping[str, str] = MappingProxyType({})

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.variables}


def test_people_reach_the_cluster_through_the_http_proxy_of_their_site(login: str, tmp_path: Path) -> None:
    """On the one port, and on ports of their own; by password, which appears nowhere; a refusal says whose it is."""
    cluster = Cluster(tmp_path / "cluster")
    cluster.config["version"] = "v2"  # the web port takes SSH, too; the SSH port is there beside it
    public = {
        "public_addr": f"{HOME}:{cluster.web_port}",
        "ssh_public_addr": f"{HOME}:{cluster.web_port}",
        "tunnel_public_addr": f"{HOME}:{cluster.web_port}",
    }
    cluster.config["proxy_service"] |= public
    cluster.write()
    with tinyproxy(tmp_path) as (site, asked), cluster:
        made = cluster.add_person("bob", logins=[login])
        bob = Inside(cluster, "bob", made.home)
        bob.totp_secret, bob._last_period = made.totp_secret, made._last_period
        bob.variables = {"HTTPS_PROXY": f"http://{WHO}:{SECRET}@{site}"}
        (tmp_path / "sent").write_bytes(os.urandom(2_000_000))
        bob.log_in(f"--proxy={HOME}:{cluster.web_port}")
        assert "tsh proxy ssh" in bob.ssh_config.read_text()
        assert SECRET not in bob.ssh_config.read_text()
        uses_it(cluster, bob, login, tmp_path)
        assert set(asked) == {f"{HOME}:{cluster.web_port}"}
        apart = f"--proxy={HOME}:{cluster.web_port},{cluster.proxy_ssh_port}"
        assert bob.tsh("ssh", apart, f"{login}@{NODE}", "echo", "apart").ok().stdout == "apart\n"
        assert f"{HOME}:{cluster.proxy_ssh_port}" in asked
        administers(cluster, bob)

        kept = bob.variables
        bob.variables = {"HTTP_PROXY": kept["HTTPS_PROXY"]}
        assert NODE in bob.tsh("ls").ok().stdout
        bob.variables = {**kept, "NO_PROXY": f".{HOME.partition('.')[2]}"}
        assert HOME in bob.tsh("ls").stderr, "straight, where nobody knows the name"
        assert bob.tsh("ls").status == 6
        bob.variables = {"HTTPS_PROXY": f"http://{WHO}:wrong-{SECRET}@{site}"}
        for words in (["ls"], ["ssh", f"{login}@{NODE}", "true"], ["login", f"--proxy={HOME}", "--user=x"]):
            refused = bob.tsh(*words, stdin="x\n")
            assert refused.status in (6, 255), words
            assert f"http://{site}" in refused.stderr, words
            assert "give user and password in HTTPS_PROXY" in refused.stderr, words
            assert SECRET not in refused.stdout + refused.stderr
        bob.variables = {"HTTPS_PROXY": f"https://{WHO}:{SECRET}@{site}"}
        refused = bob.tsh("ls")
        assert (refused.status, "without TLS" in refused.stderr, SECRET in refused.stderr) == (2, True, False)


def uses_it(cluster: Cluster, person: Person, login: str, folder: Path) -> None:
    """ls, ssh, scp there and back, and plain ssh as `tsh config` sets it up; the password is in no command line."""
    there = f"{login}@{NODE}"
    assert NODE in person.tsh("ls").ok().stdout
    assert person.tsh("ssh", there, "echo", "ssh").ok().stdout == "ssh\n"
    person.tsh("scp", folder / "sent", f"{there}:{folder}/arrived").ok()
    person.tsh("scp", f"{there}:{folder}/arrived", folder / "back").ok()
    assert (folder / "back").read_bytes() == (folder / "sent").read_bytes()
    (folder / "arrived").unlink()
    with subprocess.Popen(
        person.ssh_arguments(f"{there}.{cluster.name}", "cat"),
        env=person.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as plain:
        assert plain.stdin is not None
        assert plain.stdout is not None
        plain.stdin.write(b"plain\n")
        plain.stdin.flush()
        assert plain.stdout.readline() == b"plain\n"
        assert processes_with("proxy\0ssh"), "it goes by tsh"
        assert not processes_with(SECRET), "nobody else at the machine reads the password"
        plain.stdin.close()
        assert plain.wait(20) == 0


def administers(cluster: Cluster, person: Person) -> None:
    """`tctl` by the login, and by an identity file whose auth server is not on this machine."""
    environment = {**person.environment, "TELEPORT_CONFIG_FILE": ""}
    assert cluster.ca_pin() in run(BIN / "tctl", "status", environment=environment).ok().stdout
    file = person.home / "id"
    cluster.tctl("auth", "sign", f"--user={person.name}", f"--out={file}", "--ttl=1h").ok()
    for port in (cluster.auth_port, cluster.web_port):
        named = ["-i", str(file), f"--auth-server={HOME}:{port}"]
        assert cluster.ca_pin() in run(BIN / "tctl", *named, "status", environment=environment).ok().stdout
