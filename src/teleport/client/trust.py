"""How the proxy's web address is believed before a password or an invitation's token is sent (`ours.md`, first login).

Three ways: *public* authorities as browsers trust them; the *cluster's* own host authority, proved once by its pin; one
*certificate*, whose fingerprint a person compared. With the cluster's, tsh asks for the TLS name that only services of
the cluster have, and the proxy answers with its host certificate. `dial` opens connections that are proved so.

A pin proves nothing by being matched: the authority's certificate is public, and a man in the middle can show it. So
what the pin selects is only ever used to verify a *second* connection, and secrets travel on such connections alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from teleport.errors import TeleportError

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


def parse_trust(text: str, cluster: str, ca_pems: Sequence[str]) -> ProxyTrust:
    """What a profile's `proxy_trust` says. Raises `TeleportError` for anything unknown: never the laxer reading."""
    if text == "public":
        return PublicTrust()
    if text == "cluster" and cluster and ca_pems:
        return ClusterTrust(cluster, tuple(ca_pems))
    if _FINGERPRINT.fullmatch(text):
        return CertificateTrust(text)
    raise TeleportError("the profile does not say how its proxy is to be trusted", hint="tsh logout, then tsh login")


def trust_by_pin(pins: Sequence[str], cluster: str, shown_pems: Sequence[str]) -> ClusterTrust:
    """What the pins select of the authorities that somebody showed. Nothing is proved yet: `dial.open_web` proves it.

    Raises `CertificateRefused` when no pin fits, `BadRequest` for a malformed pin.
    """
    from teleport.pki.pin import check_pin
    from teleport.pki.trust import check_cluster_name

    chosen = check_pin(pins, [pem.encode() for pem in shown_pems])
    return ClusterTrust(check_cluster_name(cluster), tuple(pem.decode() for pem in chosen))
