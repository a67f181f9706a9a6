"""What a proxy's address leads to, for whoever has no profile that remembers it: its ports, and how SSH goes there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from teleport.client.addresses import SSH_PORT, ProxyAddress, split_port
from teleport.client.dial import Untrusted
from teleport.client.login import reachable_port, ssh_address, way_of_ssh
from teleport.client.trust import ClusterTrust, ProxyTrust, PublicTrust
from teleport.client.webapi import WebAPI


@dataclass(frozen=True, slots=True)
class FoundProxy:
    """Where a proxy is, and how it is believed."""

    web: tuple[str, int]
    ssh: tuple[str, int]
    trust: ProxyTrust
    tls_routing: str  # as `Access.tls_routing`


def find_proxy(address: ProxyAddress, proved: ClusterTrust, now: datetime) -> FoundProxy:
    """Asks the proxy. Raises `ConnectionProblem` when it does not answer, `Untrusted` when it proves nothing.

    Where a balancer ends TLS, a public authority's word for its name is enough: what is asked here is public, and what
    goes on from here, TLS to auth and SSH, is proved inside by the cluster's own authority.
    """
    port = reachable_port(address)
    api = WebAPI(address.host, port, proved, now)
    try:
        ping = api.ping()
    except Untrusted as refused:
        api = WebAPI(address.host, port, PublicTrust(), now)
        try:
            ping = api.ping()
        except Untrusted:
            raise refused from None
    ssh = split_port(ssh_address(address, ping), SSH_PORT)
    return FoundProxy((address.host, port), ssh, api.trust, way_of_ssh(api, address, ping))
