"""What a command acts with: which proxy, whose credentials, which cluster. Chosen once, from flags and `~/.tsh`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from teleport.client import keystore, profile
from teleport.client.addresses import ProxyAddress
from teleport.client.home import Home
from teleport.client.keystore import Credentials, KeyFiles
from teleport.client.trust import ClusterTrust, ProxyTrust, parse_trust
from teleport.errors import AccessDenied, BadRequest

if TYPE_CHECKING:
    from teleport.client.webapi import WebAPI


@dataclass(frozen=True, slots=True)
class Access:
    """A proxy, and the right to use it."""

    web: tuple[str, int]
    ssh: tuple[str, int]
    trust: ProxyTrust
    cluster: str  # the chosen one
    credentials: Credentials
    tls_routing: str = ""  # how SSH goes by the web port (`one_port`); empty: it does not
    trace: str = ""  # the trace that is begun with what is asked (`teleport.spans`); empty: none

    def web_api(self, now: datetime) -> WebAPI:
        """The proxy's web API; imported when it is asked for, which `tsh ssh` never does."""
        from teleport.client.webapi import WebAPI

        return WebAPI(*self.web, self.trust, now)


def profile_trust(home: Home, found: profile.Profile) -> ProxyTrust:
    """How a profile believes its proxy. Raises `TeleportError` when it does not say."""
    pems = keystore.authorities_of(home, KeyFiles(found.name, found.user), found.root_cluster)
    return parse_trust(found.proxy_trust, found.root_cluster, pems)


def from_profile(home: Home, proxy: str, user: str, cluster: str, now: datetime) -> Access:
    """By an earlier login. Raises `AccessDenied` when there is none or it has expired."""
    address = ProxyAddress.parse(proxy) if proxy else None
    found = profile.choose(home, address.host if address else "", user)
    if address and address.web_port and address.web_port != found.web[1]:
        raise AccessDenied(
            f"you are logged in to {found.web_proxy_addr}, not to {proxy}",
            hint=shlex.join(["tsh", "login", f"--proxy={proxy}"]),
        )
    credentials = keystore.credentials_of(home, found, now)
    ssh = (found.ssh[0], address.ssh_port) if address and address.ssh_port else found.ssh
    routing = found.tls_routing if ssh == found.ssh else ""
    return Access(found.web, ssh, profile_trust(home, found), cluster or found.cluster, credentials, routing)


def from_identity(path: Path, proxy: str, cluster: str, now: datetime) -> Access:
    """By an identity file, which also says how the proxy is believed. Raises `TeleportError`.

    Where the proxy takes SSH is asked from it, unless both ports are named.
    """
    if not proxy:
        raise BadRequest("an identity file names no proxy", hint="give --proxy=host[:https_port[,ssh_port]] as well")
    address = ProxyAddress.parse(proxy)
    credentials = keystore.credentials_of_identity(path, now)
    if not credentials.ca_pems:
        raise BadRequest(
            f"{path} holds no authority of {credentials.cluster}, so nothing proves the proxy",
            hint="make it anew: tsh login --out=FILE or tctl auth sign",
        )
    proved = ClusterTrust(credentials.cluster, credentials.ca_pems)
    chosen = cluster or credentials.cluster
    if address.web_port and address.ssh_port:
        web = (address.host, address.web_port)
        return Access(web, (address.host, address.ssh_port), proved, chosen, credentials)
    from teleport.client.finding import find_proxy

    found = find_proxy(address, proved, now)
    return Access(found.web, found.ssh, found.trust, chosen, credentials, found.tls_routing)
