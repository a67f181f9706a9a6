"""Who vouches for a recording: the host that made it, with its SSH host key, and what proves that to a verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.pki import signing
from teleport.pki.keys import PrivateKey
from teleport.pki.sshformat import SSHCertificate, parse_certificate
from teleport.pki.sshverify import verify_host_cert
from teleport.pki.trust import TrustedSSHAuthority
from teleport.recording.format import RecordingHeader, Signature, SignFunction
from teleport.recording.verify import SignatureCheck

DOMAIN: Final = "teleport-recording-v1"


def signer(current: Callable[[], tuple[PrivateKey, SSHCertificate]]) -> SignFunction:
    """Signs with the host key that counts when a recording ends (certificates are renewed while sessions run)."""

    def sign(message: bytes) -> Signature:
        key, certificate = current()
        return Signature(
            algorithm=str(key.public.kind),
            key_id=certificate.body.key_id,
            certificate=certificate.blob,
            value=signing.sign(DOMAIN, message, key),
        )

    return sign


Former = Callable[[], Sequence[tuple[TrustedSSHAuthority, datetime]]]


def signature_check(
    authorities: Callable[[], Sequence[TrustedSSHAuthority]], former: Former = lambda: ()
) -> SignatureCheck:
    """Believes a signature of the very host that the recording names, certified by the cluster when the session ran.

    The certificate may have expired since: what counts is that it held when the session began, or holds at its end.
    So may the authority: `former` are those that a rotation ended, and when. They count for what they signed before.
    """

    def check(signature: Signature, message: bytes, header: RecordingHeader) -> None:
        certificate = parse_certificate(signature.certificate)
        # A certificate renewed during the session is younger than the recording: ask for the later of the two times.
        try:
            begins = datetime.fromtimestamp(certificate.body.valid_after, UTC)
        except (OverflowError, OSError, ValueError):
            raise AccessDenied(
                f"the recording of session {header.sid} is signed with an impossible certificate"
            ) from None
        when = max(header.started, begins)
        then = [authority for authority, ended in former() if begins < ended]
        identity = verify_host_cert(signature.certificate, [*authorities(), *then], when, hostname=None)
        if identity.host_id != header.made_by:
            raise AccessDenied(f"the recording of session {header.sid} is signed by another host than it names")
        if header.recorder and identity.role is not SystemRole.PROXY:
            raise AccessDenied(f"the recording of session {header.sid} is signed by a {identity.role}, not by a proxy")
        signing.verify(DOMAIN, message, signature.value, certificate.body.public_key)

    return check
