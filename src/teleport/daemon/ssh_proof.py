"""What the SSH servers of a host, of node and proxy, prove themselves with."""

from __future__ import annotations

from teleport.daemon.credentials import Credentials
from teleport.ssh.server import HostKey


def host_key(held: Credentials) -> HostKey:
    """The key and certificate of an identity of this host."""
    return HostKey(held.ssh_key.openssh_pem().reveal(), held.server_ssh_cert.line())
