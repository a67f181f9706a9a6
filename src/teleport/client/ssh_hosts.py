"""The file that `tsh config --install` keeps for OpenSSH: a `Host` line for each host of each cluster. Pure.

Editors pick hosts from `Host` lines, so each host has one, and `ssh NAME` works. What the lines say comes from the
cluster, and the file rules where every `ssh` of this person goes (threats T16, T45). Hence:

- a name of anything but ASCII letters, digits, dots, dashes and underscores is left out;
- a host gets its bare name only if that is one label, with a letter in it, is not `localhost`, and no `Host` line of
  the person's own fits it; else it is listed as NAME.CLUSTER, `github.com` as `github.com.main`;
- a name that several hosts have stands for none of them: they are listed by UUID;
- a cluster that is called like a top-level domain is not installed at all.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from teleport.client.addresses import NODE_PORT, check_host
from teleport.client.ssh_config import OpenSSHPaths, proxy_command, quoted_path
from teleport.errors import BadRequest
from teleport.pki.trust import check_cluster_name

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_LABEL = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOGIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_TOP_LEVEL = frozenset({"com", "org", "net", "edu", "gov", "mil", "int", "arpa", "local", "localhost"})
_MARK = "#: proxy "
HEAD = """\
# Kept by `tsh config --install`; `tsh login` and `tsh ls` write it anew, so changes made here are lost.
# `tsh config --uninstall` takes it away.
"""


@dataclass(frozen=True, slots=True)
class Section:
    """The hosts behind one proxy, and what a connection to them needs."""

    proxy: str
    ssh: tuple[str, int]
    cluster: str
    paths: OpenSSHPaths
    hosts: tuple[tuple[str, str], ...]  # name, UUID
    logins: tuple[str, ...] = ()
    refresh: str = ""  # the command that renews certificates, for a shell; empty: none
    way: str = ""  # the ProxyCommand, where it is not OpenSSH's own


@dataclass(frozen=True, slots=True)
class Written:
    """The file's text, how many hosts it lists, and how many it leaves out for their names."""

    text: str
    listed: int
    left_out: int


def installed_proxies(text: str) -> list[str]:
    """The proxies whose hosts a file of ours lists, or would if somebody were logged in there."""
    return [line.removeprefix(_MARK).strip() for line in text.splitlines() if line.startswith(_MARK)]


def check_cluster(cluster: str) -> None:
    """Raises `BadRequest` for a cluster whose hosts would hide others: `*.com` is more than anybody's cluster."""
    check_cluster_name(cluster)
    if "." not in cluster and (len(cluster) == 2 or cluster.lower() in _TOP_LEVEL):
        raise BadRequest(
            f"the cluster {cluster} is called like a top-level domain: every ssh to *.{cluster} would go there",
            hint="use it with: tsh config > FILE; ssh -F FILE HOST",
        )


def render(proxies: Sequence[str], sections: Sequence[Section], own_patterns: Iterable[str]) -> Written:
    """The whole file. `own_patterns` are those of the person's other `Host` lines."""
    patterns = [pattern.lower() for pattern in own_patterns if pattern.strip("*?") and not pattern.startswith("!")]
    named = {(section.cluster, name.lower()) for section in sections for name, _ in section.hosts}
    bare = Counter(name for _, name in named)  # in how many clusters

    proxy_hosts = {check_host(section.ssh[0]) for section in sections}

    def free(name: str) -> bool:
        low = name.lower()
        return (
            bool(_LABEL.fullmatch(name))
            and low != "localhost"
            and low not in proxy_hosts
            and bare[low] == 1
            and not any(fnmatch.fnmatchcase(low, pattern) for pattern in patterns)
        )

    parts, listed, left_out = [HEAD + "".join(f"{_MARK}{proxy}\n" for proxy in proxies)], 0, 0
    done: set[str] = set()
    for section in sections:
        lines, missing = _host_lines(section, free, done, proxy_hosts)
        listed, left_out = listed + len(lines), left_out + missing
        note = f", {missing} left out: their names cannot stand here" if missing else ""
        parts.append(f"\n# proxy {section.proxy}, cluster {section.cluster}: {counted(len(lines))}{note}\n")
        parts += [*lines, _way(section, proxy_hosts)]
    return Written("".join(parts), listed, left_out)


def counted(hosts: int) -> str:
    """`1 host`, `2 hosts`."""
    return "1 host" if hosts == 1 else f"{hosts} hosts"


def _host_lines(
    section: Section, free: Callable[[str], bool], done: set[str], proxy_hosts: Set[str]
) -> tuple[list[str], int]:
    cluster = section.cluster
    same = Counter(name.lower() for name, _ in section.hosts)
    lines, missing = [], 0
    for name, uuid in section.hosts:
        if same[name.lower()] > 1 or f"{name}.{cluster}".lower() in proxy_hosts:
            named = uuid if _UUID.fullmatch(uuid) else ""
        else:
            named = name if _NAME.fullmatch(name) and ".." not in name else ""
        if not named:
            missing += 1
            continue
        full = f"{named}.{cluster}"
        if full in done:
            continue  # two proxies of one cluster
        done.add(full)
        alias = named if named == name and free(name) else full
        lines.append(f"Host {alias}\n    HostName {full}\n")
    return lines, missing


def _way(section: Section, proxy_hosts: Set[str]) -> str:
    # proxies are reached directly, or the ssh that leads to one would lead to itself
    inside = sorted(host for host in proxy_hosts if host.endswith(f".{section.cluster}".lower()))
    match = f"Match host {','.join([f'*.{section.cluster}', *(f'!{host}' for host in inside)])}"
    paths = section.paths
    lines = [f'{match} exec "{section.refresh}"'] if section.refresh else []
    lines += [
        match,
        f"    UserKnownHostsFile {quoted_path(paths.known_hosts)}",
        f"    IdentityFile {quoted_path(paths.key)}",
        f"    CertificateFile {quoted_path(paths.certificate)}",
        "    IdentitiesOnly yes",
    ]
    if len(section.logins) == 1 and _LOGIN.fullmatch(section.logins[0]):
        lines.append(f"    User {section.logins[0]}")
    command = section.way or proxy_command(section.ssh, section.cluster, paths)
    lines += [f"    Port {NODE_PORT}", f"    ProxyCommand {command}"]
    return "\n".join(lines) + "\n"
