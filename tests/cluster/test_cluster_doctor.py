"""`teleport doctor` on a host of a real cluster: planted faults are found, and mended by the command that it names.

The command is run as it stands. Nothing else is found or changed, and no secret is told, with a daemon running and with
none.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tests.cluster import cluster_networks
from tests.cluster.cluster_networks import switch

from teleport.daemon.doctor.patient import processes_of
from teleport.testing.cluster import (
    BIN,
    LOOPBACK,
    Cluster,
    Host,
    Ran,
    at,
    free_port,
    plain_environment,
    run,
    wait_until,
)
from teleport.testing.public_authority import PublicAuthority

SECRET = "sesame-of-the-cluster"  # a join token, in the configuration itself
NOBODY = 65534
PROBE = "table inet probe { }\n"


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: files get other owners, limits are raised")


class Sick(Cluster):
    """A host with things that can break: a join token in the file, and a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, tokens=[f"node:{SECRET}"])
        made = PublicAuthority().issue("localhost", "127.0.0.1", "::1", "nowhere.invalid")
        chain, key = made.write(folder)
        chain.write_bytes(made.chain + made.root)
        self.key = key
        self.config["proxy_service"]["https_keypairs"] = [{"key_file": str(key), "cert_file": str(chain)}]
        self.write()

    def doctor(self, *arguments: str, within: Callable[[list[str]], list[str]] = list) -> Ran:
        """One look. No secret is in what it says."""
        words = [str(BIN / "teleport"), "doctor", f"--config={self.config_path}", *arguments]
        ran = run(*within(words), environment=plain_environment(self.folder))
        said = ran.stdout + ran.stderr
        assert SECRET not in said
        for path in [self.key, *self.data_dir.rglob("*.key")]:
            assert path.read_text().splitlines()[1] not in said
        assert "Traceback" not in said
        return ran

    def found(self, within: Callable[[list[str]], list[str]] = list) -> list[dict[str, str]]:
        """The findings. Nothing was left out, and the exit status says what there is."""
        ran = self.doctor("--format=json", within=within)
        document = json.loads(ran.stdout)
        findings: list[dict[str, str]] = document["findings"]
        assert not [one for one in document["unseen"] if one["blind"]], document
        assert ran.status == (1 if findings else 0), ran.stderr
        return findings

    def replace(self, old: str, new: str) -> None:
        text = self.config_path.read_text()
        assert old in text
        self.config_path.write_text(text.replace(old, new))


@contextmanager
def planted(
    sick: Sick, check: str, words: str, *, edit: str = "", within: Callable[[list[str]], list[str]] = list
) -> Iterator[dict[str, str]]:
    """A fault that the caller has planted: it is found, and nothing else is; gives the finding, then mends it by its
    command and looks again. `edit`: what the person types in the editor, as a command of sed for that line."""
    (finding,) = sick.found(within)
    assert (finding["check"], words in finding["what"]) == (check, True), finding
    yield finding
    editor = sick.folder / "editor"
    editor.write_text(f'#!/bin/sh\nsed -i "${{1#+}}{edit}" "$2"\n')
    editor.chmod(0o755)
    environment = {**plain_environment(sick.folder), "EDITOR": str(editor)}
    environment["PATH"] = f"{BIN}:/usr/sbin:/sbin:{environment['PATH']}"
    run(*within(["sh", "-c", finding["mend"]]), environment=environment).ok()
    wait_until("it is mended", lambda: finding["what"] not in [one["what"] for one in sick.found(within)])


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything below a folder, as far as a change of it would show."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        content = hashlib.sha256(path.read_bytes()).digest() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_mtime_ns, seen.st_ino, int.from_bytes(content[:8]))
    return found


