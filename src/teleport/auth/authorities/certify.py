"""The only module that signs with the private keys of authorities, wherever they are kept (`keys`).

Issuing reads as one argument: check the request, decide, build, sign; `pki` verifies each result before it leaves.
Callers have decided who may have what; this module keeps what holds for every certificate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from teleport.api.messages import HostCredentials, HostSigner, ServerCert, UserCerts
from teleport.auth.authorities.keys import AuthorityKeys
from teleport.errors import BadRequest
from teleport.identity import RemoteOrigin, SystemRole
from teleport.pki import cluster_statement
from teleport.pki.agentless import AgentlessCertRequest, issue_agentless_cert
from teleport.pki.cluster_statement import SignedStatement, Statement
from teleport.pki.keys import PrivateKey, PublicKey
from teleport.pki.sshcert import (
    HOST_LIFETIME,
    MIN_USER_TTL,
    HostCertRequest,
    UserCertRequest,
    host_principals,
    issue_host_cert,
    issue_user_cert,
    new_serial,
)
from teleport.pki.sshformat import SSHCertificate, parse_certificate_line
from teleport.pki.x509cert import (
    HostTLSRequest,
    ServerTLSRequest,
    UserTLSRequest,
    issue_host_tls,
    issue_server_tls,
    issue_user_tls,
    pem_of,
)
from teleport.pki.x509subject import UserSubject
from teleport.resources.authority import Authority, RotationPhase
from teleport.resources.secret import SecretText

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class UserGrant:
    """What was decided that a user's certificates may say."""

    user: str
    roles: tuple[str, ...]
    logins: tuple[str, ...]
    traits: Mapping[str, tuple[str, ...]]
    ttl: timedelta
    route_to_cluster: str
    port_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    client_ip: str = ""
    mfa_device: str = ""
    mfa_target: str = ""
    login_expires: datetime | None = None
    login_serial: str = ""
    source_ip: str = ""
    active_requests: tuple[str, ...] = ()
    impersonator: str = ""
    recorded_by: str = ""  # such a one has no TLS certificate
    origin: RemoteOrigin | None = None  # of a user of another cluster, for whom only such a one is made
    usage: str = ""  # the one use that the certificate is good for; such a one has no SSH certificate
    kube_cluster: str = ""
    for_sshd: bool = False
    since: datetime | None = None  # no certificate of the user begins earlier (`store.standing.stands_from`)


@dataclass(frozen=True, slots=True)
class HostGrant:
    """What was decided that a host's certificates may say."""

    host_id: str
    node_name: str
    role: SystemRole
    additional: tuple[str, ...] = ()
    ttl: timedelta = HOST_LIFETIME


def signers(authorities: Sequence[Authority]) -> list[HostSigner]:
    """The host authorities that a client of these clusters trusts."""
    return [
        HostSigner(
            domain_name=authority.name,
            checking_keys=list(authority.trusted_ssh_keys),
            tls_certs=list(authority.trusted_tls_certs),
        )
        for authority in authorities
        if authority.type == "host"
    ]


def _private(keys: AuthorityKeys, secret: SecretText | None, what: str) -> PrivateKey:
    if secret is None:
        raise BadRequest(f"the {what} authority has no private key here", hint="ask an auth server of this cluster")
    return keys.load(secret)


@dataclass(frozen=True, slots=True)
class _HostSigners:
    """One generation of the host authority's keys."""

    ssh: PrivateKey
    tls: PrivateKey
    ca: bytes  # PEM


