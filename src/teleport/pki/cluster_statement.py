"""What a cluster says of its authorities to another one: their public halves, signed. Pure.

A statement is a JSON text and signatures over exactly its bytes, by SSH keys of the cluster's host authority: by all
that it holds, so that during a rotation who knows the old keys or the new ones believes it. What is signed begins with
a text of its own, so that no certificate or other message of such a key is taken for one. Whoever holds keys of a
cluster believes a statement only when one of those signed it, when it names that cluster, is made out to the reader,
and is newer than the last one: nobody in between can do more than withhold it.

    {"version":1,"purpose":"exchange","cluster":"leaf","audience":"root","issued":1796000000000,
     "user":{"ssh":["ssh-ed25519 ..."],"tls":["-----BEGIN ..."],"let_go":[]},"host":{...},
     "holds":["SHA256:..."],"turning":false}
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from teleport.errors import AccessDenied, BadRequest
from teleport.pki import names, sshsig
from teleport.pki.keys import PrivateKey, PublicKey
from teleport.pki.refusal import CertificateRefused
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509verify import certificate_key, load_certificate, one_pem, trusted_tls_authority

DOMAIN: Final = b"teleport-cluster-statement-v1\0"
VERSION: Final = 1
MAX_BYTES: Final = 60_000  # of the text: it comes from callers who have proved nothing
MAX_KEYS: Final = 8  # of one sort
MAX_SIGNATURES: Final = 8
MAX_ISSUED: Final = 2**53  # milliseconds


class Purpose(StrEnum):
    """What a statement is for; it counts for nothing else."""

    ESTABLISH = "establish"  # with a token: the one that nobody knows keys of yet
    EXCHANGE = "exchange"
    GOODBYE = "goodbye"  # the cluster trusts the reader no more


class StatedKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The public halves of one authority."""

    ssh: tuple[str, ...]  # OpenSSH lines: those that sign, then those that are trusted as well
    tls: tuple[str, ...]  # PEM
    let_go: tuple[str, ...] = ()  # OpenSSH lines of keys that rotations ended phase by phase, the newest last


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What is said. Fields are only appended; readers leave out what they do not know."""

    version: int = VERSION
    purpose: Purpose
    cluster: str
    audience: str
    issued: int  # milliseconds since 1970, by the issuer's clock; rises with every statement to one audience
    user: StatedKeys
    host: StatedKeys
    holds: tuple[str, ...] = ()  # fingerprints of the audience's SSH authority keys that the issuer believes
    turning: bool = False  # a rotation is under way: more is to come soon

    def keys(self, kind: AuthorityKind) -> StatedKeys:
        return self.user if kind is AuthorityKind.USER else self.host

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """As it travels: the text, and signatures (base64) by public key (OpenSSH line)."""

    document: str
    signatures: Mapping[str, str] = field(default_factory=dict)


def sign_statement(statement: Statement, keys: Sequence[PrivateKey]) -> SignedStatement:
    """The statement signed by each of `keys`."""
    document = statement.encode()
    covered = DOMAIN + document.encode()
    made = {key.public.line(): base64.b64encode(sshsig.sign(key, covered)).decode() for key in keys}
    return SignedStatement(document, made)


def read_statement(signed: SignedStatement) -> Statement:
    """What it says, believed by nobody yet: every key in it is one, and of the cluster that it names. Raises
    `BadRequest`, and `CertificateRefused` for keys that are accepted nowhere."""
    if len(signed.document) > MAX_BYTES or len(signed.signatures) > MAX_SIGNATURES:
        raise BadRequest("a statement of a cluster is not that large")
    try:
        found = msgspec.json.decode(signed.document, type=Statement)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"this is no statement of a cluster: {error}") from None
    if found.version != VERSION:
        raise BadRequest(
            f"the statement of {found.cluster[:80]!r} has version {found.version}, known here is {VERSION}",
            hint="upgrade the cluster with the older version",
        )
    for name in (found.cluster, found.audience):
        if problem := names.cluster_problem(name):
            raise BadRequest(f"the statement names the cluster {name[:80]!a}, which {problem}")
    if problem := names.foreign_cluster_problem(found.cluster):
        raise BadRequest(
            f"the statement is of the cluster {found.cluster}, which {problem}",
            hint="give that cluster another name: auth_service.cluster_name",
        )
    if not 0 < found.issued < MAX_ISSUED or len(found.holds) > 4 * MAX_KEYS:
        raise BadRequest("the statement is malformed")
    kinds = {kind: _keys(found.keys(kind), kind, found.cluster) for kind in (AuthorityKind.USER, AuthorityKind.HOST)}
    if not kinds[AuthorityKind.USER].isdisjoint(kinds[AuthorityKind.HOST]):
        raise BadRequest("the statement has the same key for users and hosts")
    return found


def check_statement(
    signed: SignedStatement, known: Sequence[PublicKey], *, cluster: str, audience: str, after: int
) -> Statement:
    """The statement, when it is one of `cluster` for `audience`, signed by one of the keys that are `known` of that
    cluster, and issued later than `after`. Raises `AccessDenied` saying what does not fit, `BadRequest`."""
    found = read_statement(signed)
    if found.cluster != cluster:
        raise AccessDenied(f"the statement is of the cluster {found.cluster}, not of {cluster}")
    if found.audience != audience:
        raise AccessDenied(f"the statement of {cluster} is made out to {found.audience}, not to {audience}")
    if not signed_by(signed, known):
        raise AccessDenied(f"the statement of {cluster} is not signed by a key that is known of it")
    if found.issued <= after:
        raise AccessDenied(f"the statement of {cluster} is not newer than the last one that was believed")
    return found


def signed_by(signed: SignedStatement, known: Sequence[PublicKey]) -> bool:
    """Whether one of these keys signed it."""
    blobs = {key.blob: key for key in known}
    covered = DOMAIN + signed.document.encode("utf-8", "replace")
    for line, signature in signed.signatures.items():
        try:
            key = blobs.get(PublicKey.parse(line).blob)
            if key is not None:
                sshsig.verify(key, covered, base64.b64decode(signature, validate=True))
                return True
        except (CertificateRefused, BadRequest, binascii.Error, ValueError):
            continue
    return False


def public_keys(lines: Sequence[str]) -> list[PublicKey]:
    """Keys of authorities that were checked before."""
    return [PublicKey.parse(line) for line in lines]


def tls_blob(pem: str) -> bytes:
    """The key in an authority's certificate, as an SSH blob: how it is compared with others."""
    return certificate_key(load_certificate(pem.encode())).blob