def test_faults_of_a_stopped_host_are_found_and_mended(tmp_path: Path) -> None:
    """Each alone, so that its finding is the only one; at the end the daemon starts as before."""
    sick = Sick(tmp_path / "sick")
    with sick:
        assert sick.found() == [], "with a daemon running"
    before = state(sick.folder)
    assert sick.found() == [], "with none"
    assert state(sick.folder) == before, "it changes nothing"

    config, kept = sick.config_path, sick.folder / "kept.yaml"
    shutil.copy2(config, kept)
    config.unlink()
    with planted(sick, "config", "no configuration file"):
        pass
    shutil.copy2(kept, config)

    sick.replace("teleport:\n", "teleport:\n  data_dirr: /x\n")
    with planted(sick, "config", "data_dirr", edit="d"):
        pass

    config.chmod(0o644)
    with planted(sick, "config", "which holds join tokens"):
        pass

    sick.data_dir.chmod(0o755)
    with planted(sick, "permissions", "others can look into"):
        pass

    (sick.data_dir / "proc" / "auth" / "tls.key").chmod(0o640)
    with planted(sick, "permissions", "tls.key (mode 0640)"):
        pass

    sick.key.chmod(0o604)
    with planted(sick, "certificates", "private key"):
        pass

    own = at(sick.node_port)
    sick.replace(own, f"192.0.2.77:{sick.node_port}")
    with planted(sick, "ports", "192.0.2.77 is no address of this host"):
        pass
    assert f"0.0.0.0:{sick.node_port}" in config.read_text()
    shutil.copy2(kept, config)

    public = f"public_addr: {shown(sick.web_address)}"
    sick.replace(f"\n  {public}", "\n  public_addr: [nowhere.invalid:3080, 'localhost:3080']")
    with planted(sick, "dns", "nowhere.invalid", edit="s/nowhere.invalid:3080, //"):
        pass
    shutil.copy2(kept, config)

    sick.replace(f"cluster_name: {sick.name}", "cluster_name: another.test")
    with planted(sick, "backend", f"the storage is of the cluster {sick.name}"):
        pass

    (sick.data_dir / "restore.unfinished").touch()
    with planted(sick, "backend", "did not come to its end"):
        pass
    sick.data_dir.rmdir()
    Path(f"{sick.data_dir}.unfinished").rename(sick.data_dir)
    (sick.data_dir / "restore.unfinished").unlink()

    taker = (
        "import socket, sys; host = sys.argv[1]; family = socket.AF_INET6 if ':' in host else socket.AF_INET; "
        "taken = socket.create_server((host, int(sys.argv[2])), family=family); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", taker, LOOPBACK, str(sick.web_port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with planted(sick, "ports", f"port {sick.web_port}") as finding:
            assert finding["mend"] == f"kill {other.pid}"
    with sick:
        assert sick.found() == []


def shown(text: str) -> str:
    """A text as YAML has it."""
    return yaml.safe_dump([text])[2:].strip()


def test_faults_of_a_running_host_are_found_and_mended(tmp_path: Path) -> None:
    """Few files that may be open, and a configuration that the daemon has not read."""
    needs_root()
    sick = Sick(tmp_path / "sick")
    with sick:
        _, most = resource.prlimit(sick.daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(sick.daemon.pid, resource.RLIMIT_NOFILE, (1024, most))
        with planted(sick, "limits", "may have 1024 files open"):
            pass
    with sick:
        sick.replace(at(sick.node_port), at(free_port()))
        try:
            with planted(sick, "ports", "was started with another configuration") as finding:
                assert finding["mend"] == f"kill -HUP {sick.daemon.pid}"
            assert sick.daemon.ended() == 0, "its place is taken"
        finally:
            for pid in set(processes_of(sick.data_dir)) - {sick.daemon.pid}:
                os.kill(pid, signal.SIGTERM)
            wait_until("the daemon has ended", lambda: not processes_of(sick.data_dir))


def test_a_file_of_another_user_and_ipv6_that_is_off(tmp_path: Path) -> None:
    needs_root()
    if why := cluster_networks.why_not(4, PROBE):
        pytest.skip(why)
    sick = Sick(tmp_path / "sick")
    with sick:
        pass
    os.chown(sick.data_dir / "host_uuid", NOBODY, NOBODY)
    with planted(sick, "permissions", f"belongs to the uid {NOBODY}"):
        pass
    with switch("host") as net:

        def within(words: list[str]) -> list[str]:
            return ["ip", "netns", "exec", net.network("host"), *words]

        net.inside("host", "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
        sick.replace(at(sick.node_port), f"'[::]:{sick.node_port}'")
        with planted(sick, "ipv6", "IPv6 is switched off", within=within):
            pass


def test_who_is_not_root_is_told_what_was_not_looked_at(tmp_path: Path) -> None:
    """Exit status 2 where nothing can be said; 0 for the user whose daemon it is."""
    needs_root()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        data, config = folder / "data", folder / "teleport.yaml"
        data.mkdir(0o700)
        port = free_port()
        config.write_text(
            f"teleport: {{data_dir: {data}}}\nproxy_service: {{enabled: no}}\nssh_service: {{enabled: no}}\n"
            f"auth_service: {{listen_addr: '127.0.0.1:{port}'}}\n"
        )
        config.chmod(0o600)

        def doctor() -> Ran:
            words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(BIN / "teleport")]
            return run(*words, "doctor", f"--config={config}", environment=plain_environment(folder))

        ran = doctor()
        assert (ran.status, ran.stdout) == (2, "")
        assert "hint: run it as root, or as the user of the daemon: sudo" in ran.stderr
        config.chmod(0o644)
        ran = doctor()
        assert (ran.status, "not looked at" in ran.stdout) == (2, True), ran
        for path in (data, config):
            os.chown(path, NOBODY, NOBODY)
        config.chmod(0o600)
        ran = doctor()
        assert (ran.status, ran.stdout.startswith("Nothing was found.")) == (0, True), ran
        assert "files open" not in ran.stdout


@pytest.mark.parametrize("way", ["direct", "through the proxy"])
def test_a_sound_node_has_no_finding_before_it_joins_while_it_runs_and_after(
    cluster: Cluster, tmp_path: Path, way: str
) -> None:
    """And the ports that it needs are those of this cluster, as the proxy says."""
    token = tmp_path / "token"
    cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
    config = cluster.node_config("sound", auth_token=str(token), ca_pin=cluster.ca_pin())
    if way != "direct":
        config["teleport"]["auth_servers"] = [at(cluster.web_port)]
    node = Host(tmp_path / "node", config)

    def teleport(*words: str) -> Ran:
        return run(BIN / "teleport", *words, f"--config={node.config_path}", environment=plain_environment(node.folder))

    teleport("doctor").ok()
    before = json.loads(teleport("ports", "--format=json").ok().stdout)
    with node:
        teleport("doctor").ok()
        found = json.loads(teleport("ports", "--format=json").ok().stdout)
        assert found == before, "it is asked who answers there, before this host knows"
        assert found["notes"] == []
        out = [one["port"] for one in found["ports"] if one["direction"] == "out" and not one["only_if"]]
        inbound = [one["port"] for one in found["ports"] if one["direction"] == "in"]
        if way == "direct":
            assert (out, len(inbound)) == ([cluster.auth_port], 2)
        else:
            assert (out, inbound) == ([cluster.web_port, cluster.tunnel_port], [node.diag_port])
    teleport("doctor").ok()
    if way == "direct":
        config["teleport"]["ca_pin"] = f"sha256:{'0' * 64}"
        node.write()
        ran = teleport("doctor")
        assert (ran.status, "teleport.ca_pin" in ran.stdout) == (1, True)
