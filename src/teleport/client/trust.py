"""How the proxy's web address is believed before a password or an invitation's token is sent (`ours.md`, first login).

Three ways: *public* authorities as browsers trust them; the *cluster's* own host authority, proved once by its pin; one
*certificate*, whose fingerprint a person compared. With the cluster's, tsh asks for the TLS name that only services of
the cluster have, and the proxy answers with its host certificate.

A pin proves nothing by being matched: the authority's certificate is public, and a man in the middle can show it. So
what the pin selects is only ever used to verify a *second* connection, and secrets travel on such connections alone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from teleport.client.addresses import join
from teleport.errors import ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.transport.blocking import TLSStream, dial_tcp
from teleport.transport.tls import cluster_client_context, public_client_context, unproved_client_context

INTERNAL_NAME = "teleport.cluster.local"  # in the certificates of services with TLS ends, `certificates.md` 4
TIMEOUT = 20.0  # seconds for connecting, and for each wait afterwards
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PublicTrust:
    """By the machine's own list of authorities (`SSL_CERT_FILE` is honoured)."""

    def __str__(self) -> str:
        return "public"


@dataclass(frozen=True, slots=True)
class ClusterTrust:
    """By the host authority of the cluster."""

    cluster: str
    ca_pems: tuple[str, ...]

    def __str__(self) -> str:
        return "cluster"


@dataclass(frozen=True, slots=True)
class CertificateTrust:
    """By the fingerprint of one certificate: `sha256:` and the hex of SHA-256 over its DER."""

    fingerprint: str

    def __str__(self) -> str:
        return self.fingerprint


ProxyTrust = PublicTrust | ClusterTrust | CertificateTrust


class Untrusted(ConnectionProblem):
    """The far end proved nothing that is believed here."""


def parse_trust(text: str, cluster: str, ca_pems: Sequence[str]) -> ProxyTrust:
    """What a profile's `proxy_trust` says. Raises `TeleportError` for anything unknown: never the laxer reading."""
    if text == "public":
        return PublicTrust()
    if text == "cluster" and cluster and ca_pems:
        return ClusterTrust(cluster, tuple(ca_pems))
    if _FINGERPRINT.fullmatch(text):
        return CertificateTrust(text)
    raise TeleportError("the profile does not say how its proxy is to be trusted", hint="tsh logout, then tsh login")


def fingerprint(certificate: bytes) -> str:
    """Of a certificate in DER."""
    return "sha256:" + hashlib.sha256(certificate).hexdigest()


def open_web(host: str, port: int, trust: ProxyTrust, *, timeout: float = TIMEOUT) -> TLSStream:
    """A TLS session with the proxy's web address, proved as `trust` says.

    Raises `Untrusted` when it proves nothing, `ConnectionProblem` when it cannot be reached.
    """
    connection = dial_tcp(host, port, timeout)
    try:
        match trust:
            case PublicTrust():
                return TLSStream(connection, public_client_context(), host)
            case ClusterTrust(ca_pems=pems):
                if not pems:
                    raise Untrusted("no authority of the cluster is known here")
                return TLSStream(connection, cluster_client_context(pems), INTERNAL_NAME)
            case CertificateTrust(fingerprint=known):
                stream = TLSStream(connection, unproved_client_context(), host)
                shown = fingerprint(stream.peer_certificate())
                if not hmac.compare_digest(shown, known):
                    raise Untrusted(
                        f"{join(host, port)} shows another certificate than the one that was accepted before:\n"
                        f"{shown} instead of {known}",
                        hint="somebody may be in between; ask the administrator for the pin: tsh login --ca-pin",
                    )
                return stream
    except TimeoutError:
        connection.close()
        raise ConnectionProblem(f"{join(host, port)} does not answer in TLS within {timeout:.0f} s") from None
    except ConnectionProblem as error:
        connection.close()
        if isinstance(error, Untrusted):
            raise
        raise Untrusted(f"the proxy at {join(host, port)} did not prove who it is: {_why(error)}") from None
    except OSError as error:
        connection.close()
        raise ConnectionProblem(f"{join(host, port)} closed the connection: {error.strerror or error}") from None


def _why(error: TeleportError) -> str:
    return error.message.rpartition(": ")[2]


def open_unproved(host: str, port: int, server_name: str) -> TLSStream:
    """A TLS session in which nothing is proved. Only what is public may be asked over it."""
    connection = dial_tcp(host, port, TIMEOUT)
    try:
        return TLSStream(connection, unproved_client_context(), server_name)
    except OSError as error:
        connection.close()
        raise ConnectionProblem(f"{join(host, port)} does not speak TLS: {error.strerror or error}") from None


def shown_fingerprint(host: str, port: int) -> str:
    """The fingerprint of the certificate that the address shows, for a person to compare."""
    stream = open_unproved(host, port, host)
    try:
        return fingerprint(stream.peer_certificate())
    finally:
        stream.close()


def trust_by_pin(pins: Sequence[str], cluster: str, shown_pems: Sequence[str]) -> ClusterTrust:
    """What the pins select of the authorities that somebody showed. Nothing is proved yet: `open_web` proves it.

    Raises `CertificateRefused` when no pin fits, `BadRequest` for a malformed pin.
    """
    from teleport.pki.pin import check_pin
    from teleport.pki.trust import check_cluster_name

    chosen = check_pin(pins, [pem.encode() for pem in shown_pems])
    return ClusterTrust(check_cluster_name(cluster), tuple(pem.decode() for pem in chosen))


def check_proxy_role(stream: TLSStream, trust: ClusterTrust, now: datetime) -> None:
    """Raises `Untrusted` unless the far end's certificate is a proxy's or an auth server's.

    Other services of the cluster have the name that was asked for, too; a password is not for them.
    """
    from teleport.pki.trust import AuthorityKind
    from teleport.pki.x509verify import identity_from_tls, trusted_tls_authority

    anchors = [trusted_tls_authority(AuthorityKind.HOST, trust.cluster, pem.encode()) for pem in trust.ca_pems]
    found = identity_from_tls(stream.peer_certificate(), anchors, now)
    if not isinstance(found, HostIdentity) or found.role not in (SystemRole.PROXY, SystemRole.AUTH):
        stream.close()
        raise Untrusted("the far end is a host of the cluster, but not its proxy", hint="check --proxy")
