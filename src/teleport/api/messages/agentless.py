"""Messages about hosts with a plain sshd, for which proxies speak (`openssh` nodes)."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request


class RegisterOpensshRequest(Request, frozen=True, kw_only=True):
    """An administrator registers a host with a plain sshd, or renews what it holds, and asks what it is to be told."""

    hostname: str
    addr: str  # host:port where proxies reach its sshd
    host_key: str  # its public host key, an OpenSSH line
    labels: dict[str, str] = {}
    host_id: str = ""  # UUID of the registered host that is meant; empty: the one of this name, or a new one
    ttl: float = 0  # seconds that the host's certificate lives; 0: 90 days


class OpensshHost(Message, frozen=True, kw_only=True):
    """What a registered host is told, and what proves it."""

    host_id: str
    bundle: str  # `pki.agentless.bundle`
    signature: str  # over it, base64 of DER
    authority: str  # PEM of the host authority whose key signed it
    ca_pin: str  # of that authority
    expires: datetime  # end of the host's certificate
    renewed: bool = False  # whether it was registered before


class OpensshNameRequest(Request, frozen=True, kw_only=True):
    """A proxy asks to show the name of a registered host to whoever comes for it."""

    host_id: str
    public_key: str  # that the proxy made for this and keeps in memory


class OpensshName(Message, frozen=True, kw_only=True):
    """The host certificate for that, for minutes."""

    ssh_cert: str
    expires: datetime


class SignOpensshRequest(Request, frozen=True, kw_only=True):
    """A proxy asks to enter a registered host for somebody who has just proved a certificate to it. The evidence says
    for which account, and to which host's name they came (`pki.live_proof`)."""

    certificate: str  # the SSH user certificate, an OpenSSH line
    client_addr: str  # address of the client without a port, as the proxy saw it
    public_key: str  # that the proxy made for this connection and keeps in memory
    exchange: str  # base64, as what follows
    hash_name: str
    request: str
    signature: str


class OpensshCert(Message, frozen=True, kw_only=True):
    """The certificate for that one connection."""

    ssh_cert: str
    host_id: str
    expires: datetime
