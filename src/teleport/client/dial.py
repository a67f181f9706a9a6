"""TLS sessions with the proxy's web address, proved as the trust says (`trust.py`)."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from datetime import UTC, datetime, timedelta

from teleport.client.addresses import join
from teleport.client.trust import CertificateTrust, ClusterTrust, ProxyTrust, PublicTrust
from teleport.clock import how_long
from teleport.errors import ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.transport.blocking import TLSStream
from teleport.transport.site_dial import dial_out
from teleport.transport.tls import cluster_client_context, public_client_context, unproved_client_context

INTERNAL_NAME = "teleport.cluster.local"  # in the certificates of services with TLS ends, `certificates.md` 4
_NEXT = "after a rotation of the cluster's authority: tsh login --ca-pin=sha256:..., which tctl status prints"
CLOCK_SLACK = timedelta(seconds=60)  # by which clocks may differ, as certificates are dated back
TIMEOUT = 20.0  # seconds for connecting, and for each wait afterwards


class Untrusted(ConnectionProblem):
    """The far end proved nothing that is believed here."""


def fingerprint(certificate: bytes) -> str:
    """Of a certificate in DER."""
    return "sha256:" + hashlib.sha256(certificate).hexdigest()


def open_web(host: str, port: int, trust: ProxyTrust, *, timeout: float = TIMEOUT, protocol: str = "") -> TLSStream:
    """A TLS session with the proxy's web address, proved as `trust` says, in which `protocol` is asked for (ALPN).

    Raises `Untrusted` when it proves nothing, `ConnectionProblem` when it cannot be reached.
    """
    connection = dial_out(host, port, timeout)

    def asking(context: ssl.SSLContext) -> ssl.SSLContext:
        if protocol:
            context.set_alpn_protocols([protocol])
        return context

    try:
        match trust:
            case PublicTrust():
                return TLSStream(connection, asking(public_client_context()), host)
            case ClusterTrust(ca_pems=pems):
                if not pems:
                    raise Untrusted(
                        "no authority of the cluster is known here",
                        hint="tsh login --ca-pin=sha256:..., which tctl status prints",
                    )
                return TLSStream(connection, asking(cluster_client_context(pems)), INTERNAL_NAME)
            case CertificateTrust(fingerprint=known):
                stream = TLSStream(connection, asking(unproved_client_context()), host)
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
        raise ConnectionProblem(
            f"{join(host, port)} does not answer in TLS within {timeout:.0f} s",
            hint="check that a proxy listens there: --proxy=host[:https_port[,ssh_port]]",
        ) from None
    except ConnectionProblem as error:
        connection.close()
        if isinstance(error, Untrusted):
            raise
        raise _unproved(host, port, _why(error)) from None
    except OSError as error:
        connection.close()
        raise ConnectionProblem(
            f"{join(host, port)} closed the connection: {error.strerror or error}",
            hint="check that a proxy listens there: --proxy=host[:https_port[,ssh_port]]",
        ) from None


def clock_difference(theirs: datetime | None, ours: datetime) -> str:
    """How far the clock of this machine and the proxy's are apart, as a clause; empty when it does not matter."""
    if theirs is None or abs(ours - theirs) < CLOCK_SLACK:
        return ""
    apart = how_long(abs(ours - theirs).total_seconds())
    way = "ahead of" if ours > theirs else "behind"
    return (
        f"the clock of this machine is {apart} {way} the proxy's, {ours:%Y-%m-%d %H:%M:%S} UTC here and "
        f"{theirs:%Y-%m-%d %H:%M:%S} UTC there"
    )


def _unproved(host: str, port: int, why: str) -> Untrusted:
    """The error when a certificate is not believed; where its dates are the reason, both clocks are named."""
    what = f"the proxy at {join(host, port)} did not prove who it is: {why}"
    if "expired" not in why and "not yet valid" not in why:
        return Untrusted(what, hint=_NEXT)
    ours = datetime.now(UTC)
    apart = clock_difference(_claimed_time(host, port), ours)  # only for the message: nothing is proved by it
    return Untrusted(
        f"{what}; {apart or f'the clock of this machine says {ours:%Y-%m-%d %H:%M:%S} UTC'}",
        hint="check the clock of this machine (timedatectl), then the proxy's certificate",
    )


def _claimed_time(host: str, port: int) -> datetime | None:
    """What the far end's clock says, if it says so. Sends nothing but the public request."""
    import http.client

    from teleport.client.webapi import date_of
    from teleport.transport.blocking import HTTPOver

    try:
        connection = HTTPOver(open_unproved(host, port, INTERNAL_NAME), join(host, port))
        try:
            connection.request("GET", "/webapi/ping")
            return date_of(connection.getresponse().headers.get("Date"))
        finally:
            connection.close()
    except (OSError, TeleportError, http.client.HTTPException):
        return None


def _why(error: TeleportError) -> str:
    return error.message.rpartition(": ")[2]


def open_unproved(host: str, port: int, server_name: str) -> TLSStream:
    """A TLS session in which nothing is proved. Only what is public may be asked over it."""
    connection = dial_out(host, port, TIMEOUT)
    try:
        return TLSStream(connection, unproved_client_context(), server_name)
    except OSError as error:
        connection.close()
        raise ConnectionProblem(
            f"{join(host, port)} does not speak TLS: {error.strerror or error}",
            hint="check that a proxy listens there: --proxy=host[:https_port[,ssh_port]]",
        ) from None


def shown_fingerprint(host: str, port: int) -> str:
    """The fingerprint of the certificate that the address shows, for a person to compare."""
    stream = open_unproved(host, port, host)
    try:
        return fingerprint(stream.peer_certificate())
    finally:
        stream.close()


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
