"""Messages about joining, logging in and certificates."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.cluster import HostSigner
from teleport.api.messages.factors import FactorResponse


class JoinRequest(Request, frozen=True, kw_only=True):
    """`certificates.md` 6. Only ever sent inside TLS to an auth server that proved the pinned authority."""

    token: str
    host_id: str
    node_name: str
    role: str
    public_ssh_key: str
    public_tls_key: str  # PEM
    additional_principals: list[str] = []
    dns_names: list[str] = []
    version: str = ""


class HostCredentials(Message, frozen=True, kw_only=True):
    """Certificates for one system role of one host.

    `ssh_cert` and `tls_cert` are of the keys that sign now. While a rotation has reached clients only
    (`update_clients`), listeners still show certificates of the former keys: those come besides, for the same public
    keys. Empty means that there is no difference.
    """

    cluster: str
    ssh_cert: str
    tls_cert: str
    tls_ca_certs: list[str]
    ssh_ca_keys: list[str]
    expires: datetime
    token_labels: dict[str, str] = {}
    serial: str = ""  # of both certificates, decimal
    signed_by: str = ""  # SHA256:... fingerprint of the SSH key of the authority that signed
    server_ssh_cert: str = ""
    server_tls_cert: str = ""


class RenewHostRequest(Request, frozen=True, kw_only=True):
    """A host asks for fresh certificates with the identity it has. The role and UUID come from its certificate."""

    public_ssh_key: str
    public_tls_key: str
    node_name: str
    additional_principals: list[str] = []
    dns_names: list[str] = []


class SignUserRequest(Request, frozen=True, kw_only=True):
    """An administrator signs for a user (`tctl auth sign --user`)."""

    name: str
    public_key: str
    ttl: float
    format: str = "file"
    compatibility: str = "standard"
    route_to_cluster: str = ""
    usage: str = ""  # of `x509subject.USAGES`: the TLS certificate is good for that alone, and no SSH one is made
    kube_cluster: str = ""  # with usage:kube
    source_ip: str = ""  # the one address that the certificates hold from
    for_sshd: bool = False  # the pin as OpenSSH's own restriction, too, which services of the cluster refuse


class SignHostRequest(Request, frozen=True, kw_only=True):
    """An administrator signs a host certificate for a plain sshd (`tctl auth sign --host`)."""

    principals: list[str]
    public_key: str
    ttl: float = 0


class SignServerRequest(Request, frozen=True, kw_only=True):
    """An administrator signs a TLS server certificate for a database (`tctl auth sign --host --format=db`)."""

    names: list[str]
    public_key: str
    ttl: float = 0
    format: str = "db"  # or mongodb, whose servers of one set know one another by the same organization


class ServerCert(Message, frozen=True, kw_only=True):
    """A server certificate, and the authorities whose clients the server may trust."""

    tls_cert: str  # PEM
    tls_ca_certs: list[str]  # PEM, of hosts
    expires: datetime


class UserCerts(Message, frozen=True, kw_only=True):
    """What a login gives (`protocols.md` 2.2)."""

    username: str
    cert: str  # empty for a certificate that is limited to a use
    tls_cert: str
    host_signers: list[HostSigner]
    expires: datetime
    roles: list[str] = []
    logins: list[str] = []
    serial: str = ""  # of both certificates, decimal
    signed_by: str = ""  # SHA256:... fingerprint of the SSH key of the authority that signed


class RenewUserRequest(Request, frozen=True, kw_only=True):
    """A user has the own certificates made anew, perhaps to go to another cluster; or gets one that is good for one
    Kubernetes cluster alone (`kube_cluster`), which is not renewed in turn."""

    route_to_cluster: str = ""  # empty: as the certificates say
    kube_cluster: str = ""


class LoginRequest(Request, frozen=True, kw_only=True):
    """A proxy passes on what a person proved. `client_addr` is the person's, as the proxy saw it. The second factor is
    `factor`, or a code in `otp_token`."""

    user: str
    password: str
    otp_token: str
    public_key: str
    ttl: float
    client_addr: str
    compatibility: str = "standard"
    route_to_cluster: str = ""
    factor: FactorResponse | None = None
    user_agent: str = ""
    answered_from: str = ""  # address of the browser in which somebody answered for the tsh at `client_addr`
    passwordless: bool = False  # `factor` is a passkey's answer, which says who it is: no name, no password
