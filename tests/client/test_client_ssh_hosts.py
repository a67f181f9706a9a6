"""What the cluster says never rules OpenSSH's configuration beyond its own hosts (threats T16, T45), and the person's
own file is kept byte for byte."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from teleport.client import ssh_include, ssh_install
from teleport.client.home import Home
from teleport.client.ssh_config import OpenSSHPaths
from teleport.client.ssh_hosts import Section, check_cluster, installed_proxies, render
from teleport.errors import BadRequest, TeleportError

UUID = "3f1d1c52-9d2e-4f4b-8f5e-1f0a6a0b7c1d"
PATHS = OpenSSHPaths(Path("/home/ann/.tsh/known_hosts"), Path("/home/ann/.tsh/key"), Path("/home/ann/.tsh/cert.pub"))
HOSTILE = [
    "web\n    ProxyCommand touch /tmp/owned",
    "web ProxyCommand",
    "*",
    "web*",
    "?",
    "!web",
    "-oProxyCommand=id",
    '"web"',
    "web%h",
    "web;id",
    "$(id)",
    "`id`",
    "web\r",
    "web\x00",
    "wéb",
    "\u202eweb",
    "",
    "..",
    "a..b",
    ".web",
    "web.",
    "w" * 254,
    "a,b",
    "a=b",
    "a#b",
    "a\\b",
    "a/b",
]


def section(*names: str, cluster: str = "main", proxy: str = "proxy.example.com", refresh: str = "tsh r") -> Section:
    hosts = tuple((name, f"{UUID[:-2]}{number:02x}") for number, name in enumerate(names))
    return Section(proxy, (proxy, 3023), cluster, PATHS, hosts, ("root", "ubuntu"), refresh)


def picked(text: str) -> list[str]:
    """The hosts that an editor offers: words of `Host` lines that are no pattern."""
    found = []
    for line in text.splitlines():
        if match := re.match(r"\s*Host\s+(.*)", line):
            found += [word for word in match[1].split() if not set(word) & set("*?!")]
    return found


def asked(folder: Path, text: str, host: str) -> dict[str, str]:
    """What ssh itself makes of a configuration, for one host."""
    file = folder / "config"
    file.write_text(text)
    ran = subprocess.run(["ssh", "-G", "-F", str(file), host], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(line.split(" ", 1) for line in ran.stdout.splitlines() if " " in line)


def test_each_host_has_a_line_and_ssh_goes_through_the_proxy(tmp_path: Path) -> None:
    written = render(["proxy.example.com"], [section("web1", "db.internal", refresh="")], [])
    assert picked(written.text) == ["web1", "db.internal.main"]
    for name, full in (("web1", "web1.main"), ("db.internal.main", "db.internal.main"), ("other.main", "other.main")):
        found = asked(tmp_path, written.text, name)
        assert found["hostname"] == full
        assert "-s proxy:%h:%p@main" in found["proxycommand"]
        assert found["identityfile"] == str(PATHS.key)
    assert "proxycommand" not in asked(tmp_path, written.text, "db.internal")
    assert "proxycommand" not in asked(tmp_path, written.text, "proxy.example.com")
    assert installed_proxies(written.text) == ["proxy.example.com"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_left_out_and_changes_nothing(name: str) -> None:
    clean = render(["p"], [section("web1", refresh="")], []).text
    written = render(["p"], [section("web1", name, refresh="")], [])
    assert (written.listed, written.left_out) == (1, 1)
    note = ", 1 left out: their names cannot stand here"
    assert written.text == clean.replace(": 1 host", f": 1 host{note}")


def test_a_host_never_takes_the_place_of_another(tmp_path: Path) -> None:
    """A name with dots, an address, localhost, the proxy, and what the person's own file knows keep their meaning."""
    names = ("github.com", "localhost", "10", "bastion", "mine3", "proxy", "web1")
    at = section(*names, proxy="proxy", refresh="")
    text = render(["proxy"], [at], ["bastion", "mine*", "*", "!x"]).text
    assert picked(text) == [*(f"{name}.main" for name in names[:-1]), "web1"]
    for name in names[:-1]:
        assert "proxycommand" not in asked(tmp_path, text, name)


def test_the_way_to_a_proxy_never_leads_through_itself(tmp_path: Path) -> None:
    text = render(["proxy.main"], [section("proxy", "web1", proxy="proxy.main", refresh="")], []).text
    assert "proxycommand" not in asked(tmp_path, text, "proxy.main")
    assert picked(text) == [f"{UUID[:-2]}00.main", "web1"]


def test_equal_names_are_listed_by_uuid_and_names_of_two_clusters_with_theirs() -> None:
    twins = render(["p"], [section("web1", "WEB1", "db")], [])
    assert picked(twins.text) == [f"{UUID[:-2]}00.main", f"{UUID[:-2]}01.main", "db"]
    two = render(["p", "q"], [section("web1", "a"), section("web1", "b", cluster="other", proxy="q")], [])
    assert picked(two.text) == ["web1.main", "a", "web1.other", "b"]
    again = render(["p", "q"], [section("web1"), section("web1", proxy="q")], [])
    assert picked(again.text) == ["web1"], "two proxies of one cluster"


