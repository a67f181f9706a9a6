"""`~/.tsh/known_hosts`: the host authorities of every cluster, so that plain ssh verifies hosts and the proxy.

The file serves all profiles, so one proxy must not speak for another one's cluster: lines of a cluster whose own proxy
somebody is logged in to are replaced by a login there and by no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from teleport.client.addresses import check_host
from teleport.client.home import Home

if TYPE_CHECKING:
    from teleport.client.webapi import Signer

NAME = "known_hosts"


def lines_of(home: Home) -> list[str]:
    """The lines there are."""
    text = (home.read(NAME) or b"").decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def of_cluster(home: Home, cluster: str) -> list[str]:
    """The lines for the hosts of a cluster."""
    return [line for line in lines_of(home) if f"*.{cluster}" in _names(line)]


def _names(line: str) -> list[str]:
    words = line.split()
    return words[1].split(",") if len(words) > 3 and words[0] == "@cert-authority" else []


def proxy_lines(signers: Iterable[Signer], proxy: str, ssh_port: int, root_cluster: str) -> list[str]:
    """The lines for the proxy itself: a host of the root cluster, and of no other. Raises as `cluster_lines`."""
    from teleport.pki.keys import PublicKey

    names = f"{check_host(proxy)},[{proxy}]:{ssh_port}"
    keys = [key for signer in signers if signer.cluster == root_cluster for key in signer.ssh_keys]
    return [f"@cert-authority {names} {PublicKey.parse(key).line('')} type=host" for key in keys]


def cluster_lines(signers: Iterable[Signer]) -> dict[str, list[str]]:
    """The lines for the hosts of each cluster. Raises `CertificateRefused` for what is no key, `BadRequest` for what is
    no cluster's name."""
    from teleport.pki.authority import known_hosts_line
    from teleport.pki.keys import PublicKey

    return {
        signer.cluster: [known_hosts_line(signer.cluster, PublicKey.parse(key)) for key in signer.ssh_keys]
        for signer in signers
    }


def update(
    home: Home, proxy: str, own: Iterable[str], clusters: dict[str, list[str]], elsewhere: Collection[str]
) -> list[str]:
    """Replaces the lines of this proxy and of the clusters it speaks for.

    `elsewhere` names clusters whose own proxy is another one: of these, the known lines stay. Returns those among them
    for which this proxy said something else.
    """
    known = lines_of(home)
    conflicts = []
    for cluster in sorted(set(elsewhere) & set(clusters)):
        lines = [line for line in known if f"*.{cluster}" in _names(line)]
        if lines:
            new = clusters.pop(cluster)
            if set(lines) != set(new):
                conflicts.append(cluster)
    gone = {proxy, *(f"*.{cluster}" for cluster in clusters)}
    kept = [line for line in known if not gone & set(_names(line))]
    lines = [*kept, *own, *(line for found in clusters.values() for line in found)]
    home.write("".join(f"{line}\n" for line in lines).encode(), NAME)
    return conflicts


def forget(home: Home, names: Iterable[str]) -> None:
    """Removes the lines of proxies and clusters (`*.name`) that nobody is logged in to any more."""
    gone = set(names)
    lines = lines_of(home)
    kept = [line for line in lines if not gone & set(_names(line))]
    if kept:
        home.write("".join(f"{line}\n" for line in kept).encode(), NAME)
    elif lines:
        home.remove(NAME)
