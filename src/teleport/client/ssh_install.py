"""`tsh config --install`: one file for OpenSSH below `~/.tsh`, with the hosts of each cluster that it was run for.

The file itself remembers which proxies these are, also while nobody is logged in there. It is written from what
`tsh ls` saw last (`hosts_seen`), whole, whenever that or the logins change.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from teleport.client import hosts_seen, keystore, known_hosts, profile, ssh_hosts, ssh_include
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.client.ssh_config import OpenSSHPaths
from teleport.client.ssh_hosts import Section, Written
from teleport.errors import BadRequest, TeleportError
from teleport.transport.site_proxy import site_proxy

NAME = "ssh_config"
REFRESH = "config-refresh"
_PLAIN = re.compile(r"[A-Za-z0-9_./+@:,=-]+")
_QUOTABLE = re.compile(r"[A-Za-z0-9_./+@:,= ()~-]+")


def paths(home: Home, found: Profile) -> OpenSSHPaths:
    """What OpenSSH needs of a profile."""
    files = keystore.KeyFiles(found.name, found.user)
    return OpenSSHPaths(home.path(known_hosts.NAME), home.path(*files.key), home.path(*files.ssh(found.cluster)))


def installed(home: Home) -> list[str]:
    """The proxies whose hosts are listed."""
    return ssh_hosts.installed_proxies((home.read(NAME) or b"").decode("utf-8", "replace"))


def install(home: Home, found: Profile, environment: Mapping[str, str]) -> tuple[Written, bool]:
    """Lists the hosts of this profile from now on; also whether `~/.ssh/config` had to be changed."""
    ssh_hosts.check_cluster(found.cluster)
    ssh_include.include_line(home.path(NAME))  # before anything is written
    written = _write(home, list(dict.fromkeys([*installed(home), found.name])), environment)
    return written, ssh_include.install(ssh_include.user_config(environment), home.path(NAME))


def uninstall(home: Home, environment: Mapping[str, str]) -> bool:
    """Takes everything away again; whether there was anything."""
    included = ssh_include.uninstall(ssh_include.user_config(environment), home.path(NAME))
    return home.remove(NAME) or included


def rewrite(home: Home, environment: Mapping[str, str]) -> None:
    """Brings the file up to date, if there is one. Raises `TeleportError`."""
    proxies = installed(home)
    if proxies:
        _write(home, proxies, environment)


def _write(home: Home, proxies: Sequence[str], environment: Mapping[str, str]) -> Written:
    sections = [section for name in _active_first(home, proxies) for section in _sections(home, name, environment)]
    patterns = ssh_include.host_patterns(ssh_include.user_config(environment), home.path(NAME))
    written = ssh_hosts.render(proxies, sections, patterns)
    data = written.text.encode()
    if home.read(NAME) != data:
        home.write(data, NAME)
    return written


def _active_first(home: Home, proxies: Sequence[str]) -> list[str]:
    active = profile.current_name(home)
    return sorted(proxies, key=lambda name: (name != active, name))


def _sections(home: Home, name: str, environment: Mapping[str, str]) -> list[Section]:
    """The cluster with its hosts, then the clusters that trust it, of which only `*.CLUSTER` is written. Nothing while
    nobody is logged in there, or what is kept of the login is damaged."""
    try:
        found = profile.load(home, name)
        if found is None:
            return []
        found = found.with_cluster(found.root_cluster)
        ssh_hosts.check_cluster(found.cluster)
        logins = keystore.facts(keystore.ssh_certificate_line(home, found)).logins
    except TeleportError:
        return []
    seen = hosts_seen.recall(home, name)
    hosts = seen.hosts if seen is not None and seen.cluster == found.cluster else ()
    command = refresh_command(home, name, environment)
    where = paths(home, found)
    way = way_by_tsh(home, found, environment)
    sections = [Section(name, found.ssh, found.cluster, where, hosts, logins, command, way)]
    for other in keystore.clusters_of(home, keystore.KeyFiles(found.name, found.user)):
        try:
            ssh_hosts.check_cluster(other)
        except TeleportError:
            continue
        if other != found.cluster:
            way = way_by_tsh(home, found.with_cluster(other), environment)
            sections.append(Section(name, found.ssh, other, where, (), logins, command, way))
    return sections


def refresh_command(home: Home, proxy: str, environment: Mapping[str, str]) -> str:
    """What OpenSSH runs before it connects, fit for any shell and for a quoted word of its configuration; empty where
    there is no such way to write it, and then nothing is renewed by itself."""
    if os.name == "nt":
        return ""  # cmd.exe quotes by rules of its own
    words = [str(_own_program(environment)), REFRESH, str(home.root.absolute()), proxy]
    if not all(_QUOTABLE.fullmatch(word) and not word.startswith("-") for word in words):
        return ""
    return " ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in words)


def way_by_tsh(home: Home, found: profile.Profile, environment: Mapping[str, str]) -> str:
    """The ProxyCommand where OpenSSH alone cannot reach the proxy's SSH; else empty.

    Raises `BadRequest` when it cannot be written so that every shell reads it alike.
    """
    if not needs_tsh(found, environment):
        return ""
    words = [str(_own_program(environment)), "proxy", "ssh", f"--proxy={found.web_proxy_addr}", f"--user={found.user}"]
    words += [f"--cluster={found.cluster}"]
    if not all(_QUOTABLE.fullmatch(word) for word in words):
        raise BadRequest("the path of tsh cannot stand in OpenSSH's configuration", hint="tsh ssh")
    written = " ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in words)
    return f"{written} %r@%h:%p"


def needs_tsh(found: profile.Profile, environment: Mapping[str, str]) -> bool:
    """Whether OpenSSH alone cannot reach the proxy's SSH: a balancer ends TLS, or the site is left by an HTTP proxy."""
    return found.tls_routing == "upgrade" or site_proxy(*found.ssh, environment) is not None


def _own_program(environment: Mapping[str, str]) -> Path:
    """tsh as it was started, if that has a place; else as PATH finds it, else beside this Python."""
    started = Path(sys.argv[0])
    if started.name == "tsh" and started.is_absolute() and os.access(started, os.X_OK):
        return started
    found = shutil.which("tsh", path=environment.get("PATH"))
    return Path(found).absolute() if found else Path(sys.executable).with_name("tsh")