@pytest.mark.parametrize("cluster", ["com", "ORG", "io", "local", "a b", "x\nHost *", "*"])
def test_a_cluster_whose_name_would_catch_other_hosts_is_refused(cluster: str) -> None:
    with pytest.raises(BadRequest):
        check_cluster(cluster)


# --- ~/.ssh/config

OWN = [
    b"",
    b"Host *\n    User ann\n",
    b"# no line end\nHost a\n  Port 22",
    b"Host a\r\n    Port 2022\r\n",
    b"\xff\xfe not UTF-8\n\n\n",
]


@pytest.mark.parametrize("own", OWN)
def test_the_persons_own_file_is_kept_byte_for_byte(tmp_path: Path, own: bytes) -> None:
    config, ours = tmp_path / ".ssh" / "config", tmp_path / "with space" / "ssh_config"
    config.parent.mkdir()
    config.write_bytes(own)
    config.chmod(0o644)
    assert ssh_include.install(config, ours)
    lead = f'{ssh_include.COMMENT}\nInclude "{ours}"\n'.encode()
    assert config.read_bytes() == lead + own
    assert not ssh_include.install(config, ours)
    assert config.read_bytes() == lead + own
    assert stat.S_IMODE(config.stat().st_mode) == 0o644
    assert ssh_include.uninstall(config, ours)
    assert config.read_bytes() == own
    assert not ssh_include.uninstall(config, ours)
    assert sorted(path.name for path in config.parent.iterdir()) == ["config"]


def test_a_missing_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    config = tmp_path / ".ssh" / "config"
    assert ssh_include.install(config, tmp_path / "ours")
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, config = tmp_path / "dotfiles" / "ssh", tmp_path / ".ssh" / "config"
    real.parent.mkdir()
    config.parent.mkdir()
    real.write_bytes(b"Host a\n")
    config.symlink_to(Path("..") / "dotfiles" / "ssh")
    assert ssh_include.install(config, tmp_path / "ours")
    assert config.is_symlink()
    assert real.read_bytes().endswith(b"\nHost a\n")


def test_what_cannot_be_written_is_said_with_the_way_on(tmp_path: Path) -> None:
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    config.symlink_to(config)
    with pytest.raises(TeleportError) as caught:
        ssh_include.install(config, tmp_path / "ours")
    assert "Include" in caught.value.hint
    with pytest.raises(BadRequest):
        ssh_include.install(config, tmp_path / "a*b")


def test_an_include_of_the_persons_own_counts_and_one_below_a_host_does_not(tmp_path: Path) -> None:
    config, ours = tmp_path / ".ssh" / "config", tmp_path / ".tsh" / "ssh_config"
    config.parent.mkdir()
    config.write_text("include ~/.tsh/ssh_config\nHost a\n")
    assert not ssh_include.install(config, ours)
    config.write_text("Host a\nInclude ~/.tsh/ssh_config\n")
    assert ssh_include.install(config, ours)


def test_host_lines_are_found_through_includes(tmp_path: Path) -> None:
    folder = tmp_path / ".ssh"
    folder.mkdir()
    ours = tmp_path / "ours"
    ours.write_text("Host ours\n")
    (folder / "config").write_text(f"Include {ours} more.d/*\nHost=a b\nMatch host c\nHost 'd\n")
    (folder / "more.d").mkdir()
    (folder / "more.d" / "x").write_text('Include config\n  host "e f" g*\n')
    os.mkfifo(folder / "more.d" / "y")
    assert sorted(ssh_include.host_patterns(folder / "config", ours)) == ["a", "b", "e f", "g*"]


# --- what ssh runs before it connects


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish"])
def test_paths_with_blanks_reach_the_command_as_one_word_in_every_shell(tmp_path: Path, shell: str) -> None:
    """OpenSSH hands the line to the person's own shell."""
    place = shutil.which(shell)
    if place is None:
        pytest.skip(f"needs {shell} (scripts/setup.sh names it)")
    folder = tmp_path / "a b (c)"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "tsh"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{folder}/ran'\n")
    program.chmod(0o755)
    command = ssh_install.refresh_command(Home(folder / "home"), "proxy.test", {"PATH": str(folder / "bin")})
    (folder / "config").write_text(render(["p"], [section("web1", refresh=command)], []).text)
    asking = ["ssh", "-G", "-F", str(folder / "config"), "web1"]
    subprocess.run(asking, env={**os.environ, "SHELL": place}, capture_output=True, check=True)
    assert (folder / "ran").read_text().splitlines() == ["config-refresh", str(folder / "home"), "proxy.test"]


@pytest.mark.parametrize("name", ["x%h", "x'y", 'x"y', "x\ny", "x$(id)", "x`id`", "x!y", "x\\y", "x;y"])
def test_a_path_that_some_shell_would_read_otherwise_renews_nothing(tmp_path: Path, name: str) -> None:
    assert ssh_install.refresh_command(Home(tmp_path / name), "proxy.test", {"PATH": str(tmp_path)}) == ""
