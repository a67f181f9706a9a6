"""Proof that somebody is connected right now: what a user signed to get into one SSH connection, and to whom.

A public-key authentication signs the session id, which is the hash of the whole key exchange (RFC 4252 section 7, RFC
4253 section 8). That hash is over random numbers of both sides and over the *host key that the server showed*. Whoever
is given what was hashed can so check, without having been there: this person, with this certificate, asked to log in
as this account, over a connection to the holder of this host key, and over no other. A server elsewhere that somebody
logs in to, with the same key and certificate, has another host key and so another hash.

What is hashed ends with the shared secret of the exchange: a proof is for somebody who may know what the connection
says, and is not to be logged or kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from teleport.pki import sshsig
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshformat import CERTIFICATE_NAMES, parse_certificate
from teleport.pki.sshwire import Reader, WireError, string

HASHES: Final = ("sha256", "sha384", "sha512")  # of the key exchanges that our servers offer
MAX_EXCHANGE: Final = 256 * 1024  # bytes
MAX_REQUEST: Final = 128 * 1024
_USERAUTH_REQUEST: Final = 50
_TOUCHED: Final = 0x01  # flag of a security key's signature (PROTOCOL.u2f)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a server has of a connection whose client proved a key."""

    exchange: bytes  # what the session id is the hash of
    hash_name: str  # by which hash, of HASHES
    request: bytes  # the authentication request, without its signature
    signature: bytes

    def __repr__(self) -> str:
        return "Evidence(...)"


@dataclass(frozen=True, slots=True)
class LiveProof:
    """What the evidence proves."""

    session_id: bytes
    host_key: PublicKey  # the plain key that the server showed, also when it showed a certificate
    login: str


def check_evidence(evidence: Evidence, certificate: bytes) -> LiveProof:
    """Checks `evidence` of whoever holds the key of this user certificate (blob). Raises `CertificateRefused`.

    Whether the certificate counts, and whose the host key is, is for the caller to find out.
    """
    if evidence.hash_name not in HASHES:
        raise _malformed(f"a hash {evidence.hash_name[:20]!r}")
    if len(evidence.exchange) > MAX_EXCHANGE or len(evidence.request) > MAX_REQUEST:
        raise _malformed("too long")
    try:
        host_key = _host_key(evidence.exchange)
        session_id = hashlib.new(evidence.hash_name, evidence.exchange).digest()
        login = _login(evidence.request, certificate)
        key = parse_certificate(certificate).body.public_key
        _verify(key, string(session_id) + evidence.request, evidence.signature)
    except WireError as error:
        raise _malformed(str(error)) from error
    return LiveProof(session_id, host_key, login)


def _host_key(exchange: bytes) -> PublicKey:
    """The host key in what was hashed: two versions, two lists of algorithms, the key, numbers."""
    reader = Reader(exchange)
    for _ in range(2):
        if not reader.string().startswith(b"SSH-2.0-"):
            raise WireError("no version of SSH")
    for _ in range(2):
        if reader.string()[:1] != b"\x14":  # SSH_MSG_KEXINIT
            raise WireError("no list of algorithms")
    shown = reader.string()
    for _ in range(3):  # both halves of the exchange, and the secret
        if not reader.string():
            raise WireError("an empty number")
    reader.finish()
    name = Reader(shown).text()
    return parse_certificate(shown).body.public_key if name in CERTIFICATE_NAMES else PublicKey.from_blob(shown)


def _login(request: bytes, certificate: bytes) -> str:
    """The account that the request asks for, with this very certificate (RFC 4252 section 7)."""
    reader = Reader(request)
    if reader.byte() != _USERAUTH_REQUEST:
        raise WireError("no authentication request")
    login, service, method = reader.text(), reader.text(), reader.text()
    if service != "ssh-connection" or method != "publickey" or reader.byte() != 1:
        raise WireError("no proof of a public key")
    reader.text()  # the algorithm: the signature says which, and `_verify` which ones are good enough
    if reader.string() != certificate:
        raise CertificateRefused(Refusal.BAD_SIGNATURE, "Another certificate was proved than was handed in.")
    reader.finish()
    return login


def _verify(key: PublicKey, message: bytes, signature: bytes) -> None:
    if not key.is_security_key:
        sshsig.verify(key, message, signature)
        return
    # PROTOCOL.u2f of OpenSSH: the device signs hashes of application and message, its flags and its counter.
    reader = Reader(signature)
    if reader.text() != str(key.kind):
        raise CertificateRefused(Refusal.WEAK_ALGORITHM, "The signature is of a kind that is not accepted.")
    raw, flags, counter = reader.string(), reader.byte(), reader.uint32()
    reader.finish()
    if not flags & _TOUCHED:
        raise CertificateRefused(Refusal.BAD_SIGNATURE, "The security key was not touched.")
    fields = Reader(key.fields())
    parts = [fields.string()]
    while not fields.done:
        parts.append(fields.string())
    covered = (
        hashlib.sha256(parts[-1]).digest()  # the application
        + bytes([flags])
        + counter.to_bytes(4, "big")
        + hashlib.sha256(message).digest()
    )
    plain = PublicKey.from_crypto(key.crypto())
    sshsig.verify(plain, covered, string(str(plain.kind).encode()) + string(raw))


def _malformed(why: str) -> CertificateRefused:
    return CertificateRefused(Refusal.MALFORMED, "The proof of the connection is malformed.", detail=why)
