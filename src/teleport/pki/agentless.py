"""Certificates with which a proxy enters a plain sshd for one user: issuing them, and what such an sshd is told.

They are signed by the `openssh` authority, which signs nothing else, so that no certificate that a person or a host
holds is taken there. Their one principal is `LOGIN@HOST-ID`: an sshd that was set up asks for just that (its
AuthorizedPrincipalsCommand says it), so a certificate for one host is of no use at another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from teleport.errors import BadRequest
from teleport.pki import names, sshsig
from teleport.pki.keys import PrivateKey, PublicKey
from teleport.pki.sshcert import new_serial
from teleport.pki.sshformat import USER, CertificateBody, SSHCertificate, encode_signed, flag, parse_certificate
from teleport.pki.sshverify import PERMIT_AGENT_FORWARDING, PERMIT_PORT_FORWARDING, PERMIT_PTY, PERMIT_X11_FORWARDING
from teleport.pki.sshwire import string
from teleport.pki.trust import BACKDATE, check_cluster_name

LIFE: Final = timedelta(minutes=5)
BUNDLE: Final = "teleport-openssh-v1"  # the first line of what a host is told


@dataclass(frozen=True, slots=True)
class AgentlessCertRequest:
    """What was decided that the certificate may say."""

    public_key: PublicKey  # of the proxy's, which it keeps in memory
    user: str
    login: str
    host_id: str  # UUID of the registered host
    port_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False


def principal(login: str, host_id: str) -> str:
    """What stands in the certificate, and what the host's sshd asks for."""
    return f"{login}@{host_id}"


def issue_agentless_cert(request: AgentlessCertRequest, authority: PrivateKey, now: datetime) -> SSHCertificate:
    """Signs with the active key of the `openssh` authority, for five minutes.

    Raises `BadRequest` for a login or host that cannot be.
    """
    problem = names.name_problem(request.login)
    if problem or "@" in request.login:
        raise BadRequest(f"{request.login[:64]!r} cannot be a login: it {problem or 'contains an @'}.")
    if problem := names.host_id_problem(request.host_id):
        raise BadRequest(f"{request.host_id[:64]!r} cannot be a host: it {problem}.")
    permits = [PERMIT_PTY]
    permits += [PERMIT_PORT_FORWARDING] if request.port_forwarding else []
    permits += [PERMIT_AGENT_FORWARDING] if request.agent_forwarding else []
    permits += [PERMIT_X11_FORWARDING] if request.x11_forwarding else []
    body = CertificateBody(
        public_key=request.public_key,
        nonce=os.urandom(32),
        serial=new_serial(),
        type=USER,
        key_id=request.user,
        principals=(principal(request.login, request.host_id),),
        valid_after=int((now - BACKDATE).timestamp()),
        valid_before=int((now + LIFE).timestamp()),
        critical_options={},
        extensions={name: flag() for name in permits},
    )
    signed = encode_signed(body, authority.public)
    made = parse_certificate(signed + string(sshsig.sign(authority, signed)))
    sshsig.verify(authority.public, made.signed, made.signature)
    return made


def bundle(cluster: str, host_id: str, authorities: tuple[PublicKey, ...], host_certificate: str) -> str:
    """What a host is told, as lines of two words and more that a shell reads (`cli.tctl.openssh_script`)."""
    lines = [BUNDLE, f"cluster {check_cluster_name(cluster)}", f"host {host_id}"]
    lines += [f"user-ca {key.line('')}" for key in authorities]
    return "\n".join([*lines, f"host-cert {host_certificate.strip()}"]) + "\n"


def sign_bundle(text: str, authority: PrivateKey) -> bytes:
    """A signature over it with the host authority's TLS key, in the form that `openssl dgst -sha256 -verify` checks:
    the key that a CA pin is of. What is signed begins with a word of its own, so it is nothing else that this key
    signs: certificates begin with the tag of a DER sequence."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = authority.crypto()
    if not text.startswith(f"{BUNDLE}\n") or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadRequest("Only what hosts are told is signed so, by a key on a curve.")
    return key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
