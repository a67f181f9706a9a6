"""TLS certificates: authorities, users, hosts and the proxy's stand-in web certificate. Reading is `pki.x509verify`.

What is issued to users and hosts is verified again before it leaves. Fields: `certificates.md` 3 and 4; lifetimes:
`ours.md`. Keys may be of any accepted kind; signatures are ECDSA with SHA-256 for our own P-256 authorities.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from teleport.errors import BadRequest
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki import names
from teleport.pki.keys import PrivateKey, PublicKey
from teleport.pki.refusal import CertificateRefused
from teleport.pki.trust import BACKDATE, AuthorityKind, check_cluster_name
from teleport.pki.x509subject import USAGES, HostSubject, UserSubject, encode_authority, encode_host, encode_user
from teleport.pki.x509verify import identity_from_tls, load_certificate, trusted_tls_authority

if TYPE_CHECKING:
    from cryptography.x509 import CertificateBuilder, GeneralName, KeyUsage, Name

__all__ = [
    "HostTLSRequest",
    "ServerTLSRequest",
    "UserTLSRequest",
    "auth_server_name",
    "identity_from_tls",
    "issue_host_tls",
    "issue_server_tls",
    "issue_user_tls",
    "new_tls_authority",
    "pem_of",
    "self_signed_web_pair",
    "trusted_tls_authority",
]

AUTHORITY_LIFETIME = timedelta(days=3650)
HOST_LIFETIME = timedelta(days=90)
SERVER_LIFETIME = timedelta(hours=2190)  # a quarter of a year: nothing renews these by itself
WEB_LIFETIME = timedelta(days=825)  # the most that browsers take
MIN_USER_TTL = timedelta(minutes=1)
INTERNAL_NAME = "teleport.cluster.local"
KUBE_NAME = f"kube.{INTERNAL_NAME}"  # by which kubectl asks for a proxy at a port that serves everything

_WITH_TLS_ENDS = frozenset({SystemRole.AUTH, SystemRole.PROXY, SystemRole.KUBE, SystemRole.APP, SystemRole.DB})


@dataclass(frozen=True, slots=True)
class UserTLSRequest:
    """What a user's TLS certificate shall say. The decision that it may say so has been taken before."""

    public_key: PublicKey
    subject: UserSubject
    ttl: timedelta
    serial: int = 0  # 0: one of its own


@dataclass(frozen=True, slots=True)
class HostTLSRequest:
    """What a host's TLS certificate shall say. `names` are host names and addresses besides the built-in ones."""

    public_key: PublicKey
    host_id: str
    role: SystemRole
    names: tuple[str, ...] = ()
    ttl: timedelta = HOST_LIFETIME
    serial: int = 0  # 0: one of its own


@dataclass(frozen=True, slots=True)
class ServerTLSRequest:
    """What the certificate of a server outside the cluster shall say: its names, and perhaps an organization."""

    public_key: PublicKey
    names: tuple[str, ...]
    organization: str = ""
    ttl: timedelta = HOST_LIFETIME


def auth_server_name(cluster: str) -> str:
    """The name that clients of `cluster`'s auth service ask for (SNI) and find in its certificate, and in no other.

    The hex of the cluster's name. A DNS label has at most 63 characters, so longer ones are hashed.
    """
    label = cluster.encode().hex()
    if len(label) > 63:
        label = hashlib.sha256(cluster.encode()).hexdigest()[:56]
    return f"{label}.{INTERNAL_NAME}"