class Certifier:
    """Signs with the active keys of a cluster's user and host authorities. Keys are parsed once for each revision."""

    def __init__(self, user: Authority, host: Authority, keys: AuthorityKeys, others: Sequence[Authority] = ()) -> None:
        """Loads the keys, which blocks. Raises `TeleportError` when one is not where `keys` looks. `others` are the
        host authorities of other clusters, of which users are told."""
        self._others = tuple(others)
        self._cluster = user.spec.cluster_name
        self._hosts = host
        self._user_ssh = _private(keys, user.spec.active_keys.ssh[0].private_key, "user")
        self._user_tls = _private(keys, user.spec.active_keys.tls[0].key, "user")
        self._user_ca = user.spec.active_keys.tls[0].cert.encode()
        self._host_ssh = _private(keys, host.spec.active_keys.ssh[0].private_key, "host")
        self._host_tls = _private(keys, host.spec.active_keys.tls[0].key, "host")
        self._host_ca = host.spec.active_keys.tls[0].cert.encode()
        # While only clients have changed over, whoever trusts the former keys alone must still believe listeners.
        former = host.spec.additional_trusted_keys
        self._listeners = None
        if host.spec.rotation.phase is RotationPhase.UPDATE_CLIENTS and former.ssh and former.tls:
            self._listeners = _HostSigners(
                _private(keys, former.ssh[0].private_key, "host"),
                _private(keys, former.tls[0].key, "host"),
                former.tls[0].cert.encode(),
            )

    @property
    def cluster(self) -> str:
        return self._cluster

    def user_certs(self, grant: UserGrant, public_key: str, now: datetime) -> UserCerts:
        """SSH and TLS certificates for one public key (OpenSSH line or PEM)."""
        if grant.origin is not None:
            raise ValueError("users of other clusters have certificates of their own")
        begin = max(now, grant.since or now)
        # it ends when it would have, but one for a session alone, which lives no longer than the least, lives that long
        left = max(grant.ttl - (begin - now), min(grant.ttl, MIN_USER_TTL))
        grant, now = replace(grant, ttl=left), begin
        key, serial = _public(public_key), new_serial()
        ssh = "" if grant.usage else self._user_ssh_cert(grant, key, serial, now)
        tls = issue_user_tls(
            UserTLSRequest(
                public_key=key,
                subject=UserSubject(
                    name=grant.user,
                    cluster=self._cluster,
                    roles=grant.roles,
                    logins=grant.logins,
                    usage=(grant.usage,) if grant.usage else (),
                    traits=grant.traits,
                    route_to_cluster=grant.route_to_cluster,
                    kube_cluster=grant.kube_cluster,
                    client_ip=grant.client_ip,
                    mfa_device=grant.mfa_device,
                    mfa_target=grant.mfa_target,
                    login_expires=str(int(grant.login_expires.timestamp())) if grant.login_expires else "",
                    login_serial=grant.login_serial,
                    source_ip=grant.source_ip,
                    active_requests=grant.active_requests,
                    impersonator=grant.impersonator,
                ),
                ttl=grant.ttl,
                serial=serial,
            ),
            self._user_ca,
            self._user_tls,
            now,
        )
        return UserCerts(
            username=grant.user,
            cert=ssh,
            tls_cert=pem_of(tls).decode(),
            host_signers=signers([self._hosts, *self._others]),
            expires=now + grant.ttl,
            roles=list(grant.roles),
            logins=list(grant.logins),
            serial=str(serial),
            signed_by=self._user_ssh.public.fingerprint(),
        )

    def _user_ssh_cert(self, grant: UserGrant, key: PublicKey, serial: int, now: datetime) -> str:
        return issue_user_cert(
            UserCertRequest(
                public_key=key,
                user=grant.user,
                logins=grant.logins,
                roles=grant.roles,
                ttl=grant.ttl,
                traits=grant.traits,
                route_to_cluster=grant.route_to_cluster,
                client_ip=grant.client_ip,
                mfa_device=grant.mfa_device,
                mfa_target=grant.mfa_target,
                login_expires=grant.login_expires,
                login_serial=grant.login_serial,
                source_ip=grant.source_ip,
                active_requests=grant.active_requests,
                impersonator=grant.impersonator,
                recorded_by=grant.recorded_by,
                origin=grant.origin,
                permit_port_forwarding=grant.port_forwarding,
                permit_agent_forwarding=grant.agent_forwarding,
                permit_x11_forwarding=grant.x11_forwarding,
                serial=serial,
                for_sshd=grant.for_sshd,
            ),
            self._user_ssh,
            self._cluster,
            now,
        ).line()

    def host_credentials(
        self, grant: HostGrant, public_ssh_key: str, public_tls_key: str, now: datetime
    ) -> HostCredentials:
        """Certificates for one system role of one host, 90 days."""
        if not _UUID.fullmatch(grant.host_id):
            raise BadRequest(f"{grant.host_id[:64]!r} is not the UUID of a host")
        principals = host_principals(grant.host_id, grant.node_name, self._cluster, grant.additional)
        serial = new_serial()
        ssh_request = HostCertRequest(_public(public_ssh_key), grant.host_id, grant.role, principals, grant.ttl, serial)
        tls_request = HostTLSRequest(_public(public_tls_key), grant.host_id, grant.role, principals, grant.ttl, serial)

        def signed(by: _HostSigners) -> tuple[str, str]:
            ssh = issue_host_cert(ssh_request, by.ssh, self._cluster, now)
            return ssh.line(), pem_of(issue_host_tls(tls_request, by.ca, by.tls, self._cluster, now)).decode()

        ssh, tls = signed(_HostSigners(self._host_ssh, self._host_tls, self._host_ca))
        server_ssh, server_tls = signed(self._listeners) if self._listeners is not None else ("", "")
        return HostCredentials(
            cluster=self._cluster,
            ssh_cert=ssh,
            tls_cert=tls,
            tls_ca_certs=list(self._hosts.trusted_tls_certs),
            ssh_ca_keys=list(self._hosts.trusted_ssh_keys),
            expires=now + grant.ttl,
            serial=str(serial),
            signed_by=self._host_ssh.public.fingerprint(),
            server_ssh_cert=server_ssh,
            server_tls_cert=server_tls,
        )

    def plain_host_cert(
        self, host_id: str, principals: Sequence[str], public_key: str, ttl: timedelta, now: datetime
    ) -> HostCredentials:
        """An SSH host certificate for a plain sshd (`tctl auth sign --host`); no TLS certificate comes with it."""
        ssh = issue_host_cert(
            HostCertRequest(_public(public_key), host_id, SystemRole.NODE, tuple(principals), ttl),
            self._host_ssh,
            self._cluster,
            now,
        )
        return HostCredentials(
            cluster=self._cluster,
            ssh_cert=ssh.line(),
            tls_cert="",
            tls_ca_certs=[],
            ssh_ca_keys=list(self._hosts.trusted_ssh_keys),
            expires=now + ttl,
            serial=str(ssh.body.serial),
            signed_by=self._host_ssh.public.fingerprint(),
        )

    def proxied_user_cert(self, grant: UserGrant, key: PublicKey, now: datetime) -> SSHCertificate:
        """For a proxy's key, and a user who is connected to it: an SSH certificate alone."""
        if not grant.recorded_by:
            raise ValueError("a user's own certificates are `user_certs`")
        return parse_certificate_line(self._user_ssh_cert(grant, key, new_serial(), now))

    def sign_host_cert(self, request: HostCertRequest, now: datetime) -> SSHCertificate:
        """An SSH host certificate that was decided about elsewhere."""
        return issue_host_cert(request, self._host_ssh, self._cluster, now)

    def sign_for_pin(self, sign: Callable[[PrivateKey], bytes]) -> tuple[bytes, bytes]:
        """The certificate (PEM) of the authority that CA pins are of, and what `sign` makes with its key."""
        return self._host_ca, sign(self._host_tls)

    def server_cert(
        self, names: Sequence[str], organization: str, public_key: str, ttl: timedelta, now: datetime
    ) -> ServerCert:
        """A TLS certificate for a server that is no host of the cluster, a database: it proves a name, and nothing to
        the cluster itself."""
        request = ServerTLSRequest(_public(public_key), tuple(names), organization, ttl)
        tls = issue_server_tls(request, self._host_ca, self._host_tls, self._cluster, now)
        return ServerCert(
            tls_cert=pem_of(tls).decode(), tls_ca_certs=list(self._hosts.trusted_tls_certs), expires=now + ttl
        )


def sign_statement(host: Authority, keys: AuthorityKeys, statement: Statement) -> SignedStatement:
    """What the cluster says to another one, signed by every key of its host authority that is held: blocking."""
    sets = (host.spec.active_keys, host.spec.additional_trusted_keys)
    held = [pair.private_key for one in sets for pair in one.ssh if pair.private_key is not None]
    if not held:
        raise BadRequest("the host authority has no private key here", hint="ask an auth server of this cluster")
    return cluster_statement.sign_statement(statement, [keys.load(secret) for secret in held])


def agentless_cert(
    authority: Authority, keys: AuthorityKeys, request: AgentlessCertRequest, now: datetime
) -> SSHCertificate:
    """A certificate of the `openssh` authority, whose key is loaded for each: blocking."""
    return issue_agentless_cert(request, _private(keys, authority.spec.active_keys.ssh[0].private_key, "openssh"), now)


def _public(text: str) -> PublicKey:
    """A public key as clients send it: an OpenSSH line or PEM."""
    if text.lstrip().startswith("-----"):
        return PublicKey.from_spki(text.encode())
    return PublicKey.parse(text)