def _keys(stated: StatedKeys, kind: AuthorityKind, cluster: str) -> set[bytes]:
    """Every key in it, as a blob. Raises `BadRequest`."""
    if not 1 <= len(stated.ssh) <= MAX_KEYS or not 1 <= len(stated.tls) <= MAX_KEYS or len(stated.let_go) > MAX_KEYS:
        raise BadRequest(f"the statement of {cluster} has no {kind} authority, or too many keys for it")
    found = set()
    for line in (*stated.ssh, *stated.let_go):
        key = PublicKey.parse(line)
        key.crypto()
        if line != key.line():
            raise BadRequest(f"the {kind} authority of {cluster} has a line that is not a key and nothing else")
        if key.is_security_key:
            raise BadRequest("a security key cannot be an authority: nobody is there to touch it")
        found.add(key.blob)
    for pem in stated.tls:
        anchor = trusted_tls_authority(kind, cluster, one_pem(pem).encode())
        if _common_name(pem) != cluster:
            # OpenSSL finds the issuer of a certificate by its name: one with our own would stand in the way of ours
            raise BadRequest(f"the {kind} authority of {cluster} has a certificate in another name")
        found.add(anchor.key.blob)
    return found


def _common_name(pem: str) -> str:
    from cryptography.x509.oid import NameOID

    found = load_certificate(pem.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""