def pem_of(certificate: bytes) -> bytes:
    """The PEM form of a certificate (DER or PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return load_certificate(certificate).public_bytes(Encoding.PEM)


def _builder(
    subject: Name,
    issuer: Name,
    key: PublicKey,
    signer: PublicKey,
    begin: datetime,
    end: datetime,
    serial: int = 0,
) -> CertificateBuilder:
    from cryptography import x509

    public = key.crypto()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.crypto()), critical=False)
    )


def _sign(builder: CertificateBuilder, signer: PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    key = signer.crypto()
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def _leaf(builder: CertificateBuilder, *, server: bool, client: bool) -> CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usages = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
    usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(leaf=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )


def _key_usage(*, leaf: bool) -> KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


def new_tls_authority(cluster: str, key: PrivateKey, now: datetime) -> bytes:
    """The self-signed certificate (DER) of an authority: CN = O = cluster, 10 years, signs leaves only."""
    from cryptography import x509

    check_cluster_name(cluster)
    name = encode_authority(cluster)
    builder = _builder(name, name, key.public, key.public, now - BACKDATE, now + AUTHORITY_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return _sign(builder.add_extension(_key_usage(leaf=False), critical=True), key)


def issue_user_tls(request: UserTLSRequest, ca: bytes, ca_key: PrivateKey, now: datetime) -> bytes:
    """Signs a user certificate (DER) with a user authority. Raises `BadRequest` for what would be refused on use."""
    subject = request.subject
    if request.ttl < MIN_USER_TTL:
        raise BadRequest(f"A certificate for {subject.name!r} must live at least a minute, not {request.ttl}.")
    if not USAGES.issuperset(subject.usage):
        raise BadRequest(f"Usages of a certificate are {', '.join(sorted(USAGES))}, not {', '.join(subject.usage)}.")
    for login in subject.logins:
        problem = names.name_problem(login)
        if problem:
            raise BadRequest(f"{login!r} cannot be a login of {subject.name!r}: it {problem}.", hint="tctl get roles")
    try:
        parent = load_certificate(ca)
        builder = _builder(
            encode_user(subject),
            parent.subject,
            request.public_key,
            ca_key.public,
            now - BACKDATE,
            now + request.ttl,
            request.serial,
        )
        blob = _sign(_leaf(builder, server=False, client=True), ca_key)
        own = trusted_tls_authority(AuthorityKind.USER, subject.cluster, ca)
        found = identity_from_tls(blob, (own,), now, usage=subject.usage[0] if subject.usage else "")
    except CertificateRefused as error:
        raise BadRequest(f"A certificate for {subject.name!r} cannot be issued: {error.message}") from error
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"A certificate for {subject.name!r} cannot be issued: {error}.") from error
    if not isinstance(found, UserIdentity) or (found.name, found.roles, found.logins, found.source_ip) != (
        subject.name,
        subject.roles,
        subject.logins,
        subject.source_ip,
    ):
        raise BadRequest(f"A certificate for {subject.name!r} would not say what was asked for; it is not issued.")
    return blob


def _alternative_names(wanted: Sequence[str], owner: str) -> list[GeneralName]:
    from cryptography import x509

    found: list[GeneralName] = []
    for name in dict.fromkeys(names.canonical_host(name) for name in wanted):
        problem = names.host_name_problem(name)
        if problem:
            raise BadRequest(f"{name!r} cannot be a name of {owner}: it {problem}.", hint="check public_addr")
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _host_common_name(host_id: str, cluster: str) -> str:
    """`<uuid>.<cluster>`, or the UUID where that is longer than a CN may be; the cluster stands in the subject too."""
    full = f"{host_id}.{cluster}"
    return full if len(full) <= names.MAX_COMMON_NAME_BYTES else host_id


def issue_host_tls(request: HostTLSRequest, ca: bytes, ca_key: PrivateKey, cluster: str, now: datetime) -> bytes:
    """Signs a host certificate (DER) with a host authority; 90 days at most. Raises `BadRequest`.

    Services with TLS ends get `teleport.cluster.local`, proxies `KUBE_NAME`; the auth service alone gets
    `auth_server_name`. No wildcard: it would let any proxy answer in auth's name.
    """
    from cryptography import x509

    check_cluster_name(cluster)
    if not timedelta(0) < request.ttl <= HOST_LIFETIME:
        raise BadRequest(f"A host certificate lives up to {HOST_LIFETIME.days} days, not {request.ttl}.")
    for name in request.names:
        if names.canonical_host(name).endswith("." + INTERNAL_NAME) or names.canonical_host(name) == INTERNAL_NAME:
            raise BadRequest(f"Host {request.host_id} may not have the internal name {name!r}.")
    wanted = [f"{request.host_id}.{cluster}", *request.names]
    if request.role in _WITH_TLS_ENDS:
        wanted.append(INTERNAL_NAME)
    if request.role is SystemRole.PROXY:
        wanted.append(KUBE_NAME)
    if request.role is SystemRole.AUTH:
        wanted.append(auth_server_name(cluster))
    alternatives = _alternative_names(wanted, f"host {request.host_id}")
    subject = encode_host(HostSubject(_host_common_name(request.host_id, cluster), cluster, request.role))
    try:
        parent = load_certificate(ca)
        builder = _builder(
            subject,
            parent.subject,
            request.public_key,
            ca_key.public,
            now - BACKDATE,
            now + request.ttl,
            request.serial,
        ).add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        blob = _sign(_leaf(builder, server=True, client=True), ca_key)
        own = trusted_tls_authority(AuthorityKind.HOST, cluster, ca)
        found = identity_from_tls(blob, (own,), now)
    except CertificateRefused as error:
        raise BadRequest(f"A certificate for host {request.host_id!r} cannot be issued: {error.message}") from error
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"A certificate for host {request.host_id!r} cannot be issued: {error}.") from error
    if not isinstance(found, HostIdentity) or found.host_id != request.host_id or found.role is not request.role:
        raise BadRequest(f"A certificate for host {request.host_id!r} would not say what was asked for.")
    return blob


def issue_server_tls(request: ServerTLSRequest, ca: bytes, ca_key: PrivateKey, cluster: str, now: datetime) -> bytes:
    """Signs the certificate (DER) of a server, such as a database, with a host authority; a quarter of a year at most.

    It proves its names to those who trust the authority, and nobody to the cluster: no host, no role, and none of the
    names by which services of the cluster prove themselves. Servers of one set also call one another as clients, so
    that both uses are named. Raises `BadRequest`.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    check_cluster_name(cluster)
    if not timedelta(0) < request.ttl <= SERVER_LIFETIME:
        raise BadRequest(
            f"A server's certificate lives up to {SERVER_LIFETIME // timedelta(hours=1)} hours, not {request.ttl}.",
            hint="--ttl=2190h, and sign again before then",
        )
    alternatives = _alternative_names(request.names, "a server")
    if not alternatives:
        raise BadRequest("A server's certificate needs at least one name.", hint="--host=NAME,..")
    for name in (str(one.value) for one in alternatives):
        if name == INTERNAL_NAME or name.endswith("." + INTERNAL_NAME) or _is_name_of_host(name, cluster):
            raise BadRequest(f"{name!r} is a name by which services of the cluster prove themselves.")
    first = next((str(one.value) for one in alternatives if len(str(one.value)) <= names.MAX_COMMON_NAME_BYTES), "")
    pairs = [(NameOID.COMMON_NAME, first), (NameOID.ORGANIZATION_NAME, request.organization)]
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in pairs if text])
    try:
        parent = load_certificate(ca)
        builder = _builder(
            subject, parent.subject, request.public_key, ca_key.public, now - BACKDATE, now + request.ttl
        ).add_extension(x509.SubjectAlternativeName(alternatives), critical=not first)
        blob = _sign(_leaf(builder, server=True, client=True), ca_key)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"A certificate for {first or 'a server'} cannot be issued: {error}.") from error
    own = trusted_tls_authority(AuthorityKind.HOST, cluster, ca)
    try:
        identity_from_tls(blob, (own,), now)
    except CertificateRefused:
        return blob
    raise BadRequest(f"A certificate for {first} would be one of a host of the cluster; it is not issued.")


def _is_name_of_host(name: str, cluster: str) -> bool:
    """Whether a host of the cluster is certified under this name whatever it is called: its UUID."""
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name.removesuffix(f".{cluster}")) is not None


def self_signed_web_pair(hosts: Sequence[str], key: PrivateKey, now: datetime) -> bytes:
    """A server certificate (DER) for the proxy's web listener until a real one is configured; 825 days.

    `hosts` are names and addresses; the first becomes the CN when it fits. Raises `BadRequest` when there is none.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    alternatives = _alternative_names(hosts, "the proxy")
    if not alternatives:
        raise BadRequest("A web certificate needs at least one host name.", hint="set public_addr under proxy_service")
    first = str(alternatives[0].value)
    common = first if len(first) <= names.MAX_COMMON_NAME_BYTES else "teleport proxy"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = _builder(name, name, key.public, key.public, now - BACKDATE, now + WEB_LIFETIME)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _sign(_leaf(builder, server=True, client=False), key)
